"""Part by part, each finished one kept at once and skipped when the command runs again."""

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from benchmarks.findings import assumptions, components
from benchmarks.real_findings.answers import SAMPLING, SEEDS, TEST_SEED, Answers, answers
from benchmarks.real_findings.behaviour import behaviour_part, layers_part
from benchmarks.real_findings.copies import copies_part
from benchmarks.real_findings.distances import distances_part
from benchmarks.real_findings.heatmap import heatmap_part
from benchmarks.real_findings.methods import BEHAVIOUR, all_fits
from benchmarks.real_findings.numbers import COPIES, SIZES, TOY, log, read, write
from benchmarks.real_findings.prompt import prompt_part
from benchmarks.real_findings.sizes import sizes_part
from benchmarks.real_findings.toy import toy_part
from psr_lens.demo.everyday_instructions import EVERYDAY
from psr_lens.model_record import describe_model
from psr_lens.models import HookedModel, load_model

PARTS = ("prompt", "distances", "behaviour", "layers", "assumptions", "components", "heatmap")
"""Of every instruction, in order."""
_FIRST, _SECOND, *_REST = EVERYDAY
NAMES = (_FIRST, _SECOND, SIZES, *_REST, COPIES, TOY)
"""In this order; the study of sizes early, as it takes longest and needs the first instruction's answers."""


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


@cache
def chat_model() -> HookedModel:
    """The model that everything is measured on, loaded once in a process."""
    return load_model("smollm2", backend="transformers")


def measure_one(name: str, folder: Path) -> None:
    """Everything of one name."""
    model = chat_model()
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


def measure_all(names: Sequence[str], folder: Path, jobs: int) -> None:
    """Everything of these names: several at a time, each in a process of its own with its share of the cores.

    Much of the work is too small for two cores together: two processes take about three quarters of the time.
    """
    start = time.perf_counter()
    if jobs == 1:
        for name in names:
            measure_one(name, folder)
    else:
        threads = max(1, (os.cpu_count() or 1) // jobs)
        with ProcessPoolExecutor(
            jobs, get_context("spawn"), torch.set_num_threads, (threads,)
        ) as pool:
            waiting = [pool.submit(measure_one, name, folder) for name in names]
            try:
                for one in as_completed(waiting):
                    one.result()
            except BaseException:
                # Ctrl-C, or a name that failed: what is running ends its part, and nothing new begins.
                pool.shutdown(cancel_futures=True)
                raise
    log(f"{len(names)} names, {jobs} at a time: {time.perf_counter() - start:.0f} s in this run")
