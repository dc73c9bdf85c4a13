"""The command line: one subcommand per noun, each a thin layer over the same functions.

`psr-lens --help` must be quick, so nothing here imports torch before a subcommand runs.
"""

import contextlib
import io
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import tyro

from psr_lens.demo.instructions import DEFAULT_TRAITS, instruction

if TYPE_CHECKING:
    from psr_lens.models import HookedModel
    from psr_lens.prompts import PromptPair
    from psr_lens.responses import SteeringDataset


@dataclass(frozen=True)
class _ModelOptions:
    model: str
    """Hub name, checkpoint directory, `demo` or `demo-gpt2`."""
    backend: Literal["auto", "hooked", "bridge"] = "auto"
    """HookedTransformer, TransformerBridge, or whichever can be had."""
    device: str | None = None
    """Where to run (`cpu`, `cuda`); the model's default if not given."""
    dtype: str | None = None
    """Number type of the weights (`float32`, `bfloat16`, `float16`)."""
    revision: str | None = None
    """Revision on the hub."""

    def load(self) -> "HookedModel":
        from psr_lens.models import load_model

        return load_model(
            self.model,
            backend=self.backend,
            device=self.device,
            dtype=self.dtype,
            revision=self.revision,
        )


@dataclass(frozen=True)
class _PairOptions(_ModelOptions):
    pairs: Path = tyro.MISSING
    """JSON Lines file: `base`, `steered`, and optionally `response` per line."""
    surface: Literal["R", "QR"] = "R"
    """Last prompt token and response, or the question's tokens too."""
    max_new_tokens: int = 128
    """Longest sampled response, in tokens."""
    temperature: float = 1.0
    """Sampling temperature, 0 for greedy decoding."""
    batch_size: int = 32
    """Examples per batch."""
    seed: int = 0
    """The same seed gives the same result."""

    def read(self) -> "tuple[HookedModel, list[PromptPair]]":
        from psr_lens.prompts import load_pairs

        pairs = load_pairs(self.pairs)
        return self.load(), pairs

    def sample(self, model: "HookedModel", pairs: "Sequence[PromptPair]") -> "SteeringDataset":
        from psr_lens.responses import sample_responses

        return sample_responses(
            model,
            pairs,
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            seed=self.seed,
            batch_size=self.batch_size,
        )


@dataclass(frozen=True)
class Demo:
    """Run the main job on the embedded demo model and write a page about it."""

    model: Literal["demo", "demo-gpt2"] = "demo"
    """Which of the two demo models."""
    traits: tuple[str, ...] = DEFAULT_TRAITS
    """Instructions of the demo world."""
    out: Path = Path("demo-report")
    """Directory for report.html, results.json and the fitted steerings."""
    seed: int = 0
    """The same seed gives the same results."""
    backend: Literal["auto", "hooked", "bridge"] = "auto"
    """HookedTransformer, TransformerBridge, or whichever can be had."""
    dtype: str | None = None
    """Number type of the weights (`float32`, `bfloat16`, `float16`)."""

    def run(self) -> None:
        """Load, run, write, say where."""
        for name in self.traits:
            instruction(name)
        _refuse_file(self.out)
        from psr_lens.demo.run import run_demo
        from psr_lens.models import load_model

        model = load_model(self.model, backend=self.backend, dtype=self.dtype)
        run = run_demo(model, self.out, traits=self.traits, seed=self.seed)
        for result in run.results:
            curves = result.faithfulness.relative_rmse
            at_one = next(b for b in result.steered["a-psr"] if b.alpha == 1.0)
            print(
                f"{result.name:>14}: trait {result.unsteered.trait:3.0f} without steering, "
                f"{result.prompted.trait:3.0f} prompted, {at_one.trait:3.0f} with A-PSR; "
                f"relative RMSE {curves['a-const'].values[-1]:.2f} (A-const), "
                f"{curves['a-psr'].values[-1]:.2f} (A-PSR)"
            )
        print(f"\nOpen {run.report} in a browser.")


@dataclass(frozen=True)
class Decompose(_PairOptions):
    """Show what the steered prompts do to the residual stream, at every layer and token."""

    out: Path = Path("deltas")
    """Directory for deltas.html (a heatmap per example) and norms.csv."""
    show: int = 8
    """Examples on the page; norms.csv holds all."""

    def run(self) -> None:
        """Sample, collect, write."""
        _refuse_file(self.out)
        if self.show < 1:
            raise ValueError(f"--show {self.show}: it must be at least 1")
        from psr_lens.decomposition import write_decomposition

        model, pairs = self.read()
        data = self.sample(model, pairs)
        written = write_decomposition(
            model, data, self.out, surface=self.surface, show=self.show, batch_size=self.batch_size
        )
        print(f"{len(data)} examples: open {written}")


