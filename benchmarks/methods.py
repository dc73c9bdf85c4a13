"""How close every method comes to the prompt, for every instruction of the demo world.

    python -m benchmarks.methods                  # both checkpoints, all instructions; two hours
    python -m benchmarks.methods --models demo --traits pirate
    python -m benchmarks.methods --fits fits      # keeps the fits there, for benchmarks.findings

Fits on the training animals, measures the relative RMSE on the held-out ones, writes
`benchmarks/methods.json` after every instruction, and the tables of `docs/methods.md`.
"""

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks import detection
from benchmarks.fits import CONTROL, CORE, FAMILY, PSRS, best_psr, demo_fits, setting
from psr_lens.demo.animals import fit_data, held_out_data
from psr_lens.demo.instructions import DEFAULT_TRAITS, INSTRUCTION_NAMES
from psr_lens.faithfulness import PARAPHRASE, measure_faithfulness
from psr_lens.models import HookedModel, load_model
from psr_lens.storage.atomic import write_bytes

ROOT = Path(__file__).parents[1]
NUMBERS = ROOT / "benchmarks" / "methods.json"
PAGE = ROOT / "docs" / "methods.md"
MODELS = ("demo", "demo-gpt2")
CONSTANTS = ("difference in means", "constant, one layer", "constant, mse", "constant, ll")
SHOWN = (*CONSTANTS, "PSR", "PSR, 4 heads", "PSR, 16 heads", "PSR, auto heads", CONTROL)
"""Columns of the table of instructions; `PSR` is the best of `PSRS` on the dev animals."""
LEFT_OUT = ("constant, layer by layer",)
DETECTION_WHY = """Three instructions are not detected, and there the supervised direction stays below 0.95 as
well. `optimist` and `pessimist` exchange the plain adjectives for bright or dark ones, and what follows
an adjective in the demo world is the same after all of them: the model has learnt to read them
nearly alike. `two_sentences` leaves sentences out; no token says so.
"""


def measure(model: HookedModel, name: str, folder: Path | None, seed: int = 0) -> dict:
    """Everything about one instruction."""
    train = fit_data(model, name, seed)
    test = held_out_data(model, name, seed + 1)
    fits = FAMILY if model.name == "demo" and name in DEFAULT_TRAITS else CORE
    found = demo_fits(model, train, name, fits, folder, seed)
    report = measure_faithfulness(
        model,
        {label: own.steering for label, own in found.items()},
        test,
        outputs=False,
        gap=False,
        random_direction=False,
        oracle_ranks=(),
        token_examples=0,
        seed=seed,
        batch_size=64,
    )
    rows = {label: dict(own.report) for label, own in found.items()}
    psr = best_psr(rows)
    for label, row in rows.items():
        row |= curve_of(report.relative_rmse[label])
        if label != psr:
            row["further"] = curve_of(report.difference(label, psr))
    solvers = {label: curve_of(report.difference(label, PSRS[0])) for label in PSRS[1:]}
    paraphrase = report.reference[PARAPHRASE]
    return {
        "methods": rows,
        "solvers": solvers,
        "paraphrase": curve_of(paraphrase),
        "examples": len(test),
    }


def curve_of(curve: Any) -> dict[str, list[float]]:
    """Values and interval ends over the layers."""
    found = {"relative_rmse": curve.values, "low": curve.low, "high": curve.high}
    return {key: [round(float(value), 5) for value in values] for key, values in found.items()}


def best_constant(trait: dict) -> str:
    """The constant that is closest on the dev animals."""
    return min(CONSTANTS, key=lambda label: trait["methods"][label]["dev"])


def last(row: dict) -> float:
    """At the last layer."""
    return row["relative_rmse"][-1]


def further(row: dict) -> bool:
    """Whether it is further from the prompt than the PSR, beyond chance (paired, 95 %)."""
    return "further" in row and row["further"]["low"][-1] > 0


