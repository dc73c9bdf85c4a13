"""What a PSR costs on a GPU: `python -m benchmarks.cuda` prints one line of JSON.

A Llama of about 1.6 billion random weights in bfloat16, made in memory, on transformers' own backend. Every
time is a median over rounds in which the contenders take turns, the device synchronised around each; the
ratios are of times, so 1 costs nothing and 2 twice as much as the bare Hugging Face model.

1. One forward pass of 16 rows of 512 tokens: Hugging Face's own; the same through psr_lens, without a
   steering and with a PSR on all layers, which acts on every token.
2. Decoding of 128 tokens, greedy, 16 prompts of 64 tokens, with a KV cache: Hugging Face's `generate`;
   psr_lens' without a steering, with constants and with a PSR on all layers; and Hugging Face's `generate`
   inside `applied`, with the PSR.
3. Extraction of deltas: 32 examples of 64 and 96 prompt tokens and 64 of response, in batches of 16;
   aligned tokens per second, and the time against Hugging Face's passes over the same texts, which
   compute logits as well.
"""

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

import psr_lens as pl
from benchmarks import plain
from benchmarks.models import make_examples
from benchmarks.timing import Timings, alternate
from psr_lens.deltas import iter_deltas
from psr_lens.models import TokenRow
from psr_lens.models.chat import PromptTokens
from psr_lens.models.generation import generate_tokens
from psr_lens.steering import PSR, ConstantSteering, Steering
from tests.tiny import tiny_tokenizer


@dataclass(frozen=True)
class Sizes:
    """How large everything is; `--small` is for trying the script on a CPU."""

    width: int = 2048
    layers: int = 24
    rows: int = 16
    length: int = 512
    prompt: int = 64
    new_tokens: int = 128
    response: int = 64
    examples: int = 32
    repeats: int = 7
    decodings: int = 3


SMALL = Sizes(64, 3, 4, 32, 8, 8, 8, 8, 2, 2)


def llama(sizes: Sizes, device: str) -> Any:
    """A random Llama behind the model protocol; the tokenizer only names its tokens.

    The residual stream of random weights says nothing, but it takes as long as any other.
    """
    tokenizer = tiny_tokenizer("bytes", "llama3")
    config = LlamaConfig(
        vocab_size=32_000,
        hidden_size=sizes.width,
        intermediate_size=4 * sizes.width,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.width // 64 if sizes.width >= 128 else 2,
        num_key_value_heads=8 if sizes.width >= 512 else 2,
        max_position_embeddings=2048,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=None,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    with torch.device(device):
        made = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model = pl.load_model(made, tokenizer=tokenizer)
    # Every answer has its full length.
    model.encoder.end_token_ids = frozenset()
    return model


def steerings(model: Any) -> dict[str, Steering]:
    """Constants and a PSR on all layers, on all tokens, so small that nothing overflows."""
    generator = torch.Generator().manual_seed(0)
    n, d = model.n_layers, model.d_model

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) / d

    layers = range(n)
    return {
        "constants": ConstantSteering(random(n, d), layers, tokens="all"),
        "PSR": PSR(random(n, 1, d), random(n, 1), random(n, 1, d), layers, tokens="all"),
    }


def timed(contenders: Mapping[str, Callable[[], object]], device: str, repeats: int) -> Timings:
    """Seconds of each, with nothing left to do on the device before and after."""

    def synchronised(run: Callable[[], object]) -> Callable[[], object]:
        def wait() -> None:
            if device.startswith("cuda"):
                torch.cuda.synchronize()

        def whole() -> None:
            wait()
            run()
            wait()

        return whole

    return alternate({name: synchronised(run) for name, run in contenders.items()}, repeats)


def under(model: Any, steering: Steering, run: Callable[[], object]) -> Callable[[], object]:
    """The same inside `applied`."""

    def steered() -> object:
        with steering.applied(model):
            return run()

    return steered


