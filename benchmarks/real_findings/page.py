"""Fills the tables of `docs/real-model.md` and draws its pictures."""

import re
from pathlib import Path
from typing import Any, Final

from benchmarks.real_findings import pictures
from benchmarks.real_findings.numbers import COPIES, SIZES, TOY, read
from benchmarks.real_findings.tables import TABLES
from psr_lens.demo.everyday_instructions import EVERYDAY
from psr_lens.storage.atomic import write_bytes

_DOCS: Final = Path(__file__).parents[2] / "docs"
PAGE: Final = _DOCS / "real-model.md"
PICTURES: Final = _DOCS / "_static"
_MARKED: Final = re.compile(r"(<!-- table (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def all_numbers() -> dict[str, dict[str, Any]]:
    """Every file that is there."""
    return {name: found for name in (*EVERYDAY, SIZES, COPIES, TOY) if (found := read(name))}


def fill(page: str, numbers: dict[str, dict[str, Any]]) -> str:
    """The page with every marked table drawn anew."""

    def draw(match: re.Match[str]) -> str:
        head, name, end = match.groups()
        titles, *rows = TABLES[name](numbers)
        lines = [titles, ["---"] * len(titles), *rows]
        return head + "".join(f"| {' | '.join(cells)} |\n" for cells in lines) + end

    return _MARKED.sub(draw, page)


def write() -> None:
    """The page and its pictures."""
    numbers = all_numbers()
    if PAGE.is_file():
        write_bytes(PAGE, fill(PAGE.read_text(encoding="utf-8"), numbers).encode())
    for name, picture in pictures.drawn(numbers).items():
        write_bytes(PICTURES / f"real-model-{name}.svg", picture.encode())
