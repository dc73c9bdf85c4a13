"""The README's part on a real model, from a run of the demo command on it.

    make real                                                  # writes real-report/
    python -m benchmarks.real_model real-report/results.json   # keeps the numbers, draws the part
    python -m benchmarks.real_model                            # the part from the numbers

The numbers are kept in `benchmarks/real_model.json`; the part stands between markers of the README. The
picture is taken of the page beside the results, for which a Chromium has to be on this machine.
"""

import argparse
import base64
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from psr_lens.demo.trial import METHODS
from psr_lens.storage.atomic import write_bytes

ROOT = Path(__file__).parents[1]
NUMBERS = ROOT / "benchmarks" / "real_model.json"
PAGE = ROOT / "README.md"
PICTURE = ROOT / "docs" / "_static" / "real-report.png"
TRAIT = "french"
_MARKED = re.compile(r"(<!-- real model -->\n).*?(<!-- end -->)", re.DOTALL)


def fill(page: str, numbers: dict[str, Any]) -> str:
    """The page with the marked part drawn anew: one question's answers, then the numbers."""
    trait = numbers["traits"][TRAIT]
    shown = trait["answers"][0]
    sources = {
        "as it is": (shown["no steering"], trait["base"], "1"),
        f"with the prompt *{trait['instruction']}*": (shown["prompt"], trait["prompt"], "0"),
        **{
            f"{name}, at {trait['methods'][name]['best_strength']:g}": (
                shown[name],
                at_best(trait["methods"][name]),
                f"{trait['methods'][name]['relative_rmse'][-1]:.2f}",
            )
            for name in METHODS
        },
    }
    lines = [
        f"| {cell(shown['question'])} | its answer | French | fluent | distance |",
        "| --- | --- | ---: | ---: | ---: |",
        *(
            f"| {source} | {cell(answer)} | {scores['trait']:.0f} | {scores['coherence']:.0f} "
            f"| {distance} |"
            for source, (answer, scores, distance) in sources.items()
        ),
    ]
    part = "".join(f"{line}\n" for line in lines)
    return _MARKED.sub(lambda match: match.group(1) + part + match.group(2), page)


def at_best(method: dict[str, Any]) -> dict[str, float]:
    """Trait and coherence on test questions at the method's own best strength."""
    return next(row for row in method["behaviour"] if row["alpha"] == method["best_strength"])


def cell(text: str) -> str:
    """Text in a cell of a Markdown table, on one line."""
    flat = " ".join(text.split())
    return re.sub(r"([\\`*_{}\[\]<>#|~$])", r"\\\1", flat)


def photograph(report: Path) -> bytes:
    """The first heatmap of a page, with its panels, as PNG."""
    from tests.browser import browser

    figure = "document.querySelector('figure.psr-tokens').getBoundingClientRect()"
    with browser() as running, running.page(report, width=1100) as page:
        page.wait_for("document.querySelector('.psr-panel .colored-tokens')")
        box = {side: page.evaluate(f"{figure}.{side}") for side in ("x", "y", "width", "height")}
        clip = {**box, "scale": 1}
        shot = page.call(
            "Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True
        )
    return base64.b64decode(shot["data"])


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.real_model", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("results", nargs="?", type=Path, help="results.json of the demo command")
    options = parser.parse_args(arguments)
    if options.results is not None:
        picture = photograph(options.results.parent / "report.html")
        write_bytes(NUMBERS, options.results.read_bytes())
        write_bytes(PICTURE, picture)
    page = fill(PAGE.read_text(encoding="utf-8"), json.loads(NUMBERS.read_text(encoding="utf-8")))
    write_bytes(PAGE, page.encode())


if __name__ == "__main__":
    main()
