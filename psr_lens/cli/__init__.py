"""The command line: subcommands, each a thin layer over functions of the package.

`psr-lens --help` must be quick, so nothing here imports torch before a subcommand runs.
"""

import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line.

    An interruption (Ctrl-C, SIGINT) ends it in one line with exit code 130, SIGTERM with 143; both leave
    nothing half-written and nothing in the temporary folder.

    Args:
        args: The arguments, those of the process if not given.
    """
    try:
        with _orderly_end():
            # Inside, so that Ctrl-C while this loads is an interruption like any other.
            from psr_lens.cli.parse import run

            run(args)
    except KeyboardInterrupt:
        print("psr-lens: interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    except _Terminated:
        print("psr-lens: terminated", file=sys.stderr)
        raise SystemExit(143) from None


class _Terminated(BaseException):
    """SIGTERM has come."""


@contextmanager
def _orderly_end() -> Iterator[None]:
    """Inside, SIGTERM is an exception, so that temporary files are removed."""

    def end(*_: Any) -> None:
        # Once is enough: another one would interrupt the cleaning up.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise _Terminated

    before = signal.getsignal(signal.SIGTERM)
    in_main = threading.current_thread() is threading.main_thread()
    # Only the main thread handles signals, and a process that ignores this one has a reason to.
    if not in_main or before in (None, signal.SIG_IGN):
        yield
        return
    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
