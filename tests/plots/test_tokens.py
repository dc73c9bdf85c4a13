import json
import math
import re
from dataclasses import replace

import pytest
import torch

from psr_lens._types import TokenValues
from psr_lens.pages.page import write_page
from psr_lens.plots import layer_token_heatmap, token_heatmap, token_heatmaps
from psr_lens.plots.circuits import bundle, notebook_script, page_scripts
from psr_lens.plots.text import visible_token
from tests.plots.samples import ATTACK, SPECIAL_TOKENS, WORDS, Outline, token_values


class Deltas:
    """Anything with `token_values`."""

    def token_values(self) -> TokenValues:
        return token_values(title="from an object")


def data_of(heatmap) -> dict:
    match = re.search(r'<script type="application/json">(.*?)</script>', heatmap.fragment())
    return json.loads(match[1])


def test_any_object_with_token_values_is_drawn():
    assert token_heatmap(Deltas()).fragment() == token_heatmap(Deltas().token_values()).fragment()
    assert token_heatmap(Deltas()).title == "from an object"
    assert token_heatmap(Deltas(), title="mine").title == "mine"


def test_all_layers_are_in_the_page_and_values_are_those_given():
    source = token_values()
    data = data_of(token_heatmap(source))
    assert data["layers"] == [0, 1, 2, 3]
    rows = data["panels"][0]["rows"]
    drawn = torch.tensor([row["values"] for row in rows])
    assert torch.allclose(drawn, source.values, rtol=1e-3)


def test_the_first_layer_is_the_one_with_the_largest_median_then_the_last():
    assert token_heatmap(token_values()).layer == 3
    falling = TokenValues(("a", "b"), torch.tensor([[3.0, 3.0], [1.0, 1.0]]), (4, 9), "q")
    assert token_heatmap(falling).layer == 4
    equal = TokenValues(("a", "b"), torch.ones(3, 2), (4, 6, 9), "q")
    assert token_heatmap(equal).layer == 9
    assert data_of(token_heatmap(equal, layer=6))["first"] == 1


def test_an_outlier_is_clipped_and_the_legend_says_so():
    values = torch.cat([torch.tensor([[80.0]]), torch.linspace(1, 3, 20)[None]], 1)
    text = tuple("abcdefghijklmnopqrstu")
    outline = Outline(token_heatmap(TokenValues(text, values, (5,), "delta norm")).fragment())
    assert outline.text.split()[2:6] == ["0", "3", "delta", "norm"]
    assert "1 token beyond the scale, up to 80: darkest" in outline.text


def test_bounds_are_per_layer_unless_given():
    heatmap = token_heatmap(token_values())
    highs = [row["high"] for row in data_of(heatmap)["panels"][0]["rows"]]
    assert highs == sorted(highs)
    assert len(set(highs)) == 4
    assert "Each layer has its own colour scale." in heatmap.fragment()
    fixed = token_heatmap(token_values(), bounds=(0, 2.5))
    assert {row["high"] for row in data_of(fixed)["panels"][0]["rows"]} == {2.5}
    assert "One colour scale for all layers." in fixed.fragment()


def test_panels_have_their_own_scale_unless_shared():
    large = TokenValues(("a", "b"), torch.tensor([[4.0, 8.0]]), (0,), "q")
    small = TokenValues(("a", "b"), torch.tensor([[1.0, 2.0]]), (0,), "q")
    sources = {"large": large, "small": small}

    def highs(heatmap):
        return [panel["rows"][0]["high"] for panel in data_of(heatmap)["panels"]]

    assert highs(token_heatmaps(sources)) == [8.0, 2.0]
    assert highs(token_heatmaps(sources, shared_scale=True)) == [8.0, 8.0]


def test_equal_values_take_no_room_from_panels_that_they_stand_beside():
    varied = TokenValues(("a", "b"), torch.tensor([[4.0, 8.0]]), (0,), "q")
    equal = TokenValues(("a", "b"), torch.tensor([[9.0, 9.0]]), (0,), "q")

    def high(*sources):
        heatmap = token_heatmaps(dict(zip("xyz", sources, strict=False)), shared_scale=True)
        return {panel["rows"][0]["high"] for panel in data_of(heatmap)["panels"]}

    assert high(varied, equal) == {9.0}
    assert high(equal, equal) == {18.0}
    assert high(equal) == {18.0}
    signed = TokenValues(("a", "b"), torch.tensor([[-4.0, 1.0]]), (0,), "q")
    assert high(signed, equal) == {9.0}


