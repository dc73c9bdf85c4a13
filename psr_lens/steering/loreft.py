"""LoReFT: an affine map inside a low-rank subspace."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Unpack, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from psr_lens._types import check_count
from psr_lens.models.columns import Columns
from psr_lens.steering.base import Common, Resid, Role, Steering
from psr_lens.steering.registry import register
from psr_lens.steering.training import Scale, Start


@final
@register
class LoReFT(Steering):
    r"""$A \leftarrow A + \alpha R_l^T (W_l A + b_l - R_l A)$, the rows of $R_l$ orthonormal.

    Low-rank linear subspace ReFT (Wu et al., arXiv 2404.03592, equation 2): inside the subspace of
    $R_l$ the residual stream becomes an affine function of itself; outside, it is left alone. What is kept
    and trained is `change`, $W_l - R_l$: zeros change nothing, however the subspace turns.

    Args:
        rotation: `R`, orthonormal rows.
        change: `W - R`.
        bias: `b`.
        layers: The layers, ascending.
        common: `tokens`, `hook_point`, `provenance` and `fit_report`, as `Steering` has them.

    Raises:
        ValueError: If there is not one map per layer, a number is not finite, or the rows of `R` are
            not orthonormal.
    """

    method: ClassVar[str] = "loreft"
    label: ClassVar[str] = "LoReFT"
    roles: ClassVar[Mapping[str, Role]] = {"rotation": "writes", "change": "reads"}
    index: ClassVar[str] = "rank"
    settings: ClassVar[tuple[Mapping[str, Any], ...]] = ({"objective": "mse"}, {"objective": "ll"})
    rotation: Float[Tensor, "layer rank d_model"]
    change: Float[Tensor, "layer rank d_model"]
    bias: Float[Tensor, "layer rank"]

    @dataclass(frozen=True)
    class Options:
        """What `fit` takes for LoReFT."""

        rank: int = 4
        """Dimensions of the subspace at every layer."""

        def __post_init__(self):
            check_count("rank", self.rank)

    def __init__(
        self,
        rotation: Float[Tensor, "layer rank d_model"],
        change: Float[Tensor, "layer rank d_model"],
        bias: Float[Tensor, "layer rank"],
        layers: Sequence[int],
        **common: Unpack[Common],
    ):
        super().__init__(layers, **common)
        self.hold(rotation=rotation, change=change, bias=bias)
        gram = rotation.detach() @ rotation.detach().mT
        off = float((gram - torch.eye(gram.shape[-1]).to(gram)).abs().max())
        if off > 1e-3:
            raise ValueError(
                f"the rows of rotation are off orthonormal by {off:.2g}: pass orthonormal rows, as "
                "torch.linalg.qr gives them"
            )

    def update(self, layer: int, resid: Resid, columns: Columns | None = None) -> Resid:
        """`R^T (change A + b)`."""
        row = self.row(layer)
        moved = resid @ self.change[row].to(resid).T + self.bias[row].to(resid)
        return moved @ self.rotation[row].to(resid)

    # --- how it is trained ----------------------------------------------------------------------

    @classmethod
    def start(cls, given: Start, options: Any) -> "LoReFT":
        """A random subspace, and a map that changes nothing."""
        generator = torch.Generator().manual_seed(given.seed)
        shape = (len(given.layers), given.d_model, options.rank)
        rotation = torch.linalg.qr(torch.randn(shape, generator=generator)).Q.mT
        zeros = torch.zeros_like(rotation)
        return cls(rotation, zeros, zeros[..., 0], given.layers, tokens=given.tokens)

    @classmethod
    def recipe(cls, n_layers: int) -> Mapping[str, Any]:
        r"""Twice the epochs, with a step of $0.1 \cdot \min(1, 6 / n)$ for `n` layers.

        A subspace turns slowly. Dev objective on `demo` after 15 and 30 epochs: hedger 0.066 and 0.044,
        pirate 0.062 and 0.038. What the layers add accumulates, as for a constant: on the 30 layers of
        SmolLM2, no epoch with the step for 6 made the dev objective better than no steering.
        """
        return {"lr": 0.1 * min(1.0, 6 / n_layers), "epochs": 30}

    def rescaled(self, scale: Scale) -> "LoReFT":
        """`R` as it is; `change * std / size`, `(b + change . mean) / size`."""
        mean, std, size = (own.to(self.change) for own in (scale.mean, scale.std, scale.size))
        bias = self.bias + (self.change * mean[:, None]).sum(dim=-1)
        return self.with_tensors(
            {
                "rotation": self.rotation,
                "change": self.change * std[:, None] / size[:, None, None],
                "bias": bias / size[:, None],
            }
        )

    def constrain(self) -> None:
        """The rows of `R` stay orthonormal."""
        parametrize.register_parametrization(self, "rotation", _OrthonormalRows())

    def span(self, layer: int) -> Float[Tensor, "rank d_model"] | None:
        """The rows of `R`."""
        return self.rotation[self.row(layer)]


class _OrthonormalRows(nn.Module):
    """Keeps rows orthonormal during training, by a Householder reflection for each.

    The map of torch's `orthogonal(..., orthogonal_map="householder")`. Here the few reflections are applied
    one after the other, since the gradient of torch's product of them is many times slower.
    """

    def forward(
        self, held: Float[Tensor, "layer rank d_model"]
    ) -> Float[Tensor, "layer rank d_model"]:
        columns = held.mT
        identity = torch.eye(*columns.shape[-2:]).to(columns)
        reflectors = columns.tril(-1) + identity
        found = identity.expand_as(columns)
        for i in reversed(range(columns.shape[-1])):
            across = reflectors[..., i : i + 1]
            along = across.mT @ found
            found = found - 2 / across.square().sum(dim=-2, keepdim=True) * (across @ along)
        # Reflections give every row up to its sign, which is no number to train.
        return found.mT * held.detach().diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-1)

    @torch.no_grad()
    def right_inverse(
        self, rows: Float[Tensor, "layer rank d_model"]
    ) -> Float[Tensor, "layer rank d_model"]:
        # Of orthonormal columns `Q R`, `R` is diagonal and holds the signs.
        held, tau = torch.geqrf(rows.mT)
        signs = held.diagonal(dim1=-2, dim2=-1)
        # A reflection that LAPACK left out changes the sign here, as all do.
        signs.copy_(torch.where(tau == 0, -signs.sign(), signs.sign()))
        return held.mT