@torch.no_grad()
def forward_passes(model: Any, sizes: Sizes, device: str) -> Timings:
    """Logits of one batch."""
    ids = prompts(model, sizes.rows, sizes.length)
    batch = model.pad([TokenRow(own, 0, len(own) - 1) for own in ids])
    contenders = {
        "Hugging Face": lambda: plain.forward(model, batch),
        "no steering": lambda: model.logits(batch),
    }
    for name, own in steerings(model).items():
        contenders[name] = under(model, own, lambda: model.logits(batch))
    return timed(contenders, device, 3 * sizes.repeats)


@torch.no_grad()
def decoding(model: Any, sizes: Sizes, device: str) -> Timings:
    """Greedy answers of one length: no token ends one."""
    ids = prompts(model, sizes.rows, sizes.prompt)
    batch = model.pad([TokenRow(own, 0, len(own) - 1) for own in ids])
    encoded = [PromptTokens(own, 0) for own in ids]

    def hugging_face() -> Any:
        return model.raw.generate(
            input_ids=batch.tokens,
            attention_mask=batch.attention_mask.long(),
            do_sample=False,
            max_new_tokens=sizes.new_tokens,
        )

    def own() -> Any:
        found = generate_tokens(
            model, encoded, max_new_tokens=sizes.new_tokens, temperature=0.0, batch_size=sizes.rows
        )
        assert {len(one.tokens) for one in found} == {sizes.new_tokens}
        return found

    contenders = {"Hugging Face": hugging_face, "no steering": own}
    made = steerings(model)
    for name, steering in made.items():
        contenders[name] = under(model, steering, own)
    contenders["Hugging Face, PSR"] = under(model, made["PSR"], hugging_face)
    return timed(contenders, device, sizes.decodings)


def extraction(model: Any, sizes: Sizes, device: str) -> tuple[Timings, int]:
    """Accumulated deltas, both kinds, and bare passes over the same; and the aligned tokens of one round."""
    examples = make_examples(sizes.examples, sizes.prompt, sizes.response)
    batches = plain.both_batches(model, examples, sizes.rows)

    def extract(local: bool) -> None:
        for _ in iter_deltas(model, examples, local=local, batch_size=sizes.rows):
            pass

    contenders = {
        "Hugging Face": lambda: [plain.forward(model, batch) for batch in batches],
        "accumulated": lambda: extract(local=False),
        "accumulated and local": lambda: extract(local=True),
    }
    return timed(contenders, device, sizes.repeats), sum(
        example.aligned_length("response") for example in examples
    )


def prompts(model: Any, rows: int, length: int) -> list[tuple[int, ...]]:
    """Rows of other tokens each, so that none shares a prefix with another."""
    generator = torch.Generator().manual_seed(0)
    return [
        tuple(torch.randint(10, 200, (length,), generator=generator).tolist()) for _ in range(rows)
    ]


def ratios(timings: Timings) -> dict[str, Any]:
    """Medians in seconds, and ratios to Hugging Face."""
    return {
        "seconds": {name: round(own, 5) for name, own in timings.medians().items()},
        "ratio": {
            name: round(timings.ratio(name, "Hugging Face"), 3)
            for name in timings.seconds
            if name != "Hugging Face"
        },
    }


def main() -> None:
    """All three, one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="a tiny model, to try the script")
    given = parser.parse_args()
    sizes = SMALL if given.small else Sizes()
    model = llama(sizes, given.device)
    forward = forward_passes(model, sizes, given.device)
    decoded = decoding(model, sizes, given.device)
    extracted, tokens = extraction(model, sizes, given.device)
    medians = extracted.medians()
    on_cuda = given.device.startswith("cuda")
    print(
        json.dumps(
            {
                "device": torch.cuda.get_device_name() if on_cuda else given.device,
                "torch": torch.__version__,
                "parameters": sum(own.numel() for own in model.raw.parameters()),
                "forward": ratios(forward),
                "decoding": ratios(decoded),
                "extraction": ratios(extracted)
                | {
                    "aligned_tokens_per_second": {
                        name: round(tokens / medians[name])
                        for name in ("accumulated", "accumulated and local")
                    },
                    # Every aligned token has one delta at every layer.
                    "deltas_per_second": {
                        name: round(tokens * model.n_layers / medians[name])
                        for name in ("accumulated", "accumulated and local")
                    },
                },
            }
        )
    )


if __name__ == "__main__":
    main()
