"""`ComponentReport`: what `measure_components` found."""

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, final

from jaxtyping import Float
from torch import Tensor

from psr_lens._types import AlignedTokens, TokenValues
from psr_lens.examples import cut_off_of, ending_in
from psr_lens.report import Figures, Report
from psr_lens.statistics import Estimate, why_no_interval
from psr_lens.steering.provenance import checked_provenance

if TYPE_CHECKING:
    import pandas

ComponentKind = Literal["embed", "attn", "mlp", "head"]
Quantity = Literal["norm", "share"]


@dataclass(frozen=True)
class Component:
    """One component of the model, and its part in the prompt's delta.

    Attributes:
        layer: Its block, -1 for the embeddings.
        kind: `embed` (the difference of the embeddings: positions, where they are learned), `attn`,
            `mlp` or `head`.
        head: Which query head, -1 for the other kinds.
        norm: Root mean square over aligned tokens of the length of its delta, in units of the
            residual stream.
        share: Its share of the accumulated delta after the last block. Those of embeddings, attention and
            MLP of all layers add up to 1, and those of heads to their attention's.
        step_share: Its share of what its own block adds to the delta; attention and MLP of a block
            add up to 1. None for the embeddings.
        instruction_attention: For a head, the share of its attention that an aligned token of the prompted
            run pays to the instruction's tokens, on average. None for the others.
    """

    layer: int
    kind: ComponentKind
    head: int
    norm: Estimate
    share: Estimate
    step_share: Estimate | None
    instruction_attention: Estimate | None

    @property
    def name(self) -> str:
        """`embed`, `attn 3`, `mlp 3`, or `3.1` for head 1 of layer 3."""
        if self.kind == "head":
            return f"{self.layer}.{self.head}"
        return self.kind if self.kind == "embed" else f"{self.kind} {self.layer}"


@dataclass(frozen=True, eq=False)
class ComponentTokens:
    """The components' parts at every aligned token of one example.

    Attributes:
        tokens: The aligned tokens as text.
        norms: Length of every component's delta, in the order of the report's components.
        shares: Each token's term of the share, over the example's whole energy: summed over the tokens, a
            component's terms give its share within this example.
    """

    tokens: tuple[str, ...]
    norms: Float[Tensor, "component pos"]
    shares: Float[Tensor, "component pos"]


_ESTIMATES = ("norm", "share", "step_share", "instruction_attention")


