r"""Carry a PSR from one model to another, without fitting it there.

On text that both models read, an affine map takes the residual stream of one to that of the other,
layer by layer, by ridge regression over all tokens:

$A_t \approx A_s M + m$ and, the other way, $A_s \approx A_t N + n$.

A direction is written through `M`, a probe reads through `N`:

$z_t = z_s M$, $w_t = N w_s$, $b_t = b_s + n \cdot w_s$,

so `ReLU(w_t . A_t + b_t)` is what the probe would have read in the first model's residual stream.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from psr_lens._bars import tqdm
from psr_lens.deltas import aligned_residuals
from psr_lens.models import HookedModel, TokenRow, unsteered_model
from psr_lens.models.batch import length_sorted_batches
from psr_lens.models.token_rules import described_tokens
from psr_lens.statistics import RunningMoments, solve_ridge
from psr_lens.steering import PSR
from psr_lens.steering.provenance import provenance


@dataclass(frozen=True)
class ActivationMap:
    """Affine maps between the residual streams of two models, layer by layer.

    Attributes:
        weight: `[layer, d_from, d_to]`, float64.
        bias: `[layer, d_to]`, float64.
        explained: Share of the variance at each layer that the map accounts for on the text it was
            fitted on, `[layer]`.
    """

    weight: Float[Tensor, "layer d_from d_to"]
    bias: Float[Tensor, "layer d_to"]
    explained: Float[Tensor, " layer"]


@torch.no_grad()
def fit_activation_maps(
    source: Any,
    target: Any,
    texts: Sequence[Sequence[int]],
    *,
    penalty: float = 1e-4,
    batch_size: int = 32,
    progress: bool = False,
) -> tuple[ActivationMap, ActivationMap]:
    """The maps from the source's residual stream to the target's, and back.

    Streams over the texts and keeps only sums of products, `(d_source + d_target)^2` numbers per layer in
    float64.

    Args:
        source: A model.
        target: A model with as many layers that reads the same token ids.
        texts: Token ids of texts, prompts and responses alike; every token counts.
        penalty: Ridge penalty, as a share of the mean variance of an input coordinate.
        batch_size: Texts per forward pass.
        progress: Whether to show a bar.

    Returns:
        From source to target, and from target to source.

    Raises:
        ValueError: If there is no text, or the models do not go together.
    """
    source, target = (unsteered_model(own, "fit_activation_maps(...)") for own in (source, target))
    _check_pair(source, target)
    if not texts or not all(len(text) for text in texts):
        raise ValueError("there is no text to map on: pass token ids of texts, none of them empty")
    if not (isinstance(penalty, int | float) and 0 < penalty < float("inf")):
        raise ValueError(f"penalty={penalty!r}: it must be a number above 0")
    highest = max(max(text) for text in texts)
    if highest >= source.d_vocab or min(min(text) for text in texts) < 0:
        raise ValueError(
            f"the texts hold token ids up to {highest} but {source.name} has {source.d_vocab} of them "
            "from 0 on: pass token ids of its tokenizer"
        )
    width = source.d_model + target.d_model
    moments = RunningMoments(source.n_layers, width, torch.device("cpu"), second=True)
    with tqdm(total=len(texts), desc="shared text", unit="text", disable=not progress) as bar:
        for indices in length_sorted_batches([len(text) for text in texts], batch_size):
            # A row whose question starts at its first token, so that all its tokens count.
            rows = [TokenRow(tuple(texts[i]), 0, len(texts[i]) - 1) for i in indices]
            both = torch.cat(
                [
                    aligned_residuals(model, model.pad(rows), "question+response").cpu()
                    for model in (source, target)
                ],
                dim=-1,
            )
            moments.add(both)
            bar.update(len(rows))
    assert moments.products is not None
    mean = moments.mean
    covariance = moments.products / moments.count - mean.unsqueeze(-1) * mean.unsqueeze(-2)
    d = source.d_model
    ours, theirs = slice(None, d), slice(d, None)
    return (
        _regression(covariance, mean, ours, theirs, penalty),
        _regression(covariance, mean, theirs, ours, penalty),
    )


def transfer(
    steering: PSR,
    source: Any,
    target: Any,
    texts: Sequence[Sequence[int]],
    *,
    penalty: float = 1e-4,
    batch_size: int = 32,
    progress: bool = False,
) -> PSR:
    """A PSR of one model as a PSR of another, by maps between their activations.

    Nothing is fitted to the trait in the target: the texts need not show it.

    Args:
        steering: Fitted on the source.
        source: The model that it belongs to.
        target: A model with as many layers that reads the same token ids.
        texts: Token ids of texts that both models read.
        penalty: Ridge penalty, as a share of the mean variance of an input coordinate.
        batch_size: Texts per forward pass.
        progress: Whether to show a bar.

    Raises:
        ValueError: If the steering is not a PSR or belongs to another model, the models do not go
            together, or there is no text.
    """
    if not isinstance(steering, PSR):
        raise ValueError(f"{steering!r} has no probes to carry over: pass a PSR")
    source, target = (unsteered_model(own, "transfer(...)") for own in (source, target))
    if steering.hook_point != "resid_post":
        raise ValueError(
            f"{steering!r} acts at {steering.hook_point!r}: streams are mapped after the blocks, and so only "
            "steerings that act there are carried over"
        )
    steering.check(source)
    there, back = fit_activation_maps(
        source, target, texts, penalty=penalty, batch_size=batch_size, progress=progress
    )
    layers = list(steering.layers)
    w, b, z = (part.detach().cpu().double() for part in (steering.w, steering.b, steering.z))
    dtype = steering.w.dtype
    return PSR(
        (w @ back.weight[layers].mT).to(dtype),
        (b + (w * back.bias[layers].unsqueeze(1)).sum(dim=-1)).to(dtype),
        (z @ there.weight[layers]).to(dtype),
        layers,
        tokens=steering.tokens,
        provenance=provenance(
            target,
            method="psr-transferred",
            tokens=described_tokens(steering.tokens),
            # So that it is not measured on examples that the original was fitted on.
            data=dict(steering.provenance.get("data", {})),
            transferred_from=dict(steering.provenance),
            texts=len(texts),
            penalty=penalty,
        ),
    )


def _regression(
    covariance: Float[Tensor, "layer width width"],
    mean: Float[Tensor, "layer width"],
    inputs: slice,
    outputs: slice,
    penalty: float,
) -> ActivationMap:
    gram = covariance[:, inputs, inputs]
    variance = gram.diagonal(dim1=-2, dim2=-1).mean(dim=-1).clamp_min(1e-30)
    crossed = covariance[:, inputs, outputs]
    weight = solve_ridge(gram, crossed, penalty * variance)
    bias = mean[:, outputs] - (mean[:, inputs].unsqueeze(1) @ weight).squeeze(1)
    # |Y - X W|^2 = tr(Y'Y) - 2 tr(W'X'Y) + tr(W'X'X W), all centred.
    whole = covariance[:, outputs, outputs].diagonal(dim1=-2, dim2=-1).sum(dim=-1)
    left = whole - 2 * (weight * crossed).sum(dim=(1, 2)) + (weight * (gram @ weight)).sum((1, 2))
    return ActivationMap(weight, bias, 1 - left / whole.clamp_min(1e-30))


def _check_pair(source: HookedModel, target: HookedModel) -> None:
    if source.n_layers != target.n_layers:
        raise ValueError(
            f"{source.name} has {source.n_layers} layers but {target.name} has {target.n_layers}: "
            "layers are mapped one to one, pass models of the same depth"
        )
    vocabularies = [model.encoder.tokenizer.get_vocab() for model in (source, target)]
    if vocabularies[0] != vocabularies[1]:
        raise ValueError(
            f"{source.name} and {target.name} read different tokens: pass models with the same "
            "tokenizer"
        )
