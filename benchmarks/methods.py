"""How close every method comes to the prompt, for every instruction of the demo world.

    python -m benchmarks.methods          # both checkpoints, all instructions; half an hour
    python -m benchmarks.methods --models demo --traits pirate

Fits on the training animals, measures the relative RMSE on the held-out ones, writes
`benchmarks/methods.json` after every instruction, and the tables of `docs/methods.md`.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import detection
from psr_lens.artifacts import write_bytes
from psr_lens.demo.experiment import fit_data, held_out_data
from psr_lens.demo.instructions import DEFAULT_TRAITS, INSTRUCTION_NAMES
from psr_lens.faithfulness import EQUIVALENT_PROMPT, measure_faithfulness
from psr_lens.fitting import fit
from psr_lens.models import HookedModel, load_model

ROOT = Path(__file__).parents[1]
NUMBERS = ROOT / "benchmarks" / "methods.json"
PAGE = ROOT / "docs" / "methods.md"
MODELS = ("demo", "demo-gpt2")
FITS = {
    "s-dim": {"method": "dim", "layers": "best"},
    "s-const": {"method": "const", "layers": "best", "solver": "replay"},
    "s-psr": {"method": "psr", "layers": "best", "solver": "replay"},
    "a-const": {"method": "const", "solver": "replay"},
    "a-psr replay": {"method": "psr", "solver": "replay"},
    "a-psr live": {"method": "psr", "solver": "live"},
    "a-psr k=1": {"method": "psr"},
    "a-psr k=4": {"method": "psr", "n_heads": 4},
    "a-psr k=16": {"method": "psr", "n_heads": 16},
}
WHY = """One instruction on `demo` stays away from its paraphrase: `the_end`, which asks for a closing
sentence. It is the coefficients that are wrong there and not the directions: with perfect
coefficients along the sixteen leading directions of each layer's local deltas,
`fit(model, data, method="oracle", rank=16)`, the same examples are left at 0.09. When to stop and say
it cannot be read well enough off the residual stream by a ReLU of a linear probe, at this many
examples.
"""
DETECTION_WHY = """Three instructions are not detected, and there the supervised direction stays below 0.95 as
well. `optimist` and `pessimist` exchange the plain adjectives for bright or dark ones, and what follows
an adjective in the demo world is the same after all of them: the model has learnt to read them
nearly alike. `two_sentences` leaves sentences out; no token says so.
"""
NEAR = 0.05
"""How near the paraphrase a method has to come to count as near."""


def measure(model: HookedModel, name: str, seed: int = 0) -> dict:
    """Everything about one instruction."""
    train = fit_data(model, name, seed)
    test = held_out_data(model, name, seed + 1)
    steerings, rows = {}, {}
    for label, options in FITS.items():
        steering = fit(model, train, seed=seed, **options)
        steerings[label] = steering
        rows[label] = {
            "layers": list(steering.layers),
            "seconds": round(steering.fit_report.seconds, 2),
            "forwards": round(steering.fit_report.forwards),
            "dev": steering.fit_report.dev_relative_rmse[-1],
        }
    report = measure_faithfulness(
        model,
        steerings,
        test,
        outputs=False,
        gap=False,
        random_direction=False,
        oracle_ranks=(),
        token_examples=0,
        seed=seed,
        batch_size=64,
    )
    for label in FITS:
        curve = report.relative_rmse[label]
        rows[label] |= {
            "relative_rmse": list(curve.values),
            "low": list(curve.low),
            "high": list(curve.high),
        }
    paraphrase = report.reference[EQUIVALENT_PROMPT]
    return {"methods": rows, "equivalent_prompt": list(paraphrase.values), "examples": len(test)}


def cell(values: list[float]) -> str:
    return f"{values[-1]:.3f}"


def rows_of(found: dict) -> Iterator[str]:
    """The table of one model."""
    labels = [*FITS, EQUIVALENT_PROMPT]
    yield "| instruction | " + " | ".join(labels) + " |"
    yield "| --- |" + " --- |" * len(labels)
    sums: dict[str, list[float]] = {label: [] for label in labels}
    for name, trait in found.items():
        curves = {label: trait["methods"][label]["relative_rmse"] for label in FITS}
        curves[EQUIVALENT_PROMPT] = trait["equivalent_prompt"]
        if name in DEFAULT_TRAITS:
            for label in labels:
                sums[label].append(curves[label][-1])
        yield f"| {name} | " + " | ".join(cell(curves[label]) for label in labels) + " |"
    if sums["s-dim"]:
        means = [sum(values) / len(values) for values in sums.values()]
        yield "| *mean of the default five* | " + " | ".join(f"{m:.3f}" for m in means) + " |"


def nearness(found: dict) -> Iterator[str]:
    """For which instructions k = 16 comes near the paraphrase in the upper half of the layers."""
    yield "| instruction | layers | a-psr k=16 | equivalent prompt | largest gap | within 0.05 |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for name, trait in found.items():
        reached = trait["methods"]["a-psr k=16"]["relative_rmse"]
        line = trait["equivalent_prompt"]
        upper = range(len(reached) // 2, len(reached))
        gap = max(reached[i] - line[i] for i in upper)
        shown = [" ".join(f"{own[i]:.2f}" for i in upper) for own in (reached, line)]
        verdict = "yes" if gap <= NEAR else "no"
        span = f"{upper[0]} to {upper[-1]}"
        yield f"| {name} | {span} | {shown[0]} | {shown[1]} | {gap:+.3f} | {verdict} |"


def page(numbers: dict) -> str:
    """The documentation's chapter."""
    parts = [
        "# How close every method comes",
        "",
        "Relative RMSE at the last layer on the held-out animals of the demo world: 1 is no steering,",
        "0 the prompt itself. `s-` acts at the layer that was best on the dev split, `a-` at every",
        "layer; `k` is the number of heads per layer, fitted by `auto`: replay, live from there, live",
        "from its own start, whichever the dev split likes best.",
        "The equivalent prompt is the instruction in words that no fit has seen. The figures are",
        "written by `python -m benchmarks.methods`; intervals, every layer and the time of each fit",
        "are in `benchmarks/methods.json`.",
        "",
    ]
    for name, found in numbers["models"].items():
        parts += [f"## {name}", "", *rows_of(found), ""]
        parts += ["Sixteen heads against the paraphrase, in the upper half of the layers:", ""]
        parts += [*nearness(found), ""]
        if name == "demo":
            parts += [WHY]
    parts += detection_rows()
    return "\n".join(parts)


