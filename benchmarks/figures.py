"""What was measured: figures beside their bounds, as JSON and as a table."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"

_TITLES = {
    "extraction": "Delta extraction",
    "gradient": "Fitting through the model against a plain loop",
    "layerwise": "Fitting layer by layer against fitting through the model",
    "generation": "Steered generation",
    "peers": "Difference in means against other packages",
    "growth": "Growth: exponents",
    "lab": "The faithfulness lab",
    "loading": "Loading",
    "real-decoding": "A real model: decoding beside Hugging Face's",
    "real-deltas": "A real model: deltas beside Hugging Face's forwards",
    "real-sharing": "A real model: an instruction that all examples share",
    "real-layerwise": "A real model: the layerwise fit",
}


@dataclass(frozen=True)
class Figure:
    """One figure, and what it is meant to be.

    Attributes:
        benchmark: Which part of the run it is from.
        model: The model's short name.
        backend: `hooked` or `bridge`; a peer's name where neither ran.
        case: Lengths and batch size.
        what: What is divided by what, or what is measured.
        value: The figure.
        bound: What it should reach; None where it is there to be seen.
        better: Whether lower or higher is better.
        seconds: Median seconds of everything that went into it.
        note: What a reader must know beside it.
    """

    benchmark: str
    model: str
    backend: str
    case: str
    what: str
    value: float
    bound: float | None = None
    better: Literal["lower", "higher"] = "lower"
    seconds: Mapping[str, float] = field(default_factory=dict)
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the bound is kept; None where there is none."""
        if self.bound is None:
            return None
        return self.value <= self.bound if self.better == "lower" else self.value >= self.bound


@dataclass(frozen=True)
class Skipped:
    """A benchmark that could not run, and why."""

    benchmark: str
    why: str


@dataclass(frozen=True)
class Results:
    """All of one run.

    Attributes:
        settings: Versions, threads, repeats.
        figures: What was measured.
        skipped: What was not.
    """

    settings: Mapping[str, Any]
    figures: tuple[Figure, ...]
    skipped: tuple[Skipped, ...] = ()

    def replacing(self, older: "Results") -> "Results":
        """These, and from an older run the benchmarks that this run left out."""
        fresh = {one.benchmark for one in (*self.figures, *self.skipped)}
        kept = tuple(one for one in older.figures if one.benchmark not in fresh)
        missing = tuple(one for one in older.skipped if one.benchmark not in fresh)
        return Results(self.settings, (*kept, *self.figures), (*missing, *self.skipped))

    def to_json(self) -> str:
        """One object: `settings`, `figures` with `met` beside every bound, and `skipped`."""
        figures = [{**asdict(figure), "met": figure.met} for figure in self.figures]
        skipped = [asdict(one) for one in self.skipped]
        whole = {"settings": dict(self.settings), "figures": figures, "skipped": skipped}
        return json.dumps(_rounded(whole), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Results":
        """The inverse of `to_json`."""
        read = json.loads(text)
        for figure in read["figures"]:
            del figure["met"]
        return cls(
            read["settings"],
            tuple(Figure(**figure) for figure in read["figures"]),
            tuple(Skipped(**one) for one in read["skipped"]),
        )


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    return [_rounded(part) for part in value] if isinstance(value, list) else value


def render(results: Results) -> str:
    """The figures as Markdown, one table per benchmark, a missed bound in bold."""
    parts: list[str] = []
    benchmarks = dict.fromkeys(one.benchmark for one in (*results.figures, *results.skipped))
    for name in sorted(benchmarks, key=[*_TITLES, *benchmarks].index):
        parts.append(f"## {_TITLES.get(name, name)}")
        figures = [figure for figure in results.figures if figure.benchmark == name]
        if figures:
            parts.append(_table(figures))
        parts += [f"Not measured: {one.why}." for one in results.skipped if one.benchmark == name]
    settings = ", ".join(f"{key} {value}" for key, value in results.settings.items())
    return "\n\n".join([*parts, f"Measured with {settings}."])


def _table(figures: Iterable[Figure]) -> str:
    rows = [("model", "backend", "case", "figure", "value", "bound", "kept")]
    for figure in figures:
        verdict = {None: "", True: "yes", False: "**no**"}[figure.met]
        sign = "≤" if figure.better == "lower" else "≥"
        bound = "" if figure.bound is None else f"{sign} {figure.bound:g}"
        what = f"{figure.what} ({figure.note})" if figure.note else figure.what
        rows.append(
            (figure.model, figure.backend, figure.case, what, _shown(figure), bound, verdict)
        )
    rule = ("---", "---", "---", "---", "---:", "---:", "---")
    return "\n".join(_line(row) for row in (rows[0], rule, *rows[1:]))


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _shown(figure: Figure) -> str:
    """Three digits, or as many more as it takes not to round onto the other side of the bound."""
    if 0 < abs(figure.value) < 0.005:
        return f"{figure.value:.2e}"
    texts = (f"{figure.value:.{digits}g}" for digits in range(3, 17))
    return next(text for text in texts if replace(figure, value=float(text)).met == figure.met)


def fill(page: str, table: str) -> str:
    """The page with what lies between its two marks replaced.

    Raises:
        ValueError: If the page lacks a mark.
    """
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise ValueError(f"the page needs one {BEGIN!r} and one {END!r} around its table")
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n\n{table}\n\n{END}{after}"


def write(results: Results, json_path: Path, page_path: Path | None) -> None:
    """Write the JSON, and the table into its page."""
    json_path.write_text(results.to_json(), encoding="utf-8")
    if page_path is not None:
        page = page_path.read_text(encoding="utf-8")
        page_path.write_text(fill(page, render(results)), encoding="utf-8")
