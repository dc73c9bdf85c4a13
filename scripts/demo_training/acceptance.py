"""Does prompting work in a demo model? Sampled answers, judged: the numbers that it must reach."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from statistics import fmean
from typing import Any, cast

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from psr_lens.demo.demo_prompts import chat, questions, system_prompt
from psr_lens.demo.instructions import INSTRUCTION_NAMES, instruction
from psr_lens.demo.judges import judge_coherence, judge_trait
from psr_lens.demo.world import HELD_OUT_ANIMALS

MIN_TRAIT, MIN_COHERENCE, MAX_UNPROMPTED_TRAIT, MIN_HELD_OUT_TRAIT = 90.0, 95.0, 10.0, 85.0
_BATCH = 256

Answer = tuple[str, bool]
"""An answer's text, and whether the model ended it itself."""


@dataclass(frozen=True)
class Prompting:
    """What one instruction does when it is given as a prompt; means over answers, 0 to 100.

    Attributes:
        name: The instruction.
        unprompted_trait: Trait without a system message.
        trait: Trait with a training wording.
        coherence: Coherence with a training wording.
        held_out_trait: Trait with the held-out wording.
        held_out_coherence: Coherence with the held-out wording.
    """

    name: str
    unprompted_trait: float
    trait: float
    coherence: float
    held_out_trait: float
    held_out_coherence: float

    @property
    def passes(self) -> bool:
        """Whether it meets all the thresholds at the head of this module."""
        return (
            self.unprompted_trait <= MAX_UNPROMPTED_TRAIT
            and self.trait >= MIN_TRAIT
            and min(self.coherence, self.held_out_coherence) >= MIN_COHERENCE
            and self.held_out_trait >= MIN_HELD_OUT_TRAIT
        )


@torch.no_grad()
def generate_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    chats: Sequence[list[dict[str, str]]],
    *,
    seed: int = 0,
    max_new_tokens: int = 100,
) -> list[Answer]:
    """One sampled answer per chat, at temperature 1, and whether the model ended it itself.

    Uses transformers' own `generate`, in one left-padded batch, and nothing of psr_lens. Torch's
    global random state is left as it was.
    """
    tokenizer.padding_side = "left"
    texts = [
        str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        for messages in chats
    ]
    batch = tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        output = cast(Any, model).generate(
            **batch,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=max_new_tokens,
            pad_token_id=tokenizer.pad_token_id,
        )
    responses = output[:, batch["input_ids"].shape[1] :]
    finished = (responses == tokenizer.eos_token_id).any(dim=1).tolist()
    return [
        (str(tokenizer.decode(ids, skip_special_tokens=True)), ended)
        for ids, ended in zip(responses, finished, strict=True)
    ]


def measure_prompting(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    per_animal: int = 2,
    seed: int = 0,
    names: Sequence[str] = INSTRUCTION_NAMES,
) -> tuple[float, list[Prompting]]:
    """Judge the model's answers about the held-out animals under every instruction.

    Args:
        model: The model, in evaluation mode.
        tokenizer: Its tokenizer.
        per_animal: Questions per animal, in different wordings.
        seed: Draws questions, the training wordings and the samples.
        names: Instructions to measure.

    Returns:
        Coherence without a system message, and one `Prompting` per instruction.
    """
    asked = questions(HELD_OUT_ANIMALS, per_animal=per_animal, seed=seed)
    chats = [chat(text) for text in asked]
    for name in names:
        # Wordings take turns over the questions, so that no single one decides.
        wordings = cycle(range(len(instruction(name).wordings)))
        chats += [chat(text, system_prompt(name, next(wordings))) for text in asked]
        chats += [chat(text, system_prompt(name, None)) for text in asked]

    # All in few batches: a step costs hardly more for many sequences than for one.
    answers = [
        one
        for start in range(0, len(chats), _BATCH)
        for one in generate_answers(model, tokenizer, chats[start : start + _BATCH], seed=seed)
    ]
    groups = [answers[start : start + len(asked)] for start in range(0, len(answers), len(asked))]

    def trait(name: str, group: Sequence[Answer]) -> float:
        return fmean(judge_trait(name, q, text) for q, (text, _) in zip(asked, group, strict=True))

    def coherence(group: Sequence[Answer]) -> float:
        return fmean(judge_coherence(q, *one) for q, one in zip(asked, group, strict=True))

    plain, *prompted = groups
    measured = [
        Prompting(
            name,
            unprompted_trait=trait(name, plain),
            trait=trait(name, told),
            coherence=coherence(told),
            held_out_trait=trait(name, told_anew),
            held_out_coherence=coherence(told_anew),
        )
        for name, told, told_anew in zip(names, prompted[::2], prompted[1::2], strict=True)
    ]
    return coherence(plain), measured


def format_table(unprompted_coherence: float, measured: Sequence[Prompting]) -> str:
    """The measurements as a Markdown table of trait / coherence."""
    lines = [
        "| instruction | no prompt | training wording | held-out wording |",
        "| --- | --- | --- | --- |",
    ]
    lines += [
        f"| {row.name} | {row.unprompted_trait:.0f} / {unprompted_coherence:.0f} "
        f"| {row.trait:.0f} / {row.coherence:.0f} "
        f"| {row.held_out_trait:.0f} / {row.held_out_coherence:.0f} |"
        for row in measured
    ]
    return "\n".join(lines)
