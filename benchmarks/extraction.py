"""Delta extraction against bare forward passes over the same tokens, and its peak memory."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks import plain
from benchmarks.figures import Figure
from benchmarks.models import make_examples
from benchmarks.sizes import BACKENDS, Bench
from benchmarks.timing import alternate
from psr_lens.deltas import iter_deltas

BOUND = 1.05
_ROUNDS = 5
_ROOT = Path(__file__).parents[1]
_LOCAL_NOTE = "a third pass over the base run"


def run(bench: Bench) -> Iterator[Figure]:
    """Ratios on both models, both backends, both lengths; then the memory."""
    for name in bench.names:
        for backend in BACKENDS:
            for prompt in bench.sizes.prompts:
                yield from _ratios(bench, name, backend, prompt)
    yield from _memory(bench)


def _ratios(bench: Bench, name: str, backend: str, prompt: int) -> Iterator[Figure]:
    sizes = bench.sizes
    model = bench.model(name, backend)
    examples = make_examples(bench.count(prompt), prompt, sizes.response)
    batches = plain.both_batches(model, examples, sizes.batch_size)

    def extract(local: bool) -> None:
        for _ in iter_deltas(model, examples, local=local, batch_size=sizes.batch_size):
            pass

    contenders = {
        "two forwards": lambda: [plain.forward(model, batch) for batch in batches],
        "accumulated": lambda: extract(local=False),
        "accumulated and local": lambda: extract(local=True),
    }
    references = {"two forwards": "accumulated deltas / two forwards"}
    if backend == "hooked":
        bare = "two forwards without logits"
        contenders[bare] = lambda: [plain.forward(model, batch, unembed=False) for batch in batches]
        references[bare] = f"accumulated deltas / {bare}"
    else:
        # The bridge by itself also works for its hook points.
        bare = "two forwards as they are run here, nothing recorded"
        contenders[bare] = lambda: [plain.run(model, batch) for batch in batches]
        references[bare] = f"accumulated deltas / {bare}"
    # A round of the small model is a tenth of a second, and as noisy.
    rounds = sizes.repeats if name == bench.large else _ROUNDS * sizes.repeats
    timings = alternate(contenders, rounds)
    case = f"prompts of {prompt}, batch {sizes.batch_size}"
    for reference, what in references.items():
        yield Figure(
            "extraction",
            name,
            backend,
            case,
            what,
            timings.ratio("accumulated", reference),
            BOUND,
            seconds=timings.medians(),
        )
    yield Figure(
        "extraction",
        name,
        backend,
        case,
        "accumulated and local deltas / two forwards",
        timings.ratio("accumulated and local", "two forwards"),
        note=_LOCAL_NOTE,
    )


def _memory(bench: Bench) -> Iterator[Figure]:
    sizes = bench.sizes
    few, many = sizes.memory_examples
    for backend in BACKENDS:
        peaks = [
            peak_mebibytes(bench, bench.large, backend, count, "deltas") for count in (few, many)
        ]
        yield Figure(
            "extraction",
            bench.large,
            backend,
            f"prompts of {sizes.prompts[0]}, batch {sizes.batch_size}",
            f"peak memory of {many} examples / of {few}",
            peaks[1] / peaks[0],
            BOUND,
            note=f"{peaks[1]:.0f} and {peaks[0]:.0f} MiB",
        )


def peak_mebibytes(bench: Bench, name: str, backend: str, count: int, job: str) -> float:
    """Peak resident memory of a process that does nothing but `deltas`, or the `lab`."""
    sizes = bench.sizes
    numbers = (count, sizes.prompts[0], sizes.response, sizes.batch_size)
    command = [sys.executable, "-m", "benchmarks.memory", job, str(bench.checkpoint(name))]
    done = subprocess.run(
        [*command, backend, *map(str, numbers)],
        cwd=_ROOT,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return float(done.stdout.split()[-1])
