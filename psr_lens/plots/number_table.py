"""A table of numbers, one row per name."""

from collections.abc import Sequence
from dataclasses import dataclass

from psr_lens.plots.markup import render


@dataclass(frozen=True)
class Cell:
    """A cell's text, and a hint that shows when the mouse is over it."""

    text: str
    hint: str = ""


def number_table(head: Sequence[str], rows: Sequence[tuple[str, Sequence[Cell]]]) -> str:
    """The table as HTML; the first column holds the names."""
    return render("numbers.html", head=head, rows=rows)