def detection_rows() -> list[str]:
    """How well ReFT-r1's latent tells prompted responses from plain ones."""
    if not detection.NUMBERS.is_file():
        return []
    found = json.loads(detection.NUMBERS.read_text())
    rows = []
    for name, own in found.items():
        ours, ceiling = own["reft_r1"], own["supervised"]
        rows.append(
            f"| {name} | {ours['layer']:.0f} | {ours['auroc']:.3f} | {ours['loss before']:.3f} | "
            f"{ours['loss after']:.3f} | {ceiling['layer']:.0f} | {ceiling['auroc']:.3f} |"
        )
    return [
        "## ReFT-r1 as a detector",
        "",
        "Fitted on `demo` with plain responses as negatives: the AUROC of its latent between responses",
        "to the instruction and plain ones, about held-out animals, both read behind the plain prompt,",
        "at the layer that was best on the dev animals; and its likelihood objective there on the dev",
        "split. Beside it a direction of the same form that is trained with the labels, and to do",
        "nothing but detect, at its own best layer: what a latent could reach. Written by",
        "`python -m benchmarks.detection`.",
        "",
        "| instruction | layer | AUROC | objective before | after | layer | AUROC, supervised |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *rows,
        "",
        DETECTION_WHY,
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    everything = [*DEFAULT_TRAITS, *(n for n in INSTRUCTION_NAMES if n not in DEFAULT_TRAITS)]
    parser.add_argument("--traits", nargs="+", default=everything, choices=everything)
    parser.add_argument("--page-only", action="store_true", help="draw the page from the numbers")
    options = parser.parse_args()
    numbers = json.loads(NUMBERS.read_text()) if NUMBERS.is_file() else {"models": {}}
    for name in [] if options.page_only else options.models:
        model = load_model(name)
        found = numbers["models"].setdefault(name, {})
        for trait in options.traits:
            start = time.perf_counter()
            found[trait] = measure(model, trait)
            write_bytes(NUMBERS, (json.dumps(numbers, indent=1) + "\n").encode())
            print(f"{name} {trait}: {time.perf_counter() - start:.0f} s", flush=True)
    write_bytes(PAGE, page(numbers).encode())


if __name__ == "__main__":
    main()
