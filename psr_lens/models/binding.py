"""Whom an edit acts for: hooks are on a model that all threads share, and each asks here.

An edit acts for the thread that added it. An asyncio task has its own edits, and passes them on to the
tasks and `asyncio.to_thread` calls that it starts, as with context variables.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import current_thread
from typing import Any, final

from torch import nn

_HELD: ContextVar[tuple["Owner", ...]] = ContextVar("psr_lens_held", default=())
_SUSPENDED: ContextVar[tuple[object, ...]] = ContextVar("psr_lens_suspended", default=())


@final
class Owner:
    """The thread and the asyncio task that this was made in, until `release`."""

    def __init__(self):
        self._thread = current_thread()
        self._task = _running_task()
        self._held = True
        _HELD.set((*(own for own in _HELD.get() if own._held), self))

    def is_here(self) -> bool:
        """Whether the owner, or something it started, is running now."""
        if not self._held:
            return False
        if self in _HELD.get():
            return True
        # The next cell of a notebook has another context but is the same thread.
        if self._thread is not current_thread():
            return False
        return self._task is None or self._task.done() or self._task is _running_task()

    def holds(self) -> bool:
        """Whether it still owns anything."""
        return self._held

    def release(self) -> None:
        """Own nothing from now on; any thread may call this."""
        self._held = False
        _HELD.set(tuple(own for own in _HELD.get() if own._held))


@contextmanager
def suspended(*things: object) -> Iterator[None]:
    """Make `is_suspended` true of these inside the context, for what runs here."""
    outer = _SUSPENDED.get()
    _SUSPENDED.set((*outer, *things))
    try:
        yield
    finally:
        _SUSPENDED.set(outer)


def is_suspended(thing: object) -> bool:
    """Whether `suspended` holds for it here."""
    return thing in _SUSPENDED.get()


class BoundHook:
    """A hook that is not copied with its module: in the copy it does nothing."""

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        return _inert, ()


def _inert() -> Any:
    return _do_nothing


def _do_nothing(module: nn.Module, *args: object, **options: object) -> None:
    """Stands in a copied module where the original has a hook of ours."""


def _running_task() -> "asyncio.Task[Any] | None":
    # Without a loop `current_task` raises, which would cost more than all the rest.
    loop = asyncio._get_running_loop()
    return None if loop is None else asyncio.current_task(loop)