def family_rows(found: dict) -> Iterator[str]:
    """One row per method: its mean over the default five, and how often the PSR is closer."""
    five = {name: found[name]["methods"] for name in DEFAULT_TRAITS if name in found}
    yield "| method | how it was fitted | relative RMSE, mean of five | the PSR is closer |"
    yield "| --- | --- | --- | --- |"
    means = {
        label: fmean(last(rows[label]) for rows in five.values())
        for label in FAMILY
        if all(label in rows for rows in five.values())
    }
    for label in sorted(means, key=lambda label: -means[label]):
        settings = list(dict.fromkeys(setting(rows[label]) for rows in five.values()))
        shown = settings[0] if len(settings) == 1 else f"{settings[0]} (by instruction)"
        own = [best_psr(rows) == label for rows in five.values()]
        closer = sum(further(rows[label]) for rows in five.values())
        verdict = f"{closer} of {len(five)}" if not all(own) else "it is the PSR"
        if label in PSRS:
            verdict = f"it is the PSR of {sum(own)}"
        yield f"| {label} | {shown} | {means[label]:.3f} | {verdict} |"
    psr = fmean(last(rows[best_psr(rows)]) for rows in five.values())
    line = fmean(found[name]["paraphrase"]["relative_rmse"][-1] for name in five)
    yield f"| **PSR** (the best of three on the dev animals) | | **{psr:.3f}** | |"
    yield f"| *the prompt in other words* | | {line:.3f} | |"


def instruction_rows(found: dict) -> Iterator[str]:
    """One row per instruction; methods clearly further than the PSR are unmarked, others starred."""
    yield "| instruction | " + " | ".join(SHOWN) + " | the prompt in other words |"
    yield "| --- |" + " --- |" * (len(SHOWN) + 1)
    for name, trait in found.items():
        rows = trait["methods"]
        cells = []
        for label in SHOWN:
            row = rows[best_psr(rows) if label == "PSR" else label]
            mark = "" if label == "PSR" or further(row) else "*"
            cells.append(f"{last(row):.3f}{mark}")
        line = trait["paraphrase"]["relative_rmse"][-1]
        yield f"| {name} | " + " | ".join(cells) + f" | {line:.3f} |"


def solver_rows(found: dict) -> Iterator[str]:
    """What going on through the model adds to a PSR that was fitted layer by layer, and its time."""
    yield (
        "| instruction | layer by layer | refined: difference at layers 0 to 5 | last layer, paired | "
        "through the model alone, last layer | seconds |"
    )
    yield "| --- | --- | --- | --- | --- | --- |"
    for name, trait in found.items():
        rows, refined, alone = trait["methods"], *(trait["solvers"][label] for label in PSRS[1:])
        over = " ".join(f"{value:+.2f}" for value in refined["relative_rmse"])
        seconds = ", ".join(f"{rows[label]['seconds']:.0f}" for label in PSRS)
        yield (
            f"| {name} | {last(rows[PSRS[0]]):.3f} | {over} | {_interval(refined)} | "
            f"{_interval(alone)} | {seconds} |"
        )


def _interval(curve: dict) -> str:
    ends = (curve[key][-1] for key in ("relative_rmse", "low", "high"))
    value, low, high = ends
    return f"{value:+.3f} ({low:+.3f} to {high:+.3f})"


def summary(numbers: dict) -> dict[str, dict[str, float]]:
    """The figures that prose quotes, by model: over all instructions, at the last layer."""
    found = {}
    for name, traits in numbers["models"].items():
        constants = [last(t["methods"][best_constant(t)]) for t in traits.values()]
        psrs = [last(t["methods"][best_psr(t["methods"])]) for t in traits.values()]
        controls = [last(t["methods"][CONTROL]) for t in traits.values()]
        clear = sum(further(t["methods"][best_constant(t)]) for t in traits.values())
        found[name] = {
            "best constant, least": min(constants),
            "best constant, most": max(constants),
            "PSR, least": min(psrs),
            "PSR, most": max(psrs),
            "control, least": min(controls),
            "PSR clearly closer than the best constant": clear,
            "instructions": len(traits),
        }
    return found


