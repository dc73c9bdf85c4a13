"""Which model fits where: the table in docs/models.md, by formula.

python -m benchmarks.which_fits               # writes it anew
"""

from dataclasses import dataclass
from pathlib import Path

from benchmarks.figures import fill

PAGE = Path(__file__).parents[1] / "docs" / "models.md"
LOADING = {"bridge": 1.15, "hooked": 2.3, "transformers": 1.15}
"""Peak of loading over the weights' bytes: what benchmarks/loading.py holds it to."""
EXAMPLES, BASE, INSTRUCTION, RESPONSE = 100, 60, 20, 60


@dataclass(frozen=True)
class Shape:
    """A decoder of Llama's kind: RMSNorm, a gated MLP, no biases but those of Qwen 2's attention."""

    layers: int
    d_model: int
    d_mlp: int
    heads: int
    kv_heads: int
    d_head: int
    d_vocab: int
    tied: bool = False
    qkv_bias: bool = False

    @property
    def parameters(self) -> int:
        """How many numbers the weights are."""
        queries, keys = self.heads * self.d_head, self.kv_heads * self.d_head
        attention = 2 * self.d_model * (queries + keys) + self.qkv_bias * (queries + 2 * keys)
        block = attention + 3 * self.d_model * self.d_mlp + 2 * self.d_model
        embeddings = (1 if self.tied else 2) * self.d_vocab * self.d_model
        return embeddings + self.layers * block + self.d_model


SHAPES = {
    "135M (SmolLM2)": Shape(30, 576, 1536, 9, 3, 64, 49_152, tied=True),
    "1B (Llama 3.2)": Shape(16, 2048, 8192, 32, 8, 64, 128_256, tied=True),
    "7B (Qwen 2.5)": Shape(28, 3584, 18_944, 28, 4, 128, 152_064, qkv_bias=True),
    "70B (Llama 3)": Shape(80, 8192, 28_672, 64, 8, 128, 128_256),
}


def delta_bytes(layers: int, d_model: int, aligned_tokens: int, itemsize: int) -> int:
    """Accumulated and local deltas of aligned tokens, at every layer."""
    return 2 * layers * aligned_tokens * d_model * itemsize


def fit_bytes(d_model: int, tokens: int, itemsize: int) -> int:
    """Residual streams of one layer, at every token of every base and prompted run."""
    return tokens * d_model * itemsize


def logits_bytes(rows: int, positions: int, d_vocab: int, itemsize: int) -> int:
    """Logits of a batch, as a pass with all of them gives them."""
    return rows * positions * d_vocab * itemsize


def table() -> str:
    """The table in Markdown, in GB of 1e9 bytes."""
    rows = [
        "| model | type | weights | loading, bridge | loading, HookedTransformer | deltas | layerwise fit |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    aligned = EXAMPLES * (RESPONSE + 1)
    tokens = EXAMPLES * (2 * (BASE + RESPONSE) + INSTRUCTION)
    for name, shape in SHAPES.items():
        for kind, itemsize in (("float32", 4), ("bfloat16", 2)):
            weights = shape.parameters * itemsize
            cells = [
                weights,
                LOADING["bridge"] * weights,
                LOADING["hooked"] * weights,
                delta_bytes(shape.layers, shape.d_model, aligned, itemsize),
                fit_bytes(shape.d_model, tokens, itemsize),
            ]
            shown = (f"{cell / 1e9:.3g}" for cell in cells)
            rows.append(f"| {name} | {kind} | {' | '.join(shown)} |")
    return "\n".join(rows)


if __name__ == "__main__":
    PAGE.write_text(fill(PAGE.read_text(encoding="utf-8"), table()), encoding="utf-8")
