"""Steered generation against unsteered, and against a long instruction in the prompt."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from benchmarks.figures import Figure
from benchmarks.models import make_texts
from benchmarks.sizes import BACKENDS, Bench
from benchmarks.timing import alternate
from psr_lens.models import HookedModel
from psr_lens.models.chat import RawText
from psr_lens.steering import PSR

BOUND = 0.9


def run(bench: Bench) -> Iterator[Figure]:
    """Tokens per second on both models and backends; the bound is for the large one."""
    for name in bench.names:
        for backend in BACKENDS:
            model = bench.model(name, backend)
            for batch_size in bench.sizes.generation_batches:
                yield from _rates(bench, name, model, batch_size)


def random_psr(model: HookedModel, seed: int = 0) -> PSR:
    """A-PSR whose pushes are small: what it says does not matter here, what it costs does."""
    generator = torch.Generator().manual_seed(seed)
    shape = (model.n_layers, 1, model.d_model)
    w = torch.randn(shape, generator=generator) / model.d_model
    z = torch.randn(shape, generator=generator) / model.d_model
    return PSR(w, torch.full(shape[:2], 0.1), z, range(model.n_layers))


@contextmanager
def never_ending(model: HookedModel) -> Iterator[None]:
    """Every response runs to its full length, so that seconds compare as tokens per second."""
    ends = model.encoder.end_token_ids
    model.encoder.end_token_ids = frozenset()
    try:
        yield
    finally:
        model.encoder.end_token_ids = ends


def _rates(bench: Bench, name: str, model: HookedModel, batch_size: int) -> Iterator[Figure]:
    sizes = bench.sizes
    texts = make_texts(batch_size, sizes.prompts[0], instruction=sizes.instruction)
    steering = random_psr(model)

    def generate(prompts: Sequence[str]) -> None:
        model.generate(
            [RawText(text) for text in prompts],
            max_new_tokens=sizes.response,
            batch_size=batch_size,
        )

    def steered() -> None:
        with steering.applied(model):
            generate([pair.base for pair in texts])

    contenders = {
        "unsteered": lambda: generate([pair.base for pair in texts]),
        "A-PSR": steered,
        "instruction": lambda: generate([pair.prompted for pair in texts]),
    }
    with never_ending(model):
        timings = alternate(contenders, sizes.repeats)
    case = f"prompts of {sizes.prompts[0]}, batch {batch_size}"
    rate = batch_size * sizes.response / timings.median("A-PSR")
    yield Figure(
        "generation",
        name,
        model.backend,
        case,
        "tokens per second, A-PSR / unsteered",
        timings.ratio("unsteered", "A-PSR"),
        BOUND if name == bench.large else None,
        "higher",
        timings.medians(),
        f"{rate:.0f} tokens per second",
    )
    yield Figure(
        "generation",
        name,
        model.backend,
        case,
        f"tokens per second, A-PSR / an instruction of {sizes.instruction} tokens",
        timings.ratio("instruction", "A-PSR"),
        better="higher",
    )
