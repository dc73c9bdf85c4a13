"""What a steering that depends on the example may look at."""

from collections.abc import Mapping, Sequence

from jaxtyping import Float
from torch import Tensor

from psr_lens._types import AlignedTokens
from psr_lens.deltas import aligned_residuals
from psr_lens.examples import Example
from psr_lens.models import HookedModel


class Context:
    """What a steering that depends on the example may look at: the model, the batch's examples.

    Args:
        model: The model.
        examples: The rows of the batch.
        known: `A(x'y')` on aligned tokens, if already computed.
    """

    def __init__(
        self,
        model: HookedModel,
        examples: Sequence[Example],
        known: Mapping[AlignedTokens, Float[Tensor, "all_layers token d_model"]] | None = None,
    ):
        self.model, self.examples = model, examples
        self._prompted = dict(known or {})

    def prompted(self, tokens: AlignedTokens) -> Float[Tensor, "all_layers token d_model"]:
        """`A(x'y')` on aligned tokens; runs the prompts if it is not known yet."""
        if tokens not in self._prompted:
            prompted = self.model.pad([example.prompted_row for example in self.examples])
            # What the prompt does to the unsteered model, whatever steering is applied around this.
            with self.model.unedited():
                self._prompted[tokens] = aligned_residuals(self.model, prompted, tokens)
        return self._prompted[tokens]
