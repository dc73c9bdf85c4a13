"""How much of everything is run: enough to measure, or just enough to see that it works."""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.models import demo_checkpoint, llama_checkpoint, smollm2_checkpoint
from psr_lens.models import HookedModel, load_model
from psr_lens.models.load import hooked_available

SMOLLM2 = "smollm2"
BACKENDS = ("hooked", "bridge") if hooked_available() else ("bridge",)
ALL_BACKENDS = (*BACKENDS, "transformers")
"""With the one that has nothing but its own passes to be measured against."""


@dataclass(frozen=True)
class Sizes:
    """Numbers of one run.

    Attributes:
        repeats: Rounds of every comparison that takes seconds.
        fit_repeats: Rounds of every comparison that takes minutes.
        layers: Depth of the random Llama.
        width: Its width.
        prompts: Prompt lengths in tokens.
        response: Response length in tokens.
        examples: Examples of extraction and of difference in means, at the shortest prompts.
        batch_size: Examples per forward pass.
        fit_examples: Training examples of a fit, and of its held-out half.
        fit_batch_size: Examples per optimiser step.
        epochs: Epochs of a fit through the model.
        instruction: Tokens of the long instruction that steered generation is compared with.
        generation_batches: Prompts generated for at once.
        memory_examples: A few and many examples for the peak memory of the deltas.
        lab_examples: The same for the faithfulness lab.
        growth: Factors by which each size grows.
        real: The model that stands beside Hugging Face's, and whose loading is measured.
        real_tokens: Tokens that it decodes.
        shared_rows: Rows that begin with the instruction.
        shared_lengths: Tokens of their questions and responses.
        layerwise: Tokens of an example of the layerwise fit, without the instruction.
        layerwise_examples: How many there are, a quarter to stop on.
    """

    repeats: int = 5
    fit_repeats: int = 3
    layers: int = 12
    width: int = 512
    prompts: tuple[int, ...] = (40, 400)
    response: int = 60
    examples: int = 16
    batch_size: int = 8
    fit_examples: int = 16
    fit_batch_size: int = 8
    epochs: int = 15
    instruction: int = 400
    generation_batches: tuple[int, ...] = (1, 16)
    memory_examples: tuple[int, int] = (50, 500)
    lab_examples: tuple[int, int] = (200, 2000)
    growth: tuple[int, ...] = (1, 2, 4, 8)
    real: str = SMOLLM2
    real_tokens: int = 64
    shared_rows: int = 16
    shared_lengths: tuple[int, int] = (30, 40)
    layerwise: int = 40
    layerwise_examples: int = 48


QUICK = Sizes(
    repeats=1,
    fit_repeats=1,
    layers=2,
    width=64,
    prompts=(6,),
    response=4,
    examples=4,
    batch_size=2,
    fit_examples=4,
    fit_batch_size=2,
    epochs=2,
    instruction=12,
    generation_batches=(1, 2),
    memory_examples=(2, 4),
    lab_examples=(2, 4),
    growth=(1, 2),
    real="llama-2x64",
    real_tokens=4,
    shared_rows=3,
    shared_lengths=(3, 4),
    layerwise=8,
    layerwise_examples=8,
)


class Bench:
    """Checkpoints of one run, made when first asked for, in a directory that goes with the run.

    Args:
        sizes: How much to run.
    """

    def __init__(self, sizes: Sizes):
        self.sizes = sizes
        self._directory = TemporaryDirectory(prefix="bench-")
        self._models: dict[tuple[str, str], HookedModel] = {}

    @property
    def directory(self) -> Path:
        return Path(self._directory.name)

    @property
    def large(self) -> str:
        """Name of the random Llama at this run's size."""
        return f"llama-{self.sizes.layers}x{self.sizes.width}"

    @property
    def names(self) -> tuple[str, str]:
        """The two models that everything is measured on; the real one has a benchmark of its own."""
        return "demo", self.large

    def checkpoint(self, name: str) -> Path:
        """A checkpoint by name: `demo`, `smollm2`, or `llama-{layers}x{width}`."""
        directory = self.directory / name
        if directory.exists():
            return directory
        if name == "demo":
            return demo_checkpoint(directory)
        if name == SMOLLM2:
            return smollm2_checkpoint(directory)
        layers, width = name.removeprefix("llama-").split("x")
        return llama_checkpoint(directory, layers=int(layers), width=int(width))

    def model(self, name: str, backend: str) -> HookedModel:
        """The same, loaded once per backend."""
        if (name, backend) not in self._models:
            self._models[name, backend] = load_model(
                self.checkpoint(name), backend=backend, device="cpu"
            )
        return self._models[name, backend]

    def count(self, prompt: int) -> int:
        """Examples at a prompt length: fewer long ones, but a whole batch of them."""
        fewer = self.sizes.examples * self.sizes.prompts[0] // prompt
        return max(self.sizes.batch_size, fewer)

    def close(self) -> None:
        """Delete the checkpoints."""
        self._models.clear()
        self._directory.cleanup()