@dataclass(frozen=True)
class Fit(_PairOptions):
    """Fit a steering to the pairs, measure it on held-out ones, and save it."""

    out: Path = Path("steering.safetensors")
    """The file to write."""
    method: Literal["psr", "const", "dim"] = "psr"
    """What to fit: ReLU probes, stage-wise constant vectors, or differences in means."""
    layers: str = "all"
    """`all`, `best`, one index, or several with commas: `3,4,5`."""
    heads: int = 1
    """PSR heads per layer."""

    def run(self) -> None:
        """Sample, fit, measure, save."""
        layers = _parse_layers(self.layers)
        if self.heads < 1:
            raise ValueError(f"--heads {self.heads}: it must be at least 1")
        if self.out.is_dir():
            raise ValueError(f"--out {self.out} is a directory: name a file")
        _refuse_unwritable(self.out.absolute().parent)
        from psr_lens._types import resolve_layers
        from psr_lens.faithfulness import measure_faithfulness
        from psr_lens.fitting import fit

        model, pairs = self.read()
        if layers != "best":
            resolve_layers(layers, model.n_layers)
        data = self.sample(model, pairs)
        steering = fit(
            model,
            data,
            method=self.method,
            layers=layers,
            surface=self.surface,
            n_heads=self.heads,
            seed=self.seed,
            batch_size=self.batch_size,
            progress=True,
        )
        saved = steering.save(self.out)
        if len(data.test):
            report = measure_faithfulness(
                model, [steering], data.test, surface=self.surface, batch_size=self.batch_size
            )
            print(report.summary())
        else:
            print("no test examples: too few groups of pairs to hold some out")
        print(f"saved {saved}")


@dataclass(frozen=True)
class Steer(_ModelOptions):
    """Answer a prompt under a saved steering."""

    prompt: str = tyro.MISSING
    """One user turn on a chat model, plain text on a base model."""
    steering: Path = tyro.MISSING
    """A file that `fit` or `demo` wrote."""
    alpha: float = 1.0
    """Strength."""
    max_new_tokens: int = 128
    """Longest response, in tokens."""
    temperature: float = 1.0
    """0 for greedy decoding."""
    seed: int = 0
    """The same seed gives the same response."""

    def run(self) -> None:
        """Load, steer, print."""
        from psr_lens.steering import load_steering

        steering = load_steering(self.steering)
        model = self.load()
        with steering.applied(model, self.alpha):
            print(
                model.generate(
                    self.prompt,
                    max_new_tokens=self.max_new_tokens,
                    temperature=self.temperature,
                    seed=self.seed,
                )
            )


Command = (
    Annotated[Demo, tyro.conf.subcommand("demo")]
    | Annotated[Decompose, tyro.conf.subcommand("decompose")]
    | Annotated[Fit, tyro.conf.subcommand("fit")]
    | Annotated[Steer, tyro.conf.subcommand("steer")]
)


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        args: The arguments, those of the process if not given.
    """
    given = list(sys.argv[1:] if args is None else args)
    if given == ["--version"]:
        from importlib.metadata import version

        print(f"psr-lens {version('psr-lens')}")
        return
    command = _parse(given)
    # Threads that wait for each other spin, and on a busy machine they spin in place of those that
    # they wait for. Read once, when torch is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")
    try:
        command.run()
    except KeyboardInterrupt:
        _fail("interrupted, nothing was written", 130)
    except (ValueError, OSError) as error:
        _fail(str(error), 2)


def _parse(args: list[str]):
    """The command, or one line about what is wrong with the arguments."""
    complaint = io.StringIO()
    columns = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = columns or "100"
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(
                Command,
                args=args,
                prog="psr-lens",
                description="What did this prompt do inside the model?",
                config=(tyro.conf.FlagConversionOff, tyro.conf.OmitArgPrefixes),
            )
    except SystemExit as end:
        if end.code in (0, None):
            raise
        _fail(_one_line(complaint.getvalue()), 2)
    finally:
        if columns is None:
            del os.environ["COLUMNS"]


def _one_line(text: str) -> str:
    """An error box as one line, without its frame and its title."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    lines = [line.strip(" │|") for line in plain.splitlines()]
    kept = [line for line in lines if line.strip("╭╮╰╯─- ")]
    return " ".join(kept[1:] or kept) or "the arguments make no sense: see psr-lens --help"


def _fail(message: str, code: int) -> NoReturn:
    print(f"psr-lens: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(code)


def _refuse_file(directory: Path) -> None:
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"--out {directory} is a file: name a directory")
    _refuse_unwritable(directory.absolute())


def _refuse_unwritable(directory: Path) -> None:
    """Before the work and not after it: can files be made there?"""
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    try:
        with tempfile.TemporaryDirectory(dir=existing, prefix=".psr-lens-"):
            pass
    except OSError as error:
        raise ValueError(
            f"--out: cannot write in {existing} ({error.strerror}): name another"
        ) from None


def _parse_layers(text: str) -> "int | list[int] | Literal['all', 'best']":
    if text in ("all", "best"):
        return text
    try:
        indices = [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"--layers {text!r}: write all, best, 3 or 3,4,5") from None
    return indices[0] if len(indices) == 1 else indices


if __name__ == "__main__":
    main()
