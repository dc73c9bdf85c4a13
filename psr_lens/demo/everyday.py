"""Trials for a real chat model: everyday questions, a few instructions, judges that work offline.

Nothing about a real model's answers can be judged as exactly as in the demo world. The judges here
read only the surface and say what they count; the page shows the answers beside the scores. They
need the extra `real`.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from types import MappingProxyType
from typing import Final

from psr_lens.dataset import SteeringDataset
from psr_lens.demo.animals import mismatched
from psr_lens.demo.text_judges import judge_fluency, judge_language, judge_pirate
from psr_lens.demo.trial import TextJudge, Trial
from psr_lens.evaluation import Score
from psr_lens.examples import Example, Split
from psr_lens.models import HookedModel
from psr_lens.prompts import PromptPair, make_pairs
from psr_lens.responses import sample_responses

QUESTIONS: Final = MappingProxyType(
    {
        "cooking": (
            "How do I boil an egg?",
            "What can I cook with rice and beans?",
            "Why does bread rise in the oven?",
        ),
        "weather": ("Why does it rain?", "What makes a rainbow?", "How does snow form?"),
        "animals": ("Why do cats purr?", "How do birds find their way?", "What do whales eat?"),
        "space": (
            "Why is the sky dark at night?",
            "What is a black hole?",
            "How far away is the moon?",
        ),
        "health": (
            "How can I sleep better?",
            "Why is it good to drink water?",
            "What should I do when I have a cold?",
        ),
        "travel": (
            "What should I pack for a week at the sea?",
            "How can I travel cheaply?",
            "What is the best way to see a new city?",
        ),
        "history": (
            "Who built the pyramids?",
            "What was the Silk Road?",
            "Why did the Roman Empire fall?",
        ),
        "music": (
            "How do I learn to play the guitar?",
            "What makes a song memorable?",
            "What is a symphony?",
        ),
        "sport": (
            "What are the rules of football?",
            "How do I start running?",
            "Why do people climb mountains?",
        ),
        "plants": (
            "How do trees drink water?",
            "How do I grow tomatoes at home?",
            "Why are leaves green?",
        ),
        "money": (
            "How can I save money every month?",
            "What is inflation?",
            "How does a bank work?",
        ),
        "school": (
            "How can I learn faster?",
            "How do I prepare for an exam?",
            "Why do children go to school?",
        ),
        "work": (
            "How do I write a good email?",
            "What should I say in a job interview?",
            "How can I be less tired at work?",
        ),
        "friends": (
            "How do I make new friends?",
            "What should I give my friend for her birthday?",
            "How do I say sorry?",
        ),
        "sea": (
            "Why is the sea salty?",
            "What causes the tides?",
            "What lives at the bottom of the ocean?",
        ),
        "machines": (
            "How does a bicycle stay upright?",
            "How does a refrigerator work?",
            "How do planes fly?",
        ),
        "art": ("How do I draw a face?", "Who painted the Mona Lisa?", "What is impressionism?"),
        "books": (
            "What is a good book for a rainy day?",
            "How do I write a short story?",
            "What is a fairy tale?",
        ),
        "body": ("How does the heart work?", "Why do we dream?", "Why do we yawn?"),
        "home": (
            "How do I clean a window?",
            "How can I make my room cosy?",
            "How do I get rid of ants in the kitchen?",
        ),
    }
)
"""Three questions on each of twenty topics. Topics, not questions, are split."""

_DEV_TOPICS: Final = 3
_TEST_TOPICS: Final = 5


@dataclass(frozen=True)
class EverydayInstruction:
    """A steering instruction for a real chat model.

    Attributes:
        name: What it is called.
        text: The system message.
        paraphrase: The same in other words.
        language: The language in which it wants the answers, as a two-letter code.
        control: Another instruction, to which the control is fitted.
        judged: How its trait is scored, in words.
    """

    name: str
    text: str
    paraphrase: str
    language: str
    control: str
    judged: str


EVERYDAY: Final = MappingProxyType(
    {
        own.name: own
        for own in (
            EverydayInstruction(
                "french",
                "You are a helpful assistant. Answer only in French.",
                "Always reply in French, whatever language you are asked in.",
                "fr",
                "You are a helpful assistant. Talk like a pirate.",
                "the share of the text whose sentences py3langid takes for French",
            ),
            EverydayInstruction(
                "spanish",
                "You are a helpful assistant. Answer only in Spanish.",
                "Always reply in Spanish, whatever language you are asked in.",
                "es",
                "You are a helpful assistant. Talk like a pirate.",
                "the share of the text whose sentences py3langid takes for Spanish",
            ),
            EverydayInstruction(
                "german",
                "You are a helpful assistant. Answer only in German.",
                "Always reply in German, whatever language you are asked in.",
                "de",
                "You are a helpful assistant. Talk like a pirate.",
                "the share of the text whose sentences py3langid takes for German",
            ),
            EverydayInstruction(
                "pirate",
                "You are a helpful assistant. Talk like a pirate.",
                "Speak the way a pirate captain at sea would.",
                "en",
                "You are a helpful assistant. Answer only in French.",
                "the share of sentences with a word that pirates of fiction use (arr, matey, ye ...)",
            ),
        )
    }
)
"""The instructions, by name."""


def everyday_instruction(name: str) -> EverydayInstruction:
    """One of the instructions.

    Raises:
        ValueError: If there is no such instruction.
    """
    if name not in EVERYDAY:
        raise ValueError(f"no instruction {name!r} for a real model: choose {', '.join(EVERYDAY)}")
    return EVERYDAY[name]


def everyday_trial(
    model: HookedModel,
    name: str,
    seed: int = 0,
    *,
    questions: Mapping[str, Sequence[str]] = QUESTIONS,
    max_new_tokens: int = 48,
    temperature: float = 0.7,
    batch_size: int = 48,
    least: float = 50.0,
) -> Trial:
    """One instruction on a real model, sampled: 12 topics to train on, 3 to choose on, 5 to report on.

    Args:
        model: A chat model whose template takes a system message.
        name: The instruction's name.
        seed: Decides the split and what is sampled.
        questions: By topic, at least three; a quarter of the topics is reported on.
        max_new_tokens: Longest answer, in tokens.
        temperature: Sampling temperature of the answers.
        batch_size: Questions answered at once.
        least: Least trait and coherence of the answers to learn from.

    Raises:
        ValueError: If there is no such instruction, the extra `real` is missing, there are too few
            topics, or too few training answers show the trait.
    """
    told = everyday_instruction(name)
    judge = everyday_judge(name)
    if len(questions) < 3:
        raise ValueError(
            f"questions on {len(questions)} topics: 3 are needed, to train, choose and report on"
        )
    split = _split(list(questions), seed)

    def sampled(parts: Sequence[str], seed: int) -> SteeringDataset:
        return sample_responses(
            model,
            [
                _pair(told, topic, text)
                for topic, asked in questions.items()
                if split[topic] in parts
                for text in asked
            ],
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
            split=split,
            batch_size=batch_size,
            progress=False,
        )

    def score_of(example: Example) -> Score:
        text = model.encoder.decode(example.response_ids)
        return judge(example, text, example.finished)

    def shows_it(example: Example) -> bool:
        score = score_of(example)
        return min(score.trait, score.coherence) >= least

    answered = sampled(("train", "dev"), seed)
    # As in the demo world and in the paper, answers without the trait are not learned from.
    fitted_on = answered.filter(shows_it)
    if not len(fitted_on.train) or not len(fitted_on.dev):
        raise ValueError(
            f"{model.name} hardly follows {told.text!r}: {len(fitted_on.train)} answers to train on and "
            f"{len(fitted_on.dev)} to choose on show it; choose another instruction or model"
        )
    # Sampled apart, so that a test question draws the same random numbers as under every steering.
    held_out = sampled(("test",), seed + 1)
    return Trial(
        name,
        told.text,
        fitted_on,
        held_out,
        mismatched(model, fitted_on, told.control),
        judge,
        f"by the text alone: the trait is {told.judged}, coherence the share of real words "
        "(wordfreq) that are not said over and over; the least coherence is that of the prompt's own answers",
        "topics",
        max_new_tokens,
        temperature,
        batch_size,
        # A small model is not that coherent under the prompt either: no steering need do better.
        coherent=fmean(score_of(example).coherence for example in answered.dev),
        whole_curve=False,
    )


def everyday_judge(name: str) -> TextJudge:
    """Trait and coherence of an answer, read off its text.

    Raises:
        ValueError: If the extra `real` is missing.
    """
    told = everyday_instruction(name)
    # A missing package is reported before the work, not after it.
    judge_fluency("a word", told.language)
    judge_language("a word", told.language)

    def judge(example: Example, text: str, finished: bool) -> Score:
        if told.name == "pirate":
            trait = judge_pirate(text)
        else:
            trait = judge_language(text, told.language)
        return Score(trait, judge_fluency(text, told.language))

    return judge


def _pair(told: EverydayInstruction, topic: str, text: str) -> PromptPair:
    (pair,) = make_pairs({topic: [text]}, told.text, paraphrases=[told.paraphrase])
    return replace(pair, metadata={"question": text})


def _split(topics: Sequence[str], seed: int) -> dict[str, Split]:
    """Which topics are trained on, chosen on and reported on."""
    shuffled = sorted(topics)
    random.Random(seed).shuffle(shuffled)
    n_test = max(1, len(shuffled) * _TEST_TOPICS // len(QUESTIONS))
    n_dev = max(1, len(shuffled) * _DEV_TOPICS // len(QUESTIONS))
    return {
        topic: "test" if i < n_test else "dev" if i < n_test + n_dev else "train"
        for i, topic in enumerate(shuffled)
    }
