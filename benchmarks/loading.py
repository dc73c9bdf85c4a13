"""What loading costs: peak memory above the loaded interpreter, and time, beside Hugging Face's own.

    python -m benchmarks.loading                  # SmolLM2, or a random Llama where it is not there
    python -m benchmarks.loading CHECKPOINT       # a checkpoint directory of one's own

Every load runs in a process of its own, after a small model went through the same code, so that
nothing is imported any more. The memory is what the process occupies at its worst, pages of the
mapped file among it, less what it occupied before; the machine's file cache is warm. Memory needs
Linux, whose kernel can be told to begin the peak anew.

Hugging Face maps the file and reads no weight before the first pass, while psr_lens has checked by
passes what comes out. So Hugging Face stands there with a pass, too.
"""

import gc
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from benchmarks.figures import Figure, Skipped
from benchmarks.models import smollm2_checkpoint
from benchmarks.sizes import ALL_BACKENDS, Bench
from benchmarks.which_fits import LOADING as MEMORY

TIME = {"bridge": 2.0}
_ROOT = Path(__file__).parents[1]
_STATUS = Path("/proc/self/status")
_HUGGING_FACE = "hugging-face"
_WITH_A_PASS = "hugging-face-with-a-pass"
_IN_WORDS = {
    _HUGGING_FACE: "Hugging Face's from_pretrained",
    _WITH_A_PASS: "Hugging Face's from_pretrained and a pass over 16 tokens",
}


def run(bench: Bench) -> Iterator[Figure | Skipped]:
    """Peak memory over the weights' bytes, and time over Hugging Face's."""
    if not _STATUS.exists():
        yield Skipped("loading", "peak memory is read from /proc, which only Linux has")
        return
    name = bench.sizes.real
    try:
        checkpoint = bench.checkpoint(name)
    except ValueError as error:
        yield Skipped("loading", f"on {bench.large} alone: {error}")
        name, checkpoint = bench.large, bench.checkpoint(bench.large)
    yield from _figures(name, checkpoint, bench.sizes.repeats)


def _figures(name: str, checkpoint: Path, rounds: int) -> Iterator[Figure]:
    weights = sum(file.stat().st_size for file in checkpoint.glob("*.safetensors"))
    contenders = (*_IN_WORDS, *ALL_BACKENDS)
    peaks: dict[str, list[float]] = {one: [] for one in contenders}
    seconds: dict[str, list[float]] = {one: [] for one in contenders}
    for turn in range(rounds):
        for i in range(len(contenders)):
            one = contenders[(turn + i) % len(contenders)]
            peak, took = in_a_process(checkpoint, one)
            peaks[one].append(peak)
            seconds[one].append(took)
    case = f"weights of {weights / 2**20:.0f} MiB, float32"
    for one in contenders:
        yield Figure(
            "loading",
            name,
            one,
            case,
            "peak memory / the weights' bytes",
            median(peaks[one]) / weights,
            MEMORY.get(one),
            note=f"{median(peaks[one]) / 2**20:.0f} MiB above the loaded interpreter",
        )
    for one in ALL_BACKENDS:
        for reference, words in _IN_WORDS.items():
            pairs = zip(seconds[one], seconds[reference], strict=True)
            yield Figure(
                "loading",
                name,
                one,
                case,
                f"processor time / {words}",
                median(own / other for own, other in pairs),
                TIME.get(one) if reference == _HUGGING_FACE else None,
                seconds={key: median(took) for key, took in seconds.items()},
            )


def in_a_process(checkpoint: Path, what: str) -> tuple[float, float]:
    """Peak memory in bytes, and processor seconds, of one load in a new process.

    Args:
        checkpoint: The checkpoint's directory.
        what: A backend, `hugging-face` or `hugging-face-with-a-pass`.
    """
    command = [sys.executable, "-m", "benchmarks.loading", "--child", str(checkpoint), what]
    done = subprocess.run(command, cwd=_ROOT, check=True, stdout=subprocess.PIPE, text=True)
    peak, seconds = done.stdout.split()[-2:]
    return float(peak), float(seconds)


def child(checkpoint: str, what: str) -> None:
    """Load it, and print what that took."""
    from psr_lens.demo import checkpoint_path

    _load(str(checkpoint_path("demo")), what)
    gc.collect()
    # From here on the peak counts anew.
    Path("/proc/self/clear_refs").write_text("5")
    before = _kibibytes("VmRSS")
    began = time.process_time()
    model = _load(checkpoint, what)
    seconds = time.process_time() - began
    peak = _kibibytes("VmHWM") - before
    assert model is not None
    print(peak * 2**10, seconds)


def _load(checkpoint: str, what: str) -> object:
    if what in _IN_WORDS:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
        if what == _WITH_A_PASS:
            with torch.no_grad():
                model(torch.arange(16).unsqueeze(0), use_cache=False)
        return tokenizer, model
    from psr_lens.models import load_model

    return load_model(Path(checkpoint), backend=what, device="cpu", progress=False)


def _kibibytes(line: str) -> int:
    return next(
        int(own.split()[1]) for own in _STATUS.read_text().splitlines() if own.startswith(line)
    )


def main(arguments: list[str]) -> None:
    """The command line."""
    from benchmarks.speed import line

    if arguments[:1] == ["--child"]:
        warnings.simplefilter("ignore")
        child(*arguments[1:])
        return
    with tempfile.TemporaryDirectory() as directory:
        checkpoint = Path(arguments[0]) if arguments else smollm2_checkpoint(Path(directory) / "s")
        for figure in _figures(checkpoint.name if arguments else "smollm2", checkpoint, rounds=3):
            print(line(figure), f"[{figure.note}]" if figure.note else "")


if __name__ == "__main__":
    main(sys.argv[1:])