def page(numbers: dict) -> str:
    """The documentation's chapter."""
    parts = [
        "# How close every method comes",
        "",
        "Relative RMSE at the last layer on the held-out animals of the demo world: 1 is no steering,",
        "0 the prompt itself. Every method of the family is fitted in all the ways that psr_lens has",
        "for it, one layer or all, squared error (`mse`) or likelihood (`ll`), layer by layer",
        "(`layerwise`) or through the model (`gradient`), and is shown as it did best on the dev animals.",
        "Constants are shown for both objectives: `mse` is the closer one, `ll` buys more of the",
        "behaviour. *The PSR* has one head per layer, the best of its three solvers on the dev animals.",
        "",
        "The control is a PSR fitted to the same responses with another instruction in front of them:",
        "it must not look faithful. *The prompt in other words* is a wording that no fit has seen.",
        "Activation addition replays one pair's deltas position by position; directional ablation",
        "takes a direction out and cannot bring an instruction in: they are here because the family is.",
        "The whole family is fitted on `demo`, on five instructions; constants and PSRs everywhere.",
        "Written by `python -m benchmarks.methods`; intervals, every layer, every setting that was",
        "tried and the time of each fit are in `benchmarks/methods.json`. Those of `demo-gpt2` are from",
        "before training tried smaller steps by itself.",
        "",
    ]
    for name, found in numbers["models"].items():
        own = summary(numbers)[name]
        parts += [f"## {name}", "", *family_rows(found), ""]
        parts += [
            f"The best constant leaves {own['best constant, least']:.2f} to "
            f"{own['best constant, most']:.2f} of the distance, the PSR {own['PSR, least']:.2f} to "
            f"{own['PSR, most']:.2f}; paired over responses the PSR is closer than the best constant on",
            f"{own['PSR clearly closer than the best constant']} of {own['instructions']} instructions. "
            f"The control leaves at least {own['control, least']:.2f}.",
            "",
            "By instruction; a star marks what is not clearly further from the prompt than the PSR",
            "(paired difference over responses, 95 % interval above zero):",
            "",
            *instruction_rows(found),
            "",
            "What a fit through the model adds to a PSR that was fitted layer by layer, each layer",
            'knowing nothing of the later ones (`solver="layerwise"`): going on from there',
            '(`solver="refine"`), and from its own start (`solver="gradient"`). Differences in relative',
            "RMSE to layer by layer, negative is closer; seconds of the three fits, on a machine that",
            "was doing other work.",
            "",
            *solver_rows(found),
            "",
        ]
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


def read_numbers() -> dict:
    """What has been measured so far, models and instructions in the order of the page."""
    found = json.loads(NUMBERS.read_text())["models"] if NUMBERS.is_file() else {}
    everything = [*DEFAULT_TRAITS, *(n for n in INSTRUCTION_NAMES if n not in DEFAULT_TRAITS)]
    return {
        "models": {
            model: {name: found[model][name] for name in everything if name in found[model]}
            for model in MODELS
            if model in found
        }
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    everything = [*DEFAULT_TRAITS, *(n for n in INSTRUCTION_NAMES if n not in DEFAULT_TRAITS)]
    parser.add_argument("--traits", nargs="+", default=everything, choices=everything)
    parser.add_argument("--page-only", action="store_true", help="draw the page from the numbers")
    parser.add_argument("--fits", type=Path, default=None, help="folder to keep the fits in")
    options = parser.parse_args(arguments)
    for name in [] if options.page_only else options.models:
        model = load_model(name)
        for trait in options.traits:
            start = time.perf_counter()
            measured = measure(model, trait, options.fits)
            # Read anew: another process may be measuring the other model.
            numbers = read_numbers()
            numbers["models"].setdefault(name, {})[trait] = measured
            write_bytes(NUMBERS, (json.dumps(numbers, indent=1) + "\n").encode())
            print(f"{name} {trait}: {time.perf_counter() - start:.0f} s", flush=True)
    write_bytes(PAGE, page(read_numbers()).encode())


if __name__ == "__main__":
    main()
