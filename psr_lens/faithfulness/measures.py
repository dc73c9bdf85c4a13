"""The measures: what is summed over the tokens of an example, and what is made of the sums.

Let `S` be the residual stream under the steering, `A` the base run, `A'` the prompted run and
`D = A' - A` the accumulated delta, all on the aligned tokens. Every measure is a function of sums over
examples: its interval comes from resampling these sums (`bootstrap`), and a report can compare any two
steerings by any measure on the same resamples.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from psr_lens._types import exactly, sum_device
from psr_lens.statistics import spearman

Sums = Mapping[str, Float[Tensor, "example *layer"]]
"""Sums over the tokens of every example by name, float64: `[example, layer]`, or `[example]` for
what is read off the output."""

PARTS: Final = ("coefficient", "direction", "uncovered", "propagation")
"""Where the distance to the prompted run comes from: see `gap.py`."""

HEADLINES: Final = (
    "relative_rmse",
    "cosine",
    "norm_ratio",
    "spearman",
    "relative_kl",
    "agreement",
)
"""The most telling measures, in the order of a table's columns."""


@dataclass(frozen=True)
class Measure:
    """A number that says how close a run is to the prompted one.

    Attributes:
        name: As in data frames.
        label: As on an axis, with what its ends mean.
        sums: The sums that it is made of.
        formula: Computes the measure from these sums, added over examples.
        count: The sum that tells which examples count, None where all do.
    """

    name: str
    label: str
    sums: tuple[str, ...]
    formula: Callable[..., Tensor]
    count: str | None = None


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    return numerator / denominator


_MEASURES = (
    Measure(
        "relative_rmse",
        "relative RMSE (0 prompting, 1 no steering)",
        ("missed", "energy"),
        lambda missed, energy: (missed / energy).sqrt(),
    ),
    Measure(
        "explained_variance",
        "explained variance (1 prompting, 0 no steering)",
        ("missed", "energy"),
        lambda missed, energy: 1 - missed / energy,
    ),
    Measure(
        "cosine",
        "cosine to the prompt's effect (1 prompting)",
        ("dot", "pushed", "energy"),
        lambda dot, pushed, energy: dot / (pushed * energy).sqrt(),
    ),
    Measure(
        "token_cosine",
        "cosine, mean over tokens (1 prompting)",
        ("token_cosine", "moved_tokens"),
        _ratio,
        "moved_tokens",
    ),
    Measure(
        "norm_ratio",
        "size of the effect (1 prompting, 0 no steering)",
        ("pushed", "energy"),
        lambda pushed, energy: (pushed / energy).sqrt(),
    ),
    Measure(
        "spearman",
        "rank correlation over tokens (1 prompting)",
        ("rank_correlation", "ranked"),
        _ratio,
        "ranked",
    ),
    *(Measure(f"gap_{part}", f"{part} error", (part, "energy"), _ratio) for part in PARTS),
    Measure(
        "relative_kl",
        "KL from the prompted next token (0 prompting, 1 no steering)",
        ("kl", "kl_base"),
        _ratio,
    ),
    Measure(
        "kl", "KL from the prompted next token, nats (0 prompting)", ("kl", "predicted"), _ratio
    ),
    Measure(
        "agreement",
        "same top next token as prompted (1 prompting)",
        ("agreed", "predicted"),
        _ratio,
    ),
)
MEASURES: Final[Mapping[str, Measure]] = {measure.name: measure for measure in _MEASURES}
"""All measures by name."""
OUTPUT_SUMS: Final = ("kl", "kl_base", "agreed", "predicted")
"""The sums that exist once per example, not once per layer."""


def token_products(
    after: Float[Tensor, "token d_model"],
    base: Float[Tensor, "token d_model"],
    target: Float[Tensor, "token d_model"],
) -> dict[str, Float[Tensor, " token"]]:
    """One layer's numbers for every token.

    Args:
        after: `S`.
        base: `A`.
        target: `A'`.

    Returns:
        `missed` `|S - A'|^2`, `pushed` `|S - A|^2`, `energy` `|D|^2`, `dot` `(S - A) . D` and `size`
        `|S|^2`, float64.
    """
    effect, delta = exactly(after - base), exactly(target - base)
    return {
        "missed": exactly(after - target).square().sum(-1),
        "pushed": effect.square().sum(-1),
        "energy": delta.square().sum(-1),
        "dot": (effect * delta).sum(-1),
        "size": exactly(after).square().sum(-1),
    }


