"""How many answers does a fit need? The distance by their number, and by the number of heads."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

from benchmarks.findings import PARTS, curve_numbers
from benchmarks.fits import Fit, fitted
from benchmarks.real_findings.answers import answers, sampled
from benchmarks.real_findings.distances import by_question
from benchmarks.real_findings.methods import TRAINED, fast_arithmetic
from psr_lens.dataset import SteeringDataset
from psr_lens.faithfulness import measure_faithfulness
from psr_lens.fitting import FitRuns
from psr_lens.models import HookedModel

INSTRUCTION: Final = "french"
_EACH: Final = 11
_MORE_SEED: Final = 10
NUMBERS: Final = (10, 40, 120, 396)
FITS: Final[dict[str, tuple[Fit, tuple[int, ...]]]] = {
    "1 head": ({"method": "psr", "solver": "layerwise"}, NUMBERS),
    "4 heads": ({"method": "psr", "solver": "layerwise", "n_heads": 4}, NUMBERS),
    "16 heads": ({"method": "psr", "solver": "layerwise", "n_heads": 16}, NUMBERS),
    "64 heads": ({"method": "psr", "solver": "layerwise", "n_heads": 64}, NUMBERS[2:3]),
    "constant, mse": (TRAINED["constant, mse"], NUMBERS),
}


def sizes_part(
    model: HookedModel, folder: Path
) -> tuple[dict[str, Callable[[], Any]], Callable[[str], float]]:
    """How the fits to each number of answers are measured, by that number.

    Returns:
        The parts by name, and the seconds that fits of a part had taken before this command began.
    """
    earlier: dict[str, float] = {}

    @cache
    def data() -> tuple[SteeringDataset, SteeringDataset]:
        more = sampled(model, INSTRUCTION, ("train",), _MORE_SEED, _EACH, folder)
        own = answers(model, INSTRUCTION, folder)
        dev = tuple(one for part in own.fitted_on for one in part.dev)
        return replace(more, examples=(*more, *dev)), own.test

    def measured(n: int) -> dict[str, Any]:
        answered, test = data()
        fit_on, place = some(answered, n), folder / INSTRUCTION / f"fits-of-{n}"
        # Training has an arithmetic of its own.
        runs = {trained: FitRuns() for trained in (True, False)}
        found = {}
        for label, (options, at) in FITS.items():
            if n not in at:
                continue
            trained = options["solver"] == "gradient"
            own = {**options, "epochs": epochs(n)} if trained else options
            with fast_arithmetic(model, fit_on) if trained else nullcontext():
                found |= fitted(
                    model, fit_on, {label: own}, lambda: fit_on, place, runs=runs[trained]
                )
        earlier[str(n)] = sum(own.report["seconds"] for own in found.values() if own.kept)
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

    return {str(n): partial(measured, n) for n in NUMBERS}, earlier.__getitem__


def epochs(n: int) -> int:
    """As many steps of training as `TRAINED` takes over 72 answers in its four epochs, in two at least."""
    return max(2, -(-4 * 72 // n))


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