def test_a_scale_that_panels_share_is_said_to_be_shared():
    one, other = token_values(), token_values(seed=1)
    shared = "Each layer has its own colour scale, the same in all panels."
    sources = {"one": one, "other": other}
    assert shared in token_heatmaps(sources, shared_scale=True).fragment()
    apart = token_heatmaps(sources).fragment()
    assert shared not in apart
    assert "Each layer has its own colour scale." in apart
    assert shared not in token_heatmap(one).fragment()


def test_the_unit_is_said_once_where_all_panels_have_it():
    with_unit = replace(token_values(), unit="<metres>")
    said = "Numbers are in units of &lt;metres&gt;."
    assert token_heatmaps({"a": with_unit, "b": with_unit}).fragment().count(said) == 1
    single = TokenValues(("a",), torch.ones(1, 1), (3,), "q", unit="<metres>")
    assert token_heatmap(single).fragment().count(said) == 1
    for other in (token_values(), replace(token_values(), unit="seconds")):
        assert "in units of" not in token_heatmaps({"a": with_unit, "b": other}).fragment()


def test_a_panel_without_the_layer_shows_the_text_without_colours():
    every = token_values(("a", "b"), n_layers=3)
    single = TokenValues(("a", "b"), torch.tensor([[1.0, 2.0]]), (1,), "coefficient")
    heatmap = token_heatmaps({"all": every, "one": single}, layer=2)
    rows = data_of(heatmap)["panels"][1]["rows"]
    assert [row["values"] for row in rows] == [None, [1.0, 2.0], None]
    assert "nothing at layer 2" in Outline(heatmap.fragment()).text


def test_nan_is_no_value_and_zero_is_a_value():
    source = TokenValues(("a", "b", "c"), torch.tensor([[math.nan, 0.0, 2.0]]), (0,), "q")
    assert data_of(token_heatmap(source))["panels"][0]["rows"][0]["values"] == [None, 0.0, 2.0]
    zeros = TokenValues(("a", "b"), torch.zeros(1, 2), (0,), "q")
    assert "all zero" in Outline(token_heatmap(zeros).fragment()).text
    nothing = TokenValues(("a",), torch.tensor([[math.nan]]), (0,), "q")
    assert "no values" in Outline(token_heatmap(nothing).fragment()).text


def test_the_uncoloured_text_shows_every_special_token():
    source = token_values(SPECIAL_TOKENS, title=ATTACK, quantity=ATTACK)
    outline = Outline(token_heatmap(source).fragment())
    for token in SPECIAL_TOKENS:
        assert visible_token(token) in outline.text
    assert {"img", "b", "s", "bos", "think"} & set(outline.tags) == set()
    assert ATTACK in outline.text


def test_a_text_that_was_cut_off_says_so_after_its_last_token():
    drawn = replace(token_values(), ending="cut off at 64 tokens")
    page = token_heatmaps({"prompt": drawn, "PSR": token_values(seed=2)}).fragment()
    prompt, psr = page.split('class="psr-caption"')[1:]
    assert Outline(prompt).text.count("… cut off at 64 tokens") == 1
    assert "cut off" not in psr
    assert page != token_heatmaps({"prompt": drawn, "PSR": drawn}).fragment()


def test_marks_of_split_characters_are_explained_where_there_are_some():
    tokens = ("caf", "\u27e8C3\u27e9", "é", " \u27e8F09F\u27e9")
    drawn = TokenValues(tokens, torch.rand(2, 4), (0, 1), "delta norm")
    assert "\u27e8C3\u27e9: bytes of a character" in Outline(token_heatmap(drawn).fragment()).text
    assert "bytes of a character" not in token_heatmap(token_values()).fragment()
    title = layer_token_heatmap(replace(drawn, ending="cut off at 3 tokens")).layout.title.text
    assert "the response was cut off at 3 tokens" in title
    assert "\u27e8C3\u27e9: bytes of a character" in title


