"""`FaithfulnessReport`: what `measure_faithfulness` found."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, final, get_args

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from psr_lens._types import AlignedTokens, TokenValues, check_count, resolve_layers
from psr_lens.examples import check_prompt_numbers, ending_in, prompts_in
from psr_lens.faithfulness.curves import (
    Difference,
    Run,
    curve_of,
    difference_of,
    find_measure,
)
from psr_lens.faithfulness.measures import HEADLINES, MEASURES
from psr_lens.faithfulness.references import NO_STEERING
from psr_lens.faithfulness.running_sums import TOKEN_COLUMNS
from psr_lens.faithfulness.tables import measures_table, pack_runs, unpack_runs
from psr_lens.faithfulness.worst_tokens import WORST_COLUMNS, no_tokens
from psr_lens.report import Figures, Packed, Report
from psr_lens.seen_prompts import SeenPrompts
from psr_lens.statistics import LEAST_PROMPTS, Curve, resamples
from psr_lens.steering.provenance import checked_provenance
from psr_lens.storage.atomic import refuse_more_than_memory
from psr_lens.storage.fields import choice, listed, mapping, number, only, whole
from psr_lens.storage.frames import pack_frame, unpack_frame

if TYPE_CHECKING:
    import pandas
    import plotly.graph_objects

_QUANTITIES: Final = {
    "delta": "effect of the prompt",
    "effect": "effect of the steering",
    "error": "distance to the prompt",
    "cosine": "cosine to the prompt's effect",
    "kl": "KL from the prompted next token, nats",
}


@final
@dataclass(frozen=True, eq=False)
class FaithfulnessReport(Report):
    """How close several steerings come to the prompt, beside reference lines.

    The report keeps sums per example, so any measure of a run and any difference between two gets
    its bootstrap interval without running the model again.

    Attributes:
        runs: Sums by name: the steerings first, then the reference lines, then single paraphrases
            where there are several.
        prompt_of: The number of the prompt that every example answers, from 0 on in order of first
            appearance. Intervals resample prompts, each with all of its examples.
        alpha: The strength at which the steerings acted.
        measured_on: Which tokens: `response` or `question+response`.
        n_bootstrap: Resamples behind every interval.
        seed: Their seed.
        tokens: The first examples token by token: one row per `steering`, `example`, `layer` and
            `pos`, with the `token`, `delta` `|D|`, `effect` `|S - A|`, `error` `|S - A'|` (in units of
            the residual stream), `cosine` between `S - A` and `D`, and in rows of the last layer `kl`
            of the next token in nats.
        provenance: Model, data and seed.
        worst: The tokens where each steering is farthest from the prompt, layer by layer; read by
            `worst_tokens`.
        worst_kept: How many of them per steering and layer.
    """

    title: ClassVar[str] = "Does the steering do what the prompt does?"

    runs: Mapping[str, Run]
    prompt_of: tuple[int, ...]
    alpha: float
    measured_on: AlignedTokens
    n_bootstrap: int
    seed: int
    tokens: "pandas.DataFrame"
    provenance: Mapping[str, Any] = field(default_factory=dict)
    worst: "pandas.DataFrame" = field(default_factory=partial(no_tokens, WORST_COLUMNS))
    worst_kept: int = 0

    # --- numbers --------------------------------------------------------------------------------

    @property
    def examples(self) -> int:
        """Number of examples."""
        return len(self.runs[NO_STEERING].sums["energy"])

    @property
    def n_prompts(self) -> int:
        """Number of prompts, of which several examples may be responses to one."""
        return len(set(self.prompt_of))

    @property
    def n_layers(self) -> int:
        """Number of layers of the model."""
        return self.runs[NO_STEERING].sums["energy"].shape[1]

    @property
    def has_intervals(self) -> bool:
        """Whether there are resamples, and enough prompts for them to mean something."""
        return self.n_bootstrap > 0 and self.n_prompts >= LEAST_PROMPTS

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

        `no steering` (1 by definition), `paraphrase` (the instruction in other words; for
        several wordings, their root mean square), `random direction`, `oracle` (0 up to
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
        """A measure of every run that has it, or of the runs of one kind."""
        found = find_measure(measure)
        return {
            name: curve_of(run, found, self._counts)
            for name, run in self.runs.items()
            if kind in (None, run.kind) and run.has(found)
        }

    def curve(self, name: str, measure: str = "relative_rmse") -> Curve:
        """A measure of one run.

        Raises:
            ValueError: If there is no such run or measure, or it was not measured.
        """
        self._check(name, measure)
        return curve_of(self.runs[name], MEASURES[measure], self._counts)

    def difference(self, first: str, second: str, measure: str = "relative_rmse") -> Difference:
        """`first - second`, paired: both from the same resamples of prompts.

        Much of what varies from prompt to prompt is common to two steerings, so this interval
        is narrower than their separate ones suggest.

        Args:
            first: A steering or a reference line.
            second: Another.
            measure: What to compare.

        Raises:
            ValueError: If there is no such run or measure, or it was not measured.
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
                f"{table['example'].max()} of {'; '.join(self.steerings)}; raise token_examples="
            )
        layers = (self.n_layers - 1,) if quantity == "kl" else tuple(range(self.n_layers))
        rows = rows.loc[rows["layer"].isin(layers)]
        values = torch.tensor(rows[quantity].to_numpy().reshape(len(layers), -1))
        tokens = tuple(rows["token"].iloc[: values.shape[1]])
        return TokenValues(
            tokens, values, layers, _QUANTITIES[quantity], str(name), ending=self.ending(example)
        )

    def worst_tokens(
        self, name: str | None = None, layer: int | None = None, n: int = 20
    ) -> "pandas.DataFrame":
        """The tokens where a steering fails most.

        One row per token, the worst first. Columns: `example` (its place in the data), `layer`, `pos`
        (place among the aligned tokens), `token`, `context` (the token in brackets, between those around it),
        `delta` `|D|` and `error` `|S - A'|` in units of the residual stream, and `relative_error`, by
        which they are ordered: `|S - A'| / rms(D)`, the error in units of the root mean square of `|D|`
        over all tokens at that layer, which makes layers comparable. The root mean square of the
        relative error over all tokens is the relative RMSE.

        Args:
            name: A steering; the first one by default.
            layer: A layer; all of them together by default.
            n: How many.

        Raises:
            ValueError: If there is no such steering or layer, or the report keeps fewer.
        """
        name = self.steerings[0] if name is None and self.steerings else name
        if name not in self.steerings:
            raise ValueError(f"name={name!r}: choose one of {'; '.join(self.steerings) or 'none'}")
        if check_count("n", n) > self.worst_kept:
            raise ValueError(
                f"n={n}, but the report keeps {self.worst_kept} tokens per steering and layer: measure "
                f"with worst_tokens={n}"
            )
        layers = resolve_layers("all" if layer is None else layer, self.n_layers)
        rows = self.worst.loc[(self.worst["steering"] == name) & self.worst["layer"].isin(layers)]
        # A stable sort: ties stay in the order in which they were kept.
        ordered = rows.sort_values("relative_error", ascending=False, kind="stable")
        return ordered.drop(columns="steering").head(n).reset_index(drop=True)

    def ending(self, example: int) -> str:
        """How a cut-off response whose tokens are kept ends; else empty."""
        return ending_in(self.provenance, example)

    def prompts(self, example: int) -> SeenPrompts | None:
        """The prompts of an example whose tokens are kept, as the model saw them; None if unknown."""
        return prompts_in(self.provenance, example)

    @cached_property
    def _counts(self) -> Float[Tensor, "n_bootstrap example"]:
        return resamples(self.prompt_of, self.n_bootstrap, self.seed)

    def _check(self, name: str, measure: str) -> None:
        found = find_measure(measure)
        if name not in self.runs:
            raise ValueError(f"no run {name!r} in this report: choose one of {list(self.runs)}")
        if not self.runs[name].has(found):
            raise ValueError(
                f"{measure} of {name!r} was not measured: gap_... exist for steerings that act after the "
                "blocks, with gap=True; relative_kl, kl and agreement with outputs=True"
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

        Columns: `steering` (name of the run), `reference` (True if it is no steering), `measure`,
        `layer` (missing for measures of the output), `value`, `low`, `high`, and `examples`, the number
        of examples that the value rests on (fewer where some have no rank correlation).
        """
        return measures_table(self.runs, self._counts)

    def packed(self) -> Packed:
        """What `save` writes."""
        tensors, runs = pack_runs(self.runs)
        token_tensors, tokens = pack_frame("tokens", self.tokens)
        worst_tensors, worst = pack_frame("worst", self.worst)
        return {**tensors, **token_tensors, **worst_tensors}, {
            "prompt_of": list(self.prompt_of),
            "alpha": self.alpha,
            "measured_on": self.measured_on,
            "n_bootstrap": self.n_bootstrap,
            "seed": self.seed,
            "runs": runs,
            "tokens": tokens,
            "provenance": dict(self.provenance),
            "worst": worst,
            "worst_kept": self.worst_kept,
        }

    @classmethod
    def unpacked(
        cls, tensors: dict[str, Shaped[Tensor, "..."]], header: Mapping[str, Any]
    ) -> "FaithfulnessReport":
        """The inverse of `packed`."""
        only(header, *(own.name for own in fields(cls)))
        tokens, worst = (
            unpack_frame(name, tensors, mapping(header, name), columns)
            for name, columns in (("tokens", TOKEN_COLUMNS), ("worst", WORST_COLUMNS))
        )
        return cls(
            unpack_runs(tensors, listed(header, "runs", mapping)),
            tuple(listed(header, "prompt_of", whole)),
            number(header, "alpha"),
            choice(header, "measured_on", get_args(AlignedTokens)),
            whole(header, "n_bootstrap"),
            whole(header, "seed"),
            tokens,
            mapping(header, "provenance"),
            worst,
            whole(header, "worst_kept"),
        )

    def check(self) -> None:
        """Refuse prompts, and tokens of examples or layers, that do not exist."""
        checked_provenance(vars(self))
        check_prompt_numbers(self.prompt_of, self.examples)
        for name, most in (("example", self.examples), ("layer", self.n_layers)):
            if not {*self.tokens[name], *self.worst[name]} <= set(range(most)):
                raise ValueError(f"its tokens are of a {name} that does not exist")
        refuse_more_than_memory("n_bootstrap", 8 * self.n_bootstrap * self.examples)

    # --- for readers ----------------------------------------------------------------------------

    def figures(self) -> Figures:
        """What there is to draw.

        Every measure by its name (`relative_rmse`, `cosine`, `kl`, ...): over the layers, or one point
        per run if it is read off the output. `gap`: where the distance of a steering, `name="..."`,
        comes from, layer by layer. `tokens`: layers by tokens, with the arguments of `token_values`.
        """
        from psr_lens import plots

        return {
            **{name: partial(plots.faithfulness_figure, self, name) for name in MEASURES},
            "gap": self._gap_bars,
            "tokens": lambda *args, **options: plots.layer_token_heatmap(
                self.token_values(*args, **options)
            ),
        }

    def drawable(self) -> Sequence[str]:
        """The figures for which there are numbers."""
        runs = self.runs.values()
        measured = {name for name, own in MEASURES.items() if any(run.has(own) for run in runs)}
        there = {"gap": "gap_direction" in measured, "tokens": len(self.tokens) > 0}
        return [name for name in self.figures() if there.get(name, name in measured)]

    def _gap_bars(self, name: str | None = None) -> "plotly.graph_objects.Figure":
        from psr_lens.plots import gap_bars

        if not self.steerings:
            raise ValueError("the report has no steering: measure one to split its error")
        if name is None:
            split = (own for own in self.steerings if self.runs[own].has(MEASURES["gap_direction"]))
            name = next(split, self.steerings[0])
        parts = {m: self.curve(name, m) for m in MEASURES if m.startswith("gap_")}
        return gap_bars(parts, self.curve(name), name)

    def summary(self) -> str:
        """What the numbers say, in words."""
        from psr_lens.faithfulness.faithfulness_summary import describe

        return describe(self)

    def table_html(self) -> str:
        """The measures at the last layer, one row per run."""
        from psr_lens.plots import faithfulness_table

        return faithfulness_table(self)

    def page(self) -> str:
        """The report as one HTML page: words, table, figures, tokens."""
        from psr_lens.pages.faithfulness_page import faithfulness_page

        return faithfulness_page(self)

    def __repr__(self) -> str:
        return (
            f"FaithfulnessReport({'; '.join(self.steerings) or 'no steering'}; {self.examples} "
            f"examples, {self.n_layers} layers, {self.measured_on} tokens)"
        )
