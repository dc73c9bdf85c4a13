"""`AssumptionReport`: what `measure_assumptions` found."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, final, get_args

from jaxtyping import Shaped
from torch import Tensor

from psr_lens._types import AlignedTokens
from psr_lens.assumptions.token_classes import TOKEN_CLASSES
from psr_lens.deltas import Kind
from psr_lens.report import Figures, Packed, Report
from psr_lens.statistics import Curve, Estimate
from psr_lens.steering.provenance import checked_provenance
from psr_lens.storage.fields import choice, mapping
from psr_lens.storage.frames import pack_frame, unpack_frame

if TYPE_CHECKING:
    import pandas

Assumption = Literal["one direction", "same strength", "decodable"]
"""The assumptions, as the paper numbers them: 3.1, 3.2 and 3.2a."""
Verdict = Literal["holds", "breaks", "open"]

ALL_TOKENS: Final = "all"
"""The token class that stands for every aligned token."""
_COLUMNS: Final = {
    "name": str,
    "kind": str,
    "layer": int,
    "token_class": str,
    "at": int,
    "value": float,
    "low": float,
    "high": float,
}


@dataclass(frozen=True)
class Thresholds:
    """When an assumption counts as true at a layer; our own, as none are published.

    Attributes:
        one_direction: 3.1 holds where the leading singular direction has at least this share of the
            energy.
        strength_variation: 3.2 holds where the coefficient of variation of the strength is at most
            this.
        decodable: 3.2a holds where the ReLU probe's held-out $R^2$ is at least this.
    """

    one_direction: float = 0.8
    strength_variation: float = 0.5
    decodable: float = 0.8


@dataclass(frozen=True)
class Measurement:
    """One number of the report.

    Attributes:
        name: What was measured, see `AssumptionReport`.
        kind: `local` or `accumulated`.
        layer: The layer.
        token_class: One of `TOKEN_CLASSES`, or `all`.
        at: The number of directions, the rank, or the percentile; 0 where none applies.
        estimate: The number, with its interval where it has one.
    """

    name: str
    kind: Kind
    layer: int
    token_class: str
    at: int
    estimate: Estimate


@final
@dataclass(frozen=True)
class AssumptionReport(Report):
    r"""What a prompt does at every layer, against what simple steerings assume of it.

    With $D$ the delta at a token, $z$ its leading singular direction (of unit length, the mean projection
    positive) and $c = D \cdot z$ the strength, `measures` holds, under these names:

    - `energy_share`, at 1, 2, 4 and 8: share of $\sum |D|^2$ along that many singular directions, both kinds;
    - `singular_energy`, at rank 1, 2, ...: the share along each of the first 64, both kinds;
    - `strength_variation`: standard deviation of $c$ over tokens, in units of its mean;
    - `mean_energy_share`: $n |\bar D|^2 / \sum |D|^2$, what one constant vector can express;
    - `norm_quantile` and `strength_quantile`, at percentiles: of $|D|$ and of $c$ over tokens, for
      every token class and for all tokens;
    - `tokens`, `mean_strength`, `class_energy_share`: number of tokens, mean of $c$ and share of
      $\sum |D|^2$, for every token class;
    - `relu_r2` and `linear_r2`: $R^2$ of the probes on held-out examples; 0 is the best constant.

    Attributes:
        measures: All numbers.
        layers: The layers examined, ascending.
        kind: Which delta's strength was examined; `energy_share` and `singular_energy` cover both.
        measured_on: Which tokens: `response` or `question+response`.
        examples: Number of examples.
        n_prompts: Number of prompts that they are responses to; intervals are over these.
        probe_examples: Examples that the probes were fitted on.
        held_out_examples: Examples that they were tested on; 0 where none could be held out.
        thresholds: What the verdicts are based on.
        provenance: Model, data and seed.
    """

    title: ClassVar[str] = "Is what the prompt does one direction, the same everywhere?"

    measures: tuple[Measurement, ...]
    layers: tuple[int, ...]
    kind: Kind
    measured_on: AlignedTokens
    examples: int
    n_prompts: int
    probe_examples: int
    held_out_examples: int
    thresholds: Thresholds = field(default_factory=Thresholds)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def _by_key(self) -> dict[tuple[str, str, str, int], list[Measurement]]:
        found: dict[tuple[str, str, str, int], list[Measurement]] = {}
        for own in self.measures:
            found.setdefault((own.name, own.kind, own.token_class, own.at), []).append(own)
        return found

    def curve(
        self, name: str, *, kind: Kind | None = None, token_class: str = ALL_TOKENS, at: int = 0
    ) -> Curve:
        """One measure over the layers.

        Args:
            name: What was measured, see above.
            kind: Of which delta; the report's own by default.
            token_class: Over which tokens.
            at: Number of directions, rank or percentile.

        Raises:
            ValueError: If the report holds no such numbers.
        """
        key = (name, kind or self.kind, token_class, at)
        if key not in self._by_key:
            near = sorted({(k, c, a) for n, k, c, a in self._by_key if n == name})
            names = sorted({n for n, _, _, _ in self._by_key})
            way_out = f"it has (kind, token class, at) {near}" if near else f"it measures {names}"
            raise ValueError(f"the report has no {key}; {way_out}")
        rows = self._by_key[key]
        return Curve(tuple(own.estimate for own in rows), self.layers)

    def places(self, name: str, *, kind: Kind | None = None) -> list[int]:
        """The numbers of directions, ranks or percentiles at which a measure exists, ascending."""
        return sorted({a for n, k, _, a in self._by_key if n == name and k == (kind or self.kind)})

    @property
    def token_classes(self) -> tuple[str, ...]:
        """The classes that hold at least one token."""
        return tuple(one for one in TOKEN_CLASSES if ("tokens", self.kind, one, 0) in self._by_key)

    def verdicts(self, assumption: Assumption) -> tuple[Verdict, ...]:
        """Whether an assumption holds, layer by layer.

        `holds` or `breaks` where the whole 95 % interval lies on one side of the threshold, `open` where
        it does not, or nothing could be measured.

        Args:
            assumption: `one direction`, `same strength` or `decodable`.

        Raises:
            ValueError: If it is none of them.
        """
        if assumption == "one direction":
            curve, least = self.curve("energy_share", at=1), self.thresholds.one_direction
        elif assumption == "same strength":
            curve, most = self.curve("strength_variation"), self.thresholds.strength_variation
            return tuple(
                "holds" if high <= most else "breaks" if low > most else "open"
                for low, high in zip(curve.low, curve.high, strict=True)
            )
        elif assumption == "decodable":
            curve, least = self.curve("relu_r2"), self.thresholds.decodable
        else:
            raise ValueError(f"assumption={assumption!r}: choose one of {get_args(Assumption)}")
        return tuple(
            "holds" if low >= least else "breaks" if high < least else "open"
            for low, high in zip(curve.low, curve.high, strict=True)
        )

    def summary(self) -> str:
        """What the numbers say: a verdict on each assumption, then a sentence or two per layer."""
        from psr_lens.assumptions.assumption_summary import summarise

        return summarise(self)

    def to_dataframe(self) -> "pandas.DataFrame":
        """Tidy long form: one row per `Measurement`, its estimate as `value`, `low` and `high`."""
        import pandas as pd

        rows = [{**asdict(own), **asdict(own.estimate)} for own in self.measures]
        return pd.DataFrame(rows).drop(columns="estimate")

    def figures(self) -> Figures:
        """What there is to draw.

        `overview`: the three assumptions over the layers. `spectrum`: how the energy adds up over the
        singular directions. `strength`: the strength in every token class.
        """
        from psr_lens import plots

        return {
            "overview": partial(plots.assumption_curves, self),
            "spectrum": partial(plots.spectrum_shares, self),
            "strength": partial(plots.strength_classes, self),
        }

    def packed(self) -> Packed:
        """What `save` writes: the measures as columns, since there are many."""
        _, header = super(AssumptionReport, replace(self, measures=())).packed()
        tensors, header["measures"] = pack_frame("measures", self.to_dataframe())
        return tensors, header

    @classmethod
    def unpacked(
        cls, tensors: dict[str, Shaped[Tensor, "..."]], header: Mapping[str, Any]
    ) -> "AssumptionReport":
        """The inverse of `packed`."""
        table = unpack_frame("measures", tensors, mapping(header, "measures"), _COLUMNS)
        rows: Sequence[Any] = table.to_dict("records")
        measures = []
        for row in rows:
            choice(row, "kind", get_args(Kind))
            choice(row, "token_class", (ALL_TOKENS, *TOKEN_CLASSES))
            estimate = Estimate(*(row.pop(end) for end in ("value", "low", "high")))
            measures.append(Measurement(**row, estimate=estimate))
        found = super().unpacked(tensors, {**header, "measures": []})
        return replace(found, measures=tuple(measures))

    def check(self) -> None:
        """Refuse measures of layers that do not exist."""
        checked_provenance(vars(self))
        if self.examples < 1 or min(self.probe_examples, self.held_out_examples) < 0:
            raise ValueError(f"examples={self.examples}: it must be at least 1")
        if not 1 <= self.n_prompts <= self.examples:
            raise ValueError(f"n_prompts={self.n_prompts} of {self.examples} examples")
        for own in self.measures:
            if own.layer not in self.layers or own.at < 0:
                raise ValueError(f"layer={own.layer}, at={own.at} of {own.name!r}")

    def __repr__(self) -> str:
        from psr_lens.assumptions.assumption_summary import tally

        return (
            f"AssumptionReport({len(self.layers)} layers, {self.kind} deltas of {self.examples} "
            f"examples, {self.measured_on} tokens; layers where it holds: {tally(self)})"
        )
