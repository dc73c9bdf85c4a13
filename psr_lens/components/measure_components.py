"""Which head or MLP brings the instruction in, at which token: shares of the prompt's delta.

With `D[l]` the accumulated delta after block `l`, `D[-1]` that of the embeddings, and `d c` what
component `c` (attention or MLP of a block, or one head) added in the prompted run minus what
it added in the base run, `D[L-1] = D[-1] + sum_l (d attn[l] + d mlp[l])`. Its share is

`sum <d c, D[L-1]> / sum |D[L-1]|^2`, summed over examples and aligned tokens (ours):

its direct contribution to what the prompt has done in the end. What a component brings about through later
components counts as theirs. Shares may be negative, for a component that writes against the others.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from psr_lens._types import AlignedTokens, check_aligned, check_count, check_seed, exactly
from psr_lens.components.component_deltas import ComponentDeltas, component_deltas, head_parts
from psr_lens.components.component_report import (
    Component,
    ComponentKind,
    ComponentReport,
    ComponentTokens,
)
from psr_lens.dataset import check_data
from psr_lens.deltas import iter_batches
from psr_lens.examples import (
    Example,
    check_examples,
    check_prompts_differ,
    describe_responses,
    number_prompts,
)
from psr_lens.models import HookedModel, unsteered_model
from psr_lens.prompt_effect import measure_prompt_effect
from psr_lens.statistics import bootstrap, estimates, resamples
from psr_lens.steering.provenance import describe_data, provenance


@torch.no_grad()
def measure_components(
    model: Any,
    data: Sequence[Example],
    *,
    tokens: AlignedTokens = "response",
    heads: bool = True,
    batch_size: int = 32,
    n_bootstrap: int = 1000,
    seed: int = 0,
    token_examples: int = 4,
    progress: bool = False,
) -> ComponentReport:
    """What attention, its heads and the MLP of every block contribute to the prompt's delta.

    Two forward passes per batch. Streams over the data: one batch's differences of attention, MLP
    and heads on the aligned tokens are held, `3 x layer x token x d_model` numbers. Sums in float64.

    Heads are query heads. The heads of a layer add up to its attention; an output bias cancels
    between the runs. Where a norm follows attention (Gemma 2 and 3), each run's own scale of that
    norm is frozen, and the difference is that of the scaled parts.

    Args:
        model: A `HookedModel`, HookedTransformer, TransformerBridge or transformers model.
        data: The examples.
        tokens: Which tokens to measure on, `response` or `question+response`.
        heads: Whether to split attention into heads, and to find what they read.
        batch_size: Examples per forward pass.
        n_bootstrap: Resamples for the 95 % intervals: of prompts, each with all of its examples.
        seed: Seed of the resampling.
        token_examples: Keep every token's values for this many examples, from the first on.
        progress: Whether to show a bar.

    Raises:
        ValueError: If there is no example, the prompts change nothing, or the model's blocks write anything
            but attention plus MLP.

    Example:
        >>> import psr_lens as pl
        >>> model = pl.load_model("demo")
        >>> instruction = pl.demo.system_prompt("shouter")
        >>> pairs = pl.make_pairs(pl.demo.questions()[:2], instruction)
        >>> data = pl.sample_responses(model, pairs, max_new_tokens=8, progress=False)
        >>> report = pl.measure_components(model, data)
        >>> round(sum(c.share.value for c in report.components if c.kind != "head"), 4)
        1.0
    """
    hooked = unsteered_model(model, "measure_components(...)")
    if len(check_examples(data)) == 0:
        raise ValueError("there is no example to measure on: pass the test split of a data set")
    check_data(hooked, data, check_aligned(tokens))
    check_prompts_differ(data)
    check_seed(seed)
    check_count("n_bootstrap", n_bootstrap, 0)
    check_count("token_examples", token_examples, 0)
    names = _component_names(hooked, heads)
    sums = _Sums(len(data), len(names))
    kept: dict[int, ComponentTokens] = {}
    for indices in iter_batches(data, batch_size, progress=progress, description="components"):
        examples = [data[i] for i in indices]
        deltas = component_deltas(hooked, examples, tokens, heads=heads)
        values = _token_sums(hooked, deltas, len(names))
        lengths = [example.aligned_length(tokens) for example in examples]
        for i, own in zip(indices, values.split(lengths, dim=-1), strict=True):
            sums.add(i, own)
            if i < token_examples:
                kept[i] = _tokens(hooked, data[i], own)
    if not bool(sums.energy.sum() > 0):
        raise ValueError(
            "the steering prompts change nothing that the model computes on the aligned tokens"
        )
    effect = measure_prompt_effect(hooked, data, batch_size=batch_size)
    prompt_of = number_prompts(data)
    return ComponentReport(
        sums.components(names, resamples(prompt_of, n_bootstrap, seed)),
        tuple(kept[i] for i in sorted(kept)),
        tokens,
        len(data),
        len(set(prompt_of)),
        provenance(
            hooked,
            data=describe_data(data, getattr(data, "provenance", {})),
            prompt_effect=effect.described(),
            responses=describe_responses(data, token_examples),
            seed=seed,
            n_bootstrap=n_bootstrap,
        ),
    )


_Name = tuple[int, ComponentKind, int]
"""Layer (-1 for the embeddings), kind, head (-1 for the other kinds)."""


def _component_names(model: HookedModel, heads: bool) -> list[_Name]:
    names: list[_Name] = [(-1, "embed", -1)]
    for layer in range(model.n_layers):
        names.append((layer, "attn", -1))
        names.append((layer, "mlp", -1))
        n_heads = len(model.output_matrix(layer)) if heads else 0
        names.extend((layer, "head", head) for head in range(n_heads))
    return names


def _parts(
    model: HookedModel, deltas: ComponentDeltas
) -> Iterator[tuple[Float[Tensor, "token d_model"], Float[Tensor, "token d_model"] | None]]:
    """Every component's part and its layer's step, in the order of `_component_names`."""
    yield exactly(deltas.embed), None
    for layer, (attn, mlp) in enumerate(zip(deltas.attn, deltas.mlp, strict=True)):
        step = exactly(attn) + exactly(mlp)
        yield exactly(attn), step
        yield exactly(mlp), step
        if deltas.heads is not None:
            for part in head_parts(model, deltas, layer):
                yield exactly(part), step


_SQUARE, _ALONG, _STEP, _STEP_ENERGY, _ATTENTION, _ENERGY = range(6)


def _token_sums(
    model: HookedModel, deltas: ComponentDeltas, n_components: int
) -> Float[Tensor, "quantity component token"]:
    """What the measures are sums of, per component and token, float64.

    In the order of the indices above: `|d c|^2`, `<d c, D[L-1]>`, `<d c, step>`, `|step|^2`,
    attention to the instruction (NaN where there is none) and `|D[L-1]|^2`.
    """
    last = exactly(deltas.last)
    found = last.new_zeros(6, n_components, len(last))
    for row, (part, step) in enumerate(_parts(model, deltas)):
        found[_SQUARE, row] = part.square().sum(dim=-1)
        found[_ALONG, row] = (part * last).sum(dim=-1)
        if step is not None:
            found[_STEP, row] = (part * step).sum(dim=-1)
            found[_STEP_ENERGY, row] = step.square().sum(dim=-1)
    found[_ENERGY] = last.square().sum(dim=-1)
    found[_ATTENTION] = torch.nan
    if deltas.heads is not None and deltas.attention is not None:
        is_head = [kind == "head" for _, kind, _ in _component_names(model, True)]
        paid = exactly(deltas.attention).transpose(1, 2).flatten(0, 1)
        found[_ATTENTION, torch.tensor(is_head, device=last.device)] = paid
    return found.cpu()


def _tokens(
    model: HookedModel, example: Example, own: Float[Tensor, "quantity component token"]
) -> ComponentTokens:
    tokens = model.encoder.str_tokens(example.base_row.tokens[-own.shape[-1] :])
    energy = own[_ENERGY, 0].sum().clamp_min(1e-300)
    return ComponentTokens(tokens, own[_SQUARE].sqrt(), own[_ALONG] / energy)


class _Sums:
    """Sums over the aligned tokens of every example, and the measures made of them."""

    def __init__(self, n_examples: int, n_components: int):
        self._sums = torch.zeros(n_examples, 6, n_components, dtype=torch.float64)
        self._tokens = torch.zeros(n_examples, n_components, dtype=torch.float64)

    @property
    def energy(self) -> Float[Tensor, "example component"]:
        """`|D[L-1]|^2`, the same for all components."""
        return self._sums[:, _ENERGY]

    def add(self, example: int, values: Float[Tensor, "quantity component token"]) -> None:
        """Record one example's values."""
        self._sums[example] = values.sum(dim=-1)
        self._tokens[example] = values.shape[-1]

    def components(
        self, names: Sequence[_Name], counts: Float[Tensor, "n_bootstrap example"]
    ) -> tuple[Component, ...]:
        """The components with their intervals."""

        def ratio(over: Tensor, under: Tensor) -> Tensor:
            return over / under.clamp_min(1e-300)

        def root(over: Tensor, under: Tensor) -> Tensor:
            return ratio(over, under).sqrt()

        square, along, step, step_energy, attention, energy = self._sums.unbind(dim=1)
        norm = estimates(bootstrap(root, (square, self._tokens), counts))
        share = estimates(bootstrap(ratio, (along, energy), counts))
        of_step = estimates(bootstrap(ratio, (step, step_energy), counts))
        read = estimates(bootstrap(ratio, (attention.nan_to_num(), self._tokens), counts))
        reads = ~attention.isnan().any(dim=0)
        return tuple(
            Component(
                layer,
                kind,
                head,
                norm[row],
                share[row],
                None if kind == "embed" else of_step[row],
                read[row] if reads[row] else None,
            )
            for row, (layer, kind, head) in enumerate(names)
        )
