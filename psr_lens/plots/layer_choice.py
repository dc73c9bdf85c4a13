"""Which layer a picture shows first when readers are to compare two of its panels."""

from collections.abc import Sequence
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from psr_lens._types import TokenValues
from psr_lens.plots.bounds import robust_bounds

# Two tokens can agree by luck; a few more than two are a pattern.
_SEVERAL: Final = 2.5


def layer_to_show(prompt: Sequence[TokenValues], steering: Sequence[TokenValues]) -> int:
    """The layer at which what a steering adds compares best with what the prompt adds.

    Of the layers at which both light up several tokens, the one with the highest correlation between
    their colours (Pearson's over the tokens of a response, averaged over responses). The colour of
    a token is its length `s_i`, cut off at the layer's bound as `token_heatmaps` does with
    `shared_scale`: everything beyond looks alike. A panel lights up
    `(sum_i s_i^2)^2 / sum_i s_i^4` tokens, which is `n` for `n` equal colours and zeros elsewhere;
    "several" means 2.5 on average over responses. If no layer reaches that, the correlation decides
    among all layers. Ours.

    This is a choice for the sake of readers, not a measurement: it picks a layer at which the
    steering follows the prompt well. Make it on dev examples, show others, and let readers move the
    layer selector.

    Args:
        prompt: What the prompt adds to each response, such as its local deltas' `token_values`.
        steering: What the steering adds to the same responses, at the same layers.

    Returns:
        One of their layers; the lowest if several are equal.

    Raises:
        ValueError: If there is no response, responses, tokens or layers do not match, or a value is
            infinite.

    Example:
        >>> prompt = TokenValues(tuple("abcde"), torch.tensor([[1.0, 2, 3, 0, 0]] * 2), (0, 1), "length")
        >>> steering = TokenValues(
        ...     tuple("abcde"), torch.tensor([[0.0, 0, 3, 2, 1], [1, 2, 2, 0, 0]]), (0, 1), "length"
        ... )
        >>> layer_to_show([prompt], [steering])
        1
    """
    _check(prompt, steering)
    pairs = [_colours(a, b) for a, b in zip(prompt, steering, strict=True)]
    followed = _mean([_correlation(a, b) for a, b in pairs])
    lit = torch.minimum(_mean([_n_lit(a) for a, _ in pairs]), _mean([_n_lit(b) for _, b in pairs]))
    several = lit >= _SEVERAL
    if bool(several.any()):
        followed = followed.masked_fill(~several, -torch.inf)
    return prompt[0].layers[int(followed.argmax())]


def _check(prompt: Sequence[TokenValues], steering: Sequence[TokenValues]) -> None:
    if not prompt or len(prompt) != len(steering):
        raise ValueError(
            f"{len(prompt)} responses of the prompt, {len(steering)} of the steering: pass the same "
            "responses for both, at least one"
        )
    layers = prompt[0].layers
    for i, (one, other) in enumerate(zip(prompt, steering, strict=True)):
        if one.tokens != other.tokens or not one.tokens:
            raise ValueError(
                f"response {i}: {len(one.tokens)} tokens of the prompt, {len(other.tokens)} of the "
                "steering, and they must be the same, at least one"
            )
        for found in (one.layers, other.layers):
            if found != layers or not layers:
                raise ValueError(
                    f"response {i} has layers {list(found)}, the first one of the prompt "
                    f"{list(layers)}: all must have the same layers, at least one"
                )


def _colours(
    prompt: TokenValues, steering: TokenValues
) -> tuple[Float[Tensor, "layer pos"], Float[Tensor, "layer pos"]]:
    """Every token's share of the full colour, 0 to 1, on the scale that both share at each layer."""
    both = [source.values.detach().cpu().double() for source in (prompt, steering)]
    bounds = torch.tensor(
        [[max(robust_bounds(values[row]).high for values in both)] for row in range(len(both[0]))],
        dtype=torch.float64,
    )
    scale = torch.where(bounds > 0, bounds, 1.0)
    one, other = (values.nan_to_num().minimum(bounds) / scale for values in both)
    return one, other


def _mean(rows: list[Float[Tensor, "layer"]]) -> Float[Tensor, "layer"]:
    return torch.stack(rows).mean(0)


def _n_lit(colours: Float[Tensor, "layer pos"]) -> Float[Tensor, "layer"]:
    energy = colours.square()
    return (energy.sum(1).square() / energy.square().sum(1)).nan_to_num()


def _correlation(
    a: Float[Tensor, "layer pos"], b: Float[Tensor, "layer pos"]
) -> Float[Tensor, "layer"]:
    """Pearson's over tokens, 0 where one of the two is constant."""
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    scale = a.norm(dim=1) * b.norm(dim=1)
    # Rounding can leave a constant row with a tiny norm.
    return torch.where(scale > 1e-12, (a * b).sum(1) / scale, 0.0)
