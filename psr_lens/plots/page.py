"""A page in one file: nothing is fetched, and the browser is told to refuse any fetch."""

import os
from pathlib import Path
from typing import Final

from psr_lens.plots.text import escape
from psr_lens.plots.theme import style_sheet
from psr_lens.storage.atomic import write_bytes

_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; font-src data:"
)

PAGE_MARK: Final = b'class="psr-page"'
"""What every page of ours holds."""


def html_page(title: str, body: str, scripts: str = "") -> str:
    """A complete document with the shared style sheet.

    Args:
        title: Plain text for the window's title.
        body: HTML of the page, already escaped.
        scripts: Script elements, put at the end of the body.
    """
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{style_sheet()}</style>
</head>
<body {PAGE_MARK.decode()}>
{body}
{scripts}
</body>
</html>
"""


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
