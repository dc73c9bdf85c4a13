"""`Steering`: the thing that acts. Every intervention on the residual stream goes through here.

All act as `A[l, i] <- A[l, i] + alpha * push_l(A[l, i])` on the surface, at the layers they cover. A
layer reads the residual stream that already carries the earlier layers' pushes.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from psr_lens._types import Surface, TokenValues
from psr_lens.artifacts import write_artifact
from psr_lens.deltas import iter_batches, working_dtype
from psr_lens.models import HookedModel, as_hooked_model
from psr_lens.models.base import ResidualEdit
from psr_lens.models.batch import surface_mask
from psr_lens.responses import Example
from psr_lens.steering.provenance import check_model


@dataclass(frozen=True)
class Coefficients:
    """How strongly a steering pushed every layer and token of one response.

    Attributes:
        example: The triplet.
        tokens: The surface tokens as text.
        layers: The layers that the steering covers.
        values: Length of the push at every layer and token, in units of the residual stream, so
            that it compares with delta norms and across methods. 0 where nothing is pushed. For
            one head, `alpha * c(A) * |z|`.
    """

    example: Example
    tokens: tuple[str, ...]
    layers: tuple[int, ...]
    values: Float[Tensor, "layer pos"]

    def token_values(self) -> TokenValues:
        """The values, ready to be drawn."""
        return TokenValues(self.tokens, self.values, self.layers, "coefficient")

    def _repr_html_(self) -> str:
        from psr_lens.plots import token_heatmap

        return token_heatmap(self)._repr_html_()

    def __repr__(self) -> str:
        share = float((self.values == 0).float().mean())
        return (
            f"Coefficients({len(self.layers)} layers, {len(self.tokens)} tokens, "
            f"up to {float(self.values.max()):.3g}, exactly 0 at {share:.0%})"
        )


class Steering(ABC):
    """An intervention on the residual stream that stands in for a prompt.

    Attributes:
        layers: The layers that it covers, ascending.
        surface: Where it acts, `R` or `QR`.
        provenance: The model, the numerics, the data and the seed that it comes from.
        fit_report: How the fit went; None for one that was loaded or not fitted.
    """

    method: ClassVar[str]

    def __init__(
        self,
        layers: Sequence[int],
        *,
        surface: Surface = "R",
        provenance: Mapping[str, Any] | None = None,
        fit_report: Any = None,
    ):
        self.layers = tuple(layers)
        self.surface: Surface = surface
        self.provenance: Mapping[str, Any] = dict(provenance or {})
        self.fit_report = fit_report

    @abstractmethod
    def edits(
        self, model: HookedModel, alpha: float = 1.0, examples: Sequence[Example] | None = None
    ) -> Mapping[int, ResidualEdit]:
        """The residual edits of this steering, by layer.

        Args:
            model: The model to act on.
            alpha: Strength.
            examples: The rows of the batch, for a steering that depends on the example.
        """

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """What `save` stores."""

    @classmethod
    @abstractmethod
    def from_tensors(
        cls, tensors: Mapping[str, Tensor], layers: Sequence[int], **options: Any
    ) -> "Steering":
        """The inverse of `tensors`."""

    @contextmanager
    def applied(
        self,
        model: Any,
        alpha: float = 1.0,
        *,
        prompt_length: int | None = None,
        question_start: int | None = None,
        examples: Sequence[Example] | None = None,
    ) -> Iterator[HookedModel]:
        """Steer everything that the model runs inside the context; nothing is left after it.

        Works under `generate` (cached or not), forward passes and `run_with_cache`, of a
        `HookedModel` and of a plain HookedTransformer or TransformerBridge. A forward pass on a
        prompt steers its last token, as the first step of `generate` does. For a prompt and
        response in one sequence, give the `prompt_length`.

        Args:
            model: A `HookedModel`, HookedTransformer or TransformerBridge.
            alpha: Strength; 0 leaves everything as it is.
            prompt_length: Columns of the prompt, where whole sequences are run by hand.
            question_start: First question column, for a `QR` steering run by hand.
            examples: The rows of the batch, for a steering that depends on the example.

        Yields:
            The `HookedModel`.

        Raises:
            ValueError: If the model is not the one that the steering belongs to, or `alpha` is not
                finite.
        """
        if not torch.isfinite(torch.tensor(float(alpha))):
            raise ValueError(f"alpha={alpha}: it must be a finite number")
        hooked = as_hooked_model(model)
        check_model(self.provenance, hooked, max(self.layers, default=-1))
        edits = self.edits(hooked, alpha, examples)
        with hooked.edited(edits, prompt_length=prompt_length, question_start=question_start):
            yield hooked

    @torch.no_grad()
    def coefficients(
        self,
        model: Any,
        data: Sequence[Example],
        *,
        alpha: float = 1.0,
        batch_size: int = 32,
        progress: bool = False,
    ) -> list[Coefficients]:
        """How strongly every layer and token of every response is pushed, in the data's order.

        Runs `x y'` under the steering and takes down the length of each push.

        Args:
            model: The model.
            data: The examples.
            alpha: Strength; it scales what is returned.
            batch_size: Examples per forward pass.
            progress: Whether to show a bar.
        """
        hooked = as_hooked_model(model)
        check_model(self.provenance, hooked, max(self.layers, default=-1))
        found: dict[int, Coefficients] = {}
        for indices in iter_batches(
            data, batch_size, progress=progress, description="coefficients"
        ):
            examples = [data[i] for i in indices]
            batch = hooked.pad([example.base_row for example in examples])
            mask = batch.surface(self.surface)
            pushes: dict[int, Tensor] = {}
            edits = self.edits(hooked, alpha, examples)
            measured = {
                layer: _measure_push(edit, mask, pushes, layer) for layer, edit in edits.items()
            }
            with hooked.edited(measured):
                hooked.run(batch)
            lengths = [example.surface_length(self.surface) for example in examples]
            values = torch.stack([pushes[layer] for layer in self.layers]).cpu()
            for i, example, own in zip(indices, examples, values.split(lengths, 1), strict=True):
                tokens = hooked.encoder.str_tokens(example.base_row.tokens[-own.shape[1] :])
                found[i] = Coefficients(example, tokens, self.layers, own)
        return [found[i] for i in range(len(data))]

    def save(self, path: str | Path) -> Path:
        """Write the steering with its provenance to a safetensors file.

        Args:
            path: Where; `.safetensors` is added if missing.

        Returns:
            The path of the file.
        """
        header = {
            "method": self.method,
            "layers": list(self.layers),
            "surface": self.surface,
            "provenance": dict(self.provenance),
        }
        return write_artifact(path, self.tensors(), header)

    def __repr__(self) -> str:
        origin = self.provenance.get("model", {}).get("name", "an unnamed model")
        where = f"layer {self.layers[0]}" if len(self.layers) == 1 else f"{len(self.layers)} layers"
        return f"{type(self).__name__}({self.method}, {where} of {origin}, surface {self.surface})"


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

    def edits(
        self, model: HookedModel, alpha: float = 1.0, examples: Sequence[Example] | None = None
    ) -> Mapping[int, ResidualEdit]:
        """One edit per layer; positions off the surface keep their exact bits."""

        def pusher(layer: int) -> ResidualEdit:
            def edit(resid: Tensor, region: Tensor) -> Tensor:
                exact = resid.to(working_dtype(resid.dtype))
                pushed = (exact + alpha * self.push(layer, exact)).to(resid)
                return torch.where(surface_mask(region, self.surface).unsqueeze(-1), pushed, resid)

            return edit

        return {layer: pusher(layer) for layer in self.layers}


def _measure_push(
    edit: ResidualEdit, mask: Tensor, pushes: dict[int, Tensor], layer: int
) -> ResidualEdit:
    def measured(resid: Tensor, region: Tensor) -> Tensor | None:
        pushed = edit(resid, region)
        if pushed is None:
            pushes[layer] = torch.zeros(int(mask.sum()), device=resid.device)
        else:
            difference = pushed[mask].to(working_dtype(resid.dtype)) - resid[mask]
            pushes[layer] = difference.norm(dim=-1)
        return pushed

    return measured
