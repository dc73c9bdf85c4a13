"""The command: part by part, each finished one kept at once and skipped when the command runs again."""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import benchmarks.real_findings as package
from benchmarks.findings import assumptions, components
from benchmarks.fits import Fitted
from benchmarks.real_findings import methods, page
from benchmarks.real_findings.answers import SAMPLING, SEEDS, TEST_SEED, Answers, answers
from benchmarks.real_findings.behaviour import behaviour_part, layers_part
from benchmarks.real_findings.copies import copies_part
from benchmarks.real_findings.distances import distances_part
from benchmarks.real_findings.heatmap import heatmap_part
from benchmarks.real_findings.numbers import COPIES, SECONDS, SIZES, TOY, log, read, write
from benchmarks.real_findings.prompt import prompt_part
from benchmarks.real_findings.sizes import sizes_part
from benchmarks.real_findings.toy import toy_part
from psr_lens.demo.everyday_instructions import EVERYDAY
from psr_lens.model_record import describe_model
from psr_lens.models import HookedModel, load_model
from psr_lens.steering import Steering

ROOT = Path(__file__).parents[2]
PARTS = (
    *("prompt", "distances", "behaviour", "layers"),
    *("assumptions", "components", "heatmap"),
)
"""Of every instruction, in order."""


def instruction_parts(
    model: HookedModel, name: str, folder: Path, found: dict[str, Any]
) -> tuple[dict[str, Callable[[], Any]], Callable[[str], float]]:
    """How each part of an instruction is measured; answers and fits are made when they are first needed.

    Returns:
        The parts by name, and the seconds that fits of a part had taken before this command began.
    """

    @cache
    def data() -> Answers:
        return answers(model, name, folder)

    @cache
    def fits() -> dict[str, Fitted]:
        return methods.all_fits(model, name, data(), folder)

    def earlier(part: str) -> float:
        kept = fits().values() if part == "distances" else ()
        return sum(own.report["seconds"] for own in kept if own.kept)

    def steerings() -> dict[str, Steering]:
        return {label: fits()[label].steering for label in methods.BEHAVIOUR}

    parts: dict[str, Callable[[], Any]] = {
        "prompt": lambda: prompt_part(model, name, data()),
        "distances": lambda: distances_part(
            model,
            data(),
            {label: own for label, own in fits().items() if label != methods.EVERYWHERE},
        ),
        "behaviour": lambda: behaviour_part(model, name, data(), steerings(), found["prompt"]),
        "layers": lambda: layers_part(
            model, name, data(), fits()[methods.EVERYWHERE].steering, found["prompt"]
        ),
        "assumptions": lambda: assumptions(model, data().fitted_on[0], data().test, 0),
        "components": lambda: components(model, data().test, 0),
        "heatmap": lambda: heatmap_part(model, data(), fits()),
    }
    return parts, earlier


def measure(
    file: str,
    parts: dict[str, Callable[[], Any]],
    found: dict[str, Any],
    earlier: Callable[[str], float] = lambda part: 0.0,
) -> None:
    """Every part that is not there yet, written as soon as it is finished, with the seconds it took.

    Args:
        file: Where they are kept.
        parts: How each is measured, by name.
        found: What is there already.
        earlier: The seconds that a part had taken before this command began.
    """
    for part, make in parts.items():
        if part in found:
            continue
        start = time.perf_counter()
        found[part] = make()
        seconds = time.perf_counter() - start + earlier(part)
        found[SECONDS] = {**found.get(SECONDS, {}), part: round(seconds)}
        write(file, found)
        line = f"{file}, {part}: {seconds:.0f} s"
        print(line, flush=True)
        log(line)


def provenance(model: HookedModel) -> dict[str, Any]:
    """What the numbers of a file depend on."""
    return {"model": describe_model(model), "sampling": SAMPLING, "seeds": [*SEEDS, TEST_SEED]}


def measure_side_by_side(names: Sequence[str], folder: Path, processes: int) -> None:
    """Everything of these names in their order, each in a process of one thread.

    A part is hundreds of small steps, which two threads do not share well; two processes do.

    Raises:
        SystemExit: If some did not come to their end. The others did, and what is finished is kept.
    """

    def alone(name: str) -> bool:
        command = [sys.executable, "-m", package.__name__, "--processes", "1", "--measure-only"]
        options = ["--only", name, "--folder", str(folder)]
        return subprocess.run([*command, *options], env=environment, check=False).returncode == 0

    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    with ThreadPoolExecutor(processes) as pool:
        ended = list(pool.map(alone, names))
    failed = [name for name, whole in zip(names, ended, strict=True) if not whole]
    if failed:
        raise SystemExit(f"not finished: {', '.join(failed)}; run the command again to go on")


def measure_all(names: Sequence[str], folder: Path) -> None:
    """Everything of these names, one after the other, in this process."""
    model = load_model("smollm2", backend="transformers")
    for name in names:
        found = read(name) or {"provenance": provenance(model)}
        if name == SIZES:
            parts, earlier = sizes_part(model, folder)
            measure(name, parts, found, earlier)
        elif name == COPIES:
            measure(name, copies_part(model, folder), found)
        elif name == TOY:
            measure(name, toy_part(folder), found)
        else:
            parts, earlier = instruction_parts(model, name, folder, found)
            measure(name, parts, found, earlier)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.real_findings", description=package.__doc__
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    # The longest early and the shortest last, so that neither process waits long for the other.
    first, second, third, *others = EVERYDAY
    choices = (first, second, third, SIZES, *others, COPIES, TOY)
    parser.add_argument("--only", nargs="+", default=choices, choices=choices, metavar="NAME")
    parser.add_argument("--folder", type=Path, default=ROOT / "real-findings")
    parser.add_argument("--processes", type=int, default=2, help="side by side, a core for each")
    parser.add_argument("--page-only", action="store_true", help="measure nothing")
    parser.add_argument("--measure-only", action="store_true", help="leave the page as it is")
    options = parser.parse_args(arguments)
    if options.page_only:
        pass
    elif min(options.processes, len(options.only)) > 1:
        measure_side_by_side(options.only, options.folder, options.processes)
    else:
        measure_all(options.only, options.folder)
    if not options.measure_only:
        page.write()


if __name__ == "__main__":
    main()
