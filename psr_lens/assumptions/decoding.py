"""Can a probe read the strength off the activation? The test of assumption 3.2a, streamed."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from psr_lens._bars import tqdm
from psr_lens._types import sum_device
from psr_lens.assumptions.probe import Probe, fit_probes
from psr_lens.assumptions.stream import DeltaStream
from psr_lens.assumptions.table import MeasureTable
from psr_lens.dataset import split_examples
from psr_lens.deltas import Kind, working_dtype
from psr_lens.examples import Example, number_prompts
from psr_lens.statistics import bootstrap, resamples


def fit_layer_probes(
    stream: DeltaStream, kind: Kind, z: Tensor, max_tokens: int, seed: int
) -> list[tuple[Probe, Probe]]:
    """ReLU probe and linear probe of every layer, on tokens drawn by the seed."""
    lengths = torch.tensor(stream.lengths)
    n_tokens = int(lengths.sum())
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(n_tokens, generator=generator)[:max_tokens].sort().values
    slots = torch.full((n_tokens,), -1)
    slots[drawn] = torch.arange(len(drawn))
    n_layers, dtype = len(stream.layers), working_dtype(stream.model.dtype)
    read = torch.zeros(n_layers, len(drawn), stream.model.d_model, dtype=dtype)
    strength = torch.zeros(n_layers, len(drawn), dtype=torch.float64)
    device = sum_device(stream.model.device)
    for batch in stream.batches([kind], "probes"):
        slot = slots[batch.places]
        taken = slot >= 0
        inside = taken.to(batch.deltas[kind].device)
        read[:, slot[taken]] = batch.reads[kind][:, inside].cpu()
        delta = batch.deltas[kind][:, inside].to(device).double()
        strength[:, slot[taken]] = (delta @ z.to(device).unsqueeze(-1)).squeeze(-1).cpu()
    dev = _dev_tokens(stream.data, lengths, seed)[drawn].to(device)
    rows = tqdm(range(n_layers), "probes", unit="layer", disable=not stream.progress)
    return [
        fit_probes(read[row].to(device).double(), strength[row].to(device), dev) for row in rows
    ]


def _dev_tokens(
    data: Sequence[Example], lengths: Int[Tensor, " example"], seed: int
) -> Bool[Tensor, " token"]:
    """The tokens of a quarter of the groups."""
    side = split_examples(data, (0.75, 0.25, 0.0), seed)
    dev = torch.tensor([side[example.pair.group] == "dev" for example in data])
    return dev.repeat_interleave(lengths)


def score_layer_probes(
    stream: DeltaStream,
    kind: Kind,
    z: Tensor,
    probes: list[tuple[Probe, Probe]],
    resampling: tuple[int, int],
    table: MeasureTable,
) -> None:
    """3.2a: the third pass, over the held-out examples."""
    device = sum_device(stream.model.device)
    n_layers, n_examples = len(stream.layers), len(stream.data)
    # Squared errors of the two probes; sum and sum of squares of the strength.
    missed = torch.zeros(n_examples, n_layers, 2).double()
    sums = torch.zeros(n_examples, n_layers, 2).double()
    for batch in stream.batches([kind], "held out"):
        delta = batch.deltas[kind].to(device).double()
        read = batch.reads[kind].to(device).double()
        c = (delta @ z.to(device).unsqueeze(-1)).squeeze(-1)
        fitted = torch.stack(
            [torch.stack([probe(read[row]) for probe in own], -1) for row, own in enumerate(probes)]
        )
        missed[batch.indices] = batch.per_example((c.unsqueeze(-1) - fitted).square())
        sums[batch.indices] = batch.per_example(torch.stack([c, c.square()], dim=-1))
    n = torch.tensor(stream.lengths).double().view(-1, 1, 1)
    per_example = (n, missed, sums[..., :1], sums[..., 1:])
    expanded = tuple(own.expand_as(missed) for own in per_example)
    found = bootstrap(_r2, expanded, resamples(number_prompts(stream.data), *resampling))
    table.add("relu_r2", kind, found[..., 0])
    table.add("linear_r2", kind, found[..., 1])


def _r2(
    n: Float[Tensor, "*resample layer probe"],
    missed: Float[Tensor, "*resample layer probe"],
    total: Float[Tensor, "*resample layer probe"],
    squares: Float[Tensor, "*resample layer probe"],
) -> Float[Tensor, "*resample layer probe"]:
    """Share of the variance of `c` explained, from sums over tokens; NaN where `c` does not vary."""
    spread = squares - total.square() / n
    return 1 - missed / torch.where(spread > 1e-12 * squares, spread, torch.nan)
