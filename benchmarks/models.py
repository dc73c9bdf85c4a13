"""What is measured on: three checkpoints, and pairs of prompts of a given length.

The demo model is the package's own with room for longer texts, which its rotary positions allow.
The other one is a random Llama, wide and deep enough for the model to dominate over Python. It
uses the demo's words, so that packages that take text see the very same tokens. The third is real:
SmolLM2, where its package is installed.
"""

import json
import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from psr_lens.dataset import SteeringDataset
from psr_lens.demo import checkpoint_path
from psr_lens.examples import Example
from psr_lens.models.chat import RawText
from psr_lens.models.checkpoint import read_checkpoint
from psr_lens.models.progress import LoadingBar
from psr_lens.models.quiet import quiet
from psr_lens.prompts import PromptPair

CONTEXT = 1024
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json")


def demo_checkpoint(directory: Path) -> Path:
    """The demo model with a context of 1,024 tokens."""
    shutil.copytree(checkpoint_path("demo"), directory)
    _edit_json(directory / "config.json", max_position_embeddings=CONTEXT)
    _edit_json(directory / "tokenizer_config.json", model_max_length=CONTEXT)
    return directory


def llama_checkpoint(directory: Path, *, layers: int = 12, width: int = 512, seed: int = 0) -> Path:
    """A random Llama with the demo's words, heads of 64 and a hidden layer of 2.75 widths."""
    heads = max(1, width // 64)
    config = LlamaConfig(
        vocab_size=len(_vocabulary()),
        hidden_size=width,
        intermediate_size=width * 11 // 4,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=CONTEXT,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        tie_word_embeddings=False,
    )
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config)
    torch.random.set_rng_state(state)
    with quiet(downloads=False):
        model.save_pretrained(directory)
    for name in _TOKENIZER:
        shutil.copy(checkpoint_path("demo") / name, directory)
    _edit_json(directory / "tokenizer_config.json", model_max_length=CONTEXT)
    return directory


def smollm2_checkpoint(directory: Path) -> Path:
    """SmolLM2-135M-Instruct as an ordinary checkpoint, in float32.

    Raises:
        ValueError: If it is not to be had.
    """
    checkpoint = read_checkpoint(
        "smollm2",
        dtype=torch.float32,
        device=torch.device("cpu"),
        bar=LoadingBar("smollm2", 4, progress=False),
    )
    with quiet():
        checkpoint.model.save_pretrained(directory)
        checkpoint.tokenizer.save_pretrained(directory)
    return directory


def _edit_json(path: Path, **fields: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields, indent=1))


def _vocabulary() -> dict[str, int]:
    whole = json.loads((checkpoint_path("demo") / "tokenizer.json").read_text())
    special = {added["content"]: added["id"] for added in whole["added_tokens"]}
    return whole["model"]["vocab"] | special


def _words() -> tuple[list[str], list[int]]:
    """Plain words, which every tokenizer reads as one token each, and their ids."""
    plain = {word: i for word, i in _vocabulary().items() if word.isalpha()}
    return list(plain), list(plain.values())


@dataclass(frozen=True)
class Texts:
    """One pair as text: what a package gets that tokenises by itself."""

    base: str
    prompted: str


def make_texts(
    count: int, prompt: int, *, instruction: int = 20, first: int = 0
) -> tuple[Texts, ...]:
    """Random words: prompts of `prompt` tokens, and the same behind one common instruction.

    Args:
        count: Pairs.
        prompt: Tokens of a base prompt, `<bos>` included.
        instruction: Tokens of the instruction that the steering prompts begin with.
        first: Number of the first pair; every pair is drawn from its own number.
    """
    words, _ = _words()
    told = random.Random(7).choices(words, k=instruction)
    pairs = []
    for i in range(first, first + count):
        asked = random.Random(1000 + i).choices(words, k=prompt - 1)
        pairs.append(Texts(" ".join(asked), " ".join([*told, *asked])))
    return tuple(pairs)


def make_examples(
    count: int,
    prompt: int,
    response: int,
    *,
    instruction: int = 20,
    first: int = 0,
    group: str = "",
) -> tuple[Example, ...]:
    """The same as token ids, each with a response of random words.

    Every pair is a group of its own, unless they are all of one given group.
    """
    vocabulary = _vocabulary()
    _, ids = _words()
    examples = []
    for i, texts in enumerate(make_texts(count, prompt, instruction=instruction, first=first)):
        base, prompted = (
            (vocabulary["<bos>"], *(vocabulary[word] for word in text.split()))
            for text in (texts.base, texts.prompted)
        )
        answer = random.Random(5000 + first + i).choices(ids, k=response)
        own = group or f"pair {first + i}"
        pair = PromptPair(RawText(texts.base), RawText(texts.prompted), group=own)
        examples.append(Example(pair, base, prompted, tuple(answer)))
    return tuple(examples)


def as_dataset(
    train: Sequence[Example], dev: Sequence[Example] = (), test: Sequence[Example] = ()
) -> SteeringDataset:
    """Examples with a split that is given and not drawn."""
    parts = {"train": train, "dev": dev, "test": test}
    split = {example.pair.group: name for name, part in parts.items() for example in part}
    return SteeringDataset((*train, *dev, *test), split)  # type: ignore[arg-type]
