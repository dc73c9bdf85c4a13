"""PSR: a probe reads a token's residual stream and decides how strongly to push it."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from psr_lens._types import Surface, check_finite
from psr_lens.steering.push import PushSteering


@final
class PSR(PushSteering):
    r"""Prompt Steering Replacement (Heyman & Vandeputte, arXiv 2605.03907).

    $A \leftarrow A + \alpha \sum_k \mathrm{ReLU}(w_{l,k} \cdot A + b_{l,k})\, z_{l,k}$

    One head (`k = 1`) per layer is the paper's. The directions `z` have norm 1, so the coefficient
    `ReLU(w . A + b)` of a head is the length of its push.

    Args:
        w: Probe weights.
        b: Probe biases.
        z: Directions; rescaled to norm 1, with `w` and `b` taking the norm over.
        layers: The layers, ascending.
        surface: Where it acts.
        provenance: Where it comes from.
        fit_report: How the fit went.

    Raises:
        ValueError: If there is not one set of heads per layer, or a number is not finite.
    """

    method: ClassVar[str] = "psr"

    def __init__(
        self,
        w: Float[Tensor, "layer head d_model"],
        b: Float[Tensor, "layer head"],
        z: Float[Tensor, "layer head d_model"],
        layers: Sequence[int],
        *,
        surface: Surface = "R",
        provenance: Mapping[str, Any] | None = None,
        fit_report: Any = None,
    ):
        super().__init__(layers, surface=surface, provenance=provenance, fit_report=fit_report)
        if len(w) != len(self.layers):
            raise ValueError(
                f"PSR heads for {len(w)} layers but {len(self.layers)} layers named: pass one set each"
            )
        for name, tensor in (("w", w), ("b", b), ("z", z)):
            check_finite(name, tensor)
        norm = z.norm(dim=-1)
        # A saved direction is already of norm 1 up to rounding: keep its exact bits.
        norm = torch.where((norm - 1).abs() < 1e-6, 1.0, norm)
        self.w = w * norm.unsqueeze(-1)
        self.b = b * norm
        self.z = z / torch.where(norm > 0, norm, 1.0).unsqueeze(-1)
        self._row_of_layer = {layer: row for row, layer in enumerate(self.layers)}

    def head_coefficients(
        self, layer: int, resid: Float[Tensor, "*batch d_model"]
    ) -> Float[Tensor, "*batch head"]:
        """`ReLU(w . A + b)` of every head."""
        row = self._row_of_layer[layer]
        return torch.relu(resid @ self.w[row].to(resid).T + self.b[row].to(resid))

    def push(
        self, layer: int, resid: Float[Tensor, "*batch d_model"]
    ) -> Float[Tensor, "*batch d_model"]:
        """The heads' coefficients times their directions, summed."""
        row = self._row_of_layer[layer]
        return self.head_coefficients(layer, resid) @ self.z[row].to(resid)

    def span(self, layer: int) -> Float[Tensor, "rank d_model"] | None:
        """The `z` of every head."""
        return self.z[self._row_of_layer[layer]]

    def tensors(self) -> dict[str, Tensor]:
        """Probe weights, biases and directions."""
        return {"w": self.w, "b": self.b, "z": self.z}

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, Tensor], layers: Sequence[int], **options: Any
    ) -> "PSR":
        """The inverse of `tensors`."""
        return cls(tensors["w"], tensors["b"], tensors["z"], layers, **options)
