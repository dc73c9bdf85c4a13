"""`ComponentReport`: what `measure_components` found."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, astuple, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from psr_lens._types import Surface, TokenValues
from psr_lens.examples import cut_off_of, ending_in
from psr_lens.prompt_effect import html_warning, warning_of
from psr_lens.statistics import Estimate, why_no_interval
from psr_lens.steering.provenance import checked_provenance
from psr_lens.storage import read_container, write_container
from psr_lens.storage.fields import choice, listed, mapping, only, reading, take, text, whole

if TYPE_CHECKING:
    import pandas
    import plotly.graph_objects

ComponentKind = Literal["embed", "attn", "mlp", "head"]
Quantity = Literal["norm", "share"]


@dataclass(frozen=True)
class Component:
    """One component of the model, and its part in the prompt's delta.

    Attributes:
        layer: Its block, -1 for the embeddings.
        kind: `embed` (the difference of the embeddings: positions, where they are learned), `attn`,
            `mlp` or `head`.
        head: Which query head, -1 where it is none.
        norm: Root mean square over surface tokens of the length of its delta, in units of the
            residual stream.
        share: Its share of the accumulated delta after the last block. Those of embeddings,
            attention and MLP of all layers add up to 1, and heads to their attention.
        step_share: Its share of what its own block adds to the delta; attention and MLP of a block
            add up to 1. None for the embeddings.
        instruction_attention: For a head, the share of its attention that a surface token of the
            prompt-steered run pays to the instruction's tokens, on average. None for the others.
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
    """The components' parts at every surface token of one example.

    Attributes:
        tokens: The surface tokens as text.
        norms: Length of every component's delta, in the order of the report's components.
        shares: The same token's term of the share, over the example's whole energy: those of one
            component add up over the tokens to its share within this example.
    """

    tokens: tuple[str, ...]
    norms: Float[Tensor, "component pos"]
    shares: Float[Tensor, "component pos"]


_VIEWS = ("layers", "heads", "tokens")
_ESTIMATES = ("norm", "share", "step_share", "instruction_attention")


