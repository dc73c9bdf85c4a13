"""What the live solver trains: the parameters of a method, and what they push.

With an adaptive recipe the parameters are in units of the model: a probe reads inputs of mean 0 and
variance 1, a push is counted in mean delta norms, and vectors have entries of order 1 whatever
their width, so that one step size fits all. The steering that comes out is in plain units.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from psr_lens._types import Surface
from psr_lens.steering import PSR, ConstantSteering, LoReFT, ReFTr1, Steering


@dataclass(frozen=True)
class Units:
    """The scale of a model at the layers of a fit.

    Attributes:
        mean: Mean residual stream on the surface of the base runs.
        std: Its standard deviation, coordinate by coordinate.
        out: Root mean square of the accumulated delta's norm.
    """

    mean: Float[Tensor, "layer d_model"]
    std: Float[Tensor, "layer d_model"]
    out: Float[Tensor, " layer"]

    @classmethod
    def plain(cls, n_layers: int, d_model: int) -> "Units":
        """No change of units."""
        return cls(
            torch.zeros(n_layers, d_model), torch.ones(n_layers, d_model), torch.ones(n_layers)
        )

    def to(self, device: torch.device, dtype: torch.dtype) -> "Units":
        """The same, there."""
        parts = (part.to(device, dtype) for part in (self.mean, self.std, self.out))
        return Units(*parts)


class Trainable(ABC):
    """Parameters and what they push at every layer.

    Attributes:
        layers: The layers, ascending.
        parameters: Leaf tensors, by name.
        finds_own_strength: Whether it pushes negatives like positives, by what it reads in them.
    """

    finds_own_strength: ClassVar[bool] = False

    def __init__(self, layers: Sequence[int], parameters: dict[str, Tensor]):
        self.layers = tuple(layers)
        self.parameters = {
            name: value.detach().clone().requires_grad_() for name, value in parameters.items()
        }

    @abstractmethod
    def push(
        self, row: int, resid: Float[Tensor, "batch pos d_model"], on: Bool[Tensor, "batch pos"]
    ) -> tuple[Float[Tensor, "batch pos d_model"], Float[Tensor, "batch pos"]]:
        """What is added at strength 1, and each token's coefficient.

        Args:
            row: Which of `layers`.
            resid: Residual streams.
            on: The surface tokens.
        """

    @abstractmethod
    def steering(self, surface: Surface) -> Steering:
        """The steering with the parameters as they are."""

    def penalty(self) -> Tensor | float:
        """What the method itself adds to the objective, after a pass."""
        return 0.0

    def retract(self) -> None:  # noqa: B027  Most methods have nothing to bring back.
        """Bring the parameters back to where the method wants them, after a step."""


def random_heads(
    n_layers: int, n_heads: int, d_model: int, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The small random start of PSR heads, in plain units: `w`, `b`, `z`.

    Args:
        n_layers: Layers to fit.
        n_heads: Heads per layer.
        d_model: Width of the residual stream.
        seed: Same seed, same start.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = (n_layers, n_heads, d_model)
    w = torch.randn(shape, generator=generator) / d_model
    z = torch.randn(shape, generator=generator) / d_model**0.5
    return w, torch.full((n_layers, n_heads), 0.1), z


@final
class TrainablePSR(Trainable):
    """PSR heads."""

    def __init__(
        self,
        layers: Sequence[int],
        heads: tuple[Tensor, Tensor, Tensor],
        units: Units,
        adaptive: bool,
    ):
        w, b, z = heads
        self.units = units
        # Entries of order 1.
        self.width = w.shape[-1] ** 0.5 if adaptive else 1.0
        length = z.norm(dim=-1).clamp_min(1e-30) if adaptive else torch.ones_like(b)
        inner = length / units.out[:, None]
        read = w * inner.unsqueeze(-1)
        super().__init__(
            layers,
            {
                "w": read * units.std[:, None] * self.width,
                "b": b * inner + (read * units.mean[:, None]).sum(dim=-1),
                "z": z / length.unsqueeze(-1) * self.width,
            },
        )

    def heads(self, row: int) -> tuple[Tensor, Tensor, Tensor]:
        """`w, b, z` of one layer in plain units."""
        units = self.units
        w = self.parameters["w"][row] / self.width / units.std[row]
        b = self.parameters["b"][row] - w @ units.mean[row]
        return w, b, self.parameters["z"][row] / self.width * units.out[row]

    def push(
        self, row: int, resid: Float[Tensor, "batch pos d_model"], on: Bool[Tensor, "batch pos"]
    ) -> tuple[Float[Tensor, "batch pos d_model"], Float[Tensor, "batch pos"]]:
        """`sum_k ReLU(w_k . A + b_k) z_k`."""
        w, b, z = self.heads(row)
        c = torch.relu(resid @ w.T + b)
        return c @ z, c.sum(dim=-1)

    def steering(self, surface: Surface) -> PSR:
        """The PSR."""
        with torch.no_grad():
            rows = [self.heads(row) for row in range(len(self.layers))]
            w, b, z = (torch.stack(parts).detach().clone() for parts in zip(*rows, strict=True))
        return PSR(w, b, z, self.layers, surface=surface)


@final
class TrainableConstant(Trainable):
    """One vector per layer."""

    def __init__(
        self,
        layers: Sequence[int],
        vectors: Float[Tensor, "layer d_model"],
        units: Units,
        adaptive: bool,
    ):
        self.scale = units.out[:, None] / (vectors.shape[-1] ** 0.5 if adaptive else 1.0)
        super().__init__(layers, {"vectors": vectors / self.scale})

    def push(
        self, row: int, resid: Float[Tensor, "batch pos d_model"], on: Bool[Tensor, "batch pos"]
    ) -> tuple[Float[Tensor, "batch pos d_model"], Float[Tensor, "batch pos"]]:
        """`z`."""
        vector = self.parameters["vectors"][row] * self.scale[row]
        return vector.expand_as(resid), torch.ones_like(resid[..., 0])

    def steering(self, surface: Surface) -> ConstantSteering:
        """The constant steering."""
        vectors = (self.parameters["vectors"] * self.scale).detach().clone()
        return ConstantSteering(vectors, self.layers, surface=surface)


@final
class TrainableLoReFT(Trainable):
    """A subspace per layer and an affine map inside it, from a start that changes nothing."""

    def __init__(self, layers: Sequence[int], rank: int, units: Units, seed: int):
        n, d_model = units.mean.shape
        generator = torch.Generator().manual_seed(seed)
        random = torch.randn(n, d_model, rank, generator=generator).to(units.mean)
        rotation = torch.linalg.qr(random).Q.mT
        self.units = units
        super().__init__(
            layers,
            {
                "rotation": rotation,
                "change": torch.zeros_like(rotation),
                "bias": torch.zeros(n, rank).to(units.mean),
            },
        )

    def push(
        self, row: int, resid: Float[Tensor, "batch pos d_model"], on: Bool[Tensor, "batch pos"]
    ) -> tuple[Float[Tensor, "batch pos d_model"], Float[Tensor, "batch pos"]]:
        """`R^T (W A + b - R A)`; `W - R` is trained, on inputs of mean 0 and variance 1."""
        change, bias = self._plain(row)
        moved = (resid @ change.T + bias) @ self.parameters["rotation"][row]
        return moved, moved.norm(dim=-1)

    def _plain(self, row: int) -> tuple[Tensor, Tensor]:
        units = self.units
        width = units.mean.shape[-1] ** 0.5
        change = self.parameters["change"][row] / width * units.out[row] / units.std[row]
        bias = self.parameters["bias"][row] * units.out[row] - change @ units.mean[row]
        return change, bias

    def retract(self) -> None:
        """Orthonormal rows again: the closest in the sense of QR."""
        with torch.no_grad():
            rotation = self.parameters["rotation"]
            q, r = torch.linalg.qr(rotation.mT)
            # The sign that QR leaves open is chosen so that a small step stays a small step.
            rotation.copy_((q * r.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)).mT)

    def steering(self, surface: Surface) -> LoReFT:
        """The LoReFT."""
        rotation = self.parameters["rotation"].detach().clone()
        rows = [self._plain(row) for row in range(len(self.layers))]
        change, bias = (torch.stack(parts).detach() for parts in zip(*rows, strict=True))
        return LoReFT(rotation, rotation + change, bias, self.layers, surface=surface)


@final
class TrainableReFTr1(Trainable):
    """AxBench's: one unit direction reads and writes, the strength is the mean of its top latents.

    On a negative it has to learn that there is nothing to read.
    """

    finds_own_strength: ClassVar[bool] = True

    def __init__(
        self,
        layers: Sequence[int],
        start: Float[Tensor, "layer d_model"],
        *,
        top_k: int,
        sparsity: float,
    ):
        self.width = start.shape[-1] ** 0.5
        self.top_k, self.sparsity = top_k, sparsity
        unit = start / start.norm(dim=-1, keepdim=True).clamp_min(1e-30)
        super().__init__(layers, {"w": unit * self.width})
        self._penalties: dict[int, Tensor] = {}
        self._strengths: dict[int, list[Tensor]] = {row: [] for row in range(len(layers))}

    def push(
        self, row: int, resid: Float[Tensor, "batch pos d_model"], on: Bool[Tensor, "batch pos"]
    ) -> tuple[Float[Tensor, "batch pos d_model"], Float[Tensor, "batch pos"]]:
        """`mean(top-k_t ReLU(A_t . w)) w`, one strength per sequence."""
        w = self.parameters["w"][row] / self.width
        latent = torch.where(on, torch.relu(resid @ w), 0.0)
        top = latent.topk(min(self.top_k, latent.shape[1]), dim=1).values
        strength = top.mean(dim=1)
        # Per token beyond the top k, so that long and short sequences count alike.
        rest = (latent.sum(dim=1) - top.sum(dim=1)) / (on.sum(dim=1) - self.top_k).clamp_min(1)
        self._penalties[row] = rest.mean()
        if not torch.is_grad_enabled():
            self._strengths[row].append(strength.detach())
        pushed = (strength[:, None, None] * w).expand_as(resid)
        return pushed, strength[:, None].expand_as(latent)

    def penalty(self) -> Tensor | float:
        """The L1 term on the latents beyond the top k."""
        return self.sparsity * torch.stack(list(self._penalties.values())).sum()

    def retract(self) -> None:
        """Norm 1 again."""
        with torch.no_grad():
            w = self.parameters["w"]
            w.mul_(self.width / w.norm(dim=-1, keepdim=True).clamp_min(1e-30))

    def begin_strengths(self) -> None:
        """Forget the strengths seen so far: the next passes without gradients count."""
        self._strengths = {row: [] for row in self._strengths}

    def steering(self, surface: Surface) -> ReFTr1:
        """The ReFT-r1, with the mean strength of the passes since `begin_strengths`."""
        strengths = [
            torch.cat(seen).mean() if seen else torch.zeros(()) for seen in self._strengths.values()
        ]
        w = (self.parameters["w"] / self.width).detach().clone()
        return ReFTr1(w, torch.stack(strengths).to(w), self.layers, surface=surface)
