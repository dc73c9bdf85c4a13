"""Representation finetuning: ReFT-r1, which also detects, and LoReFT, which edits a subspace."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from psr_lens._types import Surface, check_finite
from psr_lens.steering.projection import unit_rows
from psr_lens.steering.push import PushSteering


@final
class ReFTr1(PushSteering):
    r"""$A \leftarrow A + \alpha\, s_l w_l$ with $|w_l| = 1$, and the latent $\mathrm{ReLU}(A \cdot w_l)$.

    AxBench's rank-1 representation finetuning (Wu et al., arXiv 2501.17148, section 4 and appendix).
    While it is trained, the strength of a sequence is the mean of its own top-k latents,
    `A + mean(top-k_t ReLU(A_t . w)) w`; a token cannot know the later ones' latents, so for steering
    the strength is a number: here `s`, the mean of that over the training examples (the source takes
    the largest latent of the training set and scales it). `latent` detects the concept.

    Args:
        w: Directions; rescaled to norm 1.
        strength: The strength `s` of every layer, in units of the residual stream.
        layers: The layers, ascending.
        surface: Where it acts.
        provenance: Where it comes from.
        fit_report: How the fit went.

    Raises:
        ValueError: If there is not one direction and strength per layer, or a number is not finite.
    """

    method: ClassVar[str] = "reft_r1"

    def __init__(
        self,
        w: Float[Tensor, "layer d_model"],
        strength: Float[Tensor, " layer"],
        layers: Sequence[int],
        *,
        surface: Surface = "R",
        provenance: Mapping[str, Any] | None = None,
        fit_report: Any = None,
    ):
        super().__init__(layers, surface=surface, provenance=provenance, fit_report=fit_report)
        if not len(w) == len(strength) == len(self.layers):
            raise ValueError(
                f"{len(w)} directions and {len(strength)} strengths for {len(self.layers)} layers: "
                "pass one per layer"
            )
        self.w = unit_rows(check_finite("w", w))
        self.strength = check_finite("strength", strength)
        self._row_of_layer = {layer: row for row, layer in enumerate(self.layers)}

    def latent(self, layer: int, resid: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch"]:
        """`ReLU(A . w)`: how strongly the concept is present at a token."""
        return torch.relu(resid @ self.w[self._row_of_layer[layer]].to(resid))

    def push(
        self, layer: int, resid: Float[Tensor, "*batch d_model"]
    ) -> Float[Tensor, "*batch d_model"]:
        """`s w`, at every position."""
        row = self._row_of_layer[layer]
        return (self.strength[row] * self.w[row]).to(resid).expand_as(resid)

    def span(self, layer: int) -> Float[Tensor, "rank d_model"] | None:
        """`w`."""
        return self.w[self._row_of_layer[layer]].unsqueeze(0)

    def tensors(self) -> dict[str, Tensor]:
        """Directions and strengths."""
        return {"w": self.w, "strength": self.strength}

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, Tensor], layers: Sequence[int], **options: Any
    ) -> "ReFTr1":
        """The inverse of `tensors`."""
        return cls(tensors["w"], tensors["strength"], layers, **options)


@final
class LoReFT(PushSteering):
    r"""$A \leftarrow A + \alpha R_l^T (W_l A + b_l - R_l A)$, the rows of $R_l$ orthonormal.

    Low-rank linear subspace ReFT (Wu et al., arXiv 2404.03592, equation 2): inside the subspace of
    $R_l$ the residual stream becomes an affine function of itself, outside it is left alone.

    Args:
        rotation: `R`, orthonormal rows.
        weight: `W`.
        bias: `b`.
        layers: The layers, ascending.
        surface: Where it acts.
        provenance: Where it comes from.
        fit_report: How the fit went.

    Raises:
        ValueError: If there is not one map per layer, a number is not finite, or the rows of `R` are
            not orthonormal.
    """

    method: ClassVar[str] = "loreft"

    def __init__(
        self,
        rotation: Float[Tensor, "layer rank d_model"],
        weight: Float[Tensor, "layer rank d_model"],
        bias: Float[Tensor, "layer rank"],
        layers: Sequence[int],
        *,
        surface: Surface = "R",
        provenance: Mapping[str, Any] | None = None,
        fit_report: Any = None,
    ):
        super().__init__(layers, surface=surface, provenance=provenance, fit_report=fit_report)
        if len(rotation) != len(self.layers):
            raise ValueError(
                f"maps for {len(rotation)} layers but {len(self.layers)} layers named: pass one each"
            )
        for name, tensor in (("rotation", rotation), ("weight", weight), ("bias", bias)):
            check_finite(name, tensor)
        gram = rotation.detach() @ rotation.detach().mT
        off = float((gram - torch.eye(gram.shape[-1]).to(gram)).abs().max())
        if off > 1e-3:
            raise ValueError(
                f"the rows of rotation are off orthonormal by {off:.2g}: pass orthonormal rows, as "
                "torch.linalg.qr gives them"
            )
        self.rotation, self.weight, self.bias = rotation, weight, bias
        self._row_of_layer = {layer: row for row, layer in enumerate(self.layers)}

    def push(
        self, layer: int, resid: Float[Tensor, "*batch d_model"]
    ) -> Float[Tensor, "*batch d_model"]:
        """`R^T (W A + b - R A)`."""
        row = self._row_of_layer[layer]
        rotation = self.rotation[row].to(resid)
        moved = resid @ (self.weight[row].to(resid) - rotation).T + self.bias[row].to(resid)
        return moved @ rotation

    def span(self, layer: int) -> Float[Tensor, "rank d_model"] | None:
        """The rows of `R`."""
        return self.rotation[self._row_of_layer[layer]]

    def tensors(self) -> dict[str, Tensor]:
        """Rotation, weight and bias."""
        return {"rotation": self.rotation, "weight": self.weight, "bias": self.bias}

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, Tensor], layers: Sequence[int], **options: Any
    ) -> "LoReFT":
        """The inverse of `tensors`."""
        return cls(tensors["rotation"], tensors["weight"], tensors["bias"], layers, **options)
