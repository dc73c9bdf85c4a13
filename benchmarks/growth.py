"""How time grows with examples, layers and tokens: 1 is linear.

Each size is doubled in turn while the others stay, and the exponent is fitted on logarithmic axes.
The time of a bare forward pass stands beside it, because attention itself is not linear in tokens.
"""

from collections.abc import Callable, Iterator

from benchmarks import plain
from benchmarks.figures import Figure
from benchmarks.fitting import fit_psr
from benchmarks.generation import never_ending, random_psr
from benchmarks.models import as_dataset, make_examples
from benchmarks.sizes import BACKENDS, Bench
from benchmarks.timing import alternate, exponent
from psr_lens.deltas import iter_deltas
from psr_lens.examples import Example
from psr_lens.fitting import fit
from psr_lens.models import HookedModel

BOUND = 1.15
"""Linear, and some way for attention and for noise."""
_EPOCHS = 3


def run(bench: Bench) -> Iterator[Figure]:
    """One exponent per task, backend and size."""
    for backend in BACKENDS:
        for axis in ("examples", "layers", "tokens"):
            yield from _exponents(bench, backend, axis)


def _exponents(bench: Bench, backend: str, axis: str) -> Iterator[Figure]:
    sizes = bench.sizes
    seconds: dict[str, list[float]] = {}
    for factor in sizes.growth:
        grown = {"examples": 1, "layers": 1, "tokens": 1} | {axis: factor}
        name = f"llama-{sizes.layers // 4 * grown['layers'] or grown['layers']}x{sizes.width // 2}"
        model = bench.model(name, backend)
        prompt, response = sizes.prompts[0] * grown["tokens"], sizes.response * grown["tokens"]
        examples = make_examples(sizes.batch_size * grown["examples"], prompt // 2, response // 2)
        tasks = _tasks(bench, model, examples, response // 2)
        with never_ending(model):
            timings = alternate(tasks, max(1, sizes.fit_repeats))
        for task, median_seconds in timings.medians().items():
            seconds.setdefault(task, []).append(median_seconds)
    case = f"{axis} times {', '.join(map(str, sizes.growth))}"
    for task, times in seconds.items():
        yield Figure(
            "growth",
            name.replace("llama-", "llama up to ") if axis == "layers" else name,
            backend,
            case,
            task,
            exponent(sizes.growth, times),
            None if task.startswith("bare") else BOUND,
            seconds={f"x{factor}": time for factor, time in zip(sizes.growth, times, strict=True)},
        )


def _tasks(
    bench: Bench, model: HookedModel, examples: tuple[Example, ...], new_tokens: int
) -> dict[str, Callable[[], object]]:
    sizes = bench.sizes
    size = sizes.batch_size
    batches = plain.both_batches(model, examples, size)
    data = as_dataset(examples)
    steering = random_psr(model)
    prompts = [example.pair.base for example in examples]

    def extract() -> None:
        for _ in iter_deltas(model, examples, batch_size=size):
            pass

    def generate() -> None:
        model.generate(prompts, max_new_tokens=new_tokens, batch_size=size)

    def generate_steered() -> None:
        with steering.applied(model):
            generate()

    tasks: dict[str, Callable[[], object]] = {
        "bare forwards": lambda: [plain.forward(model, batch) for batch in batches],
        "bare generation": generate,
        "extraction": extract,
        "dim": lambda: fit(model, data, method="dim", batch_size=size),
        "layerwise": lambda: fit_psr(model, data, "layerwise", bench),
        "steered generation": generate_steered,
    }
    if model.backend == BACKENDS[0]:
        tasks["gradient"] = lambda: fit_psr(model, data, "gradient", bench, _EPOCHS)
    return tasks
