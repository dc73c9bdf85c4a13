"""The bar that a model shows while it loads: a few steps, and the weights one by one."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, final

from psr_lens._bars import tqdm

# What loads faster shows no bar.
_DELAY = 2.0
_REDRAWN_EVERY = 1.0


@final
class LoadingBar:
    """A bar of named steps; nothing is shown in the first two seconds.

    Args:
        name: What is loaded.
        steps: How many steps there are.
        progress: Whether anything is shown and said.
    """

    def __init__(self, name: str, steps: int, progress: bool):
        self._progress, self._name, self._steps, self._begun = progress, name, steps, 0
        self._closed = threading.Event()
        self._bar: Any = tqdm(
            total=steps,
            desc=f"loading {name}",
            disable=not progress,
            delay=_DELAY,
            # The steps differ a hundredfold in length: look at the clock at every one.
            miniters=0,
            leave=False,
            bar_format="{desc}: {percentage:3.0f}%|{bar}| [{elapsed}]",
        )
        # One step may be most of it. Another thread must not draw a notebook's bar.
        self._redrawing = None
        if progress and not hasattr(self._bar, "container"):
            self._redrawing = threading.Thread(target=self._redraw, daemon=True)
            self._redrawing.start()

    def step(self, what: str, more: int = 0) -> None:
        """Begin the next step; all before it are done.

        Args:
            what: What is done in it.
            more: How many further steps there turn out to be.
        """
        if not self._progress:
            return
        self._steps += more
        self._bar.total = self._steps
        self._bar.set_description_str(f"loading {self._name}, {what}", refresh=False)
        self._to(float(self._begun))
        self._begun += 1

    def inside(self, part: float) -> None:
        """Show how much of the step is done, 0 to 1."""
        self._to(self._begun - 1 + min(part, 1.0))

    def say(self, line: str) -> None:
        """Print a line that stays, to the error output."""
        if not self._progress:
            return
        if self._bar.last_print_t >= self._bar.start_t + _DELAY:
            self._bar.write(line, file=sys.stderr)
        else:
            # Not through the bar, which that would draw.
            sys.stderr.write(f"{line}\n")

    def close(self) -> None:
        """Take the bar away."""
        self._closed.set()
        if self._redrawing is not None:
            self._redrawing.join()
        self._bar.close()

    def _redraw(self) -> None:
        """Redraw once a second, to show that it is still at work."""
        wait = _DELAY
        while not self._closed.wait(wait):
            wait = _REDRAWN_EVERY
            self._bar.last_print_t = time.time()
            self._bar.refresh()

    def _to(self, where: float) -> None:
        if self._progress and where > self._bar.n:
            self._bar.update(where - self._bar.n)


@contextmanager
def weights_shown(bar: LoadingBar) -> Iterator[None]:
    """Let transformers' own loop over the weights move the bar, if its version allows that."""
    from transformers.utils import logging

    set_hook: Any = getattr(logging, "set_tqdm_hook", None)
    if set_hook is None:
        yield
        return

    def watched(factory: Callable[..., Any], args: tuple[Any, ...], options: Any) -> Any:
        own = factory(*args, **options)
        if options.get("desc") != "Loading weights" or not args or not len(args[0]):
            return own
        return _counted(args[0], bar)

    before = set_hook(watched)
    try:
        yield
    finally:
        set_hook(before)


def _counted(over: Any, bar: LoadingBar) -> Iterator[Any]:
    for i, one in enumerate(over):
        yield one
        bar.inside((i + 1) / len(over))
