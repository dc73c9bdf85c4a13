"""The command: part by part, each finished one kept at once and skipped when the command runs again."""

import argparse
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import benchmarks.real_findings as package
from benchmarks.findings import assumptions, components
from benchmarks.real_findings import page
from benchmarks.real_findings.answers import SAMPLING, SEEDS, TEST_SEED, Answers, answers
from benchmarks.real_findings.behaviour import behaviour_part, layers_part
from benchmarks.real_findings.copies import copies_part
from benchmarks.real_findings.distances import distances_part
from benchmarks.real_findings.heatmap import heatmap_part
from benchmarks.real_findings.methods import BEHAVIOUR, all_fits
from benchmarks.real_findings.middle import middle_part
from benchmarks.real_findings.numbers import COPIES, SIZES, TOY, log, read, write
from benchmarks.real_findings.prompt import prompt_part
from benchmarks.real_findings.sizes import sizes_part
from benchmarks.real_findings.toy import toy_part
from psr_lens.demo.everyday_instructions import EVERYDAY
from psr_lens.model_record import describe_model
from psr_lens.models import HookedModel, load_model

ROOT = Path(__file__).parents[2]
PARTS = (
    *("prompt", "distances", "middle", "behaviour", "layers"),
    *("assumptions", "components", "heatmap"),
)
"""Of every instruction, in order."""


def instruction_parts(
    model: HookedModel, name: str, folder: Path, found: dict[str, Any]
) -> dict[str, Callable[[], Any]]:
    """How each part of an instruction is measured; answers and fits are made when they are first needed."""

    @cache
    def data() -> Answers:
        return answers(model, name, folder)

    @cache
    def fits():
        return all_fits(model, name, data(), folder)

    return {
        "prompt": lambda: prompt_part(model, name, data()),
        "distances": lambda: distances_part(model, data(), fits()),
        "middle": lambda: middle_part(model, name, data(), folder, found["prompt"]),
        "behaviour": lambda: behaviour_part(
            model,
            name,
            data(),
            {label: own.steering for label, own in fits().items() if label in BEHAVIOUR},
            found["prompt"],
        ),
        "layers": lambda: layers_part(model, name, data(), found["prompt"]),
        "assumptions": lambda: assumptions(model, data().fitted_on[0], data().test, 0),
        "components": lambda: components(model, data().test, 0),
        "heatmap": lambda: heatmap_part(model, data(), fits()),
    }


def measure(file: str, parts: dict[str, Callable[[], Any]], found: dict[str, Any]) -> None:
    """Every part that is not there yet, written as soon as it is finished."""
    for part, make in parts.items():
        if part in found:
            continue
        start = time.perf_counter()
        found[part] = make()
        write(file, found)
        line = f"{file}, {part}: {time.perf_counter() - start:.0f} s"
        print(line, flush=True)
        log(line)


def provenance(model: HookedModel) -> dict[str, Any]:
    """What the numbers of a file depend on."""
    return {"model": describe_model(model), "sampling": SAMPLING, "seeds": [*SEEDS, TEST_SEED]}


def measure_all(names: Sequence[str], folder: Path) -> None:
    """Everything of these names, one after the other, in this process."""
    model = load_model("smollm2", backend="transformers")
    for name in names:
        found = read(name) or {"provenance": provenance(model)}
        if name == SIZES:
            parts = sizes_part(model, folder)
        elif name == COPIES:
            parts = copies_part(model, folder)
        elif name == TOY:
            parts = toy_part(folder)
        else:
            parts = instruction_parts(model, name, folder, found)
        measure(name, parts, found)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.real_findings", description=package.__doc__
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    choices = (*EVERYDAY, SIZES, COPIES, TOY)
    parser.add_argument("--only", nargs="+", default=choices, choices=choices, metavar="NAME")
    parser.add_argument("--folder", type=Path, default=ROOT / "real-findings")
    parser.add_argument("--page-only", action="store_true", help="measure nothing")
    options = parser.parse_args(arguments)
    if not options.page_only:
        measure_all(options.only, options.folder)
    page.write()


if __name__ == "__main__":
    main()