@final
@dataclass(frozen=True, eq=False)
class ComponentReport(Report):
    """What attention, heads and MLPs contributed to what the prompt does.

    Attributes:
        components: Embeddings first, then for every layer attention, MLP and the heads.
        tokens: Values at every token of the first examples.
        measured_on: Which tokens: `response` or `question+response`.
        examples: Number of examples.
        n_prompts: Number of prompts that they are responses to; intervals are over these.
        provenance: Model, data and seed.
    """

    title: ClassVar[str] = "Which heads and MLPs bring the prompt's effect in?"

    components: tuple[Component, ...]
    tokens: tuple[ComponentTokens, ...]
    measured_on: AlignedTokens
    examples: int
    n_prompts: int
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return 1 + max(component.layer for component in self.components)

    def of_kind(self, *kinds: ComponentKind) -> tuple[Component, ...]:
        """The components of these kinds, from the lowest layer up."""
        return tuple(component for component in self.components if component.kind in kinds)

    def to_dataframe(self) -> "pandas.DataFrame":
        """Tidy long form: one row per component and measure that it has.

        `layer` is -1 for the embeddings, `head` is -1 for anything but a head.
        """
        import pandas as pd

        columns = ["component", "kind", "layer", "head", "measure", "value", "low", "high"]
        rows = [
            (own.name, own.kind, own.layer, own.head, measure, *astuple(estimate))
            for own in self.components
            for measure in _ESTIMATES
            if (estimate := getattr(own, measure)) is not None
        ]
        return pd.DataFrame(rows, columns=columns)

    def tokens_to_dataframe(self) -> "pandas.DataFrame":
        """One row per kept example, component and token: norm and share."""
        import pandas as pd

        columns = ("example", "component", "position", "token", "norm", "share")
        parts = [
            (i, component.name, position, token, norm, share)
            for i, own in enumerate(self.tokens)
            for component, norms, shares in zip(
                self.components, own.norms.tolist(), own.shares.tolist(), strict=True
            )
            for position, (token, norm, share) in enumerate(
                zip(own.tokens, norms, shares, strict=True)
            )
        ]
        return pd.DataFrame(parts, columns=list(columns))

    def token_values(
        self,
        example: int = 0,
        *,
        kind: Literal["attn", "mlp"] = "attn",
        quantity: Quantity = "norm",
    ) -> TokenValues:
        """One kind of component over the layers and tokens of an example, ready to be drawn.

        Raises:
            ValueError: If no values of this example were kept.
        """
        own = self.example_tokens(example)
        rows = [i for i, component in enumerate(self.components) if component.kind == kind]
        values = own.norms if quantity == "norm" else own.shares
        what = "norm" if quantity == "norm" else "share of the delta"
        return TokenValues(
            own.tokens,
            values[rows],
            tuple(range(len(rows))),
            f"{kind} {what}",
            ending=ending_in(self.provenance, example),
        )

    def example_tokens(self, example: int) -> ComponentTokens:
        """The values at every token of an example.

        Raises:
            ValueError: If no values of this example were kept.
        """
        if not 0 <= example < len(self.tokens):
            raise ValueError(
                f"example={example} but tokens were kept of the first {len(self.tokens)}: measure "
                "with a larger token_examples"
            )
        return self.tokens[example]

    def figures(self) -> Figures:
        """What there is to draw.

        `layers`: shares of attention and MLP over the layers. `heads`: what heads write and read.
        `tokens`: norms over the tokens of one example (`example=0`).
        """
        from psr_lens import plots

        return {
            "layers": partial(plots.component_shares, self),
            "heads": partial(plots.head_heatmap, self),
            "tokens": partial(plots.component_tokens, self),
        }

    def drawable(self) -> Sequence[str]:
        """The figures that there are numbers for."""
        there = {"layers": True, "heads": bool(self.of_kind("head")), "tokens": bool(self.tokens)}
        return [name for name, measured in there.items() if measured]

    def check(self) -> None:
        """Refuse components or tokens that do not fit each other."""
        checked_provenance(vars(self))
        layers = sorted({component.layer for component in self.components})
        if self.examples < 1 or layers not in (list(range(n, n + len(layers))) for n in (-1, 0)):
            raise ValueError(f"components of layers {layers[:20]} of {self.examples} examples")
        if not 1 <= self.n_prompts <= self.examples:
            raise ValueError(f"n_prompts={self.n_prompts} of {self.examples} examples")
        for i, own in enumerate(self.tokens):
            shape = (len(self.components), len(own.tokens))
            if not own.norms.shape == own.shares.shape == shape:
                raise ValueError(f"tokens of example {i} have shape {list(own.norms.shape)}")

    def summary(self) -> str:
        """What the numbers say, in words."""
        count = "1 example" if self.examples == 1 else f"{self.examples} examples"
        embed = sum(component.share.value for component in self.of_kind("embed"))
        attn = sum(component.share.value for component in self.of_kind("attn"))
        mlp = sum(component.share.value for component in self.of_kind("mlp"))
        few = why_no_interval(self.n_prompts)
        intervals = "" if few else ", 95 % intervals in brackets"
        lines = [
            *filter(None, [self.caution(), cut_off_of(self.provenance)]),
            f"What writes the prompt's effect on the last layer's residual stream, {count}, "
            f"{self.measured_on} tokens; shares add up to 100 %{intervals}:",
            *filter(None, [few]),
            f"attention {attn:z.0%}, MLPs {mlp:z.0%}, embeddings {embed:z.0%}",
            "most: " + _strongest(self.of_kind("attn", "mlp"), "share", 3),
        ]
        heads = self.of_kind("head")
        if heads:
            lines.append("heads that write most of it: " + _strongest(heads, "share", 3))
            lines.append(
                "These are direct contributions: what a head brings about through later components "
                "counts as theirs."
            )
        if any(head.instruction_attention is not None for head in heads):
            lines.append(
                "heads that read the instruction most (share of a token's attention): "
                + _strongest(heads, "instruction_attention", 3)
            )
        return "\n".join(lines)

    def __repr__(self) -> str:
        heads = len(self.of_kind("head"))
        split = f"{heads} heads" if heads else "heads not split"
        return (
            f"ComponentReport({self.n_layers} layers, {split}, {self.examples} examples, "
            f"{self.measured_on} tokens)"
        )

    def table_html(self) -> str:
        """All measures of everything but the heads."""
        from psr_lens.pages.report_page import numbers_html

        table = self.to_dataframe().query("kind != 'head'")
        wide = table.pivot_table(index="component", columns="measure", values="value", sort=False)
        return numbers_html(wide)


def _strongest(components: tuple[Component, ...], measure: str, count: int) -> str:
    def value(component: Component) -> float:
        estimate: Estimate | None = getattr(component, measure)
        return float("-inf") if estimate is None else estimate.value

    ranked = sorted(components, key=value, reverse=True)[:count]
    return ", ".join(f"{component.name} {getattr(component, measure):z.0%}" for component in ranked)
