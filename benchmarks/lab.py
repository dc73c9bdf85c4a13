"""What the faithfulness lab costs: runs and time per steering, and its peak memory."""

from collections.abc import Iterator

import torch

from benchmarks import plain
from benchmarks.extraction import peak_mebibytes
from benchmarks.figures import Figure
from benchmarks.models import make_examples
from benchmarks.sizes import BACKENDS, Bench
from benchmarks.timing import alternate
from psr_lens.examples import Example
from psr_lens.faithfulness import measure_faithfulness
from psr_lens.fitting.forwards import counting_forwards
from psr_lens.models import HookedModel
from psr_lens.steering import ConstantSteering, Steering

RUNS_BOUND = 1.0
MEMORY_BOUND = 1.15


def run(bench: Bench) -> Iterator[Figure]:
    """Runs per steering and example, time per steering in bare forwards, memory of many examples."""
    for name in bench.names:
        yield from _cost(bench, name)
    few, many = bench.sizes.lab_examples
    peaks = [peak_mebibytes(bench, "demo", BACKENDS[0], count, "lab") for count in (few, many)]
    yield Figure(
        "lab",
        "demo",
        BACKENDS[0],
        _case(bench),
        f"peak memory of {many} examples / of {few}",
        peaks[1] / peaks[0],
        MEMORY_BOUND,
        note=f"{peaks[1]:.0f} and {peaks[0]:.0f} MiB",
    )


def _case(bench: Bench) -> str:
    return f"prompts of {bench.sizes.prompts[0]}, batch {bench.sizes.batch_size}"


def _cost(bench: Bench, name: str) -> Iterator[Figure]:
    sizes = bench.sizes
    prompt = sizes.prompts[0]
    model = bench.model(name, BACKENDS[0])
    examples = make_examples(bench.count(prompt), prompt, sizes.response)
    # The model's fingerprint is taken once, and is no part of what a steering costs.
    measured(model, examples, 1, sizes.batch_size)
    one, four = (runs(model, examples, count, sizes.batch_size) for count in (1, 4))
    yield Figure(
        "lab",
        name,
        BACKENDS[0],
        _case(bench),
        "runs for every further steering and example",
        # Blocks are counted one by one, so a sum of 1 / layers is rounded.
        round((four - one) / 3 / len(examples), 6),
        RUNS_BOUND,
        note=f"{one / len(examples):.0f} for the first, the shared ones included",
    )
    batches = plain.both_batches(model, examples, sizes.batch_size)[::2]
    timings = alternate(
        {
            "one steering": lambda: measured(model, examples, 1, sizes.batch_size),
            "four steerings": lambda: measured(model, examples, 4, sizes.batch_size),
            "bare forward": lambda: [plain.forward(model, batch) for batch in batches],
        },
        sizes.repeats,
    )
    seconds = timings.medians()
    yield Figure(
        "lab",
        name,
        BACKENDS[0],
        _case(bench),
        "time for every further steering / a bare forward",
        (seconds["four steerings"] - seconds["one steering"]) / 3 / seconds["bare forward"],
        seconds=seconds,
    )


def steerings(model: HookedModel, count: int) -> dict[str, Steering]:
    """Constant vectors at all layers, drawn at random."""
    generator = torch.Generator().manual_seed(0)
    shape = (model.n_layers, model.d_model)
    layers = range(model.n_layers)
    return {
        f"constant {i}": ConstantSteering(torch.randn(shape, generator=generator), layers)
        for i in range(count)
    }


def measured(
    model: HookedModel, examples: tuple[Example, ...], count: int, batch_size: int
) -> None:
    """Every measure and reference line for a number of steerings."""
    measure_faithfulness(model, steerings(model, count), examples, batch_size=batch_size)


def runs(model: HookedModel, examples: tuple[Example, ...], count: int, batch_size: int) -> float:
    """Sequences that go through the whole model."""
    with counting_forwards(model) as counted:
        measured(model, examples, count, batch_size)
    return counted.sequences
