"""A constant steering vector: the same push at every token."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

from jaxtyping import Float
from torch import Tensor

from psr_lens._types import Surface
from psr_lens.steering.handles import FoldedSteering
from psr_lens.steering.push import PushSteering


@final
class ConstantSteering(PushSteering):
    r"""$A \leftarrow A + \alpha z_l$: one steering vector per layer, whatever the token.

    Fitted as `dim` (difference in means, Rimsky et al. 2023, arXiv 2312.06681), the vector of a
    layer is the mean accumulated delta over the surface of the training set; fitted as `const` at
    several layers it is the mean of what the earlier layers' vectors leave missing.

    Args:
        vectors: The steering vectors `z`, one row per layer, in units of the residual stream.
        layers: The layers, ascending.
        surface: Where it acts.
        provenance: Where it comes from.
        fit_report: How the fit went.

    Raises:
        ValueError: If there is not one vector per layer.
    """

    method: ClassVar[str] = "constant"

    def __init__(
        self,
        vectors: Float[Tensor, "layer d_model"],
        layers: Sequence[int],
        *,
        surface: Surface = "R",
        provenance: Mapping[str, Any] | None = None,
        fit_report: Any = None,
    ):
        super().__init__(layers, surface=surface, provenance=provenance, fit_report=fit_report)
        if len(vectors) != len(self.layers):
            raise ValueError(
                f"{len(vectors)} steering vectors for {len(self.layers)} layers: pass one per layer"
            )
        self.vectors = vectors
        self._vector_of_layer = dict(zip(self.layers, vectors, strict=True))

    def push(
        self, layer: int, resid: Float[Tensor, "*batch d_model"]
    ) -> Float[Tensor, "*batch d_model"]:
        """`z_l`, at every position."""
        return self._vector_of_layer[layer].to(resid).expand_as(resid)

    def fold_into(self, hf_model: Any, alpha: float = 1.0) -> FoldedSteering:
        r"""Add $\alpha z_l$ to the weights of a plain transformers model: no hook.

        The vector goes into the bias of the last module that writes in the block, which is made
        where the architecture has none. Weights know no surface, so this acts at **every**
        position, the whole prompt included: it is more than `to_hf` does, and gives other tokens.

        `save_pretrained` stores the bias, and `from_pretrained` reads it back where the
        architecture can have a bias there: GPT-2, GPT-NeoX and Llama, whose `mlp_bias` is switched
        on and whose other MLP biases are 0. The other classes drop a bias that they do not know
        when they load, so fold anew after loading. Gemma 2 and 3 normalise what the block writes;
        there the norm is given a bias.

        Args:
            hf_model: What `AutoModelForCausalLM.from_pretrained` gave: a Llama, Mistral, Qwen2,
                Qwen3, Gemma 1 to 3, GPT-2 or GPT-NeoX.
            alpha: Strength.

        Returns:
            A handle whose `undo()` puts the exact bits of before back.

        Raises:
            ValueError: If the model is not the one that the steering belongs to, its architecture
                is another, or `alpha` is not finite.
        """
        from psr_lens.deploy.fold import fold

        return fold(self, hf_model, alpha)

    def span(self, layer: int) -> Float[Tensor, "rank d_model"] | None:
        """The layer's vector."""
        return self._vector_of_layer[layer].unsqueeze(0)

    def tensors(self) -> dict[str, Tensor]:
        """The vectors."""
        return {"vectors": self.vectors}

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, Tensor], layers: Sequence[int], **options: Any
    ) -> "ConstantSteering":
        """The inverse of `tensors`."""
        return cls(tensors["vectors"], layers, **options)
