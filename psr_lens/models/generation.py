"""Step-by-step sampling on the model protocol, the same on every backend."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from psr_lens._bars import tqdm
from psr_lens._types import check_count, check_seed, sum_device
from psr_lens.models.batch import TokenBatch, TokenRow, length_sorted_batches
from psr_lens.models.chat import Prompt, PromptTokens
from psr_lens.models.columns import Columns
from psr_lens.models.finite import check_recorded, not_finite
from psr_lens.models.shared import WORTH_SHARING, SharedPrefixes, nothing_before

if TYPE_CHECKING:
    from psr_lens.models.protocol import HookedModel


_WORTH_DROPPING = 0.9
"""Finished rows are dropped from the batch once at most this share of its rows still goes on."""


_BLOCK = 256
"""Tokens whose probabilities are summed before they are looked at one by one."""


@dataclass(frozen=True)
class Generation:
    """A sampled response.

    Attributes:
        tokens: Its token ids, without the end token.
        finished: Whether the model ended it; False where `max_new_tokens` cut it off.
    """

    tokens: tuple[int, ...]
    finished: bool


@torch.no_grad()
def generate_tokens(
    model: "HookedModel",
    prompts: Sequence[Prompt | PromptTokens],
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    seed: int = 0,
    use_cache: bool = True,
    batch_size: int = 32,
    progress: bool = False,
    streams: Sequence[int] | None = None,
    inside: Callable[[Sequence[int]], AbstractContextManager[object]] | None = None,
) -> list[Generation]:
    """Sample a response to every prompt, in the order of the prompts.

    Prompt `i` draws one uniform number per token from a stream made of `seed` and `i` alone, and a token is
    the inverse of the cumulative distribution at that number, so the tokens do not depend on the batch
    size.

    Args:
        model: The model.
        prompts: The prompts, or what `PromptEncoder.encode` made of them.
        max_new_tokens: Longest response, in tokens.
        temperature: 0 for greedy decoding.
        seed: Decides what is sampled.
        use_cache: Whether to keep keys and values.
        batch_size: Prompts per batch.
        progress: Whether to show a bar.
        streams: Every prompt's stream number in place of `i`; prompts with the same one draw the same
            numbers.
        inside: Maps the indices of a batch's prompts, row by row, to the context that the batch runs in.

    Raises:
        ValueError: If an argument is out of its range, or a prompt and `max_new_tokens` together
            exceed the model's context.
        NotFinite: If the model computes NaN or infinity where a token is to be picked.
    """
    check_sampling(max_new_tokens, temperature, seed)
    rendering = model.encoder.rendering()
    encoded = [
        prompt if isinstance(prompt, PromptTokens) else model.encoder.encode(prompt, rendering)
        for prompt in prompts
    ]
    longest = max(len(prompt.ids) for prompt in encoded)
    if longest + max_new_tokens > model.n_ctx:
        raise ValueError(
            f"a prompt has {longest} tokens and max_new_tokens={max_new_tokens}, together more "
            f"than the {model.n_ctx} that {model.name} takes: shorten one of them"
        )
    results: dict[int, Generation] = {}
    stream_of = range(len(encoded)) if streams is None else streams
    batches = length_sorted_batches([len(prompt.ids) for prompt in encoded], batch_size)
    shared = SharedPrefixes(model)
    with tqdm(total=len(encoded), desc="sampling", unit="response", disable=not progress) as bar:
        for indices in batches:
            uniforms = torch.stack(
                [uniform_stream(seed, stream_of[i], max_new_tokens) for i in indices]
            )
            with nullcontext() if inside is None else inside(indices):
                sampled = _sample_batch(
                    model,
                    [encoded[i] for i in indices],
                    uniforms,
                    temperature,
                    shared if use_cache else None,
                )
            results.update(zip(indices, sampled, strict=True))
            bar.update(len(indices))
    return [results[i] for i in range(len(encoded))]


def check_sampling(max_new_tokens: int, temperature: float, seed: int) -> None:
    """Refuse sampling arguments that are wrong for any model.

    Raises:
        ValueError: If an argument is out of its range.
    """
    check_count("max_new_tokens", max_new_tokens)
    check_seed(seed)
    if not isinstance(temperature, int | float) or not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature={temperature}: it must be 0 (greedy) or positive")


def pick_tokens(
    logits: Float[Tensor, "batch d_vocab"],
    uniforms: Float[Tensor, " batch"],
    temperature: float,
) -> Int[Tensor, " batch"]:
    """Next tokens by the inverse of the cumulative distribution; greedy at temperature 0.

    -1 in a row that has no token: its logits hold NaN or plus infinity, or only minus infinity.
    """
    if temperature == 0:
        total, tokens = logits.max(dim=-1)
    else:
        total, tokens = _inverse_of_cumulative(_weights(logits, temperature), uniforms)
        tokens = tokens.clamp_max(logits.shape[-1] - 1)
    return tokens.where(total.isfinite(), -1).to(logits.device)


def _weights(
    logits: Float[Tensor, "batch d_vocab"], temperature: float
) -> Float[Tensor, "batch d_vocab"]:
    """Probabilities up to a factor per row, float32 or finer."""
    own = logits.to(sum_device(logits.device))
    own = own if own.dtype == torch.float64 else own.float()
    return own.sub(own.amax(dim=-1, keepdim=True)).div_(temperature).exp_()


def _inverse_of_cumulative(
    weights: Float[Tensor, "batch d_vocab"], uniforms: Float[Tensor, " batch"]
) -> tuple[Float[Tensor, " batch"], Int[Tensor, " batch"]]:
    """Every row's total, float64, and the first token up to which the sum exceeds that share of it.

    In two steps, over blocks of tokens and inside one of them: cumulative sums of a whole vocabulary in
    float64 take longer than a layer of a small model.
    """
    blocks = torch.nn.functional.pad(weights, (0, -weights.shape[1] % _BLOCK))
    blocks = blocks.unflatten(1, (-1, _BLOCK))
    sums = blocks.sum(dim=-1, dtype=torch.float64)
    cumulative = sums.cumsum(dim=-1)
    total = cumulative[:, -1]
    targets = (uniforms.to(cumulative) * total).unsqueeze(-1)
    block = torch.searchsorted(cumulative, targets, right=True).clamp_max(sums.shape[1] - 1)
    rest = targets - (cumulative - sums).gather(1, block)
    rows = torch.arange(len(blocks), device=blocks.device)
    inside = blocks[rows, block.squeeze(1)].double().cumsum(dim=-1)
    place = torch.searchsorted(inside, rest, right=True).clamp_max(_BLOCK - 1)
    return total, (block * _BLOCK + place).squeeze(1)


def uniform_stream(seed: int, index: int, count: int) -> Float[Tensor, " count"]:
    """The uniform numbers, float64, that prompt `index` draws its tokens with."""
    # Odd multipliers keep neighbouring (seed, index) pairs on different streams.
    generator = torch.Generator().manual_seed(
        (seed * 6364136223846793005 + index * 1442695040888963407 + 1) % 2**63
    )
    return torch.rand(count, generator=generator, dtype=torch.float64)


def _sample_batch(
    model: "HookedModel",
    prompts: Sequence[PromptTokens],
    uniforms: Float[Tensor, "batch max_new_tokens"],
    temperature: float,
    shared: SharedPrefixes | None,
) -> list[Generation]:
    """Responses to one batch of prompts; without a cache if `shared` is None."""
    batch = model.pad([TokenRow(p.ids, p.question_start, len(p.ids) - 1) for p in prompts])
    ends = torch.tensor(sorted(model.encoder.end_token_ids), dtype=torch.long, device=model.device)
    uniforms = uniforms.to(sum_device(model.device))
    said: list[list[int]] = [[] for _ in prompts]
    # Rows are dropped from the batch once enough of them have ended; these are still there.
    rows = torch.arange(len(prompts), device=model.device)
    finished = torch.zeros_like(rows, dtype=torch.bool)
    cached = None if shared is None else _Cached.begun(model, batch, shared)
    for step in range(uniforms.shape[1]):
        with looking_at_the_end(model, batch) if step == 0 else nullcontext():
            logits = model.logits(batch) if cached is None else cached.logits()
        # The numbers are on the CPU where the device has no float64, and rows never are.
        drawn = uniforms[rows.to(uniforms.device), step]
        tokens = pick_tokens(logits[:, -1], drawn, temperature)
        picked = tokens.tolist()
        if min(picked) < 0:
            raise not_finite(model, batch)
        for row, token in zip(rows.tolist(), picked, strict=True):
            said[row].append(token)
        finished = finished | torch.isin(tokens, ends)
        going_on = (~finished).nonzero().squeeze(1)
        if len(going_on) == 0:
            break
        batch = _append(batch, tokens)
        kept = None
        if len(going_on) <= _WORTH_DROPPING * len(rows):
            kept = going_on
            rows, finished, batch = rows[kept], finished[kept], batch.kept(kept)
        if cached is not None:
            cached.go_on(tokens, kept)
    return [_until_end(tokens, model.encoder.end_token_ids) for tokens in said]


@contextmanager
def looking_at_the_end(model: "HookedModel", batch: TokenBatch) -> Iterator[None]:
    """Refuse a first step that ends in a residual stream too large for any norm.

    A strength that is far too large need not show in the logits: the last norm turns it into zeros, and so
    into finite logits.
    """
    seen: list[Tensor] = []

    def look(resid: Tensor, columns: Columns) -> None:
        seen.append(resid[:, -1])

    with model.edited({model.n_layers - 1: look}, only_on="response"):
        yield
    check_recorded(seen[-1], model, batch)


def _append(batch: TokenBatch, tokens: Int[Tensor, " batch"]) -> TokenBatch:
    """The batch grown by one response column."""
    column = tokens.unsqueeze(-1)
    return TokenBatch(
        torch.cat([batch.tokens, column], dim=1),
        torch.cat([batch.attention_mask, torch.ones_like(column, dtype=torch.bool)], dim=1),
        batch.columns.grown(column),
    )


@final
class _Cached:
    """The state of a batch whose keys and values are kept.

    Args:
        model: The model.
        new: The columns to be run next.
        mask: True on real columns, of those in the cache and of the new ones.
        cache: The model's cache.
    """

    def __init__(self, model: "HookedModel", new: TokenBatch, mask: Tensor, cache: Any):
        self._model, self._new, self._mask, self._cache = model, new, mask, cache

    @classmethod
    def begun(cls, model: "HookedModel", batch: TokenBatch, shared: SharedPrefixes) -> "_Cached":
        """The state before a batch's first pass, once what its rows share has been run.

        So has every prompt but its last token, once for all rows that have it: several answers to a question,
        or one at each of several strengths.
        """
        rest = shared.rest(batch)
        mask, new, rows = rest.attention_mask, rest.batch, len(batch.tokens)
        once, prompt_of = _distinct(new)

        def begun_with(count: int) -> Any:
            return None if rest.prefix is None else model.begun_cache(rest.prefix, count)

        width = new.tokens.shape[1] - 1
        if (rows - len(once)) * width < WORTH_SHARING or not nothing_before(model, "response"):
            return cls(model, new, mask, begun_with(rows))
        ahead = new.kept(once)
        # No edit acts before the last token of a prompt.
        with model.unedited():
            _, cache = model.step(
                ahead.tokens[:, :-1],
                mask[once][:, :-1],
                ahead.columns[slice(None, -1)],
                begun_with(len(once)),
                last=True,
            )
        model.keep_rows(cache, prompt_of)
        columns = new.columns[slice(-1, None)]
        return cls(
            model, TokenBatch(new.tokens[:, -1:], new.attention_mask[:, -1:], columns), mask, cache
        )

    def logits(self) -> Float[Tensor, "batch 1 d_vocab"]:
        """Run the new columns; the logits at the last one."""
        new = self._new
        logits, self._cache = self._model.step(
            new.tokens, self._mask, new.columns, self._cache, last=True
        )
        return logits

    def go_on(self, tokens: Int[Tensor, " batch"], kept: Int[Tensor, " kept"] | None) -> None:
        """Take the next token of every row, or of those that are kept."""
        column = tokens.unsqueeze(-1)
        real = torch.ones_like(column, dtype=torch.bool)
        self._new = TokenBatch(column, real, self._new.columns.next(column))
        self._mask = torch.cat([self._mask, real], dim=1)
        if kept is not None:
            self._new, self._mask = self._new.kept(kept), self._mask[kept]
            self._model.keep_rows(self._cache, kept)


def _distinct(batch: TokenBatch) -> tuple[Int[Tensor, " distinct"], Int[Tensor, " batch"]]:
    """The first row with each prompt, and for every row the place of its prompt among them."""
    found: dict[tuple[int, ...], int] = {}
    first: list[int] = []
    places: list[int] = []
    shown = torch.where(batch.attention_mask, batch.tokens, -1)
    for row, prompt in enumerate(map(tuple, shown.tolist())):
        if prompt not in found:
            found[prompt] = len(first)
            first.append(row)
        places.append(found[prompt])
    device = batch.tokens.device
    return torch.tensor(first, device=device), torch.tensor(places, device=device)


def _until_end(tokens: Sequence[int], end_token_ids: frozenset[int]) -> Generation:
    for i, token in enumerate(tokens):
        if token in end_token_ids:
            return Generation(tuple(tokens[:i]), finished=True)
    return Generation(tuple(tokens), finished=False)