@dataclass(frozen=True, eq=False)
class ComponentReport:
    """What attention, heads and MLPs contributed to what the prompt does.

    Attributes:
        components: Embeddings first, then for every layer attention, MLP and the heads.
        tokens: Values at every token of the first examples.
        surface: Where it was measured.
        examples: Number of examples.
        provenance: Model, data and seed.
    """

    components: tuple[Component, ...]
    tokens: tuple[ComponentTokens, ...]
    surface: Surface
    examples: int
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

        `layer` is -1 for the embeddings, `head` is -1 for what is none.
        """
        import pandas as pd

        rows = []
        for component in self.components:
            for measure in _ESTIMATES:
                estimate: Estimate | None = getattr(component, measure)
                if estimate is not None:
                    rows.append(
                        {
                            "component": component.name,
                            "kind": component.kind,
                            "layer": component.layer,
                            "head": component.head,
                            "measure": measure,
                            **asdict(estimate),
                        }
                    )
        return pd.DataFrame(rows)

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
            ValueError: If none of this example were kept.
        """
        if not 0 <= example < len(self.tokens):
            raise ValueError(
                f"example={example} but tokens were kept of the first {len(self.tokens)}: measure "
                "with a larger token_examples"
            )
        return self.tokens[example]

    def save(self, path: str | Path) -> Path:
        """Write the report to one file; an older report there is replaced.

        Args:
            path: Where; `.safetensors` is added if missing.

        Returns:
            The path of the file.

        Raises:
            ValueError: If something that is not such a report is at the path.
            OSError: If it cannot be written.
        """
        rows, components = [], []
        for one in self.components:
            found = {name: getattr(one, name) for name in _ESTIMATES}
            own = {name: estimate for name, estimate in found.items() if estimate is not None}
            about = {"layer": one.layer, "kind": one.kind, "head": one.head}
            components.append({**about, "measures": list(own)})
            rows += [astuple(estimate) for estimate in own.values()]
        tensors = {"estimates": torch.tensor(rows, dtype=torch.float64).reshape(-1, 3)}
        for i, own in enumerate(self.tokens):
            tensors |= {f"{i}.norms": own.norms, f"{i}.shares": own.shares}
        header = {
            "components": components,
            "tokens": [{"tokens": list(own.tokens)} for own in self.tokens],
            "surface": self.surface,
            "examples": self.examples,
            "provenance": dict(self.provenance),
        }
        return write_container(path, type(self).__name__, tensors, header)

    @classmethod
    def load(cls, path: str | Path) -> "ComponentReport":
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is of another kind or format, damaged, or says what no report says.
        """
        tensors, header = read_container(path, cls.__name__)
        with reading(path, "report"):
            only(header, *cls.__dataclass_fields__)
            rows = iter(take(tensors, "estimates", torch.float64, 2).tolist())
            components = tuple(
                _component(about, rows) for about in listed(header, "components", mapping)
            )
            layers = sorted({component.layer for component in components})
            if next(rows, None) or layers not in (list(range(n, n + len(layers))) for n in (-1, 0)):
                raise ValueError(f"components of layers {layers[:20]} do not fit its estimates")
            kept = []
            for i, about in enumerate(listed(header, "tokens", mapping)):
                only(about, "tokens")
                tokens = tuple(listed(about, "tokens", text))
                norms, shares = (
                    take(tensors, f"{i}.{name}", torch.float64, 2) for name in ("norms", "shares")
                )
                if not norms.shape == shares.shape == (len(components), len(tokens)):
                    raise ValueError(f"tokens of example {i} have shape {list(norms.shape)}")
                kept.append(ComponentTokens(tokens, norms, shares))
            only(tensors)
            return cls(
                components,
                tuple(kept),
                choice(header, "surface", get_args(Surface)),
                whole(header, "examples", 1),
                checked_provenance(header),
            )

    def plot(self, view: str = "layers", *, example: int = 0) -> "plotly.graph_objects.Figure":
        """A picture: shares over the layers, over the heads, or norms over an example's tokens.

        Args:
            view: `layers`, `heads` or `tokens`.
            example: For `tokens`, which example.

        Raises:
            ValueError: If there is no such view, or it needs what was not measured.
        """
        from psr_lens.plots import component_shares, component_tokens, head_heatmap

        if view not in _VIEWS:
            raise ValueError(f"view={view!r}: choose one of {', '.join(_VIEWS)}")
        if view == "layers":
            return component_shares(self)
        return head_heatmap(self) if view == "heads" else component_tokens(self, example)

    def summary(self) -> str:
        """What the numbers say, in words."""
        count = "1 example" if self.examples == 1 else f"{self.examples} examples"
        embed = sum(component.share.value for component in self.of_kind("embed"))
        attn = sum(component.share.value for component in self.of_kind("attn"))
        mlp = sum(component.share.value for component in self.of_kind("mlp"))
        few = why_no_interval(self.examples)
        lines = [
            *warning_of(self.provenance),
            *filter(None, [cut_off_of(self.provenance)]),
            f"What writes the prompt's effect on the last layer's residual stream, {count}, surface "
            f"{self.surface}; shares add up to 100 %{'' if few else ', 95 % intervals in brackets'}:",
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
            f"ComponentReport({self.n_layers} layers, {split}, {self.examples} examples, surface "
            f"{self.surface})"
        )

    def _repr_html_(self) -> str:
        table = self.to_dataframe().query("kind != 'head'")
        wide = table.pivot_table(index="component", columns="measure", values="value", sort=False)
        return html_warning(self.provenance) + wide.to_html(float_format="{:.3f}".format)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        """The plot where plotly can draw, a table elsewhere, words on a terminal."""
        import json

        if warning_of(self.provenance):
            # Of several forms a notebook shows the picture, which would not say it.
            return {"text/html": self._repr_html_(), "text/plain": self.summary()}
        return {
            "application/vnd.plotly.v1+json": json.loads(self.plot().to_json() or "{}"),
            "text/html": self._repr_html_(),
            "text/plain": self.summary(),
        }


def _strongest(components: tuple[Component, ...], measure: str, count: int) -> str:
    def value(component: Component) -> float:
        estimate: Estimate | None = getattr(component, measure)
        return float("-inf") if estimate is None else estimate.value

    ranked = sorted(components, key=value, reverse=True)[:count]
    return ", ".join(f"{component.name} {getattr(component, measure):z.0%}" for component in ranked)


def _component(about: Mapping[str, Any], rows: Iterator[list[float]]) -> Component:
    """The component of what a file says about it, and of the next of its estimates."""
    only(about, "layer", "kind", "head", "measures")
    measures = listed(about, "measures", text)
    found = {name: Estimate(*next(rows, ())) for name in measures}
    if len(found) < len(measures):
        raise ValueError(f"measures={measures}: one is there twice")
    absent = {"step_share": None, "instruction_attention": None}
    return Component(
        whole(about, "layer", -1),
        choice(about, "kind", get_args(ComponentKind)),
        whole(about, "head", -1),
        **{**absent, **found},
    )
