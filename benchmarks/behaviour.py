"""The README's table of behaviour, from a run of the demo command on all five instructions.

    psr-lens demo --traits hedger optimist flatterer pirate shouter --out demo-report
    python -m benchmarks.behaviour demo-report/results.json   # keeps the numbers, draws the table
    python -m benchmarks.behaviour                            # the table from the numbers

The numbers are kept in `benchmarks/behaviour.json`; the table stands between the markers of the README.
"""

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from psr_lens.demo.trial import CONSTANTS, PSR
from psr_lens.storage.atomic import write_bytes

ROOT = Path(__file__).parents[1]
NUMBERS = ROOT / "benchmarks" / "behaviour.json"
PAGE = ROOT / "README.md"
SHOWN = (*CONSTANTS, PSR)
_MARKED = re.compile(r"(<!-- table behaviour -->\n).*?(<!-- end -->)", re.DOTALL)


def fill(page: str, numbers: dict[str, Any]) -> str:
    """The page with the marked table drawn anew."""
    titles = ["", *SHOWN]
    lines = [titles, ["---"] * len(titles)]
    lines += [
        [name, *(cell(trait["methods"][m]) for m in SHOWN)] for name, trait in traits(numbers)
    ]
    table = "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
    return _MARKED.sub(lambda match: match.group(1) + table + match.group(2), page)


def traits(numbers: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Instructions with their results, in the order of the run."""
    return list(numbers["traits"].items())


def cell(method: dict[str, Any]) -> str:
    """Distance; trait and coherence at the best strength, at 1, and one step above the best."""
    best = method["best_strength"]
    curve = {row["alpha"]: row for row in method["behaviour"]}
    others = {1.0, *[alpha for alpha in curve if alpha > best][:1]} - {best}
    shown = [f"**{_scores(curve[best])} at {best:g}**"]
    shown += [f"{_scores(curve[alpha])} at {alpha:g}" for alpha in sorted(others)]
    return f"{method['relative_rmse'][-1]:.2f}; {', '.join(shown)}"


def best_constant(trait: dict[str, Any]) -> float:
    """Relative RMSE at the last layer of the constant that is closest there."""
    return min(trait["methods"][name]["relative_rmse"][-1] for name in CONSTANTS)


def summary(numbers: dict[str, Any]) -> dict[str, float]:
    """The figures that prose quotes: least and most over the instructions, at the last layer."""
    constants = [best_constant(trait) for _, trait in traits(numbers)]
    psrs = [trait["methods"][PSR]["relative_rmse"][-1] for _, trait in traits(numbers)]
    return {
        "best constant, least": min(constants),
        "best constant, most": max(constants),
        "PSR, least": min(psrs),
        "PSR, most": max(psrs),
    }


def _scores(row: dict[str, float]) -> str:
    return f"{row['trait']:.0f}/{row['coherence']:.0f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.behaviour", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("results", nargs="?", type=Path, help="results.json of the demo command")
    options = parser.parse_args(arguments)
    if options.results is not None:
        write_bytes(NUMBERS, options.results.read_bytes())
    page = fill(PAGE.read_text(encoding="utf-8"), json.loads(NUMBERS.read_text(encoding="utf-8")))
    write_bytes(PAGE, page.encode())


if __name__ == "__main__":
    main()
