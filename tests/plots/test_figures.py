import json
import math
from itertools import pairwise

import plotly.graph_objects as go
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from psr_lens._types import TokenValues
from psr_lens.plots import behaviour_curves, faithfulness_curves, layer_token_heatmap
from psr_lens.plots.labels import spread
from psr_lens.plots.theme import DIVERGING, LINES, MUTED, SEQUENTIAL
from psr_lens.statistics import Curve, Estimate
from tests.plots.samples import ATTACK, BEHAVIOUR, curve, faithfulness, token_values


def named(figure: go.Figure, name: str) -> go.Scatter:
    (trace,) = [trace for trace in figure.data if trace.name == name]
    return trace


def label_texts(figure: go.Figure) -> list[str]:
    return [
        note.text.split("</span> ")[1] for note in figure.layout.annotations if "●" in note.text
    ]


def test_layer_heatmap_keeps_repeated_tokens_apart():
    source = TokenValues(("the", "cat", "the"), torch.eye(2, 3), (3, 7), "delta norm")
    figure = layer_token_heatmap(source)
    heatmap = figure.data[0]
    assert list(heatmap.x) == [0, 1, 2]
    assert figure.layout.xaxis.ticktext == ("the", "cat", "the")
    assert figure.layout.yaxis.ticktext == ("3", "7")
    assert [list(row) for row in heatmap.z] == [[1, 0, 0], [0, 1, 0]]
    assert heatmap.customdata[1][2] == ["the", "7"]


def test_layer_heatmap_is_robust_and_says_what_it_clips():
    values = torch.cat([torch.tensor([[80.0], [90.0]]), torch.linspace(1, 3, 40).view(2, 20)], 1)
    tokens = tuple("abcdefghijklmnopqrstu")
    figure = layer_token_heatmap(TokenValues(tokens, values, (0, 1), "delta norm"))
    assert 2.5 < figure.data[0].zmax <= 3.0
    assert "of 42 values beyond the colour scale, up to 90" in figure.layout.title.text
    whole = layer_token_heatmap(TokenValues(tokens, values, (0, 1), "delta norm"), bounds=(0, 90))
    assert whole.data[0].zmax == 90
    assert "beyond" not in whole.layout.title.text


def test_layer_heatmap_scales():
    positive = layer_token_heatmap(token_values()).data[0]
    signed = layer_token_heatmap(token_values(signed=True)).data[0]
    assert positive.zmin == 0
    assert list(positive.colorscale) == list(SEQUENTIAL)
    assert signed.zmin == -signed.zmax
    assert list(signed.colorscale) == list(DIVERGING)
    zeros = layer_token_heatmap(TokenValues(("a",), torch.zeros(1, 1), (0,), "q")).data[0]
    assert (zeros.zmin, zeros.zmax) == (0, 1)


def test_layer_heatmap_text_is_text():
    source = token_values((ATTACK, "<b>", "$x$", "a", "b"), title=ATTACK, quantity="<b>")
    figure = layer_token_heatmap(source)
    assert figure.layout.xaxis.ticktext[1:3] == ("&lt;b&gt;", "&#36;x&#36;")
    written = json.dumps(figure.to_plotly_json(), default=str)
    assert "<img" not in written
    assert "<b>&lt;" not in written


def test_layer_heatmap_of_a_long_text_thins_its_labels():
    figure = layer_token_heatmap(token_values(tuple(map(str, range(400)))))
    assert len(figure.layout.xaxis.ticktext) == 80
    assert figure.layout.xaxis.tickvals[1] == 5
    assert figure.layout.xaxis.ticktext[1] == "5"
    assert len(figure.data[0].x) == 400


def test_layer_heatmap_leaves_gaps_and_refuses_nothing():
    source = TokenValues(("a", "b"), torch.tensor([[math.nan, 1.0]]), (0,), "q")
    assert list(layer_token_heatmap(source).data[0].z[0]) == [None, 1.0]
    with pytest.raises(ValueError, match="covers 1 layers and 0 tokens"):
        layer_token_heatmap(TokenValues((), torch.zeros(1, 0), (0,), "q"))


def test_faithfulness_draws_every_curve_with_its_interval():
    report = faithfulness()
    figure = faithfulness_curves(report)
    for name, measured in {**report.relative_rmse, **report.reference}.items():
        trace = named(figure, name)
        assert tuple(trace.y) == measured.values
        assert tuple(trace.x) == (0, 1, 2, 3)
        (band,) = [t for t in figure.data if t.legendgroup == name and t.fill == "toself"]
        assert tuple(band.y) == measured.high + measured.low[::-1]
    assert named(figure, "A-Const").line.color == LINES[0]
    assert named(figure, "A-PSR").line.color == LINES[1]
    dashes = [named(figure, name).line.dash for name in report.reference]
    assert len(set(dashes)) == 2
    assert {named(figure, name).line.color for name in report.reference} == {MUTED}


