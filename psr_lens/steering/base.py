"""`Steering`: the base class of every intervention on the residual stream.

All act as `A[l, i] <- A[l, i] + alpha * update_l(A[l, i])` on their tokens, at the layers they cover,
where `A` is the residual stream after a block or, as `hook_point` says, between its attention and its MLP.
Each layer reads it with the earlier layers' updates already in it.

A method is one class in one file. It must have a name (`method`), tensors (`hold`) and what they add
(`update`). It may override more: which directions it adds (`span`), how it is fitted (`closed_form`,
`fit_layer`, `start`), which options `fit` takes for it (`Options`). Nothing else in the package asks for a
method's name.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, TypedDict, TypeVar, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from psr_lens._types import (
    AlignedTokens,
    check_alpha,
    check_alphas,
    check_finite,
    check_whole,
)
from psr_lens.deltas import working_dtype
from psr_lens.examples import Example
from psr_lens.models import HookedModel, editable_model, unsteered_model
from psr_lens.models.columns import Columns
from psr_lens.models.editing import HookPoint, ResidualEdit, placed
from psr_lens.models.finite import at_strength
from psr_lens.models.parts import check_has_mid
from psr_lens.models.token_rules import (
    Tokens,
    aligned_reach,
    check_tokens,
    described_tokens,
    mask_of,
    reach_of,
)
from psr_lens.steering.coefficients import Coefficients, measure_updates
from psr_lens.steering.context import Context
from psr_lens.steering.provenance import check_model
from psr_lens.steering.training import LayerData, LayerFit, Scale, Start, TrainingData, Watcher
from psr_lens.storage import write_container

KIND: Final = "steering"
"""The kind of its files."""

Resid = Float[Tensor, "*batch d_model"]
"""Residual streams of any leading shape."""
Padded = Float[Tensor, "batch pos d_model"]
"""Residual streams of whole responses, padded to one length."""
Mask = Bool[Tensor, "batch pos"]
"""Which columns are selected."""

ACTING: Final = ("acts_on", "acting", "edits", "edit")
"""What a class overrides to act in its own way: not only on its tokens, for example."""

Own = TypeVar("Own", bound="Steering")

Role = Literal["writes", "reads", "removes"]
"""What a method does along a vector of the residual stream."""


@dataclass(frozen=True)
class NoOptions:
    """For a method without options of its own."""


Strength = float | Float[Tensor, " batch"] | Mapping[int, float] | Sequence[float]
"""One for all rows, or one for each row of a batch, each layer, or each part of a sum."""


class Common(TypedDict, total=False):
    """What every steering takes besides its tensors and layers: see `Steering`."""

    tokens: Tokens
    hook_point: HookPoint
    provenance: Mapping[str, Any] | None
    fit_report: Any


class Steering(nn.Module, ABC):
    """An intervention on the residual stream that stands in for a prompt.

    A `torch.nn.Module`: its numbers are its parameters, `[layer, ...]`, and `to`, `double`, `parameters`
    and `state_dict` are torch's. A parameter takes no gradient unless you call `requires_grad_()`, or the
    tensor it was made from took one.

    Steerings compose: `a + b` adds the sum of what both would add, each on its own layers and tokens;
    `0.5 * a` and `-a` scale.

    Args:
        layers: The layers that it covers, ascending.
        tokens: Which tokens it acts on: `response`, `question+response`, `all`, or a rule.
        hook_point: Where in a block it acts: on the residual stream after it, `resid_post`, or between its
            attention and its MLP, `resid_mid`. A prompt's text reaches a token through attention alone; what
            the MLP makes of it, the model works out itself if it is steered in between. (Where attention and
            MLP run side by side, as in GPT-NeoX, the MLP does not read what is added.)
        provenance: The model, the numerics, the data and the seed that it comes from.
        fit_report: How the fit went; None for one that was not fitted.

    Attributes:
        method: Its name, in files and in `fit(..., method=...)`.
        label: Its name in words, on pages and in figures; if empty, `method`.
        depends_on_examples: Whether what it adds depends on each example's steering prompt and response.
        roles: What the method does along those of its tensors that are vectors, for the lens.
        index: What the lens calls each of several vectors of one layer.

    Raises:
        ValueError: If `layers`, `tokens` or `hook_point` is invalid.
    """

    method: ClassVar[str]
    label: ClassVar[str] = ""
    depends_on_examples: ClassVar[bool] = False
    roles: ClassVar[Mapping[str, Role]] = {}
    index: ClassVar[str] = "vector"

    def __init__(
        self,
        layers: Sequence[int],
        *,
        tokens: Tokens = "response",
        hook_point: HookPoint = "resid_post",
        provenance: Mapping[str, Any] | None = None,
        fit_report: Any = None,
    ):
        super().__init__()
        self.layers = tuple(check_whole("layers", layer) for layer in layers)
        if list(self.layers) != sorted(set(self.layers)) or any(i < 0 for i in self.layers):
            raise ValueError(f"layers={list(self.layers)}: name each once, from the lowest up")
        self.tokens: Tokens = check_tokens(tokens)
        self.hook_point: HookPoint = check_hook_point(hook_point)
        if self.depends_on_examples and hook_point != "resid_post":
            raise ValueError(
                f"hook_point={hook_point!r} with {self.method!r}, which depends on the prompted residual "
                "stream after a block: leave it out"
            )
        self.provenance: Mapping[str, Any] = dict(provenance or {})
        self.fit_report = fit_report
        self._row_of_layer = {layer: row for row, layer in enumerate(self.layers)}

    def hold(self, **tensors: Tensor) -> None:
        """Register tensors, each with one entry per layer, as its parameters.

        Raises:
            ValueError: If one has more or fewer entries, or is not finite.
        """
        for name, tensor in tensors.items():
            n = len(tensor) if tensor.ndim else 0
            if n != len(self.layers):
                raise ValueError(
                    f"{name} for {n} layers but {len(self.layers)} are named: pass one per layer"
                )
            known = check_finite(name, tensor)
            wanted = known.requires_grad and known.is_leaf
            self.register_parameter(name, nn.Parameter(known, requires_grad=wanted))

    # --- what a method is -----------------------------------------------------------------------

    @abstractmethod
    def update(self, layer: int, resid: Resid, columns: Columns | None = None) -> Resid:
        """What is added at strength 1.

        Args:
            layer: One of `layers`.
            resid: Residual streams of any leading shape, in the working precision.
            columns: What the columns of `resid` are in a pass of the model, for a method that depends on a
                token's position.
        """

    def forward(self, layer: int, resid: Resid, columns: Columns | None = None) -> Resid:
        """`update`."""
        return self.update(layer, resid, columns)

    def row(self, layer: int) -> int:
        """The row of its tensors that belongs to a layer."""
        return self._row_of_layer[layer]

    def arguments(self) -> dict[str, Any]:
        """What `save` stores besides the tensors: further arguments of the class, as JSON values."""
        return {}

    def with_tensors(
        self: "Own", tensors: Mapping[str, Tensor], layers: Sequence[int] | None = None
    ) -> "Own":
        """The same steering with other numbers, and on other layers if given."""
        return self._remade(tensors, self.layers if layers is None else layers, self.tokens)

    def _remade(
        self: "Own",
        tensors: Mapping[str, Tensor],
        layers: Sequence[int],
        tokens: Tokens,
        hook_point: HookPoint | None = None,
    ) -> "Own":
        return type(self)(
            **tensors,
            layers=layers,
            tokens=tokens,
            hook_point=self.hook_point if hook_point is None else hook_point,
            provenance=self.provenance,
            fit_report=self.fit_report,
            **self.arguments(),
        )

    def span(self, layer: int) -> Float[Tensor, "rank d_model"] | None:
        """What its updates at a layer are made of: rows whose span contains every update.

        Args:
            layer: One of `layers`.

        Returns:
            The rows, of any length and not orthogonal in general; None if they are not known: each token's
            update is then its own direction.
        """
        return None

    @property
    def width(self) -> int | None:
        """The length of its vectors, which is the width of its model; None if it has no vectors."""
        rows = self.span(self.layers[0]) if self.layers else None
        return None if rows is None else rows.shape[-1]

    def covers(self, layer: int, columns: Columns) -> Bool[Tensor, "batch pos"]:
        """Which columns it may act on at a layer; none at a layer that is not among `layers`."""
        mask = self.acts_on(columns)
        return mask if layer in self.layers else torch.zeros_like(mask)

    def acts_on(self, columns: Columns) -> Bool[Tensor, "batch pos"]:
        """Which columns it may act on."""
        return mask_of(self.tokens, columns)

    @property
    def only_on(self) -> AlignedTokens | None:
        """The aligned tokens outside of which it neither adds nor reads; None if it may.

        What comes before them may be run once, unsteered, for all rows that share it. A class that acts in
        its own way is not assumed to keep to its tokens.
        """
        own = type(self)
        as_usual = all(getattr(own, name) is getattr(Steering, name) for name in ACTING)
        return aligned_reach(self.tokens) if as_usual else None

    def on(self: "Own", tokens: Tokens) -> "Own":
        """The same steering on tokens other than those it was made for.

        Fits use the tokens that the base and the prompted run share; where the result acts is a separate
        choice, and `measure_faithfulness` measures it as it acts.

        Args:
            tokens: `response`, `question+response`, `all`, or a `TokenRule`.

        Raises:
            ValueError: If they are none of these, or the method cannot act there.
        """
        return self._like(self._remade(self.state_dict(), self.layers, tokens))

    def at_hook_point(self: "Own", hook_point: HookPoint) -> "Own":
        """The same steering at another point of its blocks than the one it was made for.

        Args:
            hook_point: `resid_post` or `resid_mid`.

        Raises:
            ValueError: If it is neither, or the method cannot act there.
        """
        return self._like(self._remade(self.state_dict(), self.layers, self.tokens, hook_point))

    def _like(self: "Own", made: "Own") -> "Own":
        """What was remade, with gradients where this one has them."""
        for own, kept in _side_by_side(made, self):
            for name, parameter in own._parameters.items():
                if parameter is not None:
                    parameter.requires_grad_(kept.get_parameter(name).requires_grad)
        return made

    def check(self, model: HookedModel) -> None:
        """Refuse a model that this steering does not belong to.

        Raises:
            ValueError: If it was fitted on another model or other numerics, covers a layer that
                the model lacks, has vectors of another width, or acts where the model cannot be edited.
        """
        check_model(self.provenance, model, max(self.layers, default=-1), self.width)
        if self.hook_point == "resid_mid":
            check_has_mid(model)

    def __getitem__(self: "Own", layers: int | slice | Sequence[int]) -> "Own":
        """`at` these layers: `steering[15]`, `steering[[3, 4]]`, `steering[10:20]`."""
        if isinstance(layers, slice):
            return self.at(range(max(self.layers, default=-1) + 1)[layers])
        return self.at([layers] if isinstance(layers, int) else layers)

    # Python would otherwise iterate over anything that has `__getitem__`.
    __iter__ = None

    def at(self: "Own", layers: Sequence[int]) -> "Own":
        """The same steering at those of the given layers that it covers.

        Raises:
            ValueError: If it covers none of them.
        """
        kept = [layer for layer in layers if layer in self.layers]
        if not kept:
            raise ValueError(f"layers={list(layers)} but {self!r} covers {list(self.layers)}")
        rows = [self.row(layer) for layer in kept]
        return self.with_tensors({name: own[rows] for name, own in self.state_dict().items()}, kept)

    # --- how it is fitted -----------------------------------------------------------------------

    Options: ClassVar[type[Any]] = NoOptions
    """A dataclass of the options that `fit` takes for this method alone."""
    settings: ClassVar[tuple[Mapping[str, Any], ...]] = ({},)
    """What `fit_best` tries: arguments of `fit`."""
    default_objective: ClassVar[str] = "mse"
    apart_by_objective: ClassVar[bool] = False
    """Whether a comparison shows fits to different objectives as separate methods."""
    probe_biases: ClassVar[tuple[str, ...]] = ()
    """Parameters that a recipe with `probe_bias=False` holds at 0."""
    has_best_layer: ClassVar[bool] = True
    """Whether layers that can be fitted one by one can also be tried one by one."""
    of_one_example: ClassVar[bool] = False
    """Whether it is made from the first training example alone."""
    finds_own_strength: ClassVar[bool] = False
    """Whether, in training, it sets its own strength by what it reads and ignores the example's."""

    @classmethod
    def in_words(cls) -> str:
        """What the method is called on pages: its own label, else its name."""
        # A subclass is another method and does not inherit the label.
        return vars(cls).get("label") or cls.method

    @classmethod
    def check_options(
        cls,
        options: Any,
        *,
        solver: str = "auto",
        tokens: AlignedTokens = "response",
        has_dev: bool = True,
    ) -> None:
        """Refuse options of this method that do not go with the rest of a fit.

        Args:
            options: An `Options` of this class, valid by itself.
            solver: Which solver.
            tokens: `response` or `question+response`.
            has_dev: Whether there are dev examples.

        Raises:
            ValueError: If they do not.
        """

    @classmethod
    def closed_form(
        cls: "type[Own]", data: TrainingData, options: Any
    ) -> "tuple[Own, Sequence[float]]":
        """Make the steering for all layers in one pass over the examples.

        Returns:
            The steering, and the share of the deltas' energy left over at every layer; empty where that has
            no meaning.
        """
        raise NotImplementedError

    @classmethod
    def fit_layer(cls, data: LayerData, options: Any) -> LayerFit:
        """Fit one layer to what is missing there: the layerwise solver's part of the work.

        During the fit, the result acts on all aligned tokens, and `update` is given no columns.
        """
        raise NotImplementedError

    @classmethod
    def joined(cls: "type[Own]", parts: "Sequence[Own]") -> "Own":
        """Join steerings of one layer each, in ascending order, into one."""
        tensors = [part.state_dict() for part in parts]
        together = {name: torch.cat([own[name] for own in tensors]) for name in tensors[0]}
        return parts[0].with_tensors(together, [layer for part in parts for layer in part.layers])

    def settled(self, options: Any) -> Any:
        """The options, with those filled in that this steering's layerwise fit has decided."""
        return options

    @classmethod
    def start(cls: "type[Own]", given: Start, options: Any) -> "Own":
        """Where the gradient solver begins."""
        raise NotImplementedError

    @classmethod
    def recipe(cls, n_layers: int) -> Mapping[str, Any]:
        """What this method changes in the gradient solver's default recipe, for `n_layers` layers."""
        return {}

    def rescaled(self: "Own", scale: Scale) -> "Own":
        r"""The same steering for a standardised residual stream.

        Returns:
            $s'$ with $s'(x) = s(\mathrm{mean} + \mathrm{std}\, x) / \mathrm{size}$ at every layer. A method
            that does not define this is trained in plain units.
        """
        raise NotImplementedError

    def constrain(self) -> None:
        """Before training: register torch's parametrisations, and say what takes no gradient."""

    def training_update(
        self, layer: int, resid: Padded, on: Mask, regulariser: float
    ) -> tuple[Padded, Float[Tensor, ""] | float]:
        """What is added during training, and what the layer adds to the objective.

        By default `update` and 0; a method whose source differs overrides this.

        Args:
            layer: The layer.
            resid: Residual streams of whole responses.
            on: The aligned tokens; the others are padding.
            regulariser: The recipe's.
        """
        return self.update(layer, resid), 0.0

    def after_training(self, watch: Callable[[Watcher], None]) -> None:
        """Set what is not trained but read off the training examples.

        Args:
            watch: Runs them through the trained steering once more (only those of positive strength, if
                there are any) and calls the watcher it is given at every layer of every batch.
        """

    @classmethod
    def solvers(cls) -> tuple[str, ...]:
        """How it can be fitted: `closed form` alone, or `layerwise` and `gradient`, or one of them."""
        own = {
            "closed form": cls.closed_form.__func__ is not Steering.closed_form.__func__,
            "layerwise": cls.fit_layer.__func__ is not Steering.fit_layer.__func__,
            "gradient": cls.start.__func__ is not Steering.start.__func__,
        }
        if own["closed form"]:
            return ("closed form",)
        return tuple(name for name, has in own.items() if has)

    # --- acting ---------------------------------------------------------------------------------

    def edits(
        self,
        model: HookedModel,
        alpha: Strength = 1.0,
        examples: Sequence[Example] | Context | None = None,
    ) -> Mapping[int, ResidualEdit]:
        """The residual edits of this steering, by layer; other columns keep their exact bits.

        Args:
            model: The model to act on.
            alpha: Strength, as in `applied`.
            examples: The rows of the batch, for a steering that depends on the example; or their `Context`,
                if it holds their prompted run.
        """
        steering, strengths = self.with_strength(alpha)
        if examples is None or isinstance(examples, Context):
            context = examples
        else:
            context = Context(model, examples)
        ready: dict[tuple[torch.device, torch.dtype], Mapping[int, ResidualEdit]] = {}

        def ready_on(device: torch.device, dtype: torch.dtype) -> Mapping[int, ResidualEdit]:
            if (device, dtype) not in ready:
                own = steering.acting(device, dtype, context)
                ready[device, dtype] = {
                    layer: own.edit(layer, strengths[layer]) for layer in own.layers
                }
            return ready[device, dtype]

        def edit_at(layer: int) -> ResidualEdit:
            def edit(resid: Tensor, columns: Columns) -> Tensor | None:
                # Decided by the tensor that arrives: the model may be moved while the steering is applied.
                return ready_on(resid.device, working_dtype(resid.dtype))[layer](resid, columns)

            return edit

        # A steering that cannot act without examples says so now.
        layers = ready_on(model.device, working_dtype(model.dtype))
        return {layer: placed(edit_at(layer), self.hook_point) for layer in layers}

    def with_strength(
        self, alpha: Strength
    ) -> "tuple[Steering, Mapping[int, float | Float[Tensor, ' batch']]]":
        """The steering that acts at strength `alpha`, and its strength at each of its layers.

        Raises:
            ValueError: If `alpha` is not finite, names layers other than this steering's, or gives a
                strength per part although this is no sum.
        """
        if isinstance(alpha, Mapping):
            if set(alpha) != set(self.layers):
                raise ValueError(
                    f"alpha names layers {sorted(alpha)} but {self!r} covers {list(self.layers)}: give "
                    "each of these a strength"
                )
            return self, {layer: check_alpha(own) for layer, own in alpha.items()}
        if isinstance(alpha, Sequence) and not isinstance(alpha, str):
            raise ValueError(
                f"alpha={list(alpha)!r} has a strength for every part, and {self!r} is no sum: pass one "
                "number, or one by layer, {15: 0.5}"
            )
        return self, dict.fromkeys(self.layers, check_alphas(alpha))

    def acting(
        self, device: torch.device, dtype: torch.dtype, context: Context | None = None
    ) -> "Steering":
        """This steering, ready to act: its numbers on the residual streams' device, in their precision.

        Args:
            device: Their device.
            dtype: Their working precision.
            context: Model and examples, for a steering that depends on the example.
        """
        tensors = self.state_dict(keep_vars=True)
        ready = all(own.device == device and own.dtype == dtype for own in tensors.values())
        # A copy would lose the gradient; `update` moves what it needs itself.
        if ready or any(own.requires_grad for own in tensors.values()):
            return self
        return self.with_tensors({name: own.to(device, dtype) for name, own in tensors.items()})

    def edit(self, layer: int, alpha: float | Float[Tensor, " batch"]) -> ResidualEdit:
        """The residual edit that adds `alpha` times a layer's update where this steering acts."""

        def added(exact: Tensor, update: Tensor, columns: Columns) -> Tensor:
            if not isinstance(alpha, Tensor):
                return torch.add(exact, update, alpha=alpha)
            own = alpha.to(exact)
            own = own if columns.rows is None else own[columns.rows]
            return exact + own[:, None, None] * update

        def edit(resid: Tensor, columns: Columns) -> Tensor:
            exact = resid.to(working_dtype(resid.dtype))
            steered = added(exact, self.update(layer, exact, columns), columns).to(resid.dtype)
            if columns.all_response and isinstance(self.tokens, str):
                return steered
            return torch.where(self.acts_on(columns).unsqueeze(-1), steered, resid)

        return edit

    @contextmanager
    def applied(
        self,
        model: Any,
        alpha: Strength = 1.0,
        *,
        prompt_length: int | None = None,
        question_start: int | Sequence[int] | None = None,
        examples: Sequence[Example] | None = None,
        all_threads: bool = False,
        tokens: Tokens | None = None,
    ) -> Iterator[HookedModel]:
        """Steer everything the model runs inside the context; afterwards the model is as before.

        Works under `generate` (cached or not), forward passes and `run_with_cache`, of a
        `HookedModel` and of a plain HookedTransformer, TransformerBridge or transformers model, which
        needs no TransformerLens. A forward pass on a prompt steers its last real token, as the first
        step of `generate` does. For a prompt and response in one sequence, give the `prompt_length`.

        Only the thread that entered is steered. Other threads run the model, one at a time, unsteered; a
        thread started inside needs its own context, while asyncio tasks and `asyncio.to_thread` calls
        started inside are steered. Meanwhile, a transformers model refuses direct calls from a thread that
        applied nothing, because it is unclear whether they were meant to be steered: `generate` with a
        streamer often runs in its own thread. Contexts may be nested and left in any order. A copy of the
        model made inside is unsteered. Functions that measure the unsteered model, such as `fit`, refuse to
        run inside.

        Args:
            model: A `HookedModel`, HookedTransformer, TransformerBridge or transformers model.
            alpha: Strength; 0 leaves everything as it is. A tensor gives one for each row of the batches
                that run inside, a dict one for each layer, `{14: 1.0, 15: 0.5}`, and a list one for each
                part of a sum.
            prompt_length: Columns of the prompt, if whole sequences are run by hand.
            question_start: For a `question+response` steering run by hand, the position of the first
                question token in its row, not counting padding: one number, or one for each row.
            examples: The rows of the batch, for a steering that depends on the example.
            all_threads: Steer the passes of every thread; enter and leave while no pass runs.
            tokens: Which tokens to act on, if other than the steering's own; see `on`.

        Yields:
            The `HookedModel`.

        Raises:
            ValueError: If the model is not the one that the steering belongs to, or is compiled, or
                `alpha` is not finite.

        Example:
            >>> from transformers import AutoModelForCausalLM
            >>> import psr_lens as pl
            >>> hf_model = AutoModelForCausalLM.from_pretrained(pl.demo.checkpoint_path())
            >>> steering = pl.ConstantSteering(torch.ones(1, 128), [2])
            >>> prompt = torch.tensor([[1, 5, 6]])
            >>> plain = hf_model(prompt).logits
            >>> with steering.applied(hf_model):
            ...     bool((hf_model(prompt).logits - plain).abs().max() > 0)
            True
            >>> bool((hf_model(prompt).logits == plain).all())
            True
        """
        hooked = editable_model(model)
        acting = self
        if tokens is not None:
            acting = self.on(tokens)
            # The very same parameters, so that gradients reach them.
            for own, kept in _side_by_side(acting, self):
                own._parameters = kept._parameters
        acting.check(hooked)
        edits = acting.edits(hooked, alpha, examples)
        with (
            at_strength(_largest(alpha)),
            hooked.edited(
                edits,
                prompt_length=prompt_length,
                question_start=question_start,
                steering=repr(acting),
                only_on=acting.only_on,
                all_threads=all_threads,
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
        """How much the steering changes every layer and token of every response, in the data's order.

        Runs `x y'` under the steering and records the length of each update, whatever the method: on the
        aligned tokens that include those it acts on, or on all tokens if it acts on others too.

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
            return measure_updates(
                hooked,
                data,
                lambda examples: self.edits(hooked, alpha, examples),
                self.layers,
                reach_of(self.tokens),
                batch_size,
                progress,
            )

    # --- leaving this package -------------------------------------------------------------------

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
            repo_id: `"owner/name"`; created if it does not exist.
            private: Whether a newly created repository is private.
            revision: Branch, created if it does not exist; the main one by default.
            commit_message: Message of the one commit.
            token: Access token for the hub; by default the one that `hf auth login` stored.

        Returns:
            The address of the commit.

        Raises:
            ValueError: If `repo_id` is not a valid name on the hub.
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

    def __radd__(self, other: int) -> "Steering":
        # `sum` starts from 0.
        return self if other == 0 else NotImplemented

    def __sub__(self, other: "Steering") -> "Steering":
        taken_off = [(-weight, part) for weight, part in other.weighted_parts()]
        return self._sum([*self.weighted_parts(), *taken_off])

    def __mul__(self, weight: float) -> "Steering":
        return self._sum([(weight * own, part) for own, part in self.weighted_parts()])

    __rmul__ = __mul__

    def __neg__(self) -> "Steering":
        return -1.0 * self

    def weighted_parts(self) -> Sequence[tuple[float, "Steering"]]:
        """The weighted parts that this steering puts into a sum."""
        return [(1.0, self)]

    @staticmethod
    def _sum(parts: Sequence[tuple[float, "Steering"]]) -> "Steering":
        from psr_lens.steering.sums import add_up

        return add_up(parts)

    # --- keeping --------------------------------------------------------------------------------

    def header(self) -> dict[str, Any]:
        """Everything but the tensors, as JSON values."""
        fitted = {} if self.fit_report is None else {"fit_report": self.fit_report.packed()[1]}
        return fitted | {
            "method": self.method,
            "layers": list(self.layers),
            "tokens": described_tokens(self.tokens),
            "hook_point": self.hook_point,
            "arguments": self.arguments(),
            "provenance": dict(self.provenance),
        }

    def save(self, path: str | Path) -> Path:
        """Write the steering with its provenance and fit report to a safetensors file.

        Args:
            path: Where; `.safetensors` is added if missing.

        Returns:
            The path of the file.

        Raises:
            ValueError: If a number has become NaN or infinite, if the file could not be loaded because the
                class is not registered or does not name the axes of its tensors, or if the path holds
                something that is not a steering.
            OSError: If it cannot be written.
        """
        from psr_lens.steering.loading import check_loadable

        tensors = self.state_dict()
        for name, tensor in tensors.items():
            check_finite(name, tensor)
        check_loadable(self)
        return write_container(path, KIND, tensors, self.header())

    def __repr__(self) -> str:
        origin = self.provenance.get("model", {}).get("name", "an unnamed model")
        where = f"layer {self.layers[0]}" if len(self.layers) == 1 else f"{len(self.layers)} layers"
        inside = "" if self.hook_point == "resid_post" else f", {self.hook_point}"
        return f"{type(self).__name__}({self.method}, {where} of {origin}, {self.tokens} tokens{inside})"


def _side_by_side(one: nn.Module, other: nn.Module) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Pairs of modules of two steerings that are built alike; a part used twice comes twice."""
    both = (own.named_modules(remove_duplicate=False) for own in (one, other))
    for (_, first), (_, second) in zip(*both, strict=True):
        yield first, second


def _largest(alpha: Strength) -> float | Tensor:
    """The strength that a message about too large a strength names."""
    if isinstance(alpha, float | int | Tensor):
        return alpha
    every = alpha.values() if isinstance(alpha, Mapping) else alpha
    return max(map(abs, every), default=0.0)


def check_hook_point(hook_point: Any) -> HookPoint:
    """The hook point, if there is such a one.

    Raises:
        ValueError: If there is not.
    """
    if hook_point not in get_args(HookPoint):
        raise ValueError(
            f"hook_point={hook_point!r}: choose one of {', '.join(get_args(HookPoint))}"
        )
    return hook_point
