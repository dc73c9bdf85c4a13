"""How much a call does, in steps and not in seconds: the same on every machine, however busy."""

from collections.abc import Iterator
from contextlib import contextmanager
from cProfile import Profile


@contextmanager
def at_most(steps: int) -> Iterator[None]:
    """A step is a call of any function, those in C included, or a turn of a generator."""
    counted = Profile()
    with counted:
        yield
    done = sum(entry.callcount + entry.reccallcount for entry in counted.getstats())
    assert done <= steps, f"{done} steps, and at most {steps} were to be done"
