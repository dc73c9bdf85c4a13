"""Alternating repeats, medians, and the exponent of a growth."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Timings:
    """Seconds of every contender, one for each round."""

    seconds: Mapping[str, tuple[float, ...]]

    def median(self, name: str) -> float:
        return median(self.seconds[name])

    def ratio(self, name: str, reference: str) -> float:
        """Median over the rounds of one time over the other.

        Both of a pair come from the same round, so a machine that slows down between rounds moves
        them together.
        """
        pairs = zip(self.seconds[name], self.seconds[reference], strict=True)
        return median(own / other for own, other in pairs)

    def medians(self) -> dict[str, float]:
        return {name: self.median(name) for name in self.seconds}


def alternate(
    contenders: Mapping[str, Callable[[], object]],
    repeats: int,
    *,
    warm_up: bool = True,
    processor: bool = False,
) -> Timings:
    """Run the contenders in turn, `repeats` rounds; every round begins with another one.

    Args:
        contenders: What to run, by name.
        repeats: Rounds.
        warm_up: Whether to run each once ahead.
        processor: Take the processor's time of this process, which others on the machine lengthen
            less, and not the clock's.
    """
    clock = time.process_time if processor else time.perf_counter
    names = list(contenders)
    if warm_up:
        for run in contenders.values():
            run()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(repeats):
        for i in range(len(names)):
            name = names[(turn + i) % len(names)]
            start = clock()
            contenders[name]()
            seconds[name].append(clock() - start)
    return Timings({name: tuple(times) for name, times in seconds.items()})


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """The `p` of the least-squares fit of `seconds = c * sizes ** p`, on logarithmic axes."""
    x = [math.log(size) for size in sizes]
    y = [math.log(time) for time in seconds]
    x_mean, y_mean = sum(x) / len(x), sum(y) / len(y)
    covariance = sum((a - x_mean) * (b - y_mean) for a, b in zip(x, y, strict=True))
    return covariance / sum((a - x_mean) ** 2 for a in x)
