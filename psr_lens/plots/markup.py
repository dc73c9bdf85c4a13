"""HTML from jinja2 templates, in which every text is escaped."""

from functools import cache
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from psr_lens.plots.text import visible_token

TEMPLATES: Final = Path(__file__).parent / "templates"
"""Those of pictures; pages have more of their own."""


@cache
def environment(*folders: Path) -> Environment:
    """The templates of some folders; a name is looked for in the first of them first."""
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
    """The template of a picture, filled in; what is HTML already comes as `Markup`."""
    return environment(TEMPLATES).get_template(template).render(values)


def _encodable(value: Any) -> Any:
    """Half surrogates, which UTF-8 refuses, are made visible; what is markup already stays as it is."""
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    encodable = value.encode("utf-8", "backslashreplace").decode("utf-8")
    return encodable.replace("\0", "\N{REPLACEMENT CHARACTER}")
