"""What a method is fitted to, whatever the solver: residual streams and their scale."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from psr_lens._types import AlignedTokens
from psr_lens.delta_moments import DeltaMoments, delta_moments, leading_directions
from psr_lens.deltas import working_dtype
from psr_lens.examples import Example
from psr_lens.models import HookedModel

if TYPE_CHECKING:
    from psr_lens.steering.base import Steering


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """What a closed form is given: the model and the training examples.

    Attributes:
        model: The model.
        examples: The training examples.
        tokens: `response` or `question+response`.
        batch_size: Examples per forward pass.
        progress: Whether to show bars.
    """

    model: HookedModel
    examples: Sequence[Example]
    tokens: AlignedTokens
    batch_size: int
    progress: bool
    _moments: list[DeltaMoments] = field(default_factory=list, init=False, repr=False)

    @property
    def dtype(self) -> torch.dtype:
        """The working precision of the model, and of the steering."""
        return working_dtype(self.model.dtype)

    def moments(self, *, second: bool = False) -> DeltaMoments:
        """Sums over the accumulated deltas: see `delta_moments`. The small ones are made once."""
        if self._moments and not second:
            return self._moments[0]
        found = delta_moments(
            self.model,
            self.examples,
            self.tokens,
            second=second,
            batch_size=self.batch_size,
            progress=self.progress,
        )
        if not second:
            self._moments.append(found)
        return found

    def leading_directions(self, rank: int) -> Float[Tensor, "layer rank d_model"]:
        """Principal directions of the local deltas at every layer: see `leading_directions`."""
        return leading_directions(
            self.model,
            self.examples,
            self.tokens,
            rank,
            batch_size=self.batch_size,
            progress=self.progress,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerData:
    """What the layerwise solver sees at one layer.

    Attributes:
        layer: The layer.
        tokens: `response` or `question+response`.
        x: Residual streams of the training tokens where the steering will act, with the earlier layers'
            updates.
        missing: What the layer is to add: the prompted run's streams there minus `x`.
        strength: The strength of every token's example; None where all are 1.
        dev: The same three for the dev tokens; None without dev examples.
    """

    layer: int
    tokens: AlignedTokens
    x: Float[Tensor, "token d_model"]
    missing: Float[Tensor, "token d_model"]
    strength: Float[Tensor, " token"] | None = None
    dev: tuple[Tensor, Tensor, Tensor | None] | None = None


@dataclass(frozen=True, eq=False)
class LayerFit:
    """What `Steering.fit_layer` found.

    Attributes:
        steering: The steering of that one layer.
        steps: Optimiser steps taken, 0 for a closed form.
        heads: PSR heads that the layer uses; None for other methods.
        penalty: The penalty that they were fitted with; None for other methods.
    """

    steering: "Steering"
    steps: int = 0
    heads: int | None = None
    penalty: float | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Start:
    """What `Steering.start` is given to begin training through the model.

    Attributes:
        layers: The layers.
        d_model: Width of the residual stream.
        tokens: `response` or `question+response`.
        seed: Seed of random starts.
        standardised: Whether the steering will read residual streams of mean 0 and variance 1 and add in
            units of the accumulated delta, which `Steering.rescaled` makes possible.
        contrast: Returns what tells responses with the concept from those without, at every layer; the mean
            delta if all examples have it.
    """

    layers: tuple[int, ...]
    d_model: int
    tokens: AlignedTokens
    seed: int
    standardised: bool
    contrast: Callable[[], Float[Tensor, "layer d_model"]]


Watcher = Callable[[int, Tensor, Tensor], None]
"""Called with a layer, the residual streams `[batch, pos, d_model]` there and the aligned tokens."""


@dataclass(frozen=True, eq=False)
class Scale:
    r"""The units that a steering is trained in.

    It reads $(A - \mathrm{mean}) / \mathrm{std}$, and what it adds is multiplied by `size`.

    Attributes:
        mean: Mean residual stream on the aligned tokens of the base runs.
        std: Its standard deviation, coordinate by coordinate.
        size: Root mean square of the accumulated delta's norm.
    """

    mean: Float[Tensor, "layer d_model"]
    std: Float[Tensor, "layer d_model"]
    size: Float[Tensor, " layer"]

    def inverse(self) -> "Scale":
        """The scale that converts back from these units."""
        return Scale(-self.mean / self.std, 1 / self.std, 1 / self.size)
