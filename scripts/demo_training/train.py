"""Rebuild the demo checkpoints from a seed.

    python -m scripts.demo_training.train --model all --out /tmp/checkpoints

Both models see the same stream of chats (`curriculum.py`) and are trained with the mean cross-entropy
over the answers' tokens, the `<eos>` included. At the end the answers to held-out animals are judged
(`acceptance.py`): trait and coherence for every instruction, without a prompt, with a training wording
and with the held-out wording.

The same seed on the same machine gives the same weights; another processor or number of threads
rounds differently and gives others that are just as good.
"""

import argparse
import hashlib
import math
import random
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor
from tqdm import tqdm
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from psr_lens.demo import CHECKPOINTS
from scripts.demo_training.acceptance import format_table, measure_prompting
from scripts.demo_training.curriculum import draw_chat
from scripts.demo_training.tokenizer import MAX_LENGTH, build_tokenizer, save_tokenizer

LAYERS, WIDTH, HEADS = 6, 128, 4
BATCH = 48
# Sequences of like length share a batch: this many batches are drawn, sorted and shuffled at once.
BATCHES_PER_BUCKET = 25
# The GPT-2 has to learn its positions as well, and takes longer over it.
STEPS = {"demo": 3000, "demo-gpt2": 4000}
PEAK_RATE = 2e-3
WARM_UP = 100
IGNORED = -100


def build_model(name: str, vocabulary_size: int) -> PreTrainedModel:
    """A freshly initialised model; draws from torch's global generator."""
    if name == "demo":
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=vocabulary_size,
                hidden_size=WIDTH,
                intermediate_size=320,
                num_hidden_layers=LAYERS,
                num_attention_heads=HEADS,
                num_key_value_heads=HEADS,
                max_position_embeddings=MAX_LENGTH,
                rms_norm_eps=1e-6,
                attention_dropout=0.0,
                tie_word_embeddings=False,
                pad_token_id=0,
                bos_token_id=1,
                eos_token_id=2,
            )
        )
    config = GPT2Config(
        vocab_size=vocabulary_size,
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=HEADS,
        n_inner=4 * WIDTH,
        n_positions=MAX_LENGTH,
        activation_function="gelu_new",
        attn_pdrop=0.0,
        embd_pdrop=0.0,
        resid_pdrop=0.0,
        summary_first_dropout=0.0,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    # GPT2Config has no field for it any more, but TransformerLens looks for it.
    config.update({"n_ctx": MAX_LENGTH})
    return GPT2LMHeadModel(config)


def encode_chat(
    tokenizer: Tokenizer, messages: list[dict[str, str]]
) -> tuple[list[int], list[int]]:
    """Token ids of a chat and its labels: the answers with their `<eos>`, the rest ignored.

    Written out instead of going through the chat template, because labels have to be known per
    turn; a test compares the two.
    """
    vocabulary = tokenizer.get_vocab()
    ids, labels = [vocabulary["<bos>"]], [IGNORED]
    for message in messages:
        text = [vocabulary[f"<{message['role']}>"]]
        text += tokenizer.encode(message["content"], add_special_tokens=False).ids
        if message["role"] == "assistant":
            text.append(vocabulary["<eos>"])
            labels += [IGNORED, *text[1:]]
        else:
            labels += [IGNORED] * len(text)
        ids += text
    return ids, labels


def batches(tokenizer: Tokenizer, steps: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Right-padded `(ids, labels)`, each `[BATCH, pos]`, one pair per step."""
    rng = random.Random(seed)
    for start in range(0, steps, BATCHES_PER_BUCKET):
        count = min(BATCHES_PER_BUCKET, steps - start)
        encoded = [encode_chat(tokenizer, draw_chat(rng)) for _ in range(count * BATCH)]
        encoded.sort(key=lambda pair: len(pair[0]))
        bucket = [encoded[i : i + BATCH] for i in range(0, len(encoded), BATCH)]
        rng.shuffle(bucket)
        for batch in bucket:
            width = max(len(ids) for ids, _ in batch)
            yield (
                torch.tensor([ids + [0] * (width - len(ids)) for ids, _ in batch]),
                torch.tensor([lab + [IGNORED] * (width - len(lab)) for _, lab in batch]),
            )


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up, then half a cosine down to a hundredth of the peak."""
    if step < WARM_UP:
        return peak * (step + 1) / WARM_UP
    progress = (step - WARM_UP) / max(1, steps - WARM_UP)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def train(name: str, steps: int, seed: int) -> PreTrainedModel:
    """Train one of the demo models from scratch."""
    tokenizer = build_tokenizer()
    torch.manual_seed(seed)
    model = build_model(name, tokenizer.get_vocab_size())
    model.train()
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}],
        betas=(0.9, 0.98),
    )
    bar = tqdm(batches(tokenizer, steps, seed), total=steps, desc=name)
    for step, (ids, labels) in enumerate(bar):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, steps, PEAK_RATE)
        # No attention mask: padding is on the right, where causal attention never looks back at it.
        logits = model(input_ids=ids, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED
        )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if step % 20 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}")
    return model.eval()


def save(model: PreTrainedModel, directory: Path) -> None:
    """Write the checkpoint as transformers and TransformerLens read it."""
    directory.mkdir(parents=True, exist_ok=True)
    model.generation_config = GenerationConfig(
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        # Plain sampling at temperature 1: without this, transformers keeps the 50 likeliest tokens.
        do_sample=True,
        top_k=0,
        max_new_tokens=100,
    )
    model.save_pretrained(directory)
    save_tokenizer(directory)


def write_checksums() -> None:
    """Record the hashes of the package's checkpoints, in the format of `sha256sum`."""
    root = CHECKPOINTS["demo"].parent
    files = sorted(path for directory in CHECKPOINTS.values() for path in directory.iterdir())
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(root).as_posix()}\n"
        for path in files
    ]
    (root / "SHA256SUMS").write_text("".join(lines), encoding="utf-8")


def main() -> None:
    """Train, save, judge."""
    parser = argparse.ArgumentParser(description="Rebuild the demo checkpoints from a seed.")
    parser.add_argument("--model", choices=(*CHECKPOINTS, "all"), default="all")
    parser.add_argument("--out", type=Path, default=None, help="default: inside the package")
    parser.add_argument("--steps", type=int, default=None, help=f"default: {STEPS}")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    names = list(CHECKPOINTS) if arguments.model == "all" else [arguments.model]
    for name in names:
        target = CHECKPOINTS[name] if arguments.out is None else arguments.out / name
        model = train(name, arguments.steps or STEPS[name], arguments.seed)
        save(model, target)
        print(f"\n{name}: trait / coherence on held-out animals, saved in {target}")
        print(format_table(*measure_prompting(model, AutoTokenizer.from_pretrained(target))))
    if arguments.out is None:
        write_checksums()


if __name__ == "__main__":
    main()
