"""The command line: one subcommand per noun, each a thin layer over the same functions.

`psr-lens --help` must be quick, so nothing here imports torch before a subcommand runs.
"""

import sys
from collections.abc import Sequence


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        args: The arguments, those of the process if not given.
    """
    try:
        # Inside, so that Ctrl-C while this loads is an interruption like any other.
        from psr_lens.cli.parse import run

        run(args)
    except KeyboardInterrupt:
        print("psr-lens: interrupted", file=sys.stderr)
        raise SystemExit(130) from None
