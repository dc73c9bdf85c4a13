"""Make the notebooks anew from their `.py` twins, run them, and keep the outputs.

    python scripts/run_notebooks.py [--pictures] [notebooks/01_what_does_a_prompt_do.py ...]

Edit the `.py`; the `.ipynb` follows. Times, random cell ids and the Python version, which would differ
from run to run, are left out, so that every difference means something. If a notebook fails, its old
`.ipynb` stays as it was. Every figure gets a picture beside it, which needs a Chromium on this
machine; `--pictures` only draws those of the stored figures anew.
"""

import argparse
import sys
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

sys.path.insert(0, str(Path(__file__).parents[1]))

from scripts.notebook_pictures import add_pictures
from tests.browser import find_browser

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}


def read_twin(source: Path) -> nbformat.NotebookNode:
    """The notebook that a `.py` file describes, without outputs."""
    notebook = jupytext.read(source)
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL})
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
    return notebook


def run(source: Path) -> Path:
    """Run one notebook in its own folder and write it."""
    notebook = read_twin(source)
    client = NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(source.parent)}},
    )
    client.execute()
    notebook.metadata.pop("language_info", None)
    return write(notebook, source)


def redraw(source: Path) -> Path:
    """Draw the pictures of the figures that a notebook has stored."""
    return write(nbformat.read(source.with_suffix(".ipynb"), as_version=4), source)


def write(notebook: nbformat.NotebookNode, source: Path) -> Path:
    """Write a notebook beside its twin, with the pictures of its figures."""
    add_pictures(notebook)
    target = source.with_suffix(".ipynb")
    nbformat.write(notebook, target)
    return target


def main() -> None:
    """Run the notebooks that are named, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "notebooks", nargs="*", type=Path, help="the .py files; all if none is named"
    )
    parser.add_argument("--pictures", action="store_true", help="draw the pictures, run nothing")
    given = parser.parse_args()
    if find_browser() is None:
        parser.error(
            "the pictures of the figures need a Chromium on this machine, and there is none"
        )
    for source in given.notebooks or sorted(NOTEBOOKS.glob("*.py")):
        print(redraw(source) if given.pictures else run(source))


if __name__ == "__main__":
    main()
