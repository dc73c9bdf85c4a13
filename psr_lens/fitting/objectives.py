"""What the gradient solver minimises: pure functions of tensors."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from psr_lens.deltas import working_dtype


def mse(
    acted: Sequence[Float[Tensor, "batch pos d_model"]],
    target: Sequence[Float[Tensor, "batch pos d_model"]],
    on: Bool[Tensor, "batch pos"],
) -> Float[Tensor, ""]:
    r"""$\sum_k \mathrm{mean}_{t, d} (S[k, t] - A(x'y')[k, t])^2$ over aligned tokens (paper, eq. for MSE).

    Args:
        acted: `S[k]`, the residual stream under the intervention, layer by layer.
        target: `A(x'y')[k]`, likewise.
        on: The aligned tokens; padding is not among them.
    """
    total = torch.zeros((), device=on.device)
    for own, goal in zip(acted, target, strict=True):
        squares = (own.to(goal) - goal).square().mean(dim=-1)
        total = total + squares[on].mean()
    return total


def cross_entropy(
    logits: Float[Tensor, "batch pos d_vocab"],
    next_tokens: Int[Tensor, "batch pos"],
    on: Bool[Tensor, "batch pos"],
    ends: Bool[Tensor, "batch pos"],
    end_ids: Int[Tensor, " end"],
) -> Float[Tensor, ""]:
    """Mean negative log-likelihood of `y'` with its end token, in nats per token.

    Args:
        logits: At every aligned column.
        next_tokens: The response token that follows each.
        on: Columns that a response token or the end follows.
        ends: Columns that the end follows; any of the end tokens will do there.
        end_ids: Ids that end a response.
    """
    logp = logits[on].to(working_dtype(logits.dtype)).log_softmax(dim=-1)
    said = logp.gather(-1, next_tokens[on].unsqueeze(-1)).squeeze(-1)
    over = logp[:, end_ids].logsumexp(dim=-1) if len(end_ids) else said
    return -torch.where(ends[on], over, said).mean()
