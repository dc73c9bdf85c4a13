"""Where the numbers are kept: one file for each instruction and each study."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from psr_lens.demo.everyday_instructions import EVERYDAY
from psr_lens.storage.atomic import write_bytes

FOLDER = Path(__file__).parents[1] / "findings" / "smollm2"
SIZES: Final = "data-sizes"
COPIES: Final = "copies"
TOY: Final = "toy"
SECONDS: Final = "seconds"
"""Beside the parts of a file: how long each took, by one thread with another process beside it."""


def read(name: str) -> dict[str, Any]:
    """The parts that are there, by name."""
    file = FOLDER / f"{name}.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def write(name: str, found: dict[str, Any]) -> None:
    """All parts of one file."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    write_bytes(FOLDER / f"{name}.json", (json.dumps(found, ensure_ascii=False) + "\n").encode())


def log(line: str) -> None:
    """Add a line to the log, with the time."""
    with (FOLDER / "log.txt").open("a", encoding="utf-8") as file:
        file.write(f"{time.strftime('%Y-%m-%d %H:%M')} {line}\n")


Numbers = Mapping[str, Mapping[str, Any]]
"""Every file's parts, by name."""


def of_instructions(numbers: Numbers, part: str) -> dict[str, Any]:
    """One part of every instruction that has it."""
    return {name: numbers[name][part] for name in EVERYDAY if part in numbers.get(name, {})}
