"""Many noisy heads, and heads between attention and MLP: do the ideas win in the demo world too?

The instructions, animals and checkpoint are those of `docs/methods.md`.
"""

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

from benchmarks.findings import curve_numbers
from benchmarks.fits import demo_fits
from benchmarks.real_findings.methods import LAYERWISE
from psr_lens.demo.animals import fit_data, held_out_data
from psr_lens.demo.instructions import DEFAULT_TRAITS
from psr_lens.faithfulness import measure_faithfulness
from psr_lens.models import HookedModel, load_model

FEW: Final = "PSR, 16 heads"
MANY: Final = "PSR, 64 heads"
MIDDLE: Final = "PSR, 16 heads, resid_mid"


def toy_part(folder: Path) -> dict[str, Callable[[], Any]]:
    """How each instruction of the demo world is measured, by name."""

    @cache
    def model() -> HookedModel:
        return load_model("demo")

    return {name: partial(_measured, model, name, folder) for name in DEFAULT_TRAITS}


def _measured(model: Callable[[], HookedModel], name: str, folder: Path) -> dict[str, Any]:
    wanted = {
        FEW: LAYERWISE[FEW],
        MANY: {**LAYERWISE[FEW], "n_heads": 64},
        MIDDLE: {**LAYERWISE[FEW], "hook_point": "resid_mid"},
    }
    train, test = fit_data(model(), name, 0), held_out_data(model(), name, 1)
    found = demo_fits(model(), train, name, wanted, folder)
    report = measure_faithfulness(
        model(),
        {label: own.steering for label, own in found.items()},
        test,
        outputs=False,
        gap=False,
        random_direction=False,
        oracle_ranks=(),
        token_examples=0,
        batch_size=64,
    )
    return {
        "answers": len(train.train),
        "fits": {label: own.report for label, own in found.items()},
        **{label: curve_numbers(report.relative_rmse[label]) for label in wanted},
        "difference": curve_numbers(report.difference(FEW, MANY)),
        "difference, resid_mid": curve_numbers(report.difference(FEW, MIDDLE)),
    }
