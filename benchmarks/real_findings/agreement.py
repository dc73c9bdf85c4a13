"""Whether near the prompt means like the prompt, and differences resampled over questions."""

from collections.abc import Mapping, Sequence
from functools import partial
from math import isfinite
from typing import Any, Final

import torch

from benchmarks.real_findings.methods import BEHAVIOUR
from benchmarks.real_findings.numbers import of_instructions
from psr_lens.statistics import bootstrap, resamples, spearman

_N_BOOTSTRAP: Final = 2000


def difference(
    questions: Mapping[str, Any],
    first: str,
    second: str,
    seed: int = 0,
    n_bootstrap: int = _N_BOOTSTRAP,
) -> list[float]:
    """By how much the relative RMSE of the first exceeds the second's, at the last layer.

    Args:
        questions: Every question's part of the squared relative RMSE.
        first: A fit or a reference line.
        second: Another.
        seed: Of the resampling.
        n_bootstrap: Resamples.

    Returns:
        Value, low and high: 95 %, resampled over questions.
    """
    names = ("no steering", first, second)
    parts = tuple(torch.tensor(questions["missed"][name], dtype=torch.float64) for name in names)
    counts = resamples(range(len(parts[0])), n_bootstrap, seed)

    def gap(energy: torch.Tensor, own: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return (own / energy).sqrt() - (other / energy).sqrt()

    return bootstrap(gap, parts, counts).tolist()


def rank_correlations(
    numbers: Mapping[str, Mapping[str, Any]], seed: int = 0
) -> dict[str, tuple[list[float], dict[str, float]]]:
    """Spearman's over methods between nearness to the prompt and how alike the answers are.

    Nearness is one minus the relative RMSE at the last layer, at strength 1; answers are those at the
    best strength, unless it says otherwise.

    Returns:
        By score, the mean over instructions with its interval over them, and every instruction's own: NaN
        where all methods are alike, which the mean leaves out.
    """
    found, distances = {}, of_instructions(numbers, "distances")
    for label, (likeness, compared) in LIKENESS.items():
        each = {}
        for name, part in distances.items():
            own, curves = numbers[name], part["relative_rmse"]
            if not {"behaviour", "prompt"} <= own.keys():
                continue
            methods = [one for one in compared if one in own["behaviour"]["methods"]]
            near = [1 - curves[label]["values"][-1] for label in methods]
            found_of = own["behaviour"]["methods"]
            alike = [likeness(found_of[one], own["prompt"]["means"]) for one in methods]
            each[name] = _spearman(near, alike)
        if any(map(isfinite, each.values())):
            # Where no method shows the trait at all there is nothing to rank.
            known = [own for own in each.values() if isfinite(own)]
            values = torch.tensor(known, dtype=torch.float64)
            counts = resamples(range(len(values)), _N_BOOTSTRAP, seed)
            ends = bootstrap(torch.div, (values, torch.ones_like(values)), counts)
            found[label] = (ends.tolist(), each)
    return found


def _spearman(first: Sequence[float], second: Sequence[float]) -> float:
    a, b = (torch.tensor(own, dtype=torch.float64) for own in (first, second))
    return float(spearman(a.unsqueeze(0), b.unsqueeze(0), torch.zeros_like(a).unsqueeze(0)))


def _score(score: str, found: Mapping[str, Any], prompt: Mapping[str, Any]) -> float:
    return found["test"][score][0]


def _near_trait(found: Mapping[str, Any], prompt: Mapping[str, Any]) -> float:
    return -abs(found["test"]["trait"][0] - prompt["prompt"]["trait"][0])


def _near_trait_at_one(found: Mapping[str, Any], prompt: Mapping[str, Any]) -> float:
    (trait,) = (own["trait"] for own in found["dev"] if own["alpha"] == 1)
    return -abs(trait - prompt["prompt, dev"]["trait"][0])


EVERY_LAYER: Final = tuple(
    label
    for label in BEHAVIOUR
    if label not in ("difference in means", "projection match", "ReFT-r1")
)
"""Those that act at every layer on every instruction."""
LIKENESS: Final = {
    "trait": (partial(_score, "trait"), BEHAVIOUR),
    "trait as near to the prompt's": (_near_trait, BEHAVIOUR),
    "the same at strength 1, dev questions": (_near_trait_at_one, BEHAVIOUR),
    "the same, methods at every layer alone": (_near_trait_at_one, EVERY_LAYER),
    "fluency": (partial(_score, "fluency"), BEHAVIOUR),
    "likelihood under the prompt": (partial(_score, "likelihood"), BEHAVIOUR),
}
"""How alike the answers are, of what was found of a method and of the mean scores without a steering; and
which methods are compared."""