def test_faithfulness_names_lines_at_their_ends_and_marks_single_layers():
    figure = faithfulness_curves(faithfulness())
    assert label_texts(figure) == ["A-Const", "A-PSR", "S-PSR"]
    assert len(figure.layout.annotations) == 5
    heights = {note.text.split("</span> ")[1]: note.y for note in figure.layout.annotations}
    assert heights["A-Const"] == pytest.approx(0.7)
    # Two lines end within 0.02 of each other, closer than a line of text.
    assert heights["A-PSR"] - heights["paraphrase"] > 0.04
    markers = [trace for trace in figure.data if trace.marker.symbol == "diamond"]
    assert [(trace.x, trace.y) for trace in markers] == [((2,), (0.4,))]


def test_faithfulness_axis_holds_everything():
    report = faithfulness()
    report.relative_rmse["bad"] = curve(1.0, 2.0, 3.0, 4.0)
    low, high = faithfulness_curves(report).layout.yaxis.range
    assert low == 0
    assert high >= 4.05


def test_a_reference_far_above_all_else_does_not_press_the_lines_together():
    # As a paraphrase does in early layers of a real model, where one token becomes an attention sink.
    report = faithfulness()
    spike = (0.5, 1.0, 0.7, 4.9, 0.9, 0.8, 0.7, 0.6)
    report.reference["paraphrase"] = curve(*spike)
    figure = faithfulness_curves(report)
    low, high = figure.layout.yaxis.range
    assert (low, high) == (0, pytest.approx(1.05 * 1.05))
    notes = [note.text for note in figure.layout.annotations if note.text.startswith("above")]
    assert notes == ["above the figure: paraphrase reaches 4.9 at layer 3"]
    # The numbers are still all there.
    assert tuple(named(figure, "paraphrase").y) == spike
    # What stays high is no spike: the figure holds it.
    report.reference["paraphrase"] = curve(*(4.9,) * 8)
    figure = faithfulness_curves(report)
    assert figure.layout.yaxis.range[1] >= 4.9
    assert not [note for note in figure.layout.annotations if note.text.startswith("above")]
    # An interval alone may be what is far above.
    wide = Curve((Estimate(0.8, 0.1, 6.4), Estimate(0.7, 0.6, 0.8)))
    report.reference["paraphrase"] = wide
    figure = faithfulness_curves(report)
    notes = [note.text for note in figure.layout.annotations if note.text.startswith("above")]
    assert notes == ["above the figure: the interval of paraphrase reaches 6.4 at layer 0"]


def test_given_colours_are_used():
    colours = {"A-PSR": "#123456"}
    figure = faithfulness_curves(faithfulness(), colours=colours)
    assert named(figure, "A-PSR").line.color == "#123456"
    assert named(figure, "A-Const").line.color == LINES[0]
    lines = behaviour_curves(BEHAVIOUR, colours=colours).data
    assert sum(trace.line.color == "#123456" for trace in lines) == 2


def test_curves_errors():
    report = faithfulness()
    report.relative_rmse, report.reference = {}, {}
    with pytest.raises(ValueError, match="the report has no curve"):
        faithfulness_curves(report)
    with pytest.raises(ValueError, match="there is no row"):
        behaviour_curves(())


def test_behaviour_draws_trait_and_coherence_in_order_of_alpha():
    figure = behaviour_curves(BEHAVIOUR)
    curves = [trace for trace in figure.data if trace.mode == "lines+markers"]
    trait, coherence = curves[:2]
    assert tuple(trait.x) == tuple(coherence.x) == (0.5, 1.0, 2.0)
    assert tuple(trait.y) == (40.0, 90.0, 96.0)
    assert tuple(coherence.y) == (99.0, 98.0, 85.0)
    assert (trait.xaxis, coherence.xaxis) == ("x", "x2")
    levels = [trace for trace in figure.data if trace.mode == "lines"]
    assert [tuple(trace.y) for trace in levels] == [(97, 97), (99, 99), (0, 0), (100, 100)]
    assert all(tuple(trace.x) == (0.5, 2.0) for trace in levels)
    (mark,) = figure.layout.shapes
    assert (mark.y0, mark.y1, mark.yref) == (80, 80, "y2")


def test_behaviour_without_any_strength_is_still_a_picture():
    figure = behaviour_curves((("prompt", None, 97.0, 99.0),))
    assert figure.layout.xaxis.range[0] < figure.layout.xaxis.range[1]


def test_names_in_curves_are_text():
    report = faithfulness()
    report.relative_rmse = {ATTACK: curve(1.0, 0.5)}
    figures = [faithfulness_curves(report, title=ATTACK), behaviour_curves([(ATTACK, 1.0, 5, 5)])]
    for figure in figures:
        assert "<img" not in json.dumps(figure.to_plotly_json(), default=str)


@given(st.lists(st.floats(-100, 100), max_size=12), st.floats(0.1, 20))
def test_spread_keeps_order_gap_and_middle(heights, gap):
    placed = spread(heights, gap)
    order = sorted(range(len(heights)), key=lambda index: heights[index])
    for below, above in pairwise(order):
        assert placed[above] - placed[below] >= gap - 1e-6
    if heights:
        assert sum(placed) == pytest.approx(sum(heights), abs=1e-6)


@given(st.lists(st.integers(-20, 20), min_size=1, max_size=12, unique=True))
def test_spread_moves_nothing_that_is_far_enough(heights):
    assert spread([float(height) for height in heights], 1.0) == pytest.approx(heights)