def output_products(
    logits: Float[Tensor, "batch pos d_vocab"],
    predicting: Bool[Tensor, "batch pos"],
    prompted: Float[Tensor, "predicted d_vocab"],
    chunk: int = 1 << 22,
) -> dict[str, Float[Tensor, " predicted"]]:
    """Next-token distributions against the prompted ones.

    Softmax in float32 (float64 for a float64 model), a few positions at a time, so that a batch's
    logits are never held twice.

    Args:
        logits: Of a run.
        predicting: The positions whose next token belongs to the response or ends it.
        prompted: The prompted run's logits there.
        chunk: How many logits to work on at once.

    Returns:
        `kl` `KL(prompted || run)` in nats and `agreed` (1 where the most likely token is the same),
        float64.
    """
    rows, columns = predicting.nonzero(as_tuple=True)
    exact = torch.float64 if prompted.dtype == torch.float64 else torch.float32
    kl = torch.zeros(len(rows), dtype=torch.float64, device=sum_device(prompted.device))
    agreed = torch.zeros_like(kl)
    step = max(1, chunk // prompted.shape[-1])
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        own = logits[rows[part], columns[part]].to(exact).log_softmax(-1)
        wanted = prompted[part].to(exact).log_softmax(-1)
        # A token that can never come adds 0, where 0 * -inf would be NaN.
        terms = torch.where(wanted.exp() > 0, wanted.exp() * (wanted - own), 0.0)
        kl[part] = exactly(terms.sum(-1)).clamp_min(0)
        agreed[part] = (own.argmax(-1) == wanted.argmax(-1)).to(agreed)
    return {"kl": kl, "agreed": agreed}


def example_sums(
    products: Mapping[str, Float[Tensor, "*layer token"]], lengths: Sequence[int]
) -> dict[str, Float[Tensor, "example *layer"]]:
    """Products of tokens, laid end to end, summed within each example."""
    return {
        name: torch.stack([own.sum(dim=-1) for own in values.split(list(lengths), dim=-1)])
        for name, values in products.items()
    }


def token_cosines(
    products: Mapping[str, Float[Tensor, "layer token"]],
) -> Float[Tensor, "layer token"]:
    """Cosine between `S - A` and `D` at every token; NaN where either is zero."""
    return products["dot"] / (products["pushed"] * products["energy"]).sqrt()


def profile_sums(
    products: Mapping[str, Float[Tensor, "layer token"]],
    lengths: Sequence[int],
    resolution: float,
) -> dict[str, Float[Tensor, "example layer"]]:
    """What is not a sum of squares: cosines of single tokens, and ranks within an example.

    Args:
        products: What `token_products` gave, stacked over layers.
        lengths: Tokens of every example.
        resolution: Relative precision of the residual stream: norms that differ by no more than its
            rounding are ties.

    Returns:
        `token_cosine` over the `moved_tokens` (those where neither side is zero), and
        `rank_correlation`, Spearman's, with `ranked` 1 where it exists.
    """
    cosines = token_cosines(products)
    moved = cosines.isfinite()
    sums = example_sums(
        {"token_cosine": torch.where(moved, cosines, 0.0), "moved_tokens": moved.double()}, lengths
    )
    # The difference of two residual streams is rounded as coarsely as the larger of them.
    noise = 2 * resolution * products["size"].sqrt()
    parts = [products["pushed"].sqrt(), products["energy"].sqrt(), noise]
    triples = zip(*(own.split(list(lengths), dim=1) for own in parts), strict=True)
    found = torch.stack([spearman(*own) for own in triples])
    sums["ranked"] = found.isfinite().double()
    sums["rank_correlation"] = found.nan_to_num(nan=0.0)
    return sums
