"""HTML from jinja2 templates, in which every text is escaped."""

from functools import cache
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from psr_lens.plots.text import visible_token

TEMPLATES: Final = Path(__file__).parent / "templates"
"""Templates of pictures; pages have their own besides."""


@cache
def environment(*folders: Path) -> Environment:
    """The templates of some folders, which are searched in order."""
    found = Environment(
        loader=FileSystemLoader(folders),
        autoescape=True,
        finalize=_encodable,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["visible"] = visible_token
    return found


def render(template: str, **values: Any) -> str:
    """A picture's template, filled in; values that are HTML come as `Markup`."""
    return environment(TEMPLATES).get_template(template).render(values)


def _encodable(value: Any) -> Any:
    """Make lone surrogates, which UTF-8 refuses, visible; markup stays as it is."""
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    encodable = value.encode("utf-8", "backslashreplace").decode("utf-8")
    return encodable.replace("\0", "\N{REPLACEMENT CHARACTER}")
