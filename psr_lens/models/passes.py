"""What the columns of a pass are when a model is called directly and nothing else says so.

A forward pass comes with an attention mask and a cache, `generate` with a prompt: these give the padding
and the place of every column. What a call does not say stays unknown.
"""

import inspect
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor

from psr_lens.models.columns import Columns


@dataclass(frozen=True, eq=False)
class GivenPrompt:
    """The prompts of one `generate`.

    Attributes:
        columns: How many columns they have; None until the first pass tells.
        mask: Their attention mask, None if none was given.
    """

    columns: int | None = None
    mask: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Pass:
    """One forward pass.

    Attributes:
        past: Columns that the cache holds already.
        mask: Attention mask, `[batch, past and new columns]`, or of the prompt only; None if unknown.
        prompt: Columns of the prompt if this belongs to a `generate`.
        ids: Token ids of the new columns; None if something else went in.
        worked_out: Columns by the arguments asked with: worked out once, for all layers.
    """

    past: int = 0
    mask: Tensor | None = None
    prompt: int | None = None
    ids: Tensor | None = None
    worked_out: dict[Any, Columns] = field(default_factory=dict)


@final
class Passes(threading.local):
    """Follows the direct calls of one model, separately in every thread."""

    def __init__(self):
        self._prompt: GivenPrompt | None = None
        self._pass: Pass | None = None
        self._opened_by: int | None = None

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return type(self), ()

    def open(self, module: object, given: Mapping[str, Any]) -> None:
        """Begin a pass, unless a module around this one has begun it already.

        Args:
            module: What is called.
            given: Its arguments, by name.
        """
        # A module does not call itself: that pass was interrupted and never closed.
        if self._pass is not None and self._opened_by != id(module):
            return
        past, mask = _past_and_mask(given)
        prompt = self._prompt
        if prompt is not None and prompt.columns is None:
            entering = next((given[name] for name in _INPUTS if given.get(name) is not None), None)
            columns = None if not isinstance(entering, Tensor) else past + entering.shape[1]
            prompt = self._prompt = GivenPrompt(columns, mask)
        if prompt is not None and prompt.columns is not None:
            if mask is None or mask.shape[1] < prompt.columns:
                # A compiled generate passes ready-made masks of queries and keys, and one that takes the
                # prompt in pieces passes the mask of the pieces so far.
                mask = prompt.mask
            self._pass = Pass(past, mask, prompt.columns, _ids_in(given))
        else:
            self._pass = Pass(past, mask, ids=_ids_in(given))
        self._opened_by = id(module)

    def close(self, module: object) -> None:
        """End the pass that this module began."""
        if self._opened_by == id(module):
            self._pass = self._opened_by = None

    @contextmanager
    def generating(self, prompt: GivenPrompt) -> Iterator[None]:
        """The passes inside the context belong to one `generate`."""
        outer, self._prompt = self._prompt, prompt
        try:
            yield
        finally:
            self._prompt = outer
            self._pass = self._opened_by = None

    def columns(
        self,
        batch: int,
        pos: int,
        device: torch.device,
        *,
        prompt_length: int | None = None,
        question_start: int | Sequence[int] | None = None,
    ) -> Columns:
        """The columns of the pass that runs, as `columns_of` works them out."""
        # If a layer is called by itself, nothing is known.
        one_pass = self._pass or Pass()
        asked = batch, pos, device, prompt_length, _hashable(question_start)
        if asked not in one_pass.worked_out:
            one_pass.worked_out[asked] = columns_of(
                one_pass,
                batch,
                pos,
                device,
                prompt_length=prompt_length,
                question_start=question_start,
            )
        return one_pass.worked_out[asked]


_INPUTS = ("inputs_embeds", "input_ids", "input", "inputs")
"""Arguments that hold the tokens of a pass or a `generate`; embeddings count if both are given."""


def _ids_in(given: Mapping[str, Any]) -> Tensor | None:
    """The token ids that a pass is given, if it is given any."""
    for name in _INPUTS:
        own = given.get(name)
        if isinstance(own, Tensor):
            return None if own.is_floating_point() else own
    return None


