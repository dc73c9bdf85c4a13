"""The main job on the demo world: one trait from prompt to a steering that replaces it.

Training animals give the examples that steerings are fitted and chosen on; every number that is
reported comes from the held-out animals.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import torch

from psr_lens._types import TokenValues
from psr_lens.assumptions import AssumptionReport, measure_assumptions
from psr_lens.deltas import collect_deltas, iter_batches
from psr_lens.demo.instructions import INSTRUCTION_NAMES, instruction
from psr_lens.demo.judges import judge_coherence, judge_trait
from psr_lens.demo.prompts import QUESTION_WORDINGS, question
from psr_lens.demo.world import HELD_OUT_ANIMALS, TRAINING_ANIMALS, Animal
from psr_lens.evaluation import (
    ALPHAS,
    Behaviour,
    Judge,
    Score,
    best_strength,
    measure_behaviour,
    measure_strengths,
)
from psr_lens.examples import Example, Split, SteeringDataset, ending_of
from psr_lens.faithfulness import FaithfulnessReport, measure_faithfulness
from psr_lens.fitting import fit
from psr_lens.models import HookedModel
from psr_lens.models.generation import pick_tokens, uniform_stream
from psr_lens.plots import layer_to_show
from psr_lens.prompts import PromptPair, instruct
from psr_lens.responses import make_example, sample_responses
from psr_lens.steering import OracleSteering, Steering

MAX_NEW_TOKENS: Final = 96
METHODS: Final[dict[str, dict[str, Any]]] = {
    "s-dim": {"method": "dim", "layers": "best"},
    "a-const mse": {"method": "const", "solver": "live", "objective": "mse"},
    "a-const ll": {"method": "const", "solver": "live", "objective": "ll"},
    "a-psr": {"method": "psr", "solver": "replay"},
}
"""How each method does best in the time that a demo has; the page on the methods has all of them."""
CONSTANTS: Final = ("s-dim", "a-const mse", "a-const ll")
"""Those that push every token alike."""
CONTROL: Final = "a-psr, wrong prompts"
STEPS: Final = 3 + 2 * len(METHODS)
_DEV_ANIMALS: Final = 4
_TEST_QUESTIONS: Final = 4
# A step of so small a model costs the same for one prompt as for two hundred.
_BATCH_SIZE: Final = 256


@dataclass(frozen=True)
class TraitResult:
    """Everything that one trait's run found out, on held-out animals.

    Attributes:
        name: The instruction's name.
        instruction: The instruction as the test prompts put it.
        steerings: The fitted steerings, the control and the oracle, by method.
        faithfulness: Relative RMSE of all of them.
        assumptions: How unevenly the prompt acts on the tokens, and whether that can be read off
            the activations.
        questions: The questions that the behaviours answer.
        unsteered: Behaviour on the plain questions.
        prompted: Behaviour under the instruction.
        steered: For every method, its behaviour at each strength.
        dev: The same on the dev animals.
        strengths: For every method, the strength that is best on the dev animals.
        panels: For one response, the lengths of what the prompt, the constant and the PSR add, with
            their captions.
        layer: The layer at which the panels are shown first.
    """

    name: str
    instruction: str
    steerings: dict[str, Steering]
    faithfulness: FaithfulnessReport
    assumptions: AssumptionReport
    questions: tuple[str, ...]
    unsteered: Behaviour
    prompted: Behaviour
    steered: dict[str, tuple[Behaviour, ...]]
    dev: dict[str, tuple[Behaviour, ...]]
    strengths: dict[str, float]
    panels: tuple[tuple[str, TokenValues], ...]
    layer: int

    def at_best(self, method: str) -> Behaviour:
        """A method's behaviour at its own best strength."""
        return self.at(method, self.strengths[method])

    def at(self, method: str, alpha: float) -> Behaviour:
        """A method's behaviour at a strength."""
        return next(own for own in self.steered[method] if own.alpha == alpha)


