"""What each component contributed to the prompt's accumulated delta, on one batch.

With `D[l]` the accumulated delta after block `l` and `D[-1]` the difference of the embeddings,

`D[l] - D[l-1] = d attn[l] + d mlp[l]`, and `d attn[l]` is a sum over heads (ours).

Here `d` is the prompted run minus the base run at the same aligned token. An output bias
cancels in it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from psr_lens._types import AlignedTokens
from psr_lens.deltas import example_batches, working_dtype
from psr_lens.examples import Example
from psr_lens.models import HookedModel, TokenBatch
from psr_lens.models.parts import BlockParts, head_matrix, run_with_parts


@dataclass(frozen=True, eq=False)
class ComponentDeltas:
    """Differences between the prompted and the base run, tokens end to end, row by row.

    Attributes:
        embed: `D[-1]`, of the embeddings.
        attn: Of what attention adds, per layer.
        mlp: Of what the MLP adds, per layer.
        last: `D[L-1]`, the accumulated delta after the last block.
        heads: Of the heads' mixed values, in front of `head_matrix`; None where not asked for.
        attention: Share of its attention that every head of the prompted run pays to the
            instruction's tokens; None where not asked for, or not shown by the backend.
    """

    embed: Float[Tensor, "token d_model"]
    attn: Float[Tensor, "layer token d_model"]
    mlp: Float[Tensor, "layer token d_model"]
    last: Float[Tensor, "token d_model"]
    heads: Float[Tensor, "layer token head d_head"] | None
    attention: Float[Tensor, "layer token head"] | None


def instruction_span(example: Example) -> tuple[int, int]:
    """Where the instruction stands in `x'`.

    Between the longest token prefix and the longest token suffix that `x'` shares with `x`.

    Returns:
        First position and the one after the last; equal if there is no such token.
    """
    base, prompted = example.base_ids, example.prompted_ids
    end = len(prompted) - example.question_length
    shared = min(end, len(base) - example.question_length)
    start = 0
    while start < shared and base[start] == prompted[start]:
        start += 1
    return start, max(start, end)


@torch.no_grad()
def component_deltas(
    model: HookedModel,
    examples: Sequence[Example],
    tokens: AlignedTokens = "response",
    *,
    heads: bool = True,
) -> ComponentDeltas:
    """Run both prompts with the response once each, and subtract the parts.

    Holds three numbers per layer, aligned token and dimension of one batch; what each head adds is computed
    one head at a time, by `head_parts`.

    Args:
        model: The model.
        examples: One batch.
        tokens: `response` or `question+response`.
        heads: Whether to keep the heads and their attention too.
    """
    base, prompted = example_batches(model, examples)
    kept: dict[str, dict[int, Tensor]] = {}
    spans = torch.tensor([instruction_span(example) for example in examples])

    def keep(parts: BlockParts) -> None:
        for name, values in _on_aligned(parts, prompted, tokens, model.n_layers, heads).items():
            kept.setdefault(name, {})[parts.layer] = values
        if heads and parts.pattern is not None:
            paid = _attention_to(spans, parts.pattern, prompted, tokens)
            kept.setdefault("attention", {})[parts.layer] = paid

    def subtract(parts: BlockParts) -> None:
        for name, values in _on_aligned(parts, base, tokens, model.n_layers, heads).items():
            kept[name][parts.layer] -= values

    run_with_parts(model, prompted, keep)
    run_with_parts(model, base, subtract)
    stacked = {name: torch.stack(list(by_layer.values())) for name, by_layer in kept.items()}
    shown = len(kept.get("attention", ())) == model.n_layers
    return ComponentDeltas(
        stacked["before"][0],
        stacked["attn"],
        stacked["mlp"],
        stacked["after"][0],
        stacked.get("heads"),
        stacked["attention"] if shown else None,
    )


@torch.no_grad()
def head_parts(
    model: HookedModel, deltas: ComponentDeltas, layer: int
) -> Iterator[Float[Tensor, "token d_model"]]:
    """`d` of what every head of a layer adds to the residual stream, one head at a time.

    Raises:
        ValueError: If the heads were left out.
    """
    if deltas.heads is None:
        raise ValueError("the heads were left out: collect them with heads=True")
    mixed = deltas.heads[layer]
    for head, matrix in enumerate(head_matrix(model, layer).to(mixed)):
        yield mixed[:, head] @ matrix


def _on_aligned(
    parts: BlockParts, batch: TokenBatch, tokens: AlignedTokens, n_layers: int, heads: bool
) -> dict[str, Tensor]:
    found = {"attn": parts.attn, "mlp": parts.mlp}
    if heads:
        found["heads"] = parts.heads
    if parts.layer == 0:
        found["before"] = parts.before
    if parts.layer == n_layers - 1:
        found["after"] = parts.after
    mask = batch.on(tokens)
    return {name: own[mask].to(working_dtype(own.dtype)) for name, own in found.items()}


def _attention_to(
    spans: Int[Tensor, "batch 2"],
    pattern: Float[Tensor, "batch head query key"],
    batch: TokenBatch,
    tokens: AlignedTokens,
) -> Float[Tensor, "token head"]:
    position, (start, end) = batch.columns.position, spans.to(pattern.device).T.unsqueeze(-1)
    inside = (position >= start) & (position < end)
    paid = (pattern @ inside[:, None, :, None].to(pattern))[..., 0]
    return paid.transpose(1, 2)[batch.on(tokens)].to(working_dtype(pattern.dtype))
