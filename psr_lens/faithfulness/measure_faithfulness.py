"""Is the steering doing what the prompt does? Every measure, from one run per steering.

All steerings share the base run, the prompted run and the replay of a batch. A steering's own run is
reduced, layer by layer as it proceeds, to a few numbers per token, and these to a few sums per
example. The measures are defined in `measures.py`, the causes of the error in `gap.py`, the reference
lines in `references.py`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from psr_lens._types import AlignedTokens, check_aligned, check_alpha, check_count, check_seed
from psr_lens.dataset import check_data
from psr_lens.deltas import iter_batches, working_dtype
from psr_lens.examples import (
    Example,
    check_examples,
    check_prompts_differ,
    describe_responses,
    number_prompts,
)
from psr_lens.faithfulness import references
from psr_lens.faithfulness.faithfulness_report import FaithfulnessReport, Run
from psr_lens.faithfulness.gap import bases_of
from psr_lens.faithfulness.recording import Products, SharedRuns
from psr_lens.faithfulness.references import NO_STEERING, PARAPHRASE, Probe
from psr_lens.faithfulness.running_sums import RunningSums
from psr_lens.faithfulness.worst_tokens import WorstTokens
from psr_lens.models import HookedModel, unsteered_model
from psr_lens.models.finite import at_strength
from psr_lens.prompt_effect import measure_prompt_effect
from psr_lens.steering import Steering
from psr_lens.steering.provenance import describe_data, provenance


@torch.no_grad()
def measure_faithfulness(
    model: Any,
    steerings: Mapping[str, Steering] | Sequence[Steering] | Steering,
    data: Sequence[Example],
    *,
    alpha: float = 1.0,
    tokens: AlignedTokens = "response",
    outputs: bool = True,
    gap: bool = True,
    random_direction: bool = True,
    oracle_ranks: Sequence[int] = (1, 4),
    token_examples: int = 8,
    worst_tokens: int = 100,
    batch_size: int = 32,
    n_bootstrap: int = 1000,
    seed: int = 0,
    allow_seen: bool = False,
    progress: bool = False,
) -> FaithfulnessReport:
    """How close every steering comes to the prompt, by every measure, on the same examples.

    A steering acts on the same tokens as when the model generates, say on all of them; its effect is
    compared with the prompt's on the aligned tokens, which the prompted run has too.

    Costs one run per steering and example, and these shared ones: two, one for the replay (with
    `gap` or `random_direction`), one for every reference line, and three more in a pass beforehand for
    `oracle_ranks`. Streams over the data and keeps only sums per example, in float64.

    Args:
        model: A `HookedModel`, HookedTransformer, TransformerBridge or transformers model.
        steerings: Steerings by name, or one, or a list, whose names come from method and layers
            (`PSR, all layers`; `difference in means, layer 15`).
        data: Examples that no steering was fitted on: `data.test`. Paraphrases are measured where
            every example has one; if their numbers differ, as many as all examples have.
        alpha: Strength.
        tokens: Which tokens to measure on, `response` or `question+response`.
        outputs: Compare next-token distributions too; needs the logits of every run.
        gap: Split the error into its causes, of every steering that acts after its blocks.
        random_direction: Measure the reference line of that name.
        oracle_ranks: Directions per layer of the oracles to compare with; `()` for none.
        token_examples: How many of the first examples keep the numbers of their tokens.
        worst_tokens: How many tokens to keep per steering and layer, those farthest from the prompt.
        batch_size: Examples per forward pass.
        n_bootstrap: Resamples for the 95 % intervals: of prompts, each with all of its examples.
        seed: Seed of the resampling and of the random direction.
        allow_seen: Measure even on examples that a steering was fitted on.
        progress: Whether to show a bar.

    Raises:
        ValueError: If there is no example; if a steering was fitted on one of them or belongs to
            another model; if the prompts change nothing; or if an argument is out of range.
    """
    hooked = unsteered_model(
        model,
        "measure_faithfulness(...)",
        "pass the steering in: measure_faithfulness(model, steering, data)",
    )
    if len(check_examples(data)) == 0:
        raise ValueError("there is no example to measure on: pass the test split of a data set")
    alpha = check_alpha(alpha)
    check_data(hooked, data, check_aligned(tokens))
    check_prompts_differ(data)
    check_seed(seed)
    check_count("n_bootstrap", n_bootstrap, 0)
    check_count("token_examples", token_examples, 0)
    check_count("worst_tokens", worst_tokens, 0)
    ranks = _check_ranks(oracle_ranks, hooked.d_model)
    if isinstance(steerings, Steering):
        steerings = [steerings]
    named = dict(steerings) if isinstance(steerings, Mapping) else name_steerings(steerings, hooked)
    wordings = references.paraphrases(data, tokens)
    lines: dict[str, Probe] = {NO_STEERING: references.no_steering, **wordings}
    if random_direction:
        lines[references.RANDOM_DIRECTION] = references.random_direction(hooked, seed)
    for name, steering in named.items():
        if name in (*lines, PARAPHRASE):
            raise ValueError(f"a steering is called {name!r}, which is a reference line: rename it")
        steering.check(hooked)
        if not allow_seen:
            refuse_seen(name, steering, data)
    lines |= references.oracles(
        hooked, data, tokens, ranks, batch_size=batch_size, progress=progress
    )
    probes = {name: _prober(hooked, steering, alpha, gap) for name, steering in named.items()}
    effect = measure_prompt_effect(hooked, data, batch_size=batch_size)
    worst = WorstTokens(worst_tokens)
    kept = RunningSums(len(data), token_examples, worst)
    whole = any(own.only_on not in ("response", tokens) for own in named.values())

    def measure(indices: Sequence[int]) -> None:
        examples, local = [data[i] for i in indices], gap or random_direction
        shared = SharedRuns.of(hooked, examples, tokens, local=local, outputs=outputs, whole=whole)
        for name, probe in {**lines, **probes}.items():
            kept.enter(name, indices, shared, probe(shared), keep_tokens=name in named)

    for indices in iter_batches(data, batch_size, progress=progress, description="faithfulness"):
        # A separate function, so that one batch is freed before the next is made.
        measure(indices)
    energy = kept.sums[NO_STEERING]["energy"].sum(dim=0)
    if not bool((energy > 0).all()):
        raise ValueError(
            "the steering prompts change nothing that the model computes on the aligned tokens"
        )
    runs = {
        name: Run("steering", steering.layers, kept.sums[name], _elsewhere(steering, tokens))
        for name, steering in named.items()
    }
    runs[NO_STEERING] = Run("reference", (), kept.sums[NO_STEERING])
    if wordings:
        together = references.pooled([kept.sums[name] for name in wordings])
        runs[PARAPHRASE] = Run("reference", (), together)
    for name in lines:
        if name not in (*runs, *wordings):
            runs[name] = Run("reference", (), kept.sums[name])
    if len(wordings) > 1:
        runs |= {name: Run("paraphrase", (), kept.sums[name]) for name in wordings}
    return FaithfulnessReport(
        runs,
        number_prompts(data),
        alpha,
        tokens,
        n_bootstrap,
        seed,
        kept.tokens(),
        provenance(
            hooked,
            data=describe_data(data, getattr(data, "provenance", {})),
            prompt_effect=effect.described(),
            responses=describe_responses(data, token_examples),
            seed=seed,
            n_bootstrap=n_bootstrap,
        ),
        worst.table(hooked, data, tokens, energy),
        worst_tokens,
    )


def name_steerings(steerings: Sequence[Steering], model: HookedModel) -> dict[str, Steering]:
    """Names: `PSR, all layers`, `difference in means, layer 15`, `PSR, 3 layers`; numbered if repeated."""
    named: dict[str, Steering] = {}
    for steering in steerings:
        method = steering.provenance.get("method", steering.method)
        label = type(steering).in_words() if method == steering.method else method
        count = len(steering.layers)
        name = f"{label}, {count} layers"
        if count == model.n_layers:
            name = f"{label}, all layers"
        elif count == 1:
            name = f"{label}, layer {steering.layers[0]}"
        if steering.hook_point != "resid_post":
            name = f"{name}, {steering.hook_point}"
        unique, number = name, 2
        while unique in named:
            unique, number = f"{name} ({number})", number + 1
        named[unique] = steering
    return named


def _prober(model: HookedModel, steering: Steering, alpha: float, gap: bool) -> Probe:
    bases = bases_of(steering, model.device, working_dtype(model.dtype)) if gap else {}

    def probe(shared: SharedRuns) -> Products:
        split = shared.split(steering, bases) if gap else None
        with at_strength(alpha):
            return shared.measured(shared.edits(steering, alpha), split=split)

    return probe


def _elsewhere(steering: Steering, measured_on: AlignedTokens) -> str:
    """Which tokens a steering, or the parts of a sum, acts on, if not the measured ones."""
    acted_on = dict.fromkeys(part.tokens for _, part in steering.weighted_parts())
    if list(acted_on) == [measured_on]:
        return ""
    return " and ".join(
        f"{own} tokens" if isinstance(own, str) else f"what {own!r} chooses" for own in acted_on
    )


def _check_ranks(ranks: Any, d_model: int) -> tuple[int, ...]:
    if isinstance(ranks, str) or not isinstance(ranks, Sequence):
        raise ValueError(
            f"oracle_ranks={ranks!r}: pass several ranks, such as (1, 4), or () for none"
        )
    found = tuple(sorted({check_count("oracle_ranks", rank) for rank in ranks}))
    if found and found[-1] > d_model:
        raise ValueError(
            f"oracle_ranks={list(ranks)} but the residual stream has {d_model} dimensions: pass "
            "smaller ranks, or () for none"
        )
    return found


def refuse_seen(name: str, steering: Steering, data: Sequence[Example]) -> None:
    """Refuse examples that a steering was fitted on, recognised by their prompts alone.

    Raises:
        ValueError: If there is one.
    """
    seen = set(steering.provenance.get("data", {}).get("example_keys", ()))
    shared = sum(example.key in seen for example in data)
    if shared:
        raise ValueError(
            f"{name} was fitted on {shared} of these {len(data)} examples: measure on data.test, "
            "or pass allow_seen=True"
        )
