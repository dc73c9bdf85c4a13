"""Speed: everything as ratios within one run.

    python -m benchmarks.speed                    # all; writes results.json and docs/speed.md
    python -m benchmarks.speed --only gradient peers  # these again; the others keep their figures
    python -m benchmarks.speed --quick            # does it run? prints, writes nothing

Run it on a machine that does nothing else.
"""

import argparse
import os
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

import torch

from benchmarks import extraction, fitting, generation, growth, lab, loading, peers, real
from benchmarks.figures import Figure, Results, Skipped, render, write
from benchmarks.sizes import QUICK, Bench, Sizes

ROOT = Path(__file__).parents[1]
BENCHMARKS: dict[str, Callable[[Bench], Iterator[Figure | Skipped]]] = {
    "extraction": extraction.run,
    "gradient": fitting.run_gradient,
    "layerwise": fitting.run_layerwise,
    "generation": generation.run,
    "peers": peers.run,
    "growth": growth.run,
    "lab": lab.run,
    "loading": loading.run,
    "real-decoding": real.run_decoding,
    "real-deltas": real.run_deltas,
    "real-sharing": real.run_sharing,
    "real-layerwise": real.run_layerwise,
}


def measure(names: Sequence[str], sizes: Sizes) -> Results:
    """Run the named benchmarks, telling every figure as it comes."""
    figures: list[Figure] = []
    skipped: list[Skipped] = []
    bench = Bench(sizes)
    try:
        for name in names:
            for one in BENCHMARKS[name](bench):
                if isinstance(one, Skipped):
                    skipped.append(one)
                    print(f"{name}: not measured, {one.why}", flush=True)
                else:
                    figures.append(one)
                    print(line(one), flush=True)
    finally:
        bench.close()
    settings = {
        "threads": torch.get_num_threads(),
        "rounds": sizes.repeats,
        "rounds of fits": sizes.fit_repeats,
        **{name: version(name) for name in ("torch", "transformer-lens", "transformers")},
    }
    return Results(settings, tuple(figures), tuple(skipped))


def line(figure: Figure) -> str:
    """One figure as one line, with its bound and whether it is kept."""
    sign = "<=" if figure.better == "lower" else ">="
    verdict = {None: "", True: f" ({sign} {figure.bound})", False: f" MISSED {sign} {figure.bound}"}
    return (
        f"{figure.benchmark}, {figure.model}, {figure.backend}, {figure.case}: "
        f"{figure.what} = {figure.value:.4g}{verdict[figure.met]}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=list(BENCHMARKS))
    parser.add_argument("--quick", action="store_true", help="tiny sizes, and nothing is written")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results.json")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "speed.md")
    parser.add_argument("--rounds", type=int, help="of every comparison, in place of 5 (fits: 3)")
    options = parser.parse_args(arguments)
    if options.quick:
        print(render(measure(options.only, QUICK)))
        return
    rounds = options.rounds
    sizes = Sizes() if rounds is None else Sizes(repeats=rounds, fit_repeats=rounds)
    results = measure(options.only, sizes)
    if options.json.exists():
        results = results.replacing(Results.from_json(options.json.read_text(encoding="utf-8")))
    write(results, options.json, options.page)
    missed = sum(figure.met is False for figure in results.figures)
    print(f"{options.json}: {len(results.figures)} figures, {missed} miss their bound")


if __name__ == "__main__":
    main()
