"""How strongly the prompt pushes, token by token: the tests of assumptions 3.1 and 3.2."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from psr_lens._types import sum_device
from psr_lens.assumptions.assumption_report import ALL_TOKENS
from psr_lens.assumptions.spectrum import Spectrum
from psr_lens.assumptions.stream import DeltaStream
from psr_lens.assumptions.table import MeasureTable
from psr_lens.assumptions.token_classes import TOKEN_CLASSES, classify_tokens
from psr_lens.deltas import Kind, working_dtype
from psr_lens.statistics import bootstrap

DIRECTIONS: Final = (1, 2, 4, 8)
"""The numbers of singular directions whose energy shares are given."""
PERCENTS: Final = (1, 5, 10, 25, 50, 75, 90, 95, 99)
"""Percentiles of the strength and of the delta's norm."""


@dataclass(frozen=True)
class Strengths:
    """Norm and strength at every layer and aligned token of the data, in its order."""

    norms: Float[Tensor, "layer token"]
    values: Float[Tensor, "layer token"]


def measure_strengths(
    stream: DeltaStream,
    spectra: dict[Kind, Spectrum],
    kind: Kind,
    counts: Tensor,
    table: MeasureTable,
) -> Strengths:
    """The second pass: energies along the directions by example, strengths by token."""
    n_layers, n_examples = len(stream.layers), len(stream.data)
    shape = (n_layers, sum(stream.lengths))
    dtype = working_dtype(stream.model.dtype)
    found = Strengths(torch.zeros(shape, dtype=dtype), torch.zeros(shape, dtype=dtype))
    device = sum_device(stream.model.device)
    ranks = [min(k, stream.model.d_model) for k in DIRECTIONS]
    along = {k: torch.zeros(n_examples, n_layers, len(ranks)).double() for k in spectra}
    total = {k: torch.zeros(n_examples, n_layers).double() for k in spectra}
    on_mean = torch.zeros(n_examples, n_layers).double()
    bases = {k: spectrum.directions.to(device) for k, spectrum in spectra.items()}
    mean_direction = spectra[kind].mean_direction.to(device)
    for batch in stream.batches(tuple(spectra), "strengths"):
        for own, delta in batch.deltas.items():
            exact = delta.to(device).double()
            projected = exact @ bases[own].transpose(1, 2)
            cumulative = projected.square().cumsum(dim=-1)[..., [k - 1 for k in ranks]]
            along[own][batch.indices] = batch.per_example(cumulative)
            total[own][batch.indices] = batch.per_example(exact.square().sum(dim=-1))
            if own == kind:
                found.norms[:, batch.places] = exact.norm(dim=-1).to(dtype).cpu()
                found.values[:, batch.places] = projected[..., 0].to(dtype).cpu()
                means = (exact @ mean_direction.unsqueeze(-1)).squeeze(-1)
                on_mean[batch.indices] = batch.per_example(means)
    for own, spectrum in spectra.items():
        whole = total[own].unsqueeze(-1).expand_as(along[own])
        shares = bootstrap(torch.div, (along[own], whole), counts)
        for i, at in enumerate(DIRECTIONS):
            table.add("energy_share", own, shares[..., i], at=at)
        for rank, energy in enumerate(spectrum.energy.T, start=1):
            table.add("singular_energy", own, (energy / spectrum.total).unsqueeze(0), at=rank)
    # A resample's mean is taken along the mean direction of all the data: the full mean would need a
    # vector per example and layer.
    table.add(
        "mean_energy_share",
        kind,
        bootstrap(
            lambda mean, n, whole: mean.square() / (n * whole),
            (on_mean, _counted(stream, on_mean), total[kind]),
            counts,
        ),
    )
    return found


def describe_strengths(
    stream: DeltaStream, strengths: Strengths, kind: Kind, counts: Tensor, table: MeasureTable
) -> None:
    """3.2: how the strength spreads over tokens and their classes."""
    lengths = torch.tensor(stream.lengths)
    sums = [_by_example(strengths.values, lengths, power) for power in (1, 2)]
    per_example = (_counted(stream, sums[0]), sums[0], sums[1])
    table.add("strength_variation", kind, bootstrap(_variation, per_example, counts))
    classes = classify_tokens(stream.model.encoder, stream.data, stream.tokens)
    whole = _by_example(strengths.norms, lengths, 2)
    for number, name in enumerate((*TOKEN_CLASSES, ALL_TOKENS)):
        mask = torch.ones_like(classes) > 0 if name == ALL_TOKENS else classes == number
        if not bool(mask.any()):
            continue
        part = Strengths(strengths.norms[:, mask], strengths.values[:, mask])
        for own, values in (("norm", part.norms), ("strength", part.values)):
            # Not torch.quantile, which refuses more than 2^24 numbers.
            ends = np.percentile(values.double().numpy(), PERCENTS, axis=1)
            for at, row in zip(PERCENTS, ends, strict=True):
                table.add(f"{own}_quantile", kind, torch.tensor(row)[None], name, at)
        present = mask.sum().double().expand(1, len(stream.layers))
        table.add("tokens", kind, present, name)
        table.add("mean_strength", kind, part.values.double().mean(dim=1)[None], name)
        own_energy = _by_example(strengths.norms * mask, lengths, 2)
        share = bootstrap(torch.div, (own_energy, whole), counts)
        table.add("class_energy_share", kind, share, name)


def _counted(stream: DeltaStream, like: Float[Tensor, "example layer"]) -> Tensor:
    """The number of tokens of every example, once for each layer."""
    return torch.tensor(stream.lengths).double().unsqueeze(-1).expand_as(like)


def _variation(
    n: Float[Tensor, "*resample layer"],
    total: Float[Tensor, "*resample layer"],
    squares: Float[Tensor, "*resample layer"],
) -> Float[Tensor, "*resample layer"]:
    """Standard deviation in units of the mean, from sums over tokens."""
    mean = total / n
    return (squares / n - mean.square()).clamp_min(0).sqrt() / mean.abs()


def _by_example(
    values: Float[Tensor, "layer token"], lengths: Int[Tensor, " example"], power: int = 1
) -> Float[Tensor, "example layer"]:
    """Sums over the tokens of every example, float64."""
    rows = torch.arange(len(lengths)).repeat_interleave(lengths)
    sums = torch.zeros(len(lengths), len(values), dtype=torch.float64)
    for layer, own in enumerate(values):
        sums[:, layer].index_add_(0, rows, own.double().pow(power))
    return sums
