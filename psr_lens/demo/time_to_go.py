"""An honest time to go for work whose steps take very different times."""

import sys
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Final, final

from psr_lens._bars import tqdm

_PRIOR_SECONDS: Final = 20.0
_REFRESH_SECONDS: Final = 2.0
_REFRESH_SECONDS_OF_A_FILE: Final = 60.0


def seconds_to_go(
    expected: Mapping[str, float], finished: Mapping[str, float], now: str | None, in_now: float
) -> float:
    r"""How long the rest takes, judged by how long the finished steps took.

    With expected seconds $e_s$ and those that a finished step took $t_s$, this machine takes
    $r = (20 + \sum_f t_f) / (20 + \sum_f e_f)$ times what was expected; what is left is
    $\max(r e_\mathrm{now} - t_\mathrm{now}, 0)$ and $r e_s$ of every step that has not begun.

    Args:
        expected: Seconds of every step on the machine that they were measured on.
        finished: Seconds that each finished step took.
        now: The step that is running, None for none.
        in_now: Seconds that it has been running.

    Example:
        >>> seconds_to_go({"a": 10.0, "b": 30.0}, {"a": 40.0}, "b", 15.0)
        45.0
    """
    ratio = (_PRIOR_SECONDS + sum(finished.values())) / (
        _PRIOR_SECONDS + sum(expected[step] for step in finished)
    )
    waiting = sum(
        seconds for step, seconds in expected.items() if step not in finished and step != now
    )
    running = max(ratio * expected[now] - in_now, 0.0) if now is not None else 0.0
    return ratio * waiting + running


def in_words(seconds: float) -> str:
    """A time in words.

    Example:
        >>> in_words(34.0), in_words(340.0)
        ('less than a minute', 'about 6 min')
    """
    return "less than a minute" if seconds < 60 else f"about {round(seconds / 60)} min"


@final
class TimeToGo:
    """A progress bar over steps that says how long the rest will take, also in the middle of a step.

    Args:
        expected: Seconds of every step, in order, on the machine that they were measured on.
        shown: Whether to show it.
    """

    def __init__(self, expected: Mapping[str, float], shown: bool):
        self._expected = dict(expected)
        self._finished: dict[str, float] = {}
        self._now: str | None = None
        self._began = 0.0
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._bar = tqdm(
            total=len(self._expected),
            unit="step",
            disable=not shown,
            file=sys.stderr,
            bar_format="{percentage:3.0f}% |{bar}| {elapsed} gone{postfix}{desc}",
        )

    def __enter__(self) -> "TimeToGo":
        if not self._bar.disable:
            threading.Thread(target=self._refresh, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        with self._lock:
            if kind is None and self._now is not None:
                self._bar.update()
            self._bar.close()

    def begin(self, step: str) -> None:
        """End the step before and begin this one."""
        with self._lock:
            now = time.perf_counter()
            if self._now is not None:
                self._finished[self._now] = now - self._began
                self._bar.update()
            self._now, self._began = step, now
            self._show()

    def _refresh(self) -> None:
        # In a file, every refresh stays.
        seconds = _REFRESH_SECONDS if sys.stderr.isatty() else _REFRESH_SECONDS_OF_A_FILE
        while not self._over.wait(seconds):
            with self._lock:
                if not self._over.is_set():
                    self._show()

    def _show(self) -> None:
        passed = time.perf_counter() - self._began
        left = seconds_to_go(self._expected, self._finished, self._now, passed)
        self._bar.set_description_str(f": {self._now}", refresh=False)
        self._bar.set_postfix_str(f"{in_words(left)} to go", refresh=True)
