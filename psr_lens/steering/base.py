"""`Steering`: the thing that acts. Every intervention on the residual stream goes through here.

All act as `A[l, i] <- A[l, i] + alpha * push_l(A[l, i])` on the surface, at the layers they cover. A
layer reads the residual stream that already carries the earlier layers' pushes.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from psr_lens._types import Surface, check_alphas, check_finite, check_surface, check_whole
from psr_lens.deltas import working_dtype
from psr_lens.examples import Example
from psr_lens.models import HookedModel, as_hooked_model, unsteered_model
from psr_lens.models.columns import Columns
from psr_lens.models.editing import ResidualEdit
from psr_lens.models.finite import at_strength
from psr_lens.steering.coefficients import Coefficients, measure_pushes
from psr_lens.steering.context import Context
from psr_lens.steering.handles import SteeringHandle
from psr_lens.steering.provenance import check_model
from psr_lens.storage import write_container

KIND: Final = "steering"
"""Of its files."""

Push = Callable[[Tensor, Columns], Tensor]
"""What a layer adds at strength 1, given residual streams `[batch, pos, d_model]` in the working
precision and what their columns are."""


class Steering(ABC):
    """An intervention on the residual stream that stands in for a prompt.

    Steerings compose: `a + b` pushes by the sum of what both would push, each on its own layers and
    surface; `0.5 * a` and `-a` scale.

    Attributes:
        depends_on_examples: Whether what it adds takes the steered prompt and the response to know.
        layers: The layers that it covers, ascending.
        surface: Where it acts, `R` or `QR`.
        provenance: The model, the numerics, the data and the seed that it comes from.
        fit_report: How the fit went; None for one that was loaded or not fitted.
    """

    method: ClassVar[str]
    depends_on_examples: ClassVar[bool] = False

    def __init__(
        self,
        layers: Sequence[int],
        *,
        surface: Surface = "R",
        provenance: Mapping[str, Any] | None = None,
        fit_report: Any = None,
    ):
        self.layers = tuple(check_whole("layers", layer) for layer in layers)
        if list(self.layers) != sorted(set(self.layers)) or any(i < 0 for i in self.layers):
            raise ValueError(f"layers={list(self.layers)}: name each once, from the lowest up")
        self.surface: Surface = check_surface(surface)
        self.provenance: Mapping[str, Any] = dict(provenance or {})
        self.fit_report = fit_report

    # --- what a kind of steering is -------------------------------------------------------------

    @abstractmethod
    def pushes(
        self, device: torch.device, dtype: torch.dtype, context: Context | None = None
    ) -> Mapping[int, Push]:
        """What every layer adds at strength 1.

        Args:
            device: Where the residual streams will be.
            dtype: Their working precision.
            context: Model and examples, for a steering that depends on the example.
        """

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """What `save` stores."""

    @classmethod
    @abstractmethod
    def from_tensors(
        cls, tensors: Mapping[str, Tensor], layers: Sequence[int], **options: Any
    ) -> "Steering":
        """The inverse of `tensors` and `options`."""

    def options(self) -> dict[str, Any]:
        """What `save` stores beside the tensors: arguments of `from_tensors`, as JSON values."""
        return {}

    def span(self, layer: int) -> Float[Tensor, "rank d_model"] | None:
        """What its pushes at a layer are made of: rows whose span holds every push.

        Args:
            layer: One of `layers`.

        Returns:
            The rows, of any length and not orthogonal in general; None where they are not known, so
            that each token's push is its own direction.
        """
        return None

    @property
    def width(self) -> int | None:
        """Numbers in each of its vectors, which is the width of its model; None where it has none."""
        rows = self.span(self.layers[0]) if self.layers else None
        return None if rows is None else rows.shape[-1]

    def covers(self, layer: int, columns: Columns) -> Bool[Tensor, "batch pos"]:
        """Which columns it may push at a layer; none at a layer that is not among `layers`."""
        mask = self.acts_on(columns)
        return mask if layer in self.layers else torch.zeros_like(mask)

    def acts_on(self, columns: Columns) -> Bool[Tensor, "batch pos"]:
        """Which columns it may push."""
        return columns.surface(self.surface)

    @property
    def only_on(self) -> Surface | None:
        """The surface outside of which it neither pushes nor reads, None where that is not known.

        What lies in front of it may be run once for rows that share it, without the steering.
        """
        return None

    def check(self, model: HookedModel) -> None:
        """Refuse a model that this steering does not belong to.

        Raises:
            ValueError: If it was fitted on another model or other numerics, covers a layer that
                the model lacks, or has vectors of another width.
        """
        check_model(self.provenance, model, max(self.layers, default=-1), self.width)

    # --- acting ---------------------------------------------------------------------------------

    def edits(
        self,
        model: HookedModel,
        alpha: float | Float[Tensor, " batch"] = 1.0,
        examples: Sequence[Example] | Context | None = None,
    ) -> Mapping[int, ResidualEdit]:
        """The residual edits of this steering, by layer; other columns keep their exact bits.

        Args:
            model: The model to act on.
            alpha: Strength, of all rows of the batch or of each.
            examples: The rows of the batch, for a steering that depends on the example; or their
                `Context`, where their prompt-steered run is at hand.
        """
        alpha = check_alphas(alpha)
        if examples is None or isinstance(examples, Context):
            context = examples
        else:
            context = Context(model, examples)
        pushes = self.pushes(model.device, working_dtype(model.dtype), context)
        return {layer: self.edit(push, alpha) for layer, push in pushes.items()}

    def edit(self, push: Push, alpha: float | Float[Tensor, " batch"]) -> ResidualEdit:
        """The residual edit that adds `alpha` times a push on the columns that this steering acts on."""

        def added(exact: Tensor, pushed: Tensor, columns: Columns) -> Tensor:
            if not isinstance(alpha, Tensor):
                return torch.add(exact, pushed, alpha=alpha)
            own = alpha.to(exact)
            own = own if columns.rows is None else own[columns.rows]
            return exact + own[:, None, None] * pushed

        def edit(resid: Tensor, columns: Columns) -> Tensor:
            exact = resid.to(working_dtype(resid.dtype))
            pushed = added(exact, push(exact, columns), columns).to(resid.dtype)
            if columns.all_response:
                return pushed
            return torch.where(self.acts_on(columns).unsqueeze(-1), pushed, resid)

        return edit

    @contextmanager
    def applied(
        self,
        model: Any,
        alpha: float | Float[Tensor, " batch"] = 1.0,
        *,
        prompt_length: int | None = None,
        question_start: int | None = None,
        examples: Sequence[Example] | None = None,
    ) -> Iterator[HookedModel]:
        """Steer everything that the model runs inside the context; nothing is left after it.

        It acts on what the thread that entered runs. Other threads run the model, one at a time, as if
        it were not there; a thread that is started inside enters a context of its own, while asyncio
        tasks and `asyncio.to_thread` calls that are started inside are steered. Contexts may be
        nested and left in any order. A copy of the model that is made inside is plain. What measures
        the model as it is, such as `fit`, refuses to do so inside.

        Works under `generate` (cached or not), forward passes and `run_with_cache`, of a
        `HookedModel` and of a plain HookedTransformer or TransformerBridge. A forward pass on a
        prompt steers its last token, as the first step of `generate` does. For a prompt and
        response in one sequence, give the `prompt_length`.

        Args:
            model: A `HookedModel`, HookedTransformer or TransformerBridge.
            alpha: Strength; 0 leaves everything as it is. A tensor has one for every row of the
                batches that run inside.
            prompt_length: Columns of the prompt, where whole sequences are run by hand.
            question_start: First question column, for a `QR` steering run by hand.
            examples: The rows of the batch, for a steering that depends on the example.

        Yields:
            The `HookedModel`.

        Raises:
            ValueError: If the model is not the one that the steering belongs to, or is compiled, or
                `alpha` is not finite.
        """
        hooked = as_hooked_model(model)
        self.check(hooked)
        edits = self.edits(hooked, alpha, examples)
        with (
            at_strength(alpha),
            hooked.edited(
                edits,
                prompt_length=prompt_length,
                question_start=question_start,
                steering=repr(self),
                only_on=self.only_on,
            ),
        ):
            yield hooked

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

        Runs `x y'` under the steering and takes down the length of each push, whatever the method.

        Args:
            model: The model.
            data: The examples.
            alpha: Strength; it scales what is returned.
            batch_size: Examples per forward pass.
            progress: Whether to show a bar.

        Raises:
            ValueError: If the model is not the one that the steering belongs to, or another steering
                is applied to it.
        """
        hooked = unsteered_model(model, "coefficients(...)")
        self.check(hooked)
        with at_strength(alpha):
            return measure_pushes(
                hooked,
                data,
                lambda examples: self.edits(hooked, alpha, examples),
                self.layers,
                self.surface,
                batch_size,
                progress,
            )

    # --- leaving this package -------------------------------------------------------------------

    def to_hf(
        self,
        hf_model: Any,
        alpha: float = 1.0,
        *,
        prompt_length: int | None = None,
        question_start: int | Sequence[int] | None = None,
        all_threads: bool = False,
    ) -> SteeringHandle:
        """Steer a plain transformers model, by forward hooks on its decoder layers.

        Acts as `applied` does, on the last prompt token and every generated one: greedy
        `hf_model.generate` gives the tokens of `HookedModel.generate`, cached or not, one prompt or
        a left-padded batch. A forward pass on a prompt steers its last real token. Does not need
        TransformerLens in the process.

        Threads may steer one model each in its own way. A pass of a thread that put nothing on is
        refused as long as another thread's steering is on, for nobody could say whether it was meant
        to be steered: `generate` with a streamer often runs in a thread of its own.

        Args:
            hf_model: What `AutoModelForCausalLM.from_pretrained` gave.
            alpha: Strength; 0 leaves everything as it is.
            prompt_length: Columns of the prompt, where whole sequences are run by hand.
            question_start: For a `QR` steering, the place of the first question token in its row,
                padding not counted: one number, or one for every row.
            all_threads: Steer the passes of every thread; put it on and take it off while none runs.

        Returns:
            A handle: a context manager, and `remove()` for those who write no `with`. The model is
            steered from this call on; handles may be removed in any order.

        Raises:
            ValueError: If the model is not the one that the steering belongs to, its decoder layers
                are not found, it is compiled, `alpha` is not finite, or a `QR` steering has no
                `question_start`.

        Example:
            >>> from transformers import AutoModelForCausalLM
            >>> import psr_lens as pl
            >>> hf_model = AutoModelForCausalLM.from_pretrained(pl.demo.checkpoint_path())
            >>> steering = pl.ConstantSteering(torch.ones(1, 128), [2])
            >>> prompt = torch.tensor([[1, 5, 6]])
            >>> plain = hf_model(prompt).logits
            >>> with steering.to_hf(hf_model):
            ...     bool((hf_model(prompt).logits - plain).abs().max() > 0)
            True
            >>> bool((hf_model(prompt).logits == plain).all())
            True
        """
        from psr_lens.deploy.hooks import attach

        return attach(self, hf_model, alpha, prompt_length, question_start, all_threads)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool = False,
        revision: str | None = None,
        commit_message: str = "Upload steering with psr_lens",
        token: str | None = None,
    ) -> str:
        """Put the steering and a model card on the Hugging Face hub.

        `load_steering("hf://owner/name")` gets it back.

        Args:
            repo_id: `"owner/name"`; made if it does not exist.
            private: Whether a repository that is made is private.
            revision: Branch, made if it does not exist; the main one by default.
            commit_message: Of the one commit.
            token: Of the hub; by default the one that `hf auth login` stored.

        Returns:
            The address of the commit.

        Raises:
            ValueError: If `repo_id` is no name that the hub can have.
            OSError: If the hub cannot be reached, or refuses.
        """
        from psr_lens.deploy.hub import push

        return push(
            self,
            repo_id,
            private=private,
            revision=revision,
            commit_message=commit_message,
            token=token,
        )

    # --- composing ------------------------------------------------------------------------------

    def __add__(self, other: "Steering") -> "Steering":
        return self._sum([*self.weighted_parts(), *other.weighted_parts()])

    def __sub__(self, other: "Steering") -> "Steering":
        taken_off = [(-weight, part) for weight, part in other.weighted_parts()]
        return self._sum([*self.weighted_parts(), *taken_off])

    def __mul__(self, weight: float) -> "Steering":
        return self._sum([(weight * own, part) for own, part in self.weighted_parts()])

    __rmul__ = __mul__

    def __neg__(self) -> "Steering":
        return -1.0 * self

    def weighted_parts(self) -> Sequence[tuple[float, "Steering"]]:
        """What a sum with this steering is made of."""
        return [(1.0, self)]

    @staticmethod
    def _sum(parts: Sequence[tuple[float, "Steering"]]) -> "Steering":
        from psr_lens.steering.sums import add_up

        return add_up(parts)

    # --- keeping --------------------------------------------------------------------------------

    def header(self) -> dict[str, Any]:
        """Everything but the tensors, as JSON values."""
        return {
            "method": self.method,
            "layers": list(self.layers),
            "surface": self.surface,
            "options": self.options(),
            "provenance": dict(self.provenance),
        }

    def save(self, path: str | Path) -> Path:
        """Write the steering with its provenance to a safetensors file.

        Args:
            path: Where; `.safetensors` is added if missing.

        Returns:
            The path of the file.

        Raises:
            ValueError: If a number was made NaN or infinite since the steering was made, or something
                that is not a steering is at the path.
            OSError: If it cannot be written.
        """
        tensors = self.tensors()
        for name, tensor in tensors.items():
            check_finite(name, tensor)
        return write_container(path, KIND, tensors, self.header())

    def __repr__(self) -> str:
        origin = self.provenance.get("model", {}).get("name", "an unnamed model")
        where = f"layer {self.layers[0]}" if len(self.layers) == 1 else f"{len(self.layers)} layers"
        return f"{type(self).__name__}({self.method}, {where} of {origin}, surface {self.surface})"
