"""The pictures of components and of the logit lens show the numbers that they are given."""

import plotly.graph_objects as go
import pytest
import torch

from psr_lens.components import Component, ComponentReport, ComponentTokens
from psr_lens.lens import DirectionReading, LensReading, TokenLogit
from psr_lens.plots import component_shares, component_tokens, head_heatmap, lens_table
from psr_lens.plots.lens import lens_html
from psr_lens.plots.theme import DIVERGING, SEQUENTIAL
from psr_lens.statistics import Estimate
from tests.plots.samples import ATTACK, SPECIAL_TOKENS


def estimate(value: float) -> Estimate:
    return Estimate(value, value - 0.01, value + 0.02)


def component(kind, layer, head=-1, share=0.1, norm=1.0, read=None) -> Component:
    step = None if kind == "embed" else estimate(0.5)
    own = None if read is None else estimate(read)
    return Component(layer, kind, head, estimate(norm), estimate(share), step, own)


def report(n_layers=2, n_heads=2, embed=0.0, lowest=0.0, reads=True) -> ComponentReport:
    made = [component("embed", -1, share=0.0, norm=embed)]
    for layer in range(n_layers):
        made += [component("attn", layer, share=0.1 * (layer + 1))]
        made += [component("mlp", layer, share=0.2 * (layer + 1))]
        made += [
            component(
                "head", layer, h, 0.01 * (layer + 1) * (h + 1) + lowest, read=0.3 * reads or None
            )
            for h in range(n_heads)
        ]
    values = torch.arange(len(made) * 3.0, dtype=torch.float64).reshape(len(made), 3)
    tokens = ComponentTokens(("the", "<b>", "the"), values, values / 100 - 0.02)
    return ComponentReport(tuple(made), (tokens,), "response", 5, 5)


def test_bars_are_the_shares_with_their_intervals():
    figure = component_shares(report())
    attn, mlp = figure.data
    assert (list(attn.y), list(mlp.y)) == ([0.1, 0.2], [0.2, 0.4])
    assert list(attn.x) == [0, 1]
    assert list(attn.error_y.array) == pytest.approx([0.02, 0.02])
    assert list(attn.error_y.arrayminus) == pytest.approx([0.01, 0.01])
    assert (attn.name, mlp.name) == ("attention: 30% in all", "MLP: 60% in all")
    assert figure.layout.xaxis.ticktext == ("0", "1")


def test_embeddings_are_drawn_where_they_moved():
    figure = component_shares(report(embed=0.5))
    assert [trace.name.split(":")[0] for trace in figure.data] == ["embeddings", "attention", "MLP"]
    assert figure.layout.xaxis.ticktext == ("embed", "0", "1")
    tokens = component_tokens(report(embed=0.5))
    assert tokens.layout.yaxis.ticktext[0] == "embed"


def test_many_layers_keep_their_labels_apart():
    shown = component_shares(report(n_layers=80)).layout.xaxis.ticktext
    assert len(shown) <= 24
    assert shown[1] == "4"
    rows = component_tokens(report(n_layers=80)).layout.yaxis.ticktext
    assert len(rows) <= 66
    assert rows[:3] == ("attn 0", "mlp 0", "attn 3")


def test_heads_lie_at_their_layer_and_number():
    figure = head_heatmap(report())
    writes, reads = figure.data
    assert [list(row) for row in writes.z] == [
        pytest.approx([0.01, 0.02]),
        pytest.approx([0.02, 0.04]),
    ]
    assert (writes.zmin, writes.zmax) == (0, pytest.approx(0.04))
    assert list(writes.colorscale) == list(SEQUENTIAL)
    assert [list(row) for row in reads.z] == [[0.3, 0.3], [0.3, 0.3]]


def test_heads_that_write_against_the_others_are_blue():
    writes = head_heatmap(report(lowest=-0.03)).data[0]
    assert list(writes.colorscale) == list(DIVERGING)
    assert writes.zmin == -writes.zmax


def test_without_attention_weights_there_is_one_panel():
    assert len(head_heatmap(report(reads=False)).data) == 1
    with pytest.raises(ValueError, match="heads=True"):
        head_heatmap(report(n_heads=0))


def test_token_rows_are_named_by_their_component():
    figure = component_tokens(report())
    heatmap = figure.data[0]
    assert figure.layout.yaxis.ticktext == ("attn 0", "mlp 0", "attn 1", "mlp 1")
    assert [list(row) for row in heatmap.z] == [[3, 4, 5], [6, 7, 8], [15, 16, 17], [18, 19, 20]]
    assert heatmap.customdata[2][1] == ["&lt;b&gt;", "attn 1"]
    assert list(heatmap.x) == [0, 1, 2]


def test_heads_can_be_drawn_over_tokens_too():
    figure = component_tokens(report(), components=["0.1", "1.0"], quantity="share")
    assert figure.layout.yaxis.ticktext == ("0.1", "1.0")
    assert list(figure.data[0].z[0]) == pytest.approx([0.10, 0.11, 0.12])
    assert figure.data[0].colorbar.tickformat == ".1%"
    with pytest.raises(ValueError, match=r"components=\['9.9'\]"):
        component_tokens(report(), components=["9.9"])
    with pytest.raises(ValueError, match="example=1"):
        component_tokens(report(), 1)


def reading(tokens=("a", "b"), name="layer 1, writes") -> LensReading:
    up = tuple(TokenLogit(i, token, 3.0 - 0.01 * i) for i, token in enumerate(tokens))
    down = tuple(TokenLogit(90 + i, token, -2.0) for i, token in enumerate(tokens))
    own = DirectionReading(name, 1, -1, "writes", 1.0, 1.0, 0.5, up, down)
    silent = DirectionReading("zero", 2, -1, "writes", 0.0, 0.0, 0.0, (), ())
    return LensReading((own, silent), False)


def test_the_lens_table_shows_tokens_on_their_standing():
    figure = lens_table(reading())
    heatmap = figure.data[0]
    assert [list(row) for row in heatmap.text] == [["a", "b"], ["", ""]]
    assert list(heatmap.z[0]) == pytest.approx([4.0, 3.98])
    assert list(heatmap.z[1]) == [None, None]
    assert (heatmap.zmin, heatmap.zmax) == (0, 4.0)
    assert figure.layout.yaxis.ticktext == ("layer 1, writes", "zero")


def test_no_token_becomes_markup():
    html = lens_html(reading(SPECIAL_TOKENS, name=ATTACK), top=99)
    for markup in ("<img", "<script", "</script", "<think>", "<bos>", "<b>bold"):
        assert markup not in html
    assert "&lt;bos&gt;" in html
    figure = lens_table(reading(SPECIAL_TOKENS, name=ATTACK), top=99)
    assert isinstance(figure, go.Figure)
    assert "<" not in "".join(figure.data[0].text[0])
    assert "<" not in figure.layout.yaxis.ticktext[0]
    # Half a character would make the figure impossible to write as UTF-8.
    figure.to_json().encode()
