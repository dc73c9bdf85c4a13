"""Responses to the steering prompts, sampled from the model, and plain ones beside them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from psr_lens._types import check_count, check_seed
from psr_lens.dataset import SteeringDataset, check_data, describe_origin, split_examples
from psr_lens.examples import SPLITS, Example, Split
from psr_lens.models import HookedModel, as_hooked_model, unsteered_model
from psr_lens.models.chat import Rendering
from psr_lens.models.generation import generate_tokens
from psr_lens.prompts import PromptPair
from psr_lens.seen_prompts import SeenPrompts

SHARES: Final = (0.6, 0.2, 0.2)
"""Default shares of train, dev and test."""


def sample_responses(
    model: Any,
    pairs: Sequence[PromptPair],
    *,
    samples_per_pair: int = 1,
    max_new_tokens: int = 128,
    temperature: float = 1.0,
    seed: int = 0,
    batch_size: int = 32,
    split: tuple[float, float, float] | Mapping[str, Split] = SHARES,
    progress: bool = True,
    template_options: Mapping[str, Any] | None = None,
    date: str | None = None,
) -> SteeringDataset:
    """Let the model answer every steering prompt, and collect the answers in a data set.

    Inside `applied` the model answers under the steering, which the provenance then names.

    Args:
        model: A `HookedModel`, HookedTransformer, TransformerBridge or transformers model.
        pairs: The prompt pairs. A pair with a response of its own is tokenised, not sampled.
        samples_per_pair: Responses per pair.
        max_new_tokens: Longest response, in tokens.
        temperature: 0 for greedy decoding.
        seed: Decides responses and split; the same seed gives the same data set.
        batch_size: Prompts per batch; it does not change what is sampled.
        split: Shares of train, dev and test, over groups; or the split of every group.
        progress: Whether to show a bar.
        template_options: Options of the chat template (`enable_thinking`, `date_string`, `tools`),
            overriding those given to `load_model`. Kept with the examples.
        date: The day for a template that writes the date, as `2026-11-25`: one for the whole data set, kept
            with the examples. Today by default.

    Raises:
        ValueError: If there is no pair, an argument is out of its range, or the chat template does
            not take an option.
    """
    if isinstance(pairs, PromptPair):
        raise ValueError("one PromptPair was given where several are taken: pass [pair]")
    pairs = list(pairs)
    if not pairs:
        raise ValueError("there are no pairs to sample responses for: pass at least one")
    for pair in pairs:
        if not isinstance(pair, PromptPair):
            raise ValueError(f"{pair!r} is no PromptPair: make them with psr_lens.make_pairs(...)")
    if isinstance(split, Mapping) and any(pair.group not in split for pair in pairs):
        unnamed = next(pair.group for pair in pairs if pair.group not in split)
        raise ValueError(f"split names no part for group {unnamed!r}: name train, dev or test")
    if isinstance(split, Mapping) and not set(split.values()) <= set(SPLITS):
        wrong = next(name for name in split.values() if name not in SPLITS)
        raise ValueError(f"split names a part {wrong!r}: choose train, dev or test")
    check_count("samples_per_pair", samples_per_pair)
    check_seed(seed)
    hooked = as_hooked_model(model)
    steered_by = hooked.steerings_on()
    rendering = hooked.encoder.rendering(template_options, date)
    wanted = [pair for pair in pairs for _ in range(samples_per_pair if not pair.response else 1)]
    to_sample = [pair for pair in wanted if pair.response is None]
    sampled = iter(
        generate_tokens(
            hooked,
            [hooked.encoder.encode(pair.prompted, rendering) for pair in to_sample],
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
            batch_size=batch_size,
            progress=progress,
        )
        if to_sample
        else ()
    )
    examples = []
    for pair in wanted:
        if pair.response is None:
            generation = next(sampled)
            ids, finished = generation.tokens, generation.finished
        else:
            ids = hooked.encoder.encode_response(pair.base, pair.response, rendering)
            finished = True
        examples.append(make_example(hooked, pair, ids, finished, rendering))
    return SteeringDataset(
        tuple(examples),
        dict(split) if isinstance(split, Mapping) else split_examples(examples, split, seed),
        {
            "responses_from": hooked.name,
            **({"steered_by": steered_by} if steered_by else {}),
            "sampled": len(to_sample),
            "temperature": temperature,
            "max_new_tokens": max_new_tokens,
            "seed": seed,
            **rendering.described(),
        },
        describe_origin(hooked),
    )


def unanswered(model: HookedModel, pairs: Sequence[PromptPair], seed: int) -> SteeringDataset:
    """The data set that `sample_responses` will make, before a response is sampled.

    An example's split, and whether a steering has seen it, depend on the prompts alone, so both can be
    checked before the work.
    """
    examples = tuple(make_example(model, pair, ()) for pair in pairs)
    return SteeringDataset(examples, split_examples(examples, SHARES, seed))


def add_negatives(
    model: Any,
    data: SteeringDataset,
    *,
    max_new_tokens: int = 128,
    temperature: float = 1.0,
    seed: int = 0,
    batch_size: int = 32,
    progress: bool = False,
) -> SteeringDataset:
    """The data with the model's answers to the base prompts beside them, at strength 0.

    A detector (`reft_r1`) needs them to tell steered responses from plain ones: one per example, in the
    same group and so in the same split.

    Args:
        model: A `HookedModel`, HookedTransformer, TransformerBridge or transformers model.
        data: The examples.
        max_new_tokens: Longest response, in tokens.
        temperature: 0 for greedy decoding.
        seed: Decides the responses.
        batch_size: Prompts per batch; it does not change what is sampled.
        progress: Whether to show a bar.
    """
    hooked = unsteered_model(model, "add_negatives(...)")
    sampled = generate_tokens(
        hooked,
        [example.base_prompt for example in check_data(hooked, data)],
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
        batch_size=batch_size,
        progress=progress,
    )
    negatives = tuple(
        replace(
            example,
            response_ids=own.tokens,
            finished=own.finished,
            alpha=0.0,
            response_text=hooked.encoder.decode(own.tokens),
        )
        for example, own in zip(data, sampled, strict=True)
    )
    return replace(data, examples=data.examples + negatives)


def make_example(
    model: HookedModel,
    pair: PromptPair,
    response_ids: Sequence[int],
    finished: bool = True,
    rendering: Rendering | None = None,
) -> Example:
    """Tokenise a pair's prompts around a given response.

    Args:
        model: The model.
        pair: The prompts.
        response_ids: Token ids of the response, without its end token.
        finished: Whether the model ended it.
        rendering: What the chat template is given besides the messages; by default the model's options, and
            today.
    """
    rendering = rendering or model.encoder.rendering()
    encoder = model.encoder
    base, prompted = (encoder.encode(prompt, rendering) for prompt in (pair.base, pair.prompted))
    return Example(
        pair,
        base.ids,
        prompted.ids,
        tuple(response_ids),
        tuple(encoder.encode(prompt, rendering).ids for prompt in pair.paraphrases),
        finished,
        rendering=rendering,
        region_length=len(base.ids) - base.question_start,
        seen=SeenPrompts(
            encoder.seen_text(base.ids),
            encoder.seen_text(prompted.ids),
            encoder.template_text(pair.base, rendering),
            encoder.template_text(pair.prompted, rendering),
        ),
        response_text=encoder.decode(response_ids),
    )
