"""`PushSteering`: a push that depends on the layer and the residual stream alone."""

from abc import abstractmethod
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from psr_lens._types import Surface
from psr_lens.steering.base import Push, Steering
from psr_lens.steering.context import Context


class PushSteering(Steering):
    """A steering whose push is a function of the layer and the residual stream alone."""

    @abstractmethod
    def push(
        self, layer: int, resid: Float[Tensor, "*batch d_model"]
    ) -> Float[Tensor, "*batch d_model"]:
        """What is added at strength 1, for residual streams of any leading shape.

        Args:
            layer: One of `layers`.
            resid: Residual streams in the working precision.
        """

    @property
    def only_on(self) -> Surface | None:
        """Its surface, unless a subclass acts in a way of its own."""
        own, plain = type(self), PushSteering
        as_usual = all(
            getattr(own, name) is getattr(plain, name)
            for name in ("acts_on", "pushes", "edits", "edit")
        )
        return self.surface if as_usual else None

    def to(self, device: torch.device, dtype: torch.dtype) -> "PushSteering":
        """The same steering with its tensors there."""
        moved = {name: tensor.to(device, dtype) for name, tensor in self.tensors().items()}
        placed = type(self).from_tensors(moved, self.layers, surface=self.surface, **self.options())
        assert isinstance(placed, PushSteering)
        return placed

    def pushes(
        self, device: torch.device, dtype: torch.dtype, context: Context | None = None
    ) -> Mapping[int, Push]:
        """One push per layer, with the tensors moved once."""
        placed = self.to(device, dtype)

        def pusher(layer: int) -> Push:
            return lambda resid, columns: placed.push(layer, resid)

        return {layer: pusher(layer) for layer in self.layers}