def _past_and_mask(given: Mapping[str, Any]) -> tuple[int, Tensor | None]:
    """Columns that the cache of a pass holds, and the mask over these and the new ones."""
    mask = given.get("attention_mask")
    if not (isinstance(mask, Tensor) and mask.ndim == 2):
        mask = None
    kept = given.get("past_key_values")
    if kept is not None:
        return int(kept.get_seq_length()), mask
    kept = given.get("past_kv_cache")
    if kept is None:
        return 0, mask
    # TransformerLens' own cache remembers the mask of its columns, and is given that of the new ones.
    past = int(kept[0].past_keys.shape[1])
    if mask is not None and mask.shape[1] <= kept.previous_attention_mask.shape[1]:
        mask = torch.cat([kept.previous_attention_mask.to(mask), mask], dim=1)
    return past, mask


def columns_of(
    one_pass: Pass,
    batch: int,
    pos: int,
    device: torch.device,
    *,
    prompt_length: int | None = None,
    question_start: int | Sequence[int] | None = None,
) -> Columns:
    """What the columns of a pass are.

    Outside `generate`, and without a `prompt_length`, the pass counts as the end of a prompt.

    Args:
        one_pass: What is known about the pass.
        batch: Rows.
        pos: New columns.
        device: Where the residual stream is.
        prompt_length: Columns of the prompt, for whole sequences outside `generate`.
        question_start: Place of the first question token in its row.

    Raises:
        ValueError: If the batch cannot be divided among the given question starts.
    """
    end = one_pass.past + pos
    if one_pass.prompt is not None:
        prompt_end = one_pass.prompt
    else:
        prompt_end = end if prompt_length is None else min(prompt_length, end)
    first = torch.zeros(batch, 1, dtype=torch.long, device=device)
    last = torch.full((batch, 1), prompt_end - 1, device=device)
    mask = one_pass.mask
    padding_known = mask is not None and mask.shape[1] >= prompt_end
    if mask is not None and padding_known:
        real = _per_row(mask[:, :prompt_end].to(device) != 0, batch).int()
        first = real.argmax(dim=1, keepdim=True)
        last = prompt_end - 1 - real.flip(1).argmax(dim=1, keepdim=True)
    question = None
    if question_start is not None:
        starts = torch.as_tensor(question_start, device=device).reshape(-1, 1)
        question = _per_row(starts, batch)
    ids = one_pass.ids
    return Columns(
        torch.arange(one_pass.past, end, device=device) - first,
        last - first,
        question,
        all_response=one_pass.past >= prompt_end,
        padding_known=padding_known,
        ids=ids.to(device) if ids is not None and ids.shape == (batch, pos) else None,
    )


def given_prompt(given: Mapping[str, Any]) -> GivenPrompt:
    """The prompts in what a `generate` of transformers is called with."""
    for name in _INPUTS:
        if isinstance(given.get(name), Tensor):
            return GivenPrompt(given[name].shape[1], given.get("attention_mask"))
    # Generation from nothing begins with one token.
    return GivenPrompt(1)


def named(names: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """What a call was given, by name."""
    return {**dict(zip(names, args, strict=False)), **kwargs}


def positional(function: Callable[..., Any]) -> tuple[str, ...]:
    """The arguments of a function that may be given by position."""
    found = inspect.signature(function).parameters.values()
    return tuple(own.name for own in found if own.kind is own.POSITIONAL_OR_KEYWORD)


def _per_row(rows: Tensor, batch: int) -> Tensor:
    """One per row of the batch; beam search and several samples repeat each row in place."""
    if batch % len(rows):
        raise ValueError(
            f"{len(rows)} rows were described but the batch has {batch}: describe every row, or all "
            "of them by one number"
        )
    return rows.repeat_interleave(batch // len(rows), dim=0)


def _hashable(starts: int | Sequence[int] | None) -> int | tuple[int, ...] | None:
    return starts if starts is None or isinstance(starts, int) else tuple(starts)
