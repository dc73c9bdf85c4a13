"""`LensReading`: what the logit lens read off some directions."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, final

from psr_lens.report import Figures, Report
from psr_lens.steering.provenance import checked_provenance

if TYPE_CHECKING:
    import pandas

_SHOWN_ROWS = 40
_SHOWN_TOKENS = 6
_SIDES = ("promoted", "demoted")
_COLUMNS = (
    *("direction", "layer", "index", "role", "side", "rank"),
    *("token_id", "token", "value", "standing"),
)


@dataclass(frozen=True)
class TokenLogit:
    """A token, and what is added to its logit.

    Attributes:
        token_id: Its row of the unembedding.
        token: Its text; `<id 17>` for a row that no token uses.
        value: What is added.
    """

    token_id: int
    token: str
    value: float


@dataclass(frozen=True)
class DirectionReading:
    """What one direction says.

    Attributes:
        name: What the direction is.
        layer: The layer it belongs to, -1 for none.
        index: Which head, rank or row it is there, -1 for none.
        role: `writes`, `reads`, `removes`, `delta`, or empty if unknown.
        norm: Its length, in units of the residual stream.
        mean: Mean of the values over the vocabulary, which changes no probability.
        spread: Standard deviation of the values over the vocabulary.
        promoted: The tokens with the largest values, from the largest down; empty if the direction is zero.
        demoted: Those with the smallest, from the smallest up.
    """

    name: str
    layer: int
    index: int
    role: str
    norm: float
    mean: float
    spread: float
    promoted: tuple[TokenLogit, ...]
    demoted: tuple[TokenLogit, ...]

    def standing(self, token: TokenLogit) -> float:
        """How many standard deviations a token lies from the vocabulary's mean.

        The largest of some ten thousand random numbers reaches about 4.
        """
        return (token.value - self.mean) / self.spread if self.spread > 0 else 0.0


@final
@dataclass(frozen=True)
class LensReading(Report):
    """The tokens that directions promote and demote.

    Attributes:
        readings: One per direction.
        exact: Whether the values are differences of logits at a residual stream (`read_delta`), and
            not a direction through the linearised norm.
        provenance: The model, and the steering's own provenance.
    """

    title: ClassVar[str] = "What do these directions say?"
    opens_with_figure: ClassVar[bool] = False

    readings: tuple[DirectionReading, ...]
    exact: bool
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def to_dataframe(self) -> "pandas.DataFrame":
        """Tidy long form: one row per direction and token, `rank` from 1 on each side.

        `standing` is how many standard deviations the value lies above the vocabulary's mean.
        """
        import pandas as pd

        rows = [
            (
                *(own.name, own.layer, own.index, own.role, side, rank),
                *(token.token_id, token.token, token.value, own.standing(token)),
            )
            for own in self.readings
            for side in _SIDES
            for rank, token in enumerate(getattr(own, side), start=1)
        ]
        return pd.DataFrame(rows, columns=list(_COLUMNS))

    def figures(self) -> Figures:
        """`tokens`: directions by rank, each cell a promoted token on the colour of its standing."""
        from psr_lens import plots

        return {"tokens": partial(plots.lens_table, self)}

    def check(self) -> None:
        """Refuse a direction with more tokens on one side than on the other."""
        checked_provenance(vars(self))
        for own in self.readings:
            if len(own.promoted) != len(own.demoted):
                raise ValueError(
                    f"{own.name!r} promotes {len(own.promoted)} tokens but demotes a different number"
                )

    def summary(self) -> str:
        """What the directions say, one line each."""
        what = (
            "Logits that the prompt's delta adds at a token (exact)"
            if self.exact
            else "Tokens that each direction speaks for through the unembedding (the final norm's "
            "scale left out, so compare values within a line)"
        )
        lines = [f"{what}; in brackets the standard deviations above the vocabulary's mean:"]
        for own in self.readings[:_SHOWN_ROWS]:
            if not own.promoted:
                lines.append(f"{own.name}: zero, it promotes nothing")
                continue
            up, down = (
                ", ".join(repr(token.token) for token in side[:_SHOWN_TOKENS])
                for side in (own.promoted, own.demoted)
            )
            lines.append(
                f"{own.name}: promotes {up} ({own.standing(own.promoted[0]):.1f}); demotes {down} "
                f"({own.standing(own.demoted[0]):.1f})"
            )
        left = len(self.readings) - _SHOWN_ROWS
        if left > 0:
            lines.append(f"and {left} more directions: see to_dataframe()")
        return "\n".join(lines)

    def __repr__(self) -> str:
        kind = "exact" if self.exact else "linear"
        return (
            f"LensReading({len(self.readings)} directions, {kind}; .summary() says what they say)"
        )

    def table_html(self) -> str:
        """A row per direction: what it promotes and what it demotes."""
        from psr_lens.plots.lens import lens_html

        return lens_html(self)
