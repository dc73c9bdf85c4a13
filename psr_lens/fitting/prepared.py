"""Examples prepared for the gradient solver: what never changes is recorded once.

Kept per example: the targets `A(x'y')`, the keys and values of the prefix, which no intervention
reaches, and the base run's residual stream after the first intervened layer. A step then runs the blocks
above it over the aligned tokens alone; for a steering that acts inside its blocks, that one too.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from psr_lens._types import AlignedTokens, exactly
from psr_lens.deltas import iter_runs, working_dtype
from psr_lens.examples import Example
from psr_lens.models import HookedModel
from psr_lens.models.batch import Places, right_pad
from psr_lens.models.columns import Columns
from psr_lens.models.editing import HookPoint, MidEdit, ResidualEdit, placed
from psr_lens.models.finite import check_recorded
from psr_lens.models.prefix import KeyValues, RowKeyValues
from psr_lens.steering.training import Scale


@dataclass(frozen=True, eq=False)
class Prepared:
    """What is known of one example before any step.

    Attributes:
        example: The triplet.
        cut: Length of the prefix, which lies before the aligned tokens.
        prefix: Its keys and values.
        start: The base run's residual stream at the first intervened layer's hook point, on the aligned
            tokens.
        target: `A(x'y')` on the aligned tokens, from the first intervened layer on.
        energy: Sum of squares of `A(xy') - A(x'y')` at each of these layers.
        entering: The base run's residual stream that enters the first intervened layer, on the aligned
            tokens; None if the hook point lies after it, where a step begins.
        after: Inside a block: what leaves it, else None.
    """

    example: Example
    cut: int
    prefix: RowKeyValues
    start: Float[Tensor, "pos d_model"]
    target: Float[Tensor, "layer pos d_model"]
    energy: Float[Tensor, " layer"]
    entering: Float[Tensor, "pos d_model"] | None = None
    after: Float[Tensor, "pos d_model"] | None = None

    @property
    def predicted(self) -> int:
        """Tokens of the response, and its end where it was reached."""
        return len(self.example.response_ids) + self.example.finished


@torch.no_grad()
def prepare(
    model: HookedModel,
    examples: Sequence[Example],
    first: int,
    tokens: AlignedTokens,
    *,
    hook_point: HookPoint = "resid_post",
    batch_size: int = 32,
    progress: bool = False,
) -> list[Prepared]:
    """One base run and one prompted run over every example.

    Args:
        model: The model.
        examples: The triplets.
        first: The first intervened layer.
        tokens: `response` or `question+response`.
        hook_point: Where in its blocks the steering acts.
        batch_size: Examples per forward pass.
        progress: Whether to show a bar.
    """
    prepared: dict[int, Prepared] = {}
    for runs in iter_runs(
        model,
        examples,
        tokens,
        base=False,
        batch_size=batch_size,
        progress=progress,
        description="prepare",
    ):
        batch, lengths, target = runs.batch, runs.lengths, runs.target[first:]
        seen: dict[int, Tensor] = {}
        inside: dict[int, Tensor] = {}
        places = Places(batch.on(tokens))
        begin = first if hook_point == "resid_post" else max(first - 1, 0)
        after = {layer: _recorder(layer, seen, places) for layer in range(begin, model.n_layers)}
        at_first = {first: placed(_recorder(first, inside, places), hook_point)}
        with model.edited(after), model.edited(at_first):
            rows = model.prefill(batch).rows()
        around: list[tuple[Tensor, Tensor] | tuple[()]] = [()] * len(lengths)
        if hook_point != "resid_post":
            enters = seen[first - 1] if first else places.of(model.embed(batch))
            split = (own.split(lengths) for own in (enters, seen[first]))
            around = [(own.clone(), after.clone()) for own, after in zip(*split, strict=True)]
        base = torch.stack([seen[layer].to(target) for layer in range(first, model.n_layers)])
        check_recorded(base, model, batch)
        squares = (base - target).square().sum(dim=-1)
        parts = zip(
            runs.indices,
            runs.examples,
            rows,
            inside[first].split(lengths),
            around,
            target.split(lengths, dim=1),
            squares.split(lengths, dim=1),
            strict=True,
        )
        for i, example, row, start, both, goal, missed in parts:
            cut = len(example.base_row.tokens) - len(start)
            prepared[i] = Prepared(
                example, cut, row.first(cut), start.clone(), goal.clone(), missed.sum(dim=1), *both
            )
    return [prepared[i] for i in range(len(examples))]


def _recorder(layer: int, seen: dict[int, Tensor], places: Places) -> ResidualEdit:
    def edit(resid: Tensor, columns: Columns) -> None:
        seen[layer] = places.of(resid)

    return edit


def scale_of(prepared: Sequence[Prepared], model: HookedModel, layers: Sequence[int]) -> Scale:
    """Mean and spread of the first layer's inputs and of the targets above, and delta norms.

    Base residual streams are kept at the first layer only; above it the targets stand in for them.
    """
    tokens = sum(len(one.start) for one in prepared)
    first = layers[0]
    means, stds, sizes = [], [], []
    for layer in layers:
        x = torch.cat([_before(one, layer - first) for one in prepared])
        x = x.to(working_dtype(model.dtype))
        means.append(x.mean(dim=0))
        stds.append(x.std(dim=0, correction=0).clamp_min(1e-6))
        missed = torch.stack([one.energy[layer - first] for one in prepared]).sum()
        sizes.append((missed / tokens).sqrt().clamp_min(1e-6))
    return Scale(torch.stack(means), torch.stack(stds), torch.stack(sizes))


def contrast(prepared: Sequence[Prepared], layers: Sequence[int]) -> Float[Tensor, "layer d_model"]:
    """What tells responses with the concept from those without; the mean delta without negatives.

    Above the first layer, where base runs are not kept, prompted runs stand in for them.
    """

    def mean(parts: Sequence[Tensor]) -> Tensor:
        return exactly(torch.cat(list(parts))).mean(dim=0)

    positives = [one for one in prepared if one.example.alpha > 0]
    negatives = [one for one in prepared if one.example.alpha <= 0]
    rows = []
    for row in (layer - layers[0] for layer in layers):
        if positives and negatives:
            with_it, without = (
                mean([_before(one, row) for one in part]) for part in (positives, negatives)
            )
        else:
            with_it = mean([one.target[row] for one in prepared])
            without = mean([_leaving(one) if row == 0 else one.target[row - 1] for one in prepared])
        rows.append(with_it - without)
    return torch.stack(rows).to(prepared[0].target)


def _before(one: Prepared, row: int) -> Tensor:
    """What the steering reads: the base run; above the first layer the prompted run stands in for it."""
    return one.start if row == 0 else one.target[row]


def _leaving(one: Prepared) -> Tensor:
    """The base run after the first layer."""
    return one.start if one.after is None else one.after


@final
class StepBatch:
    """A batch of prepared examples, laid out for a step."""

    def __init__(self, model: HookedModel, own: Sequence[Prepared], first: int):
        dtype = working_dtype(model.dtype)
        rows = [one.example.base_row for one in own]
        cuts = [one.cut for one in own]
        self.first = first
        self.suffix = right_pad(rows, cuts, model.encoder.pad_token_id, model.device)
        self.prefix = KeyValues.of([one.prefix for one in own])
        # Right padding lies past the rows' ends, where the aligned tokens would go on.
        self.on: Bool[Tensor, "batch pos"] = self.suffix.attention_mask
        self.start = _right_padded([one.start for one in own])
        entering = [one.entering for one in own if one.entering is not None]
        self.entering = _right_padded(entering) if entering else None
        layers = range(model.n_layers - first)
        self.target = [_right_padded([one.target[k] for one in own]).to(dtype) for k in layers]
        self.strength = torch.tensor(
            [[[float(one.example.alpha)]] for one in own], device=model.device, dtype=dtype
        )

    def run(
        self,
        model: HookedModel,
        layers: Sequence[int],
        act: Callable[[int, Tensor], Tensor],
        unembed: bool,
    ) -> tuple[list[Tensor], Tensor]:
        """Residual streams from the first layer on, and the last output.

        Args:
            model: The model.
            layers: Where something is added.
            act: Returns what is added, given the layer and the residual streams in the working precision.
            unembed: Whether the last output is to be logits.
        """
        acted: list[Tensor] = []

        def steered(layer: int, resid: Tensor) -> Tensor:
            exact = resid.to(working_dtype(resid.dtype))
            return (exact + act(layer, exact)).to(resid.dtype)

        def editor(layer: int) -> ResidualEdit:
            return lambda resid, columns: steered(layer, resid)

        def seen(resid: Tensor, columns: Columns | None = None) -> None:
            acted.append(resid)

        above: dict[int, ResidualEdit] = {layer: editor(layer) for layer in layers}
        if self.entering is None:
            # What lies below the first layer's hook point never changes.
            above.pop(self.first)
            begin, resid = self.first + 1, steered(self.first, self.start)
            seen(resid)
        else:
            above = {layer: MidEdit(edit) for layer, edit in above.items()}
            begin, resid = self.first, self.entering
        after = dict.fromkeys(range(begin, model.n_layers), seen)
        # Hooks run in the order in which they were attached.
        with model.edited(above), model.edited(after):
            last = model.run_suffix(begin, resid, self.suffix, self.prefix, unembed=unembed)
        return acted, last

    def next_tokens(
        self, model: HookedModel, own: Sequence[Prepared]
    ) -> tuple[Int[Tensor, "batch pos"], Tensor, Tensor]:
        """The token after every column, the columns that one or the end follows, those the end follows."""
        tokens = torch.zeros_like(self.suffix.tokens)
        tokens[:, :-1] = self.suffix.tokens[:, 1:]
        on, ends = self.on.clone(), torch.zeros_like(self.on)
        for i, one in enumerate(own):
            length = len(one.start)
            response = len(one.example.response_ids)
            on[i, : length - response - 1] = False
            ends[i, length - 1] = one.example.finished
            on[i, length - 1] = one.example.finished
        return tokens, on, ends


def _right_padded(parts: Sequence[Tensor]) -> Float[Tensor, "batch pos d_model"]:
    return torch.nn.utils.rnn.pad_sequence(list(parts), batch_first=True)
