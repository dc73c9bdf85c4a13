"""What is fitted to every instruction, each method at its best in the time that there is."""

import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.fits import BEST, Fit, Fitted, fitted
from benchmarks.real_findings.answers import SEEDS, Answers
from psr_lens.dataset import SteeringDataset, check_data
from psr_lens.fitting import FitRuns
from psr_lens.fitting.recipe import DEFAULT, Recipe
from psr_lens.models import HookedModel

LAYERWISE: Final[Mapping[str, Fit]] = {
    "PSR": {"method": "psr", "solver": "layerwise"},
    "PSR, 4 heads": {"method": "psr", "solver": "layerwise", "n_heads": 4},
    "PSR, 16 heads": {"method": "psr", "solver": "layerwise", "n_heads": 16},
}
"""On the answers of the first sampling seed."""
RESAMPLED: Final = ("PSR", "PSR, 4 heads")
"""Those that are fitted again on the answers of the other sampling seeds."""
EVERYWHERE: Final = "difference in means, at every layer"
"""To be tried at one layer after the other, for what it says there. No method by itself."""
CLOSED: Final[Mapping[str, Fit]] = {
    "difference in means": {"method": "dim", "layers": "best"},
    EVERYWHERE: {"method": "dim"},
    "projection match": {"method": "projection", "solver": BEST},
}
"""On the answers of the first sampling seed, like the next."""


def _short(epochs: int, lr: float) -> Recipe:
    """Half the batch and about half the epochs of the library's recipes: as many steps in half the time."""
    return replace(DEFAULT, batch_size=4, epochs=epochs, lr=lr)


TRAINED: Final[Mapping[str, Fit]] = {
    "constant, mse": {"method": "const", "solver": "gradient", "recipe": _short(4, 0.05)},
    "constant, ll": {
        "method": "const",
        "solver": "gradient",
        "objective": "ll",
        "recipe": _short(4, 0.01),
    },
    "PSR, refined": {"method": "psr", "solver": "refine", "recipe": _short(5, 0.01)},
    "LoReFT": {"method": "loreft", "objective": "mse", "recipe": _short(8, 0.015)},
}
"""Through the model, at all layers. Step sizes were chosen on German dev answers."""
REFT_R1: Final[Fit] = {"method": "reft_r1", "objective": "mse", "recipe": _short(8, 0.1)}
"""At one layer, as it was published: the one at which difference in means is closest on dev answers. At all
layers its fixed strengths add up, and it ends up farther from the prompt than no steering."""
MANY: Final[Mapping[str, Fit]] = {
    "PSR, 64 heads, 216 answers": {"method": "psr", "solver": "layerwise", "n_heads": 64},
}
"""On the answers of all sampling seeds together, between attention and MLP alone."""
IN_BOTH: Final = ("constant, mse", "PSR", "PSR, 16 heads")
"""Fitted after the blocks and between attention and MLP, to the same answers, on this instruction:"""
COMPARED: Final = "french"


def all_fits(model: HookedModel, name: str, data: Answers, folder: Path) -> dict[str, Fitted]:
    """Every fit of an instruction by label; those of other sampling seeds, and between the layers, say so.

    Args:
        model: The chat model.
        name: The instruction's name.
        data: The answers.
        folder: Where fits are kept.
    """
    first, place = data.fitted_on[0], folder / name
    # Also from full precision to the faster arithmetic: what is kept is nearer to the truth, if anything.
    runs = FitRuns()

    def fits(
        own: SteeringDataset, wanted: Mapping[str, Fit], part: str, known: FitRuns | None = None
    ) -> dict[str, Fitted]:
        return fitted(
            model, own, wanted, lambda: own, place / part, done=_say, runs=known or FitRuns()
        )

    found = fits(first, {**CLOSED, **LAYERWISE}, "fits", runs)
    layer = found["difference in means"].steering.layers[0]
    trained = {**TRAINED, "ReFT-r1": {**REFT_R1, "layers": layer}}
    with fast_arithmetic(model, first):
        found |= fits(first, trained, "fits", runs)
    for seed, own in list(zip(SEEDS, data.fitted_on, strict=True))[1:]:
        wanted = {label: LAYERWISE[label] for label in RESAMPLED}
        again = fits(own, wanted, f"fits-{seed}")
        found |= {seeded(label, seed): fit for label, fit in again.items()}
    between = fits(data.all, _between(MANY, MANY), "fits-between")
    if name == COMPARED:
        between |= fits(first, _between(LAYERWISE, IN_BOTH), "fits-between", runs)
        with fast_arithmetic(model, first):
            between |= fits(first, _between(TRAINED, IN_BOTH), "fits-between", runs)
    return found | {inside(label): fit for label, fit in between.items()}


def _between(fits: Mapping[str, Fit], labels: Collection[str]) -> dict[str, Fit]:
    """Those of the fits that have these labels, to act between attention and MLP.

    A prompt's text reaches a token through attention alone. What the MLP of the same block makes of it, the
    model works out itself if it is steered in between, at TransformerLens' `resid_mid`.
    """
    return {
        label: {**own, "hook_point": "resid_mid"} for label, own in fits.items() if label in labels
    }


@contextmanager
def fast_arithmetic(model: HookedModel, data: SteeringDataset) -> Iterator[None]:
    """Training steps in half the time: products in bfloat16 where the processor can, sums in float32.

    What was trained is measured outside of it, in float32 like everything else.
    """
    # The record of the model that data are compared with is made once, and in full precision.
    check_data(model, data)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def _say(label: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}   {label}", flush=True)


def seeded(label: str, seed: int) -> str:
    """The label of a fit on the answers of another sampling seed."""
    return f"{label}, sample {seed + 1}"


def inside(label: str) -> str:
    """What the fit between attention and MLP is called beside the one after the blocks."""
    return f"{label}, between"


BEHAVIOUR: Final = (
    *("difference in means", "projection match", "constant, mse", "constant, ll", "ReFT-r1"),
    *("LoReFT", "PSR", "PSR, refined", "PSR, 16 heads"),
    *map(inside, MANY),
)
"""Those that answer questions."""
