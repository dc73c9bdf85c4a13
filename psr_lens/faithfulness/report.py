"""`FaithfulnessReport`: what `measure_faithfulness` found."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from psr_lens._types import Surface

if TYPE_CHECKING:
    import pandas
    import plotly.graph_objects

NO_STEERING = "no steering"
EQUIVALENT_PROMPT = "equivalent prompt"
ORACLE = "oracle"


@dataclass(frozen=True)
class Curve:
    """A measure over the layers, with its interval.

    Attributes:
        values: One number per layer.
        low: Lower end of the 95 % bootstrap interval.
        high: Upper end.
        layers: The layers that the steering covers; empty for a reference line.
    """

    values: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    layers: tuple[int, ...] = ()


@dataclass(frozen=True)
class FaithfulnessReport:
    """Relative RMSE per layer of several steerings, and the lines to read them against.

    Attributes:
        relative_rmse: One curve per steering.
        reference: The lines `no steering` (1 by definition), `equivalent prompt` (the instruction
            in other words, where the examples have one) and `oracle` (0 up to rounding).
        alpha: The strength at which the steerings acted.
        surface: Where they were measured.
        examples: Number of examples.
        provenance: Model, data and seed.
    """

    relative_rmse: Mapping[str, Curve]
    reference: Mapping[str, Curve]
    alpha: float
    surface: Surface
    examples: int
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def to_dataframe(self) -> "pandas.DataFrame":
        """Tidy long form: one row per steering and layer."""
        import pandas as pd

        return pd.DataFrame(
            [
                {
                    "steering": name,
                    "reference": name in self.reference,
                    "layer": layer,
                    "relative_rmse": value,
                    "low": low,
                    "high": high,
                }
                for name, curve in {**self.relative_rmse, **self.reference}.items()
                for layer, (value, low, high) in enumerate(
                    zip(curve.values, curve.low, curve.high, strict=True)
                )
            ]
        )

    def plot(self) -> "plotly.graph_objects.Figure":
        """The curves over the layers."""
        from psr_lens.plots import faithfulness_curves

        return faithfulness_curves(self)

    def summary(self) -> str:
        """What the numbers say, one line per steering."""
        count = "1 example" if self.examples == 1 else f"{self.examples} examples"
        lines = [f"Relative RMSE at the last layer, {count}, 95 % intervals:"]
        equivalent = self.reference.get(EQUIVALENT_PROMPT)
        for name, curve in self.relative_rmse.items():
            value = curve.values[-1]
            line = f"{name}: {value:.2f} ({curve.low[-1]:.2f} to {curve.high[-1]:.2f}), "
            if value >= 1:
                line += "no closer to prompting than doing nothing"
            elif equivalent is not None and value <= equivalent.values[-1]:
                line += "as close to the prompt as a paraphrase of it"
            else:
                line += f"{1 - value:.0%} of the distance to prompting is gone"
            lines.append(line)
        if equivalent is not None:
            lines.append(f"a paraphrase of the prompt: {equivalent.values[-1]:.2f}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return self.summary()

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        """The plot where plotly can draw, a table elsewhere, words on a terminal."""
        import json

        table = self.to_dataframe().pivot(index="steering", columns="layer", values="relative_rmse")
        return {
            "application/vnd.plotly.v1+json": json.loads(self.plot().to_json() or "{}"),
            "text/html": table.to_html(float_format="{:.3f}".format),
            "text/plain": self.summary(),
        }
