"""How many answers does a fit need? The distance by their number, and by the number of heads."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

from benchmarks.findings import PARTS, curve_numbers, rounded
from benchmarks.fits import Fit, fitted
from benchmarks.real_findings.answers import SEEDS, answers, sampled
from benchmarks.real_findings.methods import fast_arithmetic
from psr_lens.dataset import SteeringDataset
from psr_lens.faithfulness import measure_faithfulness
from psr_lens.models import HookedModel

INSTRUCTION: Final = "french"
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
    """How every fit is measured, by name and number of answers."""

    @cache
    def data() -> tuple[SteeringDataset, SteeringDataset]:
        more = sampled(model, INSTRUCTION, ("train",), _MORE_SEED, _EACH, folder)
        own = answers(model, INSTRUCTION, folder)
        dev = tuple(one for seed in range(len(SEEDS)) for one in own.fitted_on[seed].dev)
        return replace(more, examples=more.examples + dev), own.test

    def measured(label: str, options: Fit, n: int) -> dict[str, Any]:
        answered, test = data()
        place = folder / INSTRUCTION / f"fits-of-{n}"
        fit_on = some(answered, n)
        trained = options["solver"] == "gradient"
        with fast_arithmetic(model, fit_on) if trained else nullcontext():
            found = fitted(model, fit_on, {label: options}, lambda: answered, place)[label]
        report = measure_faithfulness(
            model, {label: found.steering}, test, oracle_ranks=(), token_examples=0
        )
        gap = {part: report.curve(label, f"gap_{part}").values[-1] for part in PARTS}
        return {
            "relative_rmse": curve_numbers(report.relative_rmse[label]),
            "gap": dict(zip(gap, rounded(list(gap.values())), strict=True)),
            "fit": found.report,
        }

    return {
        f"{label}, {n}": partial(measured, label, options, n)
        for label, (options, numbers) in FITS.items()
        for n in numbers
    }


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