def run_trait(
    model: HookedModel,
    name: str,
    seed: int = 0,
    done: Callable[[str], None] = lambda step: None,
) -> TraitResult:
    """Sample, fit, measure and judge one trait.

    Args:
        model: A demo model.
        name: Name of an instruction of the demo world.
        seed: Decides wordings, responses and splits.
        done: Called after each of `STEPS` steps, with what was done.

    Raises:
        ValueError: If there is no such instruction.
    """
    train = fit_data(model, name, seed)
    test = held_out_data(model, name, seed + 1)
    done(f"{name}: responses")
    steerings: dict[str, Steering] = {}
    for label, options in METHODS.items():
        steerings[label] = fit(model, train, **options, seed=seed)
        done(f"{name}: fitted {label}")
    mismatched = control_data(model, train, name)
    control = fit(model, mismatched, method="psr", solver="replay", seed=seed)
    done(f"{name}: fitted the control")
    oracle = OracleSteering(range(model.n_layers))
    compared = {**steerings, CONTROL: control, "oracle": oracle}
    faithfulness = measure_faithfulness(model, compared, test, seed=seed)
    assumptions = measure_assumptions(model, test, probe_data=train, kind="accumulated", seed=seed)
    done(f"{name}: faithfulness")
    base = [example.pair.base for example in test]
    judge = _judge_of(name, [_animal(example) for example in [*test, *train.dev]])
    respond: dict[str, Any] = {
        "max_new_tokens": MAX_NEW_TOKENS,
        "seed": seed + 1,
        "batch_size": _BATCH_SIZE,
    }
    unsteered = measure_behaviour(model, base, judge, **respond)
    prompts = [*base, *(example.pair.base for example in train.dev)]
    steered: dict[str, tuple[Behaviour, ...]] = {}
    dev: dict[str, tuple[Behaviour, ...]] = {}
    for label, steering in steerings.items():
        curve = measure_strengths(
            model, prompts, judge, steering=steering, alphas=ALPHAS, **respond
        )
        steered[label] = tuple(_part(own, slice(None, len(base))) for own in curve)
        dev[label] = tuple(_part(own, slice(len(base), None)) for own in curve)
        done(f"{name}: responses under {label}")
    strengths = {label: best_strength(own) for label, own in dev.items()}
    steered["oracle"] = (regenerate(model, oracle, test, judge, seed + 1),)
    return TraitResult(
        name,
        instruction(name).wordings[0],
        compared,
        faithfulness,
        assumptions,
        tuple(str(example.pair.metadata["question"]) for example in test),
        unsteered,
        _judged(model, test, judge),
        steered,
        dev,
        strengths,
        _panels(model, test[0], steerings),
        layer_to_show(
            [deltas.token_values("local") for deltas in collect_deltas(model, train.dev)],
            [own.token_values() for own in steerings["a-psr"].coefficients(model, train.dev)],
        ),
    )


def fit_data(model: HookedModel, name: str, seed: int) -> SteeringDataset:
    """Examples on training animals: every question, under the instruction's first wording.

    Four animals are set aside as the dev split. Responses that do not show the trait, or are not
    coherent, are left out, as the paper's judge filter does (both at least 50).
    """
    rng = random.Random(seed)
    pairs = [
        _pair(name, animal, i) for animal in TRAINING_ANIMALS for i in range(len(QUESTION_WORDINGS))
    ]
    dev = {animal.name for animal in rng.sample(list(TRAINING_ANIMALS), _DEV_ANIMALS)}
    split: dict[str, Split] = {
        animal.name: "dev" if animal.name in dev else "train" for animal in TRAINING_ANIMALS
    }
    data = _sample(model, pairs, seed, split)
    judge = _judge_of(name, [_animal(example) for example in data])
    scores = _judged(model, data, judge).scores
    kept = {
        id(example)
        for example, score in zip(data, scores, strict=True)
        if score.trait >= 50 and score.coherence >= 50
    }
    return data.filter(lambda example: id(example) in kept)


def held_out_data(model: HookedModel, name: str, seed: int) -> SteeringDataset:
    """Examples on held-out animals, none left out; the paraphrase is the held-out wording."""
    rng = random.Random(seed)
    pairs = [
        _pair(name, animal, i)
        for animal in HELD_OUT_ANIMALS
        for i in sorted(rng.sample(range(len(QUESTION_WORDINGS)), _TEST_QUESTIONS))
    ]
    split: dict[str, Split] = {animal.name: "test" for animal in HELD_OUT_ANIMALS}
    return _sample(model, pairs, seed, split)


