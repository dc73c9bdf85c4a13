"""The command."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import benchmarks.real_findings as package
from benchmarks.real_findings import page
from benchmarks.real_findings.measure import NAMES, measure_all

ROOT = Path(__file__).parents[2]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.real_findings", description=package.__doc__
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--jobs", type=int, default=2, help="names measured at a time (default: 2)")
    parser.add_argument("--only", nargs="+", default=NAMES, choices=NAMES, metavar="NAME")
    parser.add_argument("--folder", type=Path, default=ROOT / "real-findings")
    parser.add_argument("--page-only", action="store_true", help="measure nothing")
    options = parser.parse_args(arguments)
    if not options.page_only:
        measure_all(options.only, options.folder, options.jobs)
    page.write()


if __name__ == "__main__":
    main()
