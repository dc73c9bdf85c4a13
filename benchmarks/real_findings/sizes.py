"""How many answers does a fit need? The distance by their number, and by the number of heads.

In full for one instruction; the fit that comes closest there, with the most answers, for others too.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

from benchmarks.findings import PARTS, curve_numbers
from benchmarks.fits import Fit, fitted
from benchmarks.real_findings.answers import answers, sampled
from benchmarks.real_findings.distances import by_question
from benchmarks.real_findings.methods import fast_arithmetic
from psr_lens.dataset import SteeringDataset
from psr_lens.faithfulness import measure_faithfulness
from psr_lens.fitting import FitRuns
from psr_lens.models import HookedModel

INSTRUCTION: Final = "french"
OTHERS: Final = ("german",)
CLOSEST: Final = "64 heads"
"""What is fitted to the most answers of the others."""
_EACH: Final = 11
_MORE_SEED: Final = 10
NUMBERS: Final = (10, 40, 108, 216, 396)
FITS: Final[dict[str, tuple[Fit, tuple[int, ...]]]] = {
    "1 head": ({"method": "psr", "solver": "layerwise"}, NUMBERS),
    "4 heads": ({"method": "psr", "solver": "layerwise", "n_heads": 4}, NUMBERS),
    "16 heads": ({"method": "psr", "solver": "layerwise", "n_heads": 16}, NUMBERS),
    "64 heads": ({"method": "psr", "solver": "layerwise", "n_heads": 64}, NUMBERS),
    "constant, mse": ({"method": "const", "solver": "gradient"}, (10, 40, 216)),
}


def sizes_part(model: HookedModel, folder: Path) -> dict[str, Callable[[], Any]]:
    """How the fits to each number of answers are measured, by that number; and those of others, by name."""

    @cache
    def data(name: str) -> tuple[SteeringDataset, SteeringDataset]:
        more = sampled(model, name, ("train",), _MORE_SEED, _EACH, folder)
        own = answers(model, name, folder)
        dev = tuple(one for part in own.fitted_on for one in part.dev)
        return replace(more, examples=(*more, *dev)), own.test

    def measured(name: str, n: int, labels: Sequence[str]) -> dict[str, Any]:
        answered, test = data(name)
        fit_on, place = some(answered, n), folder / name / f"fits-of-{n}"
        # Training has an arithmetic of its own.
        runs = {trained: FitRuns() for trained in (True, False)}
        found = {}
        for label in labels:
            options, _ = FITS[label]
            trained = options["solver"] == "gradient"
            with fast_arithmetic(model, fit_on) if trained else nullcontext():
                found |= fitted(
                    model, fit_on, {label: options}, lambda: fit_on, place, runs=runs[trained]
                )
        report = measure_faithfulness(
            model,
            {label: own.steering for label, own in found.items()},
            test,
            oracle_ranks=(),
            random_direction=False,
            token_examples=0,
        )
        return {
            "fits": {label: own.report for label, own in found.items()},
            "relative_rmse": {
                name: curve_numbers(own) for name, own in report.curves("relative_rmse").items()
            },
            "gap": {
                part: {label: own.values[-1] for label, own in report.curves(f"gap_{part}").items()}
                for part in PARTS
            },
            "questions": by_question(report, test),
        }

    in_full = {
        str(n): partial(measured, INSTRUCTION, n, [own for own, (_, at) in FITS.items() if n in at])
        for n in NUMBERS
    }
    return in_full | {name: partial(measured, name, NUMBERS[-1], [CLOSEST]) for name in OTHERS}


def some(data: SteeringDataset, n: int) -> SteeringDataset:
    """`n` training answers, spread over the questions, and a quarter as many to choose on."""
    train, dev = (_spread(list(part)) for part in (data.train, data.dev))
    return replace(data, examples=tuple(train[:n] + dev[: max(3, n // 4)]))


def _spread(examples: list[Any]) -> list[Any]:
    """The first answer to every question, then the second to every one, and so on."""
    asked: dict[str, int] = {}
    rounds = []
    for example in examples:
        asked[example.key] = asked.get(example.key, -1) + 1
        rounds.append(asked[example.key])
    order = sorted(range(len(examples)), key=lambda i: rounds[i])
    return [examples[i] for i in order]
