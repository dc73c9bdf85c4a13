"""The first principal direction of what the prompt does, as a steering vector."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

from psr_lens.statistics import principal_directions
from psr_lens.steering.constant import ConstantSteering
from psr_lens.steering.registry import register
from psr_lens.steering.training import TrainingData


@final
@register
class PrincipalDirection(ConstantSteering):
    r"""$A \leftarrow A + \alpha (\bar D_l \cdot u_l)\, u_l$ with $u_l$ the first principal direction.

    It is taken of the symmetrised accumulated deltas $\pm D_l$, because centring would remove the mean,
    which is what we look for. Its length and sign are those of the mean's projection on it (the PCA variant
    of representation engineering, Zou et al. 2023, arXiv 2310.01405).
    """

    method: ClassVar[str] = "pca"
    label: ClassVar[str] = "principal direction"
    settings: ClassVar[tuple[Mapping[str, Any], ...]] = ({"layers": "best"}, {"layers": "all"})

    @classmethod
    def closed_form(
        cls, data: TrainingData, options: Any
    ) -> "tuple[PrincipalDirection, Sequence[float]]":
        """The directions, and the share of the energy left over."""
        deltas = data.moments(second=True).deltas
        assert deltas.products is not None
        direction = principal_directions(deltas.products, 1)[1].squeeze(1).cpu()
        vectors = (deltas.mean * direction).sum(dim=1, keepdim=True) * direction
        steering = cls(vectors.to(data.dtype), range(len(vectors)), tokens=data.tokens)
        return steering, deltas.share_left(vectors)
