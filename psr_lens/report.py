"""`Report`: what every result can do: show itself, become a table or a page, be saved."""

import html
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from jaxtyping import Shaped
from torch import Tensor

from psr_lens.storage import read_container, write_container
from psr_lens.storage.atomic import refuse_foreign_files, write_files
from psr_lens.storage.fields import only, reading
from psr_lens.storage.records import pack_record, unpack_record

if TYPE_CHECKING:
    import pandas
    import plotly.graph_objects

Figures = Mapping[str, "Callable[..., plotly.graph_objects.Figure]"]
"""The functions that draw a report's figures, by name; the default one first."""
Packed = tuple[dict[str, Tensor], dict[str, Any]]
"""A report as a file holds it: tensors, and JSON values."""
Own = TypeVar("Own", bound="Report")


class Report(ABC):
    """A result: it puts its numbers into words, and draws, tabulates and saves them.

    In a notebook it shows its default figure, elsewhere a table or text.

    Attributes:
        title: The question that it answers, the heading of its page.
        opens_with_figure: Whether a notebook shows the figure before the table.
    """

    title: ClassVar[str]
    opens_with_figure: ClassVar[bool] = True

    @abstractmethod
    def summary(self) -> str:
        """What the numbers say, in words."""

    @abstractmethod
    def to_dataframe(self) -> "pandas.DataFrame":
        """All numbers as a long table, one row per number."""

    @abstractmethod
    def figures(self) -> Figures:
        """What there is to draw, by name; the default one first."""

    def packed(self) -> Packed:
        """What `save` writes; by default every field of the dataclass, see `pack_record`."""
        tensors: dict[str, Tensor] = {}
        return tensors, pack_record(self, tensors)

    @classmethod
    def unpacked(
        cls: type[Own], tensors: dict[str, Shaped[Tensor, "..."]], header: Mapping[str, Any]
    ) -> Own:
        """The inverse of `packed`: removes its tensors from those given.

        Raises:
            ValueError: If something in it is missing, unknown or wrong.
        """
        return unpack_record(cls, header, tensors)

    @abstractmethod
    def check(self) -> None:
        """Refuse contents that no such report has: it may come from a file.

        Raises:
            ValueError: If its parts do not fit each other.
        """

    def drawable(self) -> Sequence[str]:
        """The figures whose numbers were measured; the others say what to measure."""
        return tuple(self.figures())

    def origin(self) -> Mapping[str, Any]:
        """Its provenance: model, data and seed; empty if unknown."""
        return getattr(self, "provenance", {})

    def caution(self) -> str:
        """A line to read before the numbers, say that the prompts did next to nothing; or empty."""
        return str(self.origin().get("prompt_effect", {}).get("warning", ""))

    def words(self) -> str:
        """The summary without what `table_html` shows, for a page."""
        return self.summary()

    def table_html(self) -> str:
        """The most telling numbers as an HTML table; empty where words do better."""
        return ""

    def page(self) -> str:
        """The report as one self-contained HTML page."""
        from psr_lens.pages.report_page import report_page

        return report_page(self)

    def plot(self, what: str | None = None, **options: Any) -> "plotly.graph_objects.Figure":
        """A figure.

        Args:
            what: Its name, one of `figures()`; by default the first of `drawable()`.
            options: Options of that figure.

        Raises:
            ValueError: If there is no such figure, or its numbers were not measured.
        """
        figures = self.figures()
        name = next(iter([*self.drawable(), *figures])) if what is None else what
        if name not in figures:
            raise ValueError(f"what={what!r}: choose one of {', '.join(figures)}")
        return figures[name](**options)

    def to_html(self, path: str | Path) -> Path:
        """Write the report, figures and text, as one page that opens anywhere.

        Args:
            path: Where; `.html` is added if missing. An older page there is replaced.

        Returns:
            The path of the page.

        Raises:
            ValueError: If something that psr_lens did not write is at the path.
            OSError: If it cannot be written.
        """
        from psr_lens.pages.page import PAGE_MARK

        path = Path(path)
        path = path if path.suffix == ".html" else path.with_name(f"{path.name}.html")
        refuse_foreign_files({path: PAGE_MARK})
        write_files({path: self.page().encode()})
        return path

    def save(self, path: str | Path) -> Path:
        """Write the report to one file.

        Args:
            path: Where; `.safetensors` is added if missing. An older report there is replaced.

        Returns:
            The path of the file.

        Raises:
            ValueError: If something other than such a report is at the path.
            OSError: If it cannot be written.
        """
        return write_container(path, type(self).__name__, *self.packed())

    @classmethod
    def load(cls: type[Own], path: str | Path) -> Own:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is of another kind or format, damaged, or has contents that no report has.
        """
        tensors, header = read_container(path, cls.__name__)
        with reading(path, "report"):
            found = cls.unpacked(tensors, header)
            only(tensors)
            found.check()
        return found

    def _repr_html_(self) -> str:
        table = self.table_html()
        if not table:
            return f"<pre>{html.escape(self.summary())}</pre>"
        lines = self.caution().splitlines()
        return "".join(f"<p><b>{html.escape(line)}</b></p>" for line in lines) + table

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        """The default figure where plotly can draw, a table elsewhere, words on a terminal."""
        shown = {"text/html": self._repr_html_(), "text/plain": self.summary()}
        # Given several forms, a notebook shows the figure, which would hide the caution.
        if self.opens_with_figure and self.drawable() and not self.caution():
            shown["application/vnd.plotly.v1+json"] = json.loads(self.plot().to_json() or "{}")
        return shown
