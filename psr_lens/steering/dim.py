"""Difference in means: the steering vector that most people mean."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

from psr_lens.steering.constant import ConstantSteering
from psr_lens.steering.registry import register
from psr_lens.steering.training import TrainingData


@final
@register
class DifferenceInMeans(ConstantSteering):
    r"""$A \leftarrow A + \alpha z_l$ with $z_l = \mathrm{mean}(A(x'y')[l] - A(xy')[l])$.

    The mean accumulated delta over the aligned tokens of the training set: contrastive activation addition
    (Rimsky et al. 2023, arXiv 2312.06681).
    """

    method: ClassVar[str] = "dim"
    label: ClassVar[str] = "difference in means"
    settings: ClassVar[tuple[Mapping[str, Any], ...]] = ({"layers": "best"}, {"layers": "all"})

    @classmethod
    def closed_form(
        cls, data: TrainingData, options: Any
    ) -> "tuple[DifferenceInMeans, Sequence[float]]":
        """The means, and the share of the energy left over."""
        deltas = data.moments().deltas
        vectors = deltas.mean.to(data.dtype)
        steering = cls(vectors, range(len(vectors)), tokens=data.tokens)
        return steering, deltas.share_left(deltas.mean)
