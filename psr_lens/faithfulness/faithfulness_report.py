"""`FaithfulnessReport`: what `measure_faithfulness` found."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, final, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from psr_lens._types import Surface, TokenValues
from psr_lens.examples import ending_in, prompts_in
from psr_lens.faithfulness.curves import (
    Difference,
    Run,
    curve_of,
    difference_of,
    find_measure,
)
from psr_lens.faithfulness.ledger import TOKEN_COLUMNS
from psr_lens.faithfulness.measures import HEADLINES, MEASURES
from psr_lens.faithfulness.references import NO_STEERING
from psr_lens.faithfulness.tables import measures_table, pack_runs, unpack_runs
from psr_lens.prompt_effect import html_warning, warning_of
from psr_lens.seen_prompts import SeenPrompts
from psr_lens.statistics import LEAST_EXAMPLES, Curve, resamples
from psr_lens.steering.provenance import checked_provenance
from psr_lens.storage import read_container, write_container
from psr_lens.storage.atomic import refuse_more_than_memory
from psr_lens.storage.fields import choice, listed, mapping, number, only, reading, whole
from psr_lens.storage.frames import pack_frame, unpack_frame

if TYPE_CHECKING:
    import pandas
    import plotly.graph_objects

_FIELDS: Final = ("alpha", "surface", "n_bootstrap", "seed", "runs", "tokens", "provenance")
_QUANTITIES: Final = {
    "delta": "effect of the prompt",
    "push": "effect of the steering",
    "error": "distance to the prompt",
    "cosine": "cosine to the prompt's effect",
    "kl": "KL from the prompted next token, nats",
}


@final
@dataclass(frozen=True, eq=False)
class FaithfulnessReport:
    """How close several steerings come to the prompt, and the lines to read that against.

    The report keeps sums per example, so any measure of any run and any difference of two has its
    bootstrap interval without running the model again.

    Attributes:
        runs: Sums by name: the steerings first, then the reference lines, then single paraphrases
            where there are several.
        alpha: The strength at which the steerings acted.
        surface: Where they were measured.
        n_bootstrap: Resamples behind every interval.
        seed: Their seed.
        tokens: The first examples token by token: one row per `steering`, `example`, `layer` and
            `pos`, with the `token`, `delta` `|D|`, `push` `|S - A|`, `error` `|S - A'|` (in units of
            the residual stream), `cosine` between `S - A` and `D`, and in rows of the last layer `kl`
            of the next token in nats.
        provenance: Model, data and seed.
    """

    runs: Mapping[str, Run]
    alpha: float
    surface: Surface
    n_bootstrap: int
    seed: int
    tokens: "pandas.DataFrame"
    provenance: Mapping[str, Any] = field(default_factory=dict)

    # --- numbers --------------------------------------------------------------------------------

    @property
    def examples(self) -> int:
        """Number of examples."""
        return len(self.runs[NO_STEERING].sums["energy"])

    @property
    def n_layers(self) -> int:
        """Number of layers of the model."""
        return self.runs[NO_STEERING].sums["energy"].shape[1]

    @property
    def has_intervals(self) -> bool:
        """Whether there are resamples, and examples enough for them to mean something."""
        return self.n_bootstrap > 0 and self.examples >= LEAST_EXAMPLES

    @property
    def steerings(self) -> tuple[str, ...]:
        """Names of the steerings."""
        return tuple(name for name, run in self.runs.items() if run.kind == "steering")

    @property
    def relative_rmse(self) -> Mapping[str, Curve]:
        """Relative RMSE of every steering: 0 is the prompt, 1 no steering."""
        return self.curves("relative_rmse", "steering")

    @property
    def reference(self) -> Mapping[str, Curve]:
        """Relative RMSE of the reference lines.

        `no steering` (1 by definition), `equivalent prompt` (the instruction in other words; of
        several wordings the root of the mean square), `random direction`, `oracle` (0 up to
        rounding) and `oracle rank k`.
        """
        return self.curves("relative_rmse", "reference")

    @property
    def paraphrases(self) -> Mapping[str, Curve]:
        """Relative RMSE of every single wording, where there are several."""
        return self.curves("relative_rmse", "paraphrase")

    def curves(
        self,
        measure: str = "relative_rmse",
        kind: Literal["steering", "reference", "paraphrase"] | None = None,
    ) -> dict[str, Curve]:
        """A measure of every run that has it, or of those of a kind."""
        found = find_measure(measure)
        return {
            name: curve_of(run, found, self._counts)
            for name, run in self.runs.items()
            if kind in (None, run.kind) and run.has(found)
        }

    def curve(self, name: str, measure: str = "relative_rmse") -> Curve:
        """A measure of one run.

        Raises:
            ValueError: If there is no such run or measure, or this was not measured.
        """
        self._check(name, measure)
        return curve_of(self.runs[name], MEASURES[measure], self._counts)

    def difference(self, first: str, second: str, measure: str = "relative_rmse") -> Difference:
        """`first - second`, paired: both from the same resamples of examples.

        Much of what varies from example to example is common to two steerings, so this interval
        is narrower than two separate ones make it look.

        Args:
            first: A steering or a reference line.
            second: Another.
            measure: What to compare.

        Raises:
            ValueError: If there is no such run or measure, or this was not measured.
        """
        self._check(first, measure)
        self._check(second, measure)
        return difference_of((first, second), self.runs, MEASURES[measure], self._counts)

    def token_values(
        self, name: str | None = None, example: int = 0, quantity: str = "error"
    ) -> TokenValues:
        """One quantity of one of the first examples, ready to be drawn.

        Args:
            name: A steering; the first one by default.
            example: Place of the example in the data.
            quantity: A column of `tokens`.

        Raises:
            ValueError: If the steering or the example has no tokens here, or there is no such
                quantity.
        """
        name = self.steerings[0] if name is None and self.steerings else name
        if quantity not in _QUANTITIES:
            raise ValueError(f"quantity={quantity!r}: choose one of {', '.join(_QUANTITIES)}")
        table = self.tokens
        rows = table.loc[(table["steering"] == name) & (table["example"] == example)]
        if rows.empty:
            raise ValueError(
                f"no tokens of example {example} under {name!r}: the report keeps examples 0 to "
                f"{table['example'].max()} of {', '.join(self.steerings)}; raise token_examples="
            )
        layers = (self.n_layers - 1,) if quantity == "kl" else tuple(range(self.n_layers))
        rows = rows.loc[rows["layer"].isin(layers)]
        values = torch.tensor(rows[quantity].to_numpy().reshape(len(layers), -1))
        tokens = tuple(rows["token"].iloc[: values.shape[1]])
        return TokenValues(
            tokens, values, layers, _QUANTITIES[quantity], str(name), ending=self.ending(example)
        )

    def ending(self, example: int) -> str:
        """How a response whose tokens are kept ends where it was cut off; else empty."""
        return ending_in(self.provenance, example)

    def prompts(self, example: int) -> SeenPrompts | None:
        """The prompts of an example whose tokens are kept, as the model saw them; None if unknown."""
        return prompts_in(self.provenance, example)

    @cached_property
    def _counts(self) -> Float[Tensor, "n_bootstrap example"]:
        return resamples(self.examples, self.n_bootstrap, self.seed)

    def _check(self, name: str, measure: str) -> None:
        found = find_measure(measure)
        if name not in self.runs:
            raise ValueError(f"no run {name!r} in this report: choose one of {list(self.runs)}")
        if not self.runs[name].has(found):
            raise ValueError(
                f"{measure} of {name!r} was not measured: gap_... exist for steerings with gap=True, "
                "relative_kl, kl and agreement with outputs=True"
            )

    def table(self) -> str:
        """The main measures at the last layer as text, one row per run."""
        table = self.to_dataframe()
        last = table.loc[table["layer"].isna() | (table["layer"] == self.n_layers - 1)]
        wide = last.pivot(index="steering", columns="measure", values="value")
        shown = wide.loc[list(self.runs), [name for name in HEADLINES if name in wide.columns]]
        shown = shown.rename_axis(index=None, columns=None)
        return shown.to_string(float_format="{:.3f}".format, na_rep="-")

    # --- tables and files -----------------------------------------------------------------------

    def to_dataframe(self) -> "pandas.DataFrame":
        """Tidy long form: one row per run, measure and layer.

        Columns: `steering` (name of the run), `reference` (whether it is none), `measure`, `layer`
        (missing for measures of the output), `value`, `low`, `high`, and `examples`, the number of
        examples that the value rests on (fewer for a rank correlation that some do not have).
        """
        return measures_table(self.runs, self._counts)

    def save(self, path: str | Path) -> Path:
        """Write the report to one file.

        Args:
            path: Where; `.safetensors` is added if missing. An older report there is replaced.

        Returns:
            The path of the file.

        Raises:
            ValueError: If something that is not such a report is at the path.
            OSError: If it cannot be written.
        """
        return write_container(path, type(self).__name__, *self.packed())

    def packed(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What `save` writes: tensors and JSON values."""
        tensors, runs = pack_runs(self.runs)
        token_tensors, tokens = pack_frame("tokens", self.tokens)
        return {**tensors, **token_tensors}, {
            "alpha": self.alpha,
            "surface": self.surface,
            "n_bootstrap": self.n_bootstrap,
            "seed": self.seed,
            "runs": runs,
            "tokens": tokens,
            "provenance": dict(self.provenance),
        }

    @classmethod
    def load(cls, path: str | Path) -> "FaithfulnessReport":
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is of another kind or format, damaged, or says what no report says.
        """
        tensors, header = read_container(path, cls.__name__)
        with reading(path, "report"):
            only(header, *_FIELDS)
            tokens = unpack_frame("tokens", tensors, mapping(header, "tokens"), TOKEN_COLUMNS)
            report = cls(
                unpack_runs(tensors, listed(header, "runs", mapping)),
                number(header, "alpha"),
                choice(header, "surface", get_args(Surface)),
                whole(header, "n_bootstrap"),
                whole(header, "seed"),
                tokens,
                checked_provenance(header),
            )
            only(tensors)
            for name, most in (("example", report.examples), ("layer", report.n_layers)):
                if not set(tokens[name]) <= set(range(most)):
                    raise ValueError(f"its tokens are of a {name} that there is not")
            refuse_more_than_memory("n_bootstrap", 8 * report.n_bootstrap * report.examples)
            return report

    # --- for readers ----------------------------------------------------------------------------

    def plot(self, measure: str = "relative_rmse") -> "plotly.graph_objects.Figure":
        """A measure over the layers; of the output, one point for every run.

        Raises:
            ValueError: If there is no such measure, or nothing has it.
        """
        from psr_lens.plots import faithfulness_figure

        return faithfulness_figure(self, measure)

    def plot_gap(self, name: str | None = None) -> "plotly.graph_objects.Figure":
        """Where a steering's distance to the prompt comes from, layer by layer.

        Args:
            name: The steering; the first one by default.

        Raises:
            ValueError: If it was not measured.
        """
        from psr_lens.plots import gap_bars

        if not self.steerings:
            raise ValueError("the report has no steering: measure one to split its error")
        name = self.steerings[0] if name is None else name
        return gap_bars(
            {m: self.curve(name, m) for m in MEASURES if m.startswith("gap_")},
            self.curve(name),
            name,
        )

    def summary(self) -> str:
        """What the numbers say, in words."""
        from psr_lens.faithfulness.faithfulness_summary import describe

        return describe(self)

    def __repr__(self) -> str:
        return (
            f"FaithfulnessReport({', '.join(self.steerings) or 'no steering'}; {self.examples} "
            f"examples, {self.n_layers} layers, surface {self.surface})"
        )

    def _repr_html_(self) -> str:
        from psr_lens.plots import faithfulness_table

        return html_warning(self.provenance) + faithfulness_table(self)

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
