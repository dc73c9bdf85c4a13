"""The summary says what the numbers say: made-up sums whose verdict is known."""

from dataclasses import replace

import pandas as pd
import torch

from psr_lens.faithfulness import FaithfulnessReport, Run


def sums(rmse, n_examples=20, parts=None, kl=None, agreed=None):
    """Sums per example that give this relative RMSE per layer, the same for every example."""
    energy = torch.ones(n_examples, len(rmse), dtype=torch.float64)
    found = {"energy": energy, "missed": energy * torch.tensor(rmse).double().square()}
    for part, share in (parts or {}).items():
        found[part] = energy * share
    if kl is not None:
        ones = torch.ones(n_examples, dtype=torch.float64)
        found |= {"kl": kl * ones, "kl_base": ones, "agreed": agreed * ones, "predicted": ones}
    return found


def report(steerings, paraphrase=None, wordings=()):
    runs = {name: Run("steering", (), own) for name, own in steerings.items()}
    n_examples, n_layers = next(iter(runs.values())).sums["energy"].shape
    plain = sums([1.0] * n_layers, n_examples, kl=1.0, agreed=0.25)
    runs["no steering"] = Run("reference", (), plain)
    if paraphrase is not None:
        runs["paraphrase"] = Run("reference", (), sums(paraphrase, n_examples))
    for number, rmse in enumerate(wordings):
        runs[f"paraphrase {number + 1}"] = Run("paraphrase", (), sums(rmse))
    prompt_of = tuple(range(n_examples))
    return FaithfulnessReport(
        runs, prompt_of, 1.0, "response", 100, 0, pd.DataFrame({"example": []})
    )


def line(found, name):
    return next(own for own in found.summary().splitlines() if own.startswith(f"- {name}:"))


def test_from_which_layer_on_it_is_closer_than_a_paraphrase():
    found = report({"psr": sums([0.9, 0.2, 0.5, 0.3, 0.1])}, [0.4, 0.4, 0.4, 0.4, 0.4])
    expected = "- psr: 0.10 (0.10 to 0.10), closer to the prompt than a paraphrase of it "
    assert line(found, "psr") == f"{expected}from layer 3 on."
    everywhere = report({"psr": sums([0.1, 0.1])}, [0.4, 0.4])
    assert line(everywhere, "psr").endswith("a paraphrase of it at every layer.")
    last = report({"psr": sums([0.9, 0.1])}, [0.4, 0.4])
    assert line(last, "psr").endswith("a paraphrase of it at the last layer.")


def test_further_than_a_paraphrase_or_than_doing_nothing():
    found = report({"near": sums([0.5]), "far": sums([1.2])}, [0.4])
    assert line(found, "near").endswith("further from the prompt than a paraphrase of it.")
    assert line(found, "far").endswith("no closer to prompting than doing nothing.")
    assert line(report({"near": sums([0.6])}), "near").endswith(
        "40% of the distance to prompting is gone."
    )


def test_what_chance_could_do_is_said():
    """Half of the examples better, half worse than the paraphrase, by nearly the same."""
    own = sums([0.4])
    own["missed"] = own["missed"] + 0.1 * torch.tensor([1.0, -0.98]).double().repeat(10)[:, None]
    found = report({"psr": own}, [0.4])
    assert line(found, "psr").endswith(
        "about as far from the prompt as a paraphrase of it (the difference could be chance)."
    )
    both = report({"a": own, "b": sums([0.4])}).summary()
    assert "cannot be told apart" in both


def test_the_closer_one_is_named():
    found = report({"const": sums([0.7]), "psr": sums([0.2])}).summary()
    assert "psr is closer than const by 0.50 (0.50 to 0.50, paired over prompts)." in found


def test_the_cause_is_named_with_its_share():
    wrong = {"coefficient": 0.06, "direction": 0.02, "uncovered": 0.0}
    undone = sums([0.2], parts={**wrong, "propagation": -0.04})
    found = report({"psr": undone}).summary()
    assert (
        "mostly the wrong strength along its directions (75% of what adds to it); blocks undo 50% of "
        "errors from below." in found
    )
    added = sums([0.2], parts={**wrong, "propagation": 0.02})
    found = report({"psr": added}).summary()
    assert "(60% of what adds to it); blocks add 20% to errors from below." in found
    blocks = sums([0.2], parts={**wrong, "propagation": 0.12})
    found = report({"psr": blocks}).summary()
    assert "mostly what blocks make of errors in their input (60% of what adds to it)." in found
    perfect = sums([0.0], parts=dict.fromkeys(wrong, 0.0) | {"propagation": 0.0})
    assert "What is left" not in report({"oracle": perfect}).summary()


def test_the_output_in_words():
    found = report({"psr": sums([0.2], kl=0.1, agreed=0.95)}).summary()
    assert "goes 90% of the way to the prompted one (in KL)" in found
    assert "the prompted one at 95% of the positions, without steering at 25%." in found
    worse = report({"psr": sums([0.2], kl=2.0, agreed=0.1)}).summary()
    assert "is 2.0 times as far from the prompted one as before" in worse


def test_wordings_are_counted():
    found = report({"psr": sums([0.5])}, [0.4], ([0.3], [0.5])).summary()
    assert found.endswith("To compare: paraphrase 0.40 (2 wordings, 0.30 to 0.50).")


def test_below_five_prompts_there_is_no_interval_and_nothing_is_clear():
    few = report({"psr": sums([0.2], 4), "const": sums([0.7], 4)}, [0.4])
    said = few.summary().splitlines()
    assert said[1].startswith("4 prompts are too few for intervals, which need 5")
    assert "95 %" not in few.summary()
    assert "nan" not in few.summary()
    assert line(few, "psr") == "- psr: 0.20, 0.20 closer to the prompt than a paraphrase of it."
    assert (
        line(few, "const") == "- const: 0.70, 0.30 further from the prompt than a paraphrase of it."
    )
    assert "psr is closer than const by 0.50." in said
    gap = few.difference("const", "psr")
    assert gap.clear == (False,)
    assert repr(gap) == "relative_rmse of const minus psr: +0.500, without an interval"
    assert "nan" not in few._repr_html_()
    hovers = [trace.hovertemplate or "" for trace in few.plot().data]
    assert not any("95 %" in hover for hover in hovers)


def test_a_curve_without_an_interval_is_drawn_whole():
    far = report({"far": sums([1.2, 3.0])})
    assert far.plot().layout.yaxis.range[1] >= 3.0
    alone = replace(far, n_bootstrap=0)
    assert alone.plot().layout.yaxis.range[1] >= 3.0


def test_a_prompt_that_did_nothing_is_said_first():
    found = report({"psr": sums([0.2])})
    assert found.summary().startswith("Faithfulness to the prompt")
    told = {"prompt_effect": {"warning": "It <hardly> changes."}}
    weak = replace(found, provenance=told)
    assert weak.summary().startswith("It <hardly> changes.\nFaithfulness to the prompt")
    shown = weak._repr_mimebundle_()
    assert shown["text/html"].startswith("<p><b>It &lt;hardly&gt; changes.</b></p>")
    assert list(shown) == ["text/html", "text/plain"]
