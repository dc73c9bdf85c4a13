"""The subcommands, and one line about whatever is wrong."""

import contextlib
import io
import os
import re
import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn

import tyro

from psr_lens.cli.commands import Compare, Decompose, Demo, Faithfulness, Fit, Steer

Command = (
    Annotated[Demo, tyro.conf.subcommand("demo")]
    | Annotated[Decompose, tyro.conf.subcommand("decompose")]
    | Annotated[Fit, tyro.conf.subcommand("fit")]
    | Annotated[Compare, tyro.conf.subcommand("compare")]
    | Annotated[Faithfulness, tyro.conf.subcommand("faithfulness")]
    | Annotated[Steer, tyro.conf.subcommand("steer")]
)


def run(args: Sequence[str] | None = None) -> None:
    """Parse the arguments and run the subcommand that they name.

    Args:
        args: The arguments, those of the process if not given.
    """
    given = list(sys.argv[1:] if args is None else args)
    if given == ["--version"]:
        from importlib.metadata import version

        print(f"psr-lens {version('psr-lens')}")
        return
    command = _parse(given)
    # Threads that wait for each other spin, and on a busy machine they spin in place of those that
    # they wait for. Read once, when torch is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")
    try:
        command.run()
    except (ValueError, OSError) as error:
        _fail(str(error), 2)


def _parse(args: list[str]):
    """The command, or one line about what is wrong with the arguments."""
    complaint = io.StringIO()
    columns = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = columns or "100"
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(
                Command,
                args=args,
                prog="psr-lens",
                description="What did this prompt do inside the model?",
                config=(tyro.conf.FlagConversionOff, tyro.conf.OmitArgPrefixes),
            )
    except SystemExit as end:
        if end.code in (0, None):
            raise
        _fail(_one_line(complaint.getvalue()), 2)
    finally:
        if columns is None:
            del os.environ["COLUMNS"]


def _one_line(text: str) -> str:
    """An error box as one line, without its frame and its title."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    lines = [line.strip(" │|") for line in plain.splitlines()]
    kept = [line for line in lines if line.strip("╭╮╰╯─- ")]
    return " ".join(kept[1:] or kept) or "the arguments make no sense: see psr-lens --help"


def _fail(message: str, code: int) -> NoReturn:
    print(f"psr-lens: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(code)
