"""The pictures of an assumption report show its numbers."""

import json
import math

import plotly.graph_objects as go
import pytest

from psr_lens.assumptions import AssumptionReport, Measurement
from psr_lens.plots import assumption_curves, spectrum_shares, strength_classes
from psr_lens.statistics import Estimate

CLASSES = ("last prompt token", "first response token", "content", "punctuation")


def report(layers=(0, 1, 2), classes=CLASSES, lowest_r2=0.4, probes=True):
    """A report whose numbers tell layer and measure apart."""
    rows = []
    for row, layer in enumerate(layers):
        step = 0.01 * row

        def add(name, value, kind="local", token_class="all", at=0, layer=layer):
            estimate = Estimate(value, value - 0.05, value + 0.05)
            rows.append(Measurement(name, kind, layer, token_class, at, estimate))

        for kind, first in (("local", 0.5), ("accumulated", 0.3)):
            add("energy_share", first + step, kind, at=1)
            add("energy_share", 0.9 + step, kind, at=8)
            for rank in range(1, 65):
                share = first if rank == 1 else 0.2 if rank == 2 else (0.8 - first) / 62
                add("singular_energy", share, kind, at=rank)
        add("mean_energy_share", 0.1 + step)
        add("strength_variation", 2.0)
        add("relu_r2", 0.8 - step if probes else math.nan)
        add("linear_r2", lowest_r2 if probes else math.nan)
        for number, name in enumerate(classes):
            add("tokens", 1000.0 * (number + 1), token_class=name)
            add("class_energy_share", 0.25, token_class=name)
            for at in (5, 25, 50, 75, 95):
                add("strength_quantile", number + at / 100 + layer, token_class=name, at=at)
    return AssumptionReport(tuple(rows), tuple(layers), "local", "response", 20, 20, 10, 10)


def named(figure: go.Figure, name: str) -> go.Scatter:
    (trace,) = [trace for trace in figure.data if trace.name == name]
    return trace


def test_the_overview_has_a_line_with_its_interval_for_every_share():
    figure = assumption_curves(report())
    line = named(figure, "energy along 1 direction (3.1)")
    assert list(line.x) == [0, 1, 2]
    assert list(line.y) == pytest.approx([0.5, 0.51, 0.52])
    assert list(named(figure, "energy of the mean (3.2)").y) == pytest.approx([0.1, 0.11, 0.12])
    assert list(named(figure, "strength, ReLU probe (3.2a)").y) == pytest.approx([0.8, 0.79, 0.78])
    bands = [trace for trace in figure.data if trace.fill == "toself"]
    assert len(bands) == 5
    labels = [note.text.split("</span> ")[1] for note in figure.layout.annotations]
    assert labels == [trace.name for trace in figure.data if trace.name]


def test_an_r2_far_below_zero_does_not_flatten_the_picture():
    figure = assumption_curves(report(lowest_r2=-40.0))
    line = named(figure, "strength, linear probe")
    assert list(line.y) == [-0.3] * 3
    assert line.customdata[0][0] == -40.0
    assert figure.layout.yaxis.range[0] > -0.5


def test_without_probes_there_is_no_line_for_them():
    figure = assumption_curves(report(probes=False))
    assert [trace.name for trace in figure.data if trace.name] == [
        "energy along 8 directions",
        "energy along 1 direction (3.1)",
        "energy of the mean (3.2)",
    ]
    json.loads(figure.to_json())


def test_the_spectrum_adds_up():
    figure = spectrum_shares(report())
    local, accumulated = figure.data
    assert list(local.x) == ["1", "2", "4", "8", "16", "32", "64"]
    assert list(local.y) == ["0", "1", "2"]
    assert list(local.z[0])[:3] == pytest.approx([0.5, 0.7, 0.7 + 2 * 0.3 / 62])
    assert list(accumulated.z[2])[-1] == pytest.approx(1.0)
    assert local.text[1][0] == "50%"
    assert [note.text for note in figure.layout.annotations] == [
        "local: what the layer must still add",
        "accumulated: all that the prompt changed",
    ]


def test_every_class_has_a_panel_on_one_scale():
    figure = strength_classes(report())
    lines = [trace for trace in figure.data if trace.fill is None]
    assert len(lines) == len(CLASSES)
    assert list(lines[1].y) == pytest.approx([1.5, 2.5, 3.5])
    headings = [note.text for note in figure.layout.annotations]
    assert headings[0] == "last prompt token (1,000 tokens)"
    ranges = {tuple(figure.layout[axis].range) for axis in ("yaxis", "yaxis2", "yaxis4")}
    assert len(ranges) == 1
    low, high = ranges.pop()
    assert low < 0
    assert high > 3 + 0.95 + 2
    outer = next(trace for trace in figure.data if trace.fill == "toself")
    assert list(outer.y) == pytest.approx([0.95, 1.95, 2.95, 2.05, 1.05, 0.05])


@pytest.mark.parametrize("draw", [assumption_curves, spectrum_shares, strength_classes])
def test_one_layer_and_many_can_be_drawn(draw):
    for layers in ((4,), tuple(range(40)), (3, 7, 31)):
        assert json.loads(draw(report(layers)).to_json())["data"]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6])
def test_any_number_of_classes_has_room(count):
    names = ("question", *CLASSES, "special")[:count]
    figure = strength_classes(report(classes=names))
    assert sum(trace.fill is None for trace in figure.data) == count
