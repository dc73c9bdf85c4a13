"""`DeltaCollection`: the deltas of many examples, to slice, show and save."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, final, get_args, overload

from psr_lens._types import AlignedTokens, check_aligned
from psr_lens.dataset import check_data
from psr_lens.deltas import Kind, PromptDeltas, iter_deltas
from psr_lens.examples import Example, cut_off_words
from psr_lens.models import unsteered_model
from psr_lens.models.chat import check_messages
from psr_lens.report import Figures, Report
from psr_lens.steering.provenance import checked_provenance, describe_data, provenance

if TYPE_CHECKING:
    import pandas
    import plotly.graph_objects


@final
@dataclass(frozen=True, eq=False)
class DeltaCollection(Report, Sequence[PromptDeltas]):
    """What the prompt did to every response: a sequence of `PromptDeltas`.

    `deltas[0]` is one example's deltas, `deltas[:5]` a collection of five; `deltas[:, 3]` is all of them at
    layer 3, `deltas[:, :, -1]` at the last token, `deltas[:5, [3, 5], "response"]` five examples at two
    layers over the response. Layers and tokens keep their numbers in a slice.

    Attributes:
        deltas: One per example, in the order of the data.
        provenance: Model and data.

    Raises:
        ValueError: If a layer or a token is not there.

    Example:
        >>> import psr_lens as pl
        >>> model = pl.load_model("demo")
        >>> pairs = pl.make_pairs(["describe the fox ."], "be optimistic .")
        >>> data = pl.sample_responses(model, pairs, max_new_tokens=4, progress=False)
        >>> pl.collect_deltas(model, data)[:, 2:4, "response"][0].accumulated.shape
        torch.Size([2, 4, 128])
    """

    title: ClassVar[str] = "What did the prompt do inside the model?"

    deltas: tuple[PromptDeltas, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @overload
    def __getitem__(self, index: int) -> PromptDeltas: ...
    @overload
    def __getitem__(self, index: slice | list[int]) -> "DeltaCollection": ...
    @overload
    def __getitem__(self, index: tuple[Any, ...]) -> Any: ...
    def __getitem__(self, index: Any) -> "PromptDeltas | DeltaCollection":
        example, *where = index if isinstance(index, tuple) else (index,)
        if len(where) > 2:
            raise ValueError(f"{len(where) + 1} axes: there are example, layer and token")
        if isinstance(example, slice | list):
            places = range(len(self))[example] if isinstance(example, slice) else example
            return replace(self, deltas=tuple(self[i, *where] for i in places))
        return self.deltas[example].at(*where) if where else self.deltas[example]

    def __len__(self) -> int:
        return len(self.deltas)

    def __iter__(self) -> Iterator[PromptDeltas]:
        return iter(self.deltas)

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per example, layer and token.

        Columns: `example`, its place in the collection, and those of `PromptDeltas.to_dataframe`.
        """
        import pandas as pd

        parts = [own.to_dataframe().assign(example=i) for i, own in enumerate(self.deltas)]
        found = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame({"example": []})
        return found.reindex(columns=["example", *found.columns.drop("example")])

    def summary(self) -> str:
        """How many deltas there are, where, and their mean lengths."""
        count = "1 example" if len(self) == 1 else f"{len(self)} examples"
        if not self.deltas:
            return f"Deltas of {count}."
        first = self.deltas[0]
        lines = [
            f"Deltas of {count}, {sum(len(own.tokens) for own in self)} tokens "
            f"({first.measured_on}), {len(first.layers)} layers."
        ]
        kinds = get_args(Kind) if all(own.local is not None for own in self) else ("accumulated",)
        for kind in kinds:
            norms = [own.norms(kind) for own in self]
            n_tokens = sum(own.shape[1] for own in norms)
            low, high = (sum(float(own[row].sum()) for own in norms) / n_tokens for row in (0, -1))
            lines.append(
                f"Mean length of the {kind} delta: {low:.3g} at layer {first.layers[0]}, {high:.3g} at "
                f"layer {first.layers[-1]}."
            )
        return "\n".join([*lines, *filter(None, [cut_off_words([own.example for own in self])])])

    def figures(self) -> Figures:
        """`tokens`: layers by tokens of one `example=0`, `kind="accumulated"` or `"local"`."""
        return {"tokens": self._heatmap}

    def _heatmap(
        self, example: int = 0, kind: Kind = "accumulated"
    ) -> "plotly.graph_objects.Figure":
        from psr_lens.plots import layer_token_heatmap

        return layer_token_heatmap(
            self.deltas[example].token_values(kind), title=f"Example {example}"
        )

    def drawable(self) -> Sequence[str]:
        """The figure, if there is an example with tokens."""
        return ["tokens"] if self.deltas and self.deltas[0].tokens else []

    def check(self) -> None:
        """Refuse deltas whose tensors do not fit their tokens, or each other."""
        checked_provenance(vars(self))
        for own in self.deltas:
            ids, pair = own.example, own.example.pair
            for prompt in (pair.base, pair.prompted, *pair.paraphrases):
                if isinstance(prompt, list):
                    check_messages(prompt)
            listed = (ids.base_ids, ids.prompted_ids, ids.response_ids, *ids.paraphrase_ids)
            if min(min(one, default=0) for one in listed) < 0:
                raise ValueError("a token id is below 0")
            length = own.example.aligned_length(own.measured_on)
            for name, kept, end in (
                ("layers", own.layers, None),
                ("positions", own.positions, length),
            ):
                if list(kept) != sorted(set(kept)) or min(kept, default=0) < 0:
                    raise ValueError(f"{name}={list(kept)[:20]}: each once, from the lowest up")
                if end is not None and max(kept, default=0) >= end:
                    raise ValueError(f"{name}={list(kept)[-1]}, and there are {end} aligned tokens")
            wanted = (len(own.layers), len(own.positions), own.accumulated.shape[-1])
            shapes = {tuple(one.shape) for one in (own.accumulated, own.local) if one is not None}
            if shapes != {wanted} or len(own.tokens) != len(own.positions):
                raise ValueError(f"deltas of shape {sorted(shapes)}, and not {wanted}")

    def __repr__(self) -> str:
        return (
            f"DeltaCollection({len(self)} examples; {self.deltas[0]!r}, ...)"
            if self
            else "DeltaCollection(0 examples)"
        )


def collect_deltas(
    model: Any,
    data: Sequence[Example],
    *,
    tokens: AlignedTokens = "response",
    local: bool = True,
    batch_size: int = 32,
    progress: bool = False,
) -> DeltaCollection:
    """Accumulated and local deltas of every example, in the order of the data.

    This holds `examples x layers x pos x d_model` numbers twice; `iter_deltas` streams them.

    Args:
        model: A `HookedModel`, HookedTransformer, TransformerBridge or transformers model.
        data: The examples.
        tokens: `response` (last prompt token and response) or `question+response`.
        local: Whether to compute the local deltas too, at the cost of a third pass over every batch.
        batch_size: Examples per forward pass.
        progress: Whether to show a bar.

    Raises:
        ValueError: If a steering is applied to the model.
    """
    hooked = unsteered_model(model, "collect_deltas(...)")
    check_data(hooked, data, check_aligned(tokens))
    streamed = iter_deltas(
        hooked, data, tokens=tokens, local=local, batch_size=batch_size, progress=progress
    )
    found = dict(streamed)
    origin = provenance(hooked, data=describe_data(data, getattr(data, "provenance", {})))
    return DeltaCollection(tuple(found[i] for i in range(len(data))), origin)
