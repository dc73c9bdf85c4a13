"""`dim` against steering-vectors and repeng: the same weights, pairs, tokens and batches."""

import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import plain
from benchmarks.figures import Figure, Skipped
from benchmarks.models import Texts, as_dataset, make_texts
from benchmarks.sizes import BACKENDS, Bench
from benchmarks.timing import alternate
from psr_lens.deltas import iter_deltas
from psr_lens.examples import Example
from psr_lens.fitting import fit
from psr_lens.models import HookedModel
from psr_lens.models.chat import RawText
from psr_lens.prompts import PromptPair

SAME_DIRECTION, SAME_NORM, NO_SLOWER = 0.9999, 1e-3, 1.0
_HERE = Path(__file__).parent
PEERS_PYTHON = _HERE.parent / ".venv-peers" / "bin" / "python"
PACKAGES = ("steering-vectors", "repeng")
_OURS = {"hooked": "dim, hooked", "bridge": "dim, bridge"}
_FORWARDS = "two forwards"
_BARE = "two forwards, bridge"


def run(bench: Bench) -> Iterator[Figure | Skipped]:
    """Time and agreement on both models, at every prompt length."""
    if not PEERS_PYTHON.exists():
        yield Skipped("peers", "the peers' environment is missing, `make peers` makes it")
        return
    for name in bench.names:
        for prompt in bench.sizes.prompts:
            yield from _compare(bench, name, prompt)


def last_token_examples(model: HookedModel, texts: Sequence[Texts]) -> tuple[Example, ...]:
    """Examples without a response: their one aligned token is the last of the prompt.

    All belong to one group, so that no part of them is set aside as a dev split.
    """
    examples = []
    for pair in texts:
        prompts = RawText(pair.base), RawText(pair.prompted)
        base, steered = (model.encoder.encode(prompt).ids for prompt in prompts)
        examples.append(Example(PromptPair(*prompts, group="pairs"), base, steered, ()))
    return tuple(examples)


def agreement(ours: Tensor, theirs: Tensor) -> tuple[float, float]:
    """Lowest cosine over the layers, and the largest relative difference of the norms."""
    ours, theirs = ours.double(), theirs.double()
    cosines = torch.nn.functional.cosine_similarity(ours, theirs, dim=-1)
    norms = (ours.norm(dim=-1) / theirs.norm(dim=-1) - 1).abs()
    return float(cosines.min()), float(norms.max())


@contextmanager
def child(
    bench: Bench, name: str, texts: Sequence[Texts]
) -> Iterator[tuple[Callable[[str], Any], Callable[[], dict[str, Tensor]]]]:
    """The peers' process: a way to have it do something, and one to get its vectors."""
    work, vectors = bench.directory / "pairs.json", bench.directory / "vectors.npz"
    pairs = [(pair.base, pair.prompted) for pair in texts]
    settings = {"batch_size": bench.sizes.batch_size, "threads": torch.get_num_threads()}
    work.write_text(json.dumps({"pairs": pairs, **settings}))
    script = _HERE / "peers_child.py"
    process = subprocess.Popen(
        [PEERS_PYTHON, script, bench.checkpoint(name), work, vectors],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    def ask(command: str) -> Any:
        print(command, file=stdin, flush=True)
        answer = stdout.readline()
        if not answer:
            raise RuntimeError(f"the peers' process ended at {command!r}: see its error above")
        return json.loads(answer)

    def saved() -> dict[str, Tensor]:
        ask("save")
        with np.load(vectors) as arrays:
            return {key: torch.from_numpy(arrays[key]) for key in arrays}

    try:
        yield ask, saved
    finally:
        stdin.close()
        process.wait()
        stdout.close()


def _compare(bench: Bench, name: str, prompt: int) -> Iterator[Figure]:
    sizes = bench.sizes
    texts = make_texts(bench.count(prompt), prompt)
    models = {backend: bench.model(name, backend) for backend in BACKENDS}
    examples = last_token_examples(models["bridge"], texts)
    data = as_dataset(examples)
    batches = plain.both_batches(models["bridge"], examples, sizes.batch_size)
    found: dict[str, Tensor] = {}

    def dim(backend: str) -> None:
        steering = fit(models[backend], data, method="dim", batch_size=sizes.batch_size)
        found[backend] = steering.state_dict()["vectors"]

    def extract() -> None:
        size = sizes.batch_size
        for _ in iter_deltas(models["bridge"], examples, local=False, batch_size=size):
            pass

    with child(bench, name, texts) as (ask, saved):
        _same_tokens(examples, ask("tokens"))
        contenders: dict[str, Callable[[], object]] = {
            theirs: (lambda theirs=theirs: ask(theirs)) for theirs in (_FORWARDS, *PACKAGES)
        }
        contenders |= {_OURS[own]: (lambda own=own: dim(own)) for own in BACKENDS}
        contenders["extraction, bridge"] = extract
        contenders[_BARE] = lambda: [plain.forward(models["bridge"], batch) for batch in batches]
        timings = alternate(contenders, sizes.repeats)
        ask("repeng mean")
        theirs = saved()

    def figure(what: str, value: float, backend: str, **rest: Any) -> Figure:
        case = f"prompts of {prompt}, {len(texts)} pairs, batch {sizes.batch_size}"
        return Figure("peers", name, backend, case, what, value, **rest)

    for package in PACKAGES:
        ratio = timings.ratio(package, _FORWARDS)
        yield figure(f"{package} / two bare Hugging Face forwards", ratio, package)
    for backend in BACKENDS:
        for package in PACKAGES:
            yield figure(
                f"dim / {package}",
                timings.ratio(_OURS[backend], package),
                backend,
                bound=NO_SLOWER if backend == "bridge" else None,
                seconds=timings.medians(),
            )
    for ours, what in (
        ("extraction, bridge", "accumulated deltas / steering-vectors"),
        (_BARE, "two bare forwards of the bridge / steering-vectors"),
    ):
        yield figure(what, timings.ratio(ours, "steering-vectors"), "bridge")
    for backend in BACKENDS:
        for package in PACKAGES:
            # The last of repeng's hidden states has the final norm behind it.
            layers = slice(None) if package == "steering-vectors" else slice(-1)
            cosine, norm = agreement(found[backend][layers], theirs[package][layers])
            what = f"the mean difference of {package}"
            yield figure(
                f"cosine with {what}", cosine, backend, bound=SAME_DIRECTION, better="higher"
            )
            yield figure(f"difference in norm from {what}", norm, backend, bound=SAME_NORM)


def _same_tokens(examples: Sequence[Example], theirs: Sequence[Sequence[Sequence[int]]]) -> None:
    ours = [[list(example.base_ids), list(example.prompted_ids)] for example in examples]
    if ours != theirs:
        raise RuntimeError("the peers read other tokens from the same texts: no fair comparison")
