"""The axis vocabulary of the package and the two data types that several modules share.

Axis names in jaxtyping annotations mean the same thing everywhere:

| axis | meaning |
| --- | --- |
| `layer` | a block of the model, or the list of layers that an object covers, ascending |
| `batch` | examples in one padded batch |
| `pos` | token positions of one sequence, or columns of a padded batch |
| `token` | aligned tokens of many examples laid end to end |
| `d_model` | width of the residual stream |
| `d_vocab` | size of the vocabulary |
"""

from collections.abc import Iterable
from dataclasses import dataclass
from operator import index
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    import pandas

AlignedTokens = Literal["response", "question+response"]
"""The tokens that the base run and the prompted run share, on which steerings are fitted and measured.
`response`: the last prompt token and every response token. `question+response`: also the question's tokens,
the common suffix of both prompts, which an instruction in front does not change."""

Layers = int | tuple[int, ...] | list[int] | range | Literal["all"]
"""One layer, several, or all of them."""

LENGTH_ADDED: Final = "length of what is added"
"""What both a prompt's local deltas and a steering's coefficients measure, so their panels can be compared
directly."""

RESIDUAL_UNIT: Final = "the residual stream"
"""The unit of lengths in the residual stream: Euclidean norms as the model computes them, unscaled."""


@dataclass(frozen=True)
class TokenValues:
    """One number for every layer and token of a text: what a token heatmap draws.

    Attributes:
        tokens: The tokens as text, one per position.
        values: The numbers, `[layer, pos]`.
        layers: The index of every row of `values`.
        quantity: What the numbers are, as an axis label ("delta norm", "distance to the prompt").
        title: A caption, empty for none.
        unit: The unit of the numbers, empty to show none.
        ending: How the text was cut off ("cut off at 64 tokens"), empty if it was not.
        regions: Which part of the text each token belongs to (`question`, `last prompt token`, `response`),
            empty if unknown.
    """

    tokens: tuple[str, ...]
    values: Float[Tensor, "layer pos"]
    layers: tuple[int, ...]
    quantity: str
    title: str = ""
    unit: str = ""
    ending: str = ""
    regions: tuple[str, ...] = ()

    def __post_init__(self):
        if tuple(self.values.shape) != (len(self.layers), len(self.tokens)):
            raise ValueError(
                f"values has shape {tuple(self.values.shape)} but there are {len(self.layers)} "
                f"layers and {len(self.tokens)} tokens; pass values as [layer, pos]"
            )

    def token_values(self) -> "TokenValues":
        """Itself, so plots accept this or anything that can produce one."""
        return self

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per layer and token.

        Columns: `layer`, `pos` (the token's place in `tokens`), `token`, `region` (empty if unknown) and
        `value`.
        """
        import pandas as pd

        places = enumerate(zip(self.tokens, self.regions or [""] * len(self.tokens), strict=True))
        about = [(pos, token, region) for pos, (token, region) in places]
        rows = [
            (layer, *own, value)
            for layer, values in zip(self.layers, self.values.tolist(), strict=True)
            for own, value in zip(about, values, strict=True)
        ]
        return pd.DataFrame(rows, columns=["layer", "pos", "token", "region", "value"])


def check_aligned(tokens: Any) -> AlignedTokens:
    """Return `tokens` if it names aligned tokens.

    Raises:
        ValueError: If it is neither `response` nor `question+response`.
    """
    if tokens not in get_args(AlignedTokens):
        raise ValueError(
            f"tokens={tokens!r}: fits and measures take place on the tokens that base and prompted run "
            "share: choose 'response' (last prompt token and response) or 'question+response'"
        )
    return tokens


def check_seed(seed: Any) -> int:
    """Return the seed if it is valid.

    Raises:
        ValueError: If it is not a whole number from 0 to 2^63 - 1.
    """
    try:
        found = index(seed)
    except TypeError:
        found = -1
    if not 0 <= found < 2**63:
        raise ValueError(f"seed={seed!r}: it must be a whole number from 0 to 2^63 - 1")
    return found


def check_whole(name: str, value: Any) -> int:
    """Return `value` as a Python int if it is a whole number: no bool, no float, no text.

    Raises:
        ValueError: If it is not.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        return index(value)
    except TypeError:
        raise ValueError(f"{name}={value!r}: it must be a whole number") from None


def check_count(name: str, value: Any, least: int = 1) -> int:
    """Return `value` as an int if it is a valid count.

    Raises:
        ValueError: If it is not a whole number, or below `least`.
    """
    try:
        found = index(value)
    except TypeError:
        raise ValueError(f"{name}={value!r}: it must be a whole number") from None
    if found < least:
        raise ValueError(f"{name}={value}: it must be at least {least}")
    return found


def check_alpha(alpha: Any) -> float:
    """Return the strength as a float if it is finite.

    Raises:
        ValueError: If it is not a finite number.
    """
    try:
        found = float(alpha)
    except (TypeError, ValueError):
        found = float("nan")
    if not abs(found) < float("inf"):
        raise ValueError(f"alpha={alpha!r}: it must be a finite number")
    return found


def check_alphas(alpha: Any) -> "float | Tensor":
    """Return one strength, or one per row of a batch.

    Raises:
        ValueError: If it is neither, or not finite.
    """
    if not isinstance(alpha, Tensor) or alpha.ndim == 0:
        return check_alpha(alpha)
    if alpha.ndim != 1 or not bool(torch.isfinite(alpha).all()):
        raise ValueError(
            f"alpha={alpha.tolist()!r}: it must be a finite number, or one for every row of the batch"
        )
    return alpha


def check_finite(name: str, tensor: Tensor) -> Tensor:
    """Return the tensor if every number in it is finite.

    Raises:
        ValueError: If it holds NaN or infinity.
    """
    finite = torch.isfinite(tensor)
    if bool(finite.all()):
        return tensor
    wrong = (~finite).nonzero()
    raise ValueError(
        f"{name} has NaN or infinity at {len(wrong)} of {tensor.numel()} places (the first is "
        f"{wrong[0].tolist()}) in {str(tensor.dtype).removeprefix('torch.')}: every number must be "
        "finite; what was computed in float16 may need bfloat16 or float32"
    )


def resolve_layers(layers: Layers, n_layers: int) -> tuple[int, ...]:
    """The layers as an ascending tuple without repetition.

    Args:
        layers: One index, several, or `"all"`. Negative indices count from the end.
        n_layers: Number of blocks of the model.

    Raises:
        ValueError: If an index is out of range, or none is given.
    """
    if layers == "all":
        return tuple(range(n_layers))
    refusal = f"layers={layers!r}: pass 'all', one index, or a list of indices"
    if isinstance(layers, str | bool):
        raise ValueError(refusal)
    try:
        # Anything that can be an index, NumPy's integers included.
        many = layers if isinstance(layers, Iterable) else [layers]
        listed = [index(layer) for layer in many]
    except TypeError:
        raise ValueError(refusal) from None
    if not listed:
        raise ValueError("layers is empty: name at least one layer, or 'all'")
    wrong = [layer for layer in listed if not -n_layers <= layer < n_layers]
    if wrong:
        raise ValueError(
            f"layers={wrong} but the model has {n_layers} layers (0 to {n_layers - 1})"
        )
    return tuple(sorted({layer % n_layers for layer in listed}))


def sum_device(device: torch.device) -> torch.device:
    """Where float64 sums are taken: on the device, or on the CPU if the device has no float64."""
    return torch.device("cpu") if device.type == "mps" else device


def exactly(values: Tensor) -> Tensor:
    """The values in float64, on their device if it has float64, otherwise on the CPU."""
    return values.to(sum_device(values.device)).double()
