"""`LensReading`: what the logit lens read off some directions."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from psr_lens.steering.provenance import checked_provenance
from psr_lens.storage import read_container, write_container
from psr_lens.storage.fields import flag, listed, mapping, only, reading, take, text, whole

if TYPE_CHECKING:
    import pandas
    import plotly.graph_objects

_SHOWN_ROWS = 40
_SHOWN_TOKENS = 6
_SIDES = ("promoted", "demoted")
_LENGTHS = ("norm", "mean", "spread")
_NAMES = ("name", "layer", "index", "role")


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
        role: `writes`, `reads`, `removes`, `delta`, or empty where nobody said.
        norm: Its length, in units of the residual stream.
        mean: Mean of the values over the vocabulary, which changes no probability.
        spread: Standard deviation of the values over the vocabulary.
        promoted: The tokens with the largest values, from the largest down; none where the
            direction is zero.
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

        About 4 is what the largest of some ten thousand random numbers reaches.
        """
        return (token.value - self.mean) / self.spread if self.spread > 0 else 0.0


@dataclass(frozen=True)
class LensReading:
    """The tokens that directions promote and demote.

    Attributes:
        readings: One per direction.
        exact: Whether the values are differences of logits at a residual stream (`read_delta`), and
            not a direction through the linearised norm.
        provenance: The model, and the steering's own provenance.
    """

    readings: tuple[DirectionReading, ...]
    exact: bool
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def to_dataframe(self) -> "pandas.DataFrame":
        """Tidy long form: one row per direction and token, `rank` from 1 on each side.

        `standing` is the distance of the value from the vocabulary's mean in its standard
        deviations.
        """
        import pandas as pd

        rows = [
            {
                "direction": own.name,
                "layer": own.layer,
                "index": own.index,
                "role": own.role,
                "side": side,
                "rank": rank,
                "token_id": token.token_id,
                "token": token.token,
                "value": token.value,
                "standing": own.standing(token),
            }
            for own in self.readings
            for side in ("promoted", "demoted")
            for rank, token in enumerate(getattr(own, side), start=1)
        ]
        columns = [
            "direction",
            "layer",
            "index",
            "role",
            "side",
            "rank",
            "token_id",
            "token",
            "value",
            "standing",
        ]
        return pd.DataFrame(rows, columns=columns)

    def save(self, path: str | Path) -> Path:
        """Write the reading to one file; an older reading there is replaced.

        Args:
            path: Where; `.safetensors` is added if missing.

        Returns:
            The path of the file.

        Raises:
            ValueError: If something that is not a reading is at the path.
            OSError: If it cannot be written.
        """
        shown = [token for own in self.readings for token in (*own.promoted, *own.demoted)]
        tensors = {
            "token_ids": torch.tensor([token.token_id for token in shown], dtype=torch.int64),
            "values": torch.tensor([token.value for token in shown], dtype=torch.float64),
        }
        for name in _LENGTHS:
            lengths = [getattr(own, name) for own in self.readings]
            tensors[name] = torch.tensor(lengths, dtype=torch.float64)
        about = [
            {name: getattr(own, name) for name in _NAMES}
            | {side: [token.token for token in getattr(own, side)] for side in _SIDES}
            for own in self.readings
        ]
        header = {"readings": about, "exact": self.exact, "provenance": dict(self.provenance)}
        return write_container(path, type(self).__name__, tensors, header)

    @classmethod
    def load(cls, path: str | Path) -> "LensReading":
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is of another kind or format, damaged, or says what no reading says.
        """
        tensors, header = read_container(path, cls.__name__)
        with reading(path, "report"):
            only(header, "readings", "exact", "provenance")
            about = listed(header, "readings", mapping)
            texts = [one for own in about for side in _SIDES for one in listed(own, side, text)]
            ids = take(tensors, "token_ids", torch.int64, 1).tolist()
            values = take(tensors, "values", torch.float64, 1).tolist()
            lengths = [take(tensors, name, torch.float64, 1).tolist() for name in _LENGTHS]
            only(tensors)
            if min(ids, default=0) < 0:
                raise ValueError(f"token_id={min(ids)}: it must be at least 0")
            tokens = iter([TokenLogit(*own) for own in zip(ids, texts, values, strict=True)])
            readings = []
            for own, *three in zip(about, *lengths, strict=True):
                only(own, *_NAMES, *_SIDES)
                place = (text(own, "name"), whole(own, "layer", -1), whole(own, "index", -1))
                both = (tuple(islice(tokens, len(own[side]))) for side in _SIDES)
                readings.append(DirectionReading(*place, text(own, "role"), *three, *both))
            return cls(tuple(readings), flag(header, "exact"), checked_provenance(header))

    def plot(self) -> "plotly.graph_objects.Figure":
        """Directions by rank, each cell a promoted token on the colour of its standing."""
        from psr_lens.plots import lens_table

        return lens_table(self)

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

    def _repr_html_(self) -> str:
        from psr_lens.plots.lens import lens_html

        return lens_html(self)