def control_data(model: HookedModel, data: SteeringDataset, name: str) -> SteeringDataset:
    """The same responses with the wrong prompts: another instruction in front of them.

    What is fitted to them learns what that instruction does to the text. It must not look faithful
    to the instruction that the responses were given under.
    """
    other = INSTRUCTION_NAMES[(INSTRUCTION_NAMES.index(name) + 1) % len(INSTRUCTION_NAMES)]
    told = instruction(other).wordings[0]

    def mismatched(example: Example) -> Example:
        pair = instruct(str(example.pair.metadata["question"]), told, group=example.pair.group)
        pair = replace(pair, metadata=example.pair.metadata)
        said, finished = example.response_ids, example.finished
        return make_example(model, pair, said, finished, example.rendering)

    return replace(data, examples=tuple(mismatched(example) for example in data))


@torch.no_grad()
def regenerate(
    model: HookedModel, oracle: OracleSteering, data: Sequence[Example], judge: Judge, seed: int
) -> Behaviour:
    """What the oracle says when it draws with the random numbers that the prompted responses drew.

    The oracle replays the deltas of a given response, so it is asked token by token what comes next
    in that response. Up to the first token that differs this is what it would have generated; a
    response is cut off there.
    """
    responses: list[str] = [""] * len(data)
    scores: list[Score] = [Score(0.0, 0.0)] * len(data)
    endings: list[str] = [""] * len(data)
    for indices in iter_batches(data, 32, progress=False, description=""):
        examples = [data[i] for i in indices]
        batch = model.pad([example.base_row for example in examples])
        with oracle.applied(model, examples=examples):
            logits = model.logits(batch)[batch.surface("R")]
        lengths = [example.surface_length("R") for example in examples]
        for i, example, own in zip(indices, examples, logits.split(lengths), strict=True):
            uniforms = uniform_stream(seed, i, len(own)).to(own.device)
            drawn = pick_tokens(own, uniforms, temperature=1.0).tolist()
            same = [a == b for a, b in zip(drawn, example.response_ids, strict=False)]
            agreed = same.index(False) if False in same else len(same)
            finished = drawn[agreed] in model.encoder.end_token_ids
            whole = finished or agreed == len(example.response_ids)
            said = drawn[:agreed] if whole else drawn[: agreed + 1]
            responses[i] = model.encoder.decode(said)
            scores[i] = judge(i, responses[i], finished)
            endings[i] = ending_of(len(said), finished)
    return Behaviour(1.0, tuple(responses), tuple(scores), tuple(endings))


def _sample(
    model: HookedModel, pairs: Sequence[PromptPair], seed: int, split: dict[str, Split]
) -> SteeringDataset:
    return sample_responses(
        model,
        pairs,
        max_new_tokens=MAX_NEW_TOKENS,
        seed=seed,
        split=split,
        batch_size=_BATCH_SIZE,
        progress=False,
    )


def _pair(name: str, animal: Animal, wording: int) -> PromptPair:
    text = question(animal, wording)
    told = instruction(name)
    pair = instruct(text, told.wordings[0], equivalents=[told.held_out_wording], group=animal.name)
    return replace(pair, metadata={"question": text})


def _animal(example: Example) -> str:
    return example.pair.group


def _judge_of(name: str, animals: Sequence[str]):
    def judge(i: int, text: str, finished: bool) -> Score:
        return Score(
            judge_trait(name, animals[i], text),
            judge_coherence(animals[i], text, finished=finished),
        )

    return judge


def _judged(model: HookedModel, data: Sequence[Example], judge: Judge) -> Behaviour:
    texts = tuple(model.encoder.decode(example.response_ids) for example in data)
    scores = tuple(
        judge(i, text, example.finished)
        for i, (text, example) in enumerate(zip(texts, data, strict=True))
    )
    return Behaviour(None, texts, scores, tuple(example.ending for example in data))


def _part(behaviour: Behaviour, places: slice) -> Behaviour:
    return Behaviour(
        behaviour.alpha,
        behaviour.responses[places],
        behaviour.scores[places],
        behaviour.endings[places],
    )


def _panels(
    model: HookedModel, example: Example, steerings: dict[str, Steering]
) -> tuple[tuple[str, TokenValues], ...]:
    one = [example]
    deltas = collect_deltas(model, one)[0].token_values("local")
    const = steerings["a-const mse"].coefficients(model, one)[0].token_values()
    psr = steerings["a-psr"].coefficients(model, one)[0].token_values()
    return (
        ("what the prompt adds", deltas),
        ("what the constant vector adds", const),
        ("what the PSR adds", psr),
    )