def test_equal_input_gives_equal_pages_and_other_input_other_ids():
    first, again = token_heatmap(token_values()), token_heatmap(token_values())
    assert first.to_html() == again.to_html()
    assert first._repr_html_() == again._repr_html_()
    other = token_heatmap(token_values(seed=1))
    layer = token_heatmap(token_values(), layer=0)
    ids = [Outline(heatmap.fragment()).ids for heatmap in (first, other, layer)]
    assert all(len(names) == 1 for names in ids)
    assert len({names[0] for names in ids}) == 3


def test_pages_name_no_address():
    heatmap = token_heatmap(token_values(SPECIAL_TOKENS, title=ATTACK))
    for page in (heatmap.to_html(), heatmap._repr_html_()):
        outline = Outline(page)
        assert outline.addresses == []
        assert outline.handlers == []
        assert not {"link", "iframe", "img", "object", "embed", "base"} & set(outline.tags)
    # The text attacks are the only addresses outside circuitsvis' own comments and messages.
    benign = token_heatmap(token_values()).to_html().replace(bundle(), "")
    assert "http:" not in benign
    assert "https:" not in benign
    assert "//" not in re.sub(r"^\s*//.*$|</?\w", "", benign, flags=re.MULTILINE)


def test_the_bundle_is_once_in_a_page_and_cannot_end_its_script():
    assert "</script" not in bundle()
    assert "<!--" not in bundle()
    assert "sourceMappingURL" not in bundle()
    page = token_heatmaps({"one": token_values(), "two": token_values(seed=1)}).to_html()
    assert page.count(bundle()) == 1
    assert page_scripts() in page


def test_an_output_cell_stays_small_and_complete():
    output = token_heatmap(token_values())._repr_html_()
    assert len(output) < 600_000
    assert notebook_script() in output
    assert bundle() not in output


def test_save_writes_the_page_in_one_step(tmp_path, monkeypatch):
    heatmap = token_heatmap(token_values())
    path = heatmap.save(tmp_path / "page.html")
    assert path.read_text(encoding="utf-8") == heatmap.to_html()
    heatmap.save(str(path))

    def broken(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", broken)
    with pytest.raises(OSError, match="disk full"):
        write_page(path, "half a page")
    assert path.read_text(encoding="utf-8") == heatmap.to_html()
    assert [entry.name for entry in tmp_path.iterdir()] == ["page.html"]


def test_save_names_a_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder; create it first"):
        token_heatmap(token_values()).save(tmp_path / "nowhere" / "page.html")


def test_errors_name_the_value_and_the_way_out():
    with pytest.raises(ValueError, match=r"layer=7 has no values here; .* are \[0, 1, 2, 3\]"):
        token_heatmap(token_values(), layer=7)
    with pytest.raises(ValueError, match="sources is empty"):
        token_heatmaps({})
    with pytest.raises(ValueError, match="'b' has 2 tokens, 'a' has 33, and they are not the same"):
        token_heatmaps({"a": token_values(), "b": token_values(("x", "y"))})
    with pytest.raises(ValueError, match="covers 2 layers and 0 tokens"):
        token_heatmap(TokenValues((), torch.zeros(2, 0), (0, 1), "q"))
    with pytest.raises(ValueError, match="1 infinite values"):
        token_heatmap(TokenValues(("a",), torch.tensor([[math.inf]]), (0,), "q"))
    assert len(WORDS) == 33


def test_values_of_any_floating_type_and_under_gradients_are_drawn():
    values = torch.rand(2, 3, generator=torch.Generator().manual_seed(0))
    wanted = token_heatmap(TokenValues(("a", "b", "c"), values, (0, 1), "q"))
    double = TokenValues(("a", "b", "c"), values.double().requires_grad_(), (0, 1), "q")
    assert token_heatmap(double).fragment() == wanted.fragment()
    half = TokenValues(("a", "b", "c"), values.bfloat16(), (0, 1), "q")
    assert data_of(token_heatmap(half))["layers"] == [0, 1]
