"""Reference lines for a steering's numbers: what no steering, a random and a perfect one reach."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from psr_lens._types import AlignedTokens
from psr_lens.delta_moments import leading_directions
from psr_lens.deltas import add_on, working_dtype
from psr_lens.examples import Example
from psr_lens.faithfulness.recording import Products, SharedRuns
from psr_lens.models import HookedModel
from psr_lens.models.chat import common_suffix_length
from psr_lens.steering import OracleSteering

NO_STEERING: Final = "no steering"
PARAPHRASE: Final = "paraphrase"
RANDOM_DIRECTION: Final = "random direction"
ORACLE: Final = "oracle"

Probe = Callable[[SharedRuns], Products]
"""Measures something on one batch."""


def no_steering(shared: SharedRuns) -> Products:
    """The base run."""
    return shared.base_products


def random_direction(model: HookedModel, seed: int) -> Probe:
    """The right strength along a wrong direction.

    Adds, at every layer and token, a vector as long as the local delta there, along one direction per
    layer drawn from the seed: what the right coefficients alone would reach.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(model.n_layers, model.d_model, generator=generator, dtype=torch.float64)
    units = torch.nn.functional.normalize(drawn, dim=1).to(model.device, working_dtype(model.dtype))

    def probe(shared: SharedRuns) -> Products:
        assert shared.local is not None
        lengths = shared.local.norm(dim=-1, keepdim=True)
        updates = {layer: lengths[layer] * units[layer] for layer in range(model.n_layers)}
        return shared.measured(add_on(shared.tokens, updates))

    return probe


def oracles(
    model: HookedModel,
    data: Sequence[Example],
    tokens: AlignedTokens,
    ranks: Sequence[int],
    *,
    batch_size: int,
    progress: bool,
) -> dict[str, Probe]:
    """The full oracle, and for every rank the one along the data's own leading directions.

    A bound on steerings with that many directions per layer, though a greedy one: the directions come
    from the measured examples themselves and the coefficients from each token, but each layer makes up
    for as much as it can and does not look ahead, as a fit to later layers may.
    """
    layers = range(model.n_layers)
    made = {ORACLE: OracleSteering(layers, tokens=tokens)}
    if ranks:
        leading = leading_directions(
            model, data, tokens, max(ranks), batch_size=batch_size, progress=progress
        )
        for rank in ranks:
            basis = leading[:, :rank]
            made[f"{ORACLE} rank {rank}"] = OracleSteering(layers, basis=basis, tokens=tokens)

    def prober(oracle: OracleSteering) -> Probe:
        return lambda shared: shared.measured(shared.edits(oracle, 1.0))

    return {name: prober(oracle) for name, oracle in made.items()}


def paraphrases(data: Sequence[Example], tokens: AlignedTokens) -> dict[str, Probe]:
    """One probe for every wording that all examples have.

    Raises:
        ValueError: If `tokens` is `question+response` and a paraphrase changes the question, whose
            tokens then cannot be compared.
    """
    count = min(len(example.paraphrase_ids) for example in data)
    if tokens == "question+response":
        for example in data:
            for ids in example.paraphrase_ids[:count]:
                _check_question(example, ids)

    def prober(number: int) -> Probe:
        def probe(shared: SharedRuns) -> Products:
            rows = [example.paraphrase_rows[number] for example in shared.examples]
            return shared.measured({}, batch=shared.model.pad(rows))

        return probe

    return {paraphrase_name(number): prober(number) for number in range(count)}


def paraphrase_name(number: int) -> str:
    """The name of a wording, counted from 0."""
    return f"{PARAPHRASE} {number + 1}"


def pooled(
    sums: Sequence[Mapping[str, Float[Tensor, "example *layer"]]],
) -> dict[str, Float[Tensor, "example *layer"]]:
    """Mean of the sums of several runs: for the relative RMSE, the mean of the squares."""
    return {name: torch.stack([own[name] for own in sums]).mean(dim=0) for name in sums[0]}


def _check_question(example: Example, ids: tuple[int, ...]) -> None:
    shared = common_suffix_length(example.base_ids, ids)
    if shared < example.question_length:
        raise ValueError(
            f"a paraphrase shares {shared} tokens with the end of its base prompt and the steering "
            f"prompt {example.question_length}: end both with the same question, or measure on "
            "tokens='response'"
        )
