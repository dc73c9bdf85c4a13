"""Make the notebooks anew from their `.py` twins, run them, and keep the outputs.

    python scripts/run_notebooks.py [notebooks/01_what_does_a_prompt_do.py ...]

One edits the `.py`; the `.ipynb` follows. What would differ from run to run without meaning anything
(times, random cell ids, the Python version) is left out, so that a difference is a difference.
A notebook that fails leaves its old `.ipynb` as it was.
"""

import argparse
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

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
    """Run one notebook in the folder that it lies in and write it."""
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
    target = source.with_suffix(".ipynb")
    nbformat.write(notebook, target)
    return target


def main() -> None:
    """Run the notebooks that are named, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "notebooks", nargs="*", type=Path, help="the .py files; all if none is named"
    )
    named = parser.parse_args().notebooks
    for source in named or sorted(NOTEBOOKS.glob("*.py")):
        print(run(source))


if __name__ == "__main__":
    main()
