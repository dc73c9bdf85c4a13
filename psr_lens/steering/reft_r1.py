"""ReFT-r1: one direction that detects a concept and steers towards it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Final, Unpack, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from psr_lens.models.columns import Columns
from psr_lens.steering.base import Common, Mask, Padded, Resid, Role, Steering
from psr_lens.steering.projection import unit_rows
from psr_lens.steering.registry import register
from psr_lens.steering.training import Start, Watcher

# Few and sparse, so that the latent detects: with 10 and 1e-3, the likelihood settled for a direction that
# is the same for every response (see the page on the methods).
_TOP_K: Final = 3
_SPARSITY: Final = 1e-2


@final
@register
class ReFTr1(Steering):
    r"""$A \leftarrow A + \alpha\, s_l w_l$ with $|w_l| = 1$, and the latent $\mathrm{ReLU}(A \cdot w_l)$.

    AxBench's rank-1 representation finetuning (Wu et al., arXiv 2501.17148, section 4 and appendix).
    During training, the strength of a sequence is the mean of its own top-k latents,
    `A + mean(top-k_t ReLU(A_t . w)) w`. A token cannot know the latents of later ones, so steering uses a
    fixed strength: here `s`, the mean over the training examples (the source scales the largest latent of
    the training set). `latent` detects the concept.

    Args:
        w: Directions; rescaled to norm 1.
        strength: The strength `s` of every layer, in units of the residual stream.
        layers: The layers, ascending.
        common: `tokens`, `hook_point`, `provenance` and `fit_report`, as `Steering` has them.

    Raises:
        ValueError: If there is not one direction and strength per layer, or a number is not finite.
    """

    method: ClassVar[str] = "reft_r1"
    label: ClassVar[str] = "ReFT-r1"
    roles: ClassVar[Mapping[str, Role]] = {"w": "writes"}
    settings: ClassVar[tuple[Mapping[str, Any], ...]] = ({"objective": "mse"}, {"objective": "ll"})
    default_objective: ClassVar[str] = "ll"
    finds_own_strength: ClassVar[bool] = True
    w: Float[Tensor, "layer d_model"]
    strength: Float[Tensor, " layer"]

    def __init__(
        self,
        w: Float[Tensor, "layer d_model"],
        strength: Float[Tensor, " layer"],
        layers: Sequence[int],
        **common: Unpack[Common],
    ):
        super().__init__(layers, **common)
        self.hold(w=unit_rows(w), strength=strength)

    def latent(self, layer: int, resid: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch"]:
        """`ReLU(A . w)`: how strongly the concept is present at a token."""
        return torch.relu(resid @ self.w[self.row(layer)].to(resid))

    def update(self, layer: int, resid: Resid, columns: Columns | None = None) -> Resid:
        """`s w`, at every position."""
        row = self.row(layer)
        return (self.strength[row] * self.w[row]).to(resid).expand_as(resid)

    # --- how it is trained ----------------------------------------------------------------------

    @classmethod
    def start(cls, given: Start, options: Any) -> "ReFTr1":
        """What tells responses with the concept from those without."""
        w = given.contrast()
        return cls(w, torch.zeros(len(w)).to(w), given.layers, tokens=given.tokens)

    def constrain(self) -> None:
        """`w` stays of norm 1; the strength is not trained."""
        self.strength.requires_grad_(False)
        parametrize.register_parametrization(self, "w", _UnitRows())

    def training_update(
        self, layer: int, resid: Padded, on: Mask, regulariser: float
    ) -> tuple[Padded, Float[Tensor, ""] | float]:
        """`mean(top-k_t ReLU(A_t . w)) w`, one strength per sequence, and the source's L1 term.

        The L1 term is on the latents beyond the top k, per token, so that long and short sequences count
        alike.
        """
        total, top, count = self._latents(layer, resid, on)
        rest = (total - top) / (on.sum(dim=1) - count).clamp_min(1)
        update = (top / count)[:, None, None] * self.w[self.row(layer)]
        return update.expand_as(resid), _SPARSITY * rest.mean()

    def after_training(self, watch: Callable[[Watcher], None]) -> None:
        """Set the strength to the mean of the training examples' own."""
        seen: dict[int, list[Tensor]] = {layer: [] for layer in self.layers}

        def look(layer: int, resid: Tensor, on: Tensor) -> None:
            _, top, count = self._latents(layer, resid, on)
            seen[layer].append(top / count)

        watch(look)
        self.strength.copy_(torch.stack([torch.cat(own).mean() for own in seen.values()]))

    def _latents(self, layer: int, resid: Tensor, on: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Each sequence's sum of latents, the sum of its largest, and how many these are."""
        latent = torch.where(on, self.latent(layer, resid), 0.0)
        top = latent.topk(min(_TOP_K, latent.shape[1]), dim=1).values
        return latent.sum(dim=1), top.sum(dim=1), on.sum(dim=1).clamp(1, _TOP_K)

    def span(self, layer: int) -> Float[Tensor, "rank d_model"] | None:
        """`w`."""
        return self.w[self.row(layer)].unsqueeze(0)


class _UnitRows(nn.Module):
    """Keeps rows at norm 1 during training."""

    def forward(self, rows: Tensor) -> Tensor:
        return rows / rows.norm(dim=-1, keepdim=True).clamp_min(1e-30)

    def right_inverse(self, rows: Tensor) -> Tensor:
        return rows
