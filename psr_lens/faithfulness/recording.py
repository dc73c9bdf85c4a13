"""One batch: the runs that all steerings share, and what is read off a steering's own run.

The base run and every steered run take the same columns of the batch. So where a steering adds nothing, its
run is the base run to the last bit, and its effect there is zero and not the rounding of another layout.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from psr_lens._types import AlignedTokens
from psr_lens.deltas import example_batches, local_deltas, working_dtype
from psr_lens.examples import Example
from psr_lens.faithfulness.gap import GapSplit
from psr_lens.faithfulness.measures import output_products, token_products
from psr_lens.models import HookedModel, TokenBatch
from psr_lens.models.batch import Places
from psr_lens.models.columns import Columns
from psr_lens.models.editing import ResidualEdit
from psr_lens.models.finite import check_recorded
from psr_lens.models.shared import Rest, SharedPrefixes, aligned_rest
from psr_lens.steering.base import Steering
from psr_lens.steering.context import Context

Products = dict[str, Tensor]
"""Numbers of single tokens, float64 on the CPU: `[layer, token]`, and `[predicted]` of outputs."""


@dataclass(frozen=True)
class SharedRuns:
    """What every steering is compared with, for one batch.

    Attributes:
        model: The model.
        examples: The batch.
        tokens: Which tokens are measured.
        batch: `x y'`, the batch that steerings act on.
        rest: What is run of it: the aligned tokens alone, where every steering keeps to them.
        base: `A(xy')` on the aligned tokens.
        target: `A(x'y')` there.
        local: `D_loc` there, None where nothing needs it.
        prompted: The prompted logits at the predicting positions, None without outputs.
        base_products: The base run, measured as a steering's run is.
    """

    model: HookedModel
    examples: Sequence[Example]
    tokens: AlignedTokens
    batch: TokenBatch
    rest: Rest
    base: Float[Tensor, "layer token d_model"]
    target: Float[Tensor, "layer token d_model"]
    local: Float[Tensor, "layer token d_model"] | None
    prompted: Float[Tensor, "predicted d_vocab"] | None
    base_products: Products

    @classmethod
    def of(
        cls,
        model: HookedModel,
        examples: Sequence[Example],
        tokens: AlignedTokens,
        *,
        local: bool,
        outputs: bool,
        whole: bool,
    ) -> "SharedRuns":
        """Run the batch without and with the prompt, and replay it if wanted.

        Args:
            model: The model.
            examples: The batch.
            tokens: Which tokens are measured.
            local: Whether to replay it.
            outputs: Whether logits are compared.
            whole: Whether a steering may change or look at other tokens than these.
        """
        batch, with_prompt = example_batches(model, examples)
        rest = SharedPrefixes(model).rest(with_prompt, tokens)
        target, logits = _residuals(model, rest, with_prompt, tokens, outputs)
        prompted = None if logits is None else logits[predicting(rest.batch, examples)]
        rows = [example.base_row for example in examples]
        rest = Rest(batch) if whole else aligned_rest(model, rows, batch, tokens)
        base, logits = _residuals(model, rest, batch, tokens, outputs)
        layers = [token_products(*own) for own in zip(base, base, target, strict=True)]
        products = _stacked(layers)
        if logits is not None and prompted is not None:
            products |= _cpu(output_products(logits, predicting(rest.batch, examples), prompted))
        missing = local_deltas(model, batch, target, tokens) if local else None
        return cls(model, examples, tokens, batch, rest, base, target, missing, prompted, products)

    @property
    def lengths(self) -> list[int]:
        """Aligned tokens of every example."""
        return [example.aligned_length(self.tokens) for example in self.examples]

    def edits(self, steering: Steering, alpha: float) -> Mapping[int, ResidualEdit]:
        """The steering's edits for this batch."""
        known = Context(self.model, self.examples, {self.tokens: self.target})
        return steering.edits(self.model, alpha, known)

    def split(self, steering: Steering, bases: Mapping[int, Tensor]) -> GapSplit | None:
        """What splits this steering's error, if the local deltas are at hand.

        None for one that acts inside its blocks: what it adds is not what is added to the stream after them.
        """
        if self.local is None or steering.hook_point != "resid_post":
            return None
        columns, mask = self.batch.columns, self.batch.on(self.tokens)
        covered = [steering.covers(layer, columns)[mask] for layer in range(self.model.n_layers)]
        return GapSplit(self.target, self.local, bases, torch.stack(covered))

    def measured(
        self,
        edits: Mapping[int, ResidualEdit],
        *,
        batch: TokenBatch | None = None,
        split: GapSplit | None = None,
    ) -> Products:
        """Run the batch under edits and reduce every layer to numbers as soon as it is computed.

        Args:
            edits: What to run under.
            batch: What to run, with the same responses; by default the batch that steerings act on.
            split: Splits the error.

        Raises:
            NotFinite: If a residual stream holds NaN or infinity.
        """
        layers: list[Products] = []

        def see(layer: int, before: Tensor, after: Tensor) -> None:
            own = token_products(after, self.base[layer], self.target[layer])
            layers.append(own if split is None else own | split.step(layer, before, after))

        rest = self.rest
        if batch is not None:
            rest = SharedPrefixes(self.model).rest(batch, self.tokens)
        logits = watch(self.model, rest, self.tokens, edits, see, unembed=self.prompted is not None)
        products = _stacked(layers)
        lengths = products["size"].sqrt().to(working_dtype(self.model.dtype))
        check_recorded(lengths, self.model, batch or self.batch, edits=edits)
        if logits is not None and self.prompted is not None:
            products |= _cpu(
                output_products(logits, predicting(rest.batch, self.examples), self.prompted)
            )
        return products


