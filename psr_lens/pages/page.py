"""A page in one file: nothing is fetched, and the browser is told to refuse any fetch."""

import json
import os
from functools import cache
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment
from markupsafe import Markup

from psr_lens.plots.markup import TEMPLATES, environment
from psr_lens.plots.theme import style_sheet
from psr_lens.storage.atomic import write_bytes

PAGE_MARK: Final = b'class="psr-page"'
"""What every page of ours holds."""


def render(template: str, **values: Any) -> str:
    """The template of a page or part of one, filled in; values that are HTML come as `Markup`."""
    return _environment().get_template(template).render(values)


def html_page(title: str, body: str, scripts: str = "") -> str:
    """A complete document with the shared style sheet.

    Args:
        title: Plain text for the window's title.
        body: HTML of the page, already escaped.
        scripts: Script elements, put at the end of the body.
    """
    parts = {"style": style_sheet(), "body": body, "scripts": scripts}
    return render("page.html", title=title, **{k: Markup(own) for k, own in parts.items()})


def write_page(path: str | os.PathLike[str], text: str) -> Path:
    """Write a page so that a reader of `path` sees the old file or the whole new one.

    Returns:
        The path.

    Raises:
        FileNotFoundError: If the folder does not exist.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(
            f"{target.parent} is not a folder; create it first or save to another path"
        )
    return write_bytes(target, text.encode())


@cache
def _environment() -> Environment:
    found = environment(Path(__file__).parent / "templates", TEMPLATES)
    found.filters["as_json"] = lambda value: json.dumps(value, default=str, ensure_ascii=False)
    return found
