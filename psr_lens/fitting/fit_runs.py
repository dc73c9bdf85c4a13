"""Runs over the examples that several fits need: made by the first, kept for the next.

What a prompt does to the examples does not depend on what is fitted to it: the prompted run, the base run
without updates, and sums over both are the same for every method. So is a fit layer by layer for all that
begin with it.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast, final

from psr_lens._types import AlignedTokens, check_count
from psr_lens.examples import Example
from psr_lens.models import HookedModel

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class _Kept:
    model: HookedModel
    examples: tuple[Example, ...]
    size: int
    value: Any

    def are_of(self, model: HookedModel, examples: Sequence[Example]) -> bool:
        """Whether they are runs of this very model over these very examples."""
        return (
            self.model is model
            and len(self.examples) == len(examples)
            and all(own is other for own, other in zip(self.examples, examples, strict=True))
        )


@final
class FitRuns:
    """What several fits to the same examples have in common; pass the same object to all of them.

    Runs are taken from it where the model and the examples are the very same objects, and made anew where
    they are not, so nothing has to be cleared. The model, and the precision that torch multiplies matrices
    in, must stay as they are meanwhile.

    Args:
        max_memory: Bytes that all of it together may take; what finds no room is not kept.

    Raises:
        ValueError: If `max_memory` is not a whole number from 0 up.

    Example:
        >>> import psr_lens as pl
        >>> runs = pl.FitRuns()
        >>> fits = [pl.fit(model, data, method=own, runs=runs) for own in ("dim", "const", "psr")]
        ... # doctest: +SKIP
    """

    def __init__(self, max_memory: int = 2**31):
        self.max_memory = check_count("max_memory", max_memory, 0)
        self._kept: dict[Hashable, _Kept] = {}

    def once(
        self,
        what: Hashable,
        model: HookedModel,
        examples: Sequence[Example],
        size: int,
        make: Callable[[], T],
    ) -> T:
        """What was made for an earlier fit, or else is made now.

        Args:
            what: The kind of runs, with everything that they depend on besides model and examples.
            model: The model.
            examples: The examples.
            size: How many bytes it takes.
            make: Makes it.
        """
        kept = self._kept.get(what)
        if kept is not None and kept.are_of(model, examples):
            return cast("T", kept.value)
        # The old ones first, so that both are never there together.
        self._kept.pop(what, None)
        made = make()
        # Asked afterwards: what was made meanwhile for it may have been kept too.
        if self.has_room(size):
            self._kept[what] = _Kept(model, tuple(examples), size, made)
        return made

    def has_room(self, size: int) -> bool:
        """Whether so many bytes more would be kept."""
        return size + sum(kept.size for kept in self._kept.values()) <= self.max_memory


def residual_bytes(model: HookedModel, examples: Sequence[Example], tokens: AlignedTokens) -> int:
    """Bytes of the aligned tokens' residual streams at all layers, in float32 at least."""
    count = sum(example.aligned_length(tokens) for example in examples)
    return count * model.n_layers * model.d_model * max(4, model.dtype.itemsize)


def prefix_bytes(model: HookedModel, examples: Sequence[Example], tokens: AlignedTokens) -> int:
    """Bytes of the keys and values of what comes before the aligned tokens, or fewer: of all heads."""
    count = sum(len(e.base_row.tokens) - e.aligned_length(tokens) for e in examples)
    return 2 * count * model.n_layers * model.d_model * model.dtype.itemsize