def watch(
    model: HookedModel,
    rest: Rest,
    tokens: AlignedTokens,
    edits: Mapping[int, ResidualEdit],
    see: Callable[[int, Tensor, Tensor], None],
    *,
    unembed: bool,
) -> Float[Tensor, "batch pos d_vocab"] | None:
    """Run a batch under edits and show every layer's aligned tokens, before and after the edit.

    Args:
        model: The model.
        rest: What to run.
        tokens: `response` or `question+response`.
        edits: Interventions to run under.
        see: Called with the layer and both residual streams `[token, d_model]`, from layer 0 up, in
            the working precision.
        unembed: Whether to return logits.
    """
    places = Places(rest.batch.on(tokens))
    before: dict[int, Tensor] = {}

    def ahead(layer: int) -> ResidualEdit:
        def edit(resid: Tensor, columns: Columns) -> None:
            before[layer] = places.of(resid).to(working_dtype(resid.dtype))

        return edit

    def behind(layer: int) -> ResidualEdit:
        def edit(resid: Tensor, columns: Columns) -> None:
            see(layer, before.pop(layer), places.of(resid).to(working_dtype(resid.dtype)))

        return edit

    # Hooks run in the order in which they were attached.
    layers = range(model.n_layers)
    with (
        model.edited({layer: ahead(layer) for layer in layers}),
        model.edited(edits),
        model.edited({layer: behind(layer) for layer in layers}),
    ):
        if unembed:
            return model.logits(rest.batch, rest.prefix)
        model.run(rest.batch, rest.prefix)
    return None


def predicting(batch: TokenBatch, examples: Sequence[Example]) -> Bool[Tensor, "batch pos"]:
    """The positions whose next token is part of the response or ends it.

    The last prompt token and every response token, except the last one of a response that was cut
    off: what would follow it is unknown.
    """
    mask = batch.on("response").clone()
    unfinished = torch.tensor([not example.finished for example in examples], device=mask.device)
    mask[unfinished, -1] = False
    return mask


def predicted_lengths(examples: Sequence[Example]) -> list[int]:
    """How many positions `predicting` marks in every example."""
    return [example.aligned_length("response") - (not example.finished) for example in examples]


def _residuals(
    model: HookedModel, rest: Rest, batch: TokenBatch, tokens: AlignedTokens, unembed: bool
) -> tuple[Float[Tensor, "layer token d_model"], Tensor | None]:
    seen: list[Tensor] = []

    def see(layer: int, before: Tensor, after: Tensor) -> None:
        seen.append(after)

    logits = watch(model, rest, tokens, {}, see, unembed=unembed)
    found = torch.stack(seen)
    check_recorded(found, model, batch)
    return found, logits


def _stacked(layers: Sequence[Products]) -> Products:
    return _cpu({name: torch.stack([own[name] for own in layers]) for name in layers[0]})


def _cpu(products: Products) -> Products:
    return {name: values.cpu() for name, values in products.items()}
