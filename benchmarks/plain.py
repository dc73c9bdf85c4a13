"""Plain references: what a paper's repository would do, with nothing kept and nothing left out.

Two things only: bare forward passes, and a training loop that at every step runs both sequences in
full, records the residual streams with torch hooks, and lets autograd go back through the model.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor

from psr_lens.examples import Example
from psr_lens.models import HookedModel, TokenBatch
from psr_lens.models.batch import length_sorted_batches
from psr_lens.models.float64 import all_float64

RATE, WEIGHT_DECAY, SHUFFLE_SEED = 1e-3, 1e-6, 123
"""The paper's recipe: AdamW, linear decay to 0."""


@torch.no_grad()
def forward(model: HookedModel, batch: TokenBatch, *, unembed: bool = True) -> None:
    """One bare forward pass; without logits on a HookedTransformer alone."""
    until = {} if unembed else {"stop_at_layer": model.n_layers}
    with all_float64(model.dtype):
        model.raw(batch.tokens, attention_mask=batch.attention_mask.long(), **until)


@torch.no_grad()
def run(model: HookedModel, batch: TokenBatch) -> None:
    """The same pass as psr_lens makes it, up to the last block, with nothing recorded."""
    model.run(batch)


def both_batches(
    model: HookedModel, examples: Sequence[Example], batch_size: int
) -> list[TokenBatch]:
    """All batches of a base run and a prompted run, made before the clock starts."""
    lengths = [len(e.prompted_ids) + len(e.response_ids) for e in examples]
    batches = []
    for indices in length_sorted_batches(lengths, batch_size):
        chosen = [examples[i] for i in indices]
        batches.append(model.pad([e.base_row for e in chosen]))
        batches.append(model.pad([e.prompted_row for e in chosen]))
    return batches


@dataclass(frozen=True)
class Heads:
    """PSR heads of the intervened layers, `w` and `z` `[layer, head, d_model]`, `b` `[layer, head]`."""

    w: Tensor
    b: Tensor
    z: Tensor

    def copy(self) -> "Heads":
        """Leaves of their own, to be trained."""
        return Heads(*(part.detach().clone().requires_grad_() for part in self.parts))

    @property
    def parts(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.w, self.b, self.z

    def push(self, row: int, resid: Tensor) -> Tensor:
        """`sum_k ReLU(w_k . A + b_k) z_k`."""
        return torch.relu(resid @ self.w[row].T + self.b[row]) @ self.z[row]


def residuals(
    model: HookedModel, batch: TokenBatch, heads: Heads | None, layers: Sequence[int]
) -> Tensor:
    """Surface residuals `[layer, token, d_model]` of a full forward pass, pushed by the heads."""
    mask = batch.on("response").unsqueeze(-1)
    seen: list[Tensor] = []

    def hook_of(layer: int) -> Callable:
        def hook(module, args, resid):
            if heads is not None and layer in layers:
                push = heads.push(layers.index(layer), resid)
                resid = torch.where(mask, resid + push, resid)
            seen.append(resid[mask.squeeze(-1)])
            return resid

        return hook

    with ExitStack() as stack:
        for layer in range(model.n_layers):
            handle = model.hook_point(layer).register_forward_hook(hook_of(layer))
            stack.callback(handle.remove)
        stack.enter_context(all_float64(model.dtype))
        model.raw(batch.tokens, attention_mask=batch.attention_mask.long())
    return torch.stack(seen)


def mse_loss(
    model: HookedModel, examples: Sequence[Example], heads: Heads, layers: Sequence[int]
) -> Tensor:
    """Sum over the layers from the first intervened one on of the mean squared error."""
    with torch.no_grad():
        steered = model.pad([example.prompted_row for example in examples])
        target = residuals(model, steered, None, layers)
    base = model.pad([example.base_row for example in examples])
    missed = residuals(model, base, heads, layers) - target
    return missed[min(layers) :].square().mean(dim=(1, 2)).sum()


def batch_order(count: int, batch_size: int, epochs: int) -> list[list[int]]:
    """Which examples every step sees: a fresh permutation per epoch from one seeded stream."""
    generator = torch.Generator().manual_seed(SHUFFLE_SEED)
    steps = []
    for _ in range(epochs):
        order = torch.randperm(count, generator=generator).tolist()
        steps += [order[i : i + batch_size] for i in range(0, count, batch_size)]
    return steps


def fit_psr(
    model: HookedModel,
    examples: Sequence[Example],
    start: Heads,
    layers: Sequence[int],
    *,
    epochs: int,
    batch_size: int,
) -> tuple[Heads, tuple[float, ...]]:
    """Train PSR heads on the MSE objective; the heads and the loss in front of every step."""
    heads = start.copy()
    steps = batch_order(len(examples), batch_size, epochs)
    optimiser = torch.optim.AdamW(heads.parts, lr=RATE, weight_decay=WEIGHT_DECAY)
    decay = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / len(steps))
    losses = []
    for indices in steps:
        loss = mse_loss(model, [examples[i] for i in indices], heads, layers)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        decay.step()
        losses.append(loss.item())
    return heads, tuple(losses)
