"""The colours of what is drawn: legible, ordered, and distinct for colour-blind readers.

They are read from figures and pages, and measured by formulas that stand here and not in the package.
"""

import re
from itertools import combinations

import pytest
import torch

from psr_lens._types import TokenValues
from psr_lens.plots import (
    behaviour_curves,
    faithfulness_curves,
    layer_token_heatmap,
    token_heatmap,
)
from tests.plots.samples import WORDS, curve, faithfulness, token_values

# Machado, Oliveira & Fernandes 2009, severity 1, on linear RGB.
COLOUR_BLINDNESS = {
    "protanopia": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "deuteranopia": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ),
    "tritanopia": (
        (1.255528, -0.076749, -0.178779),
        (-0.078411, 0.930809, 0.147602),
        (0.004733, 0.691367, 0.303900),
    ),
}
WHITE = "#ffffff"
COLOURS = 6
"""Lines of one figure that have a colour each."""


def linear(colour: str) -> list[float]:
    channels = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]


def luminance(colour: str) -> float:
    pairs = zip((0.2126, 0.7152, 0.0722), linear(colour), strict=True)
    return sum(weight * c for weight, c in pairs)


def contrast(one: str, other: str) -> float:
    """By WCAG 2, of which 7 to 1 is the strictest level for text, and 3 to 1 enough for lines."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def seen(colour: str, blindness: str) -> tuple[float, float, float]:
    """Oklab coordinates of a colour as a colour-blind reader sees it (Ottosson 2020)."""
    rgb = linear(colour)
    r, g, b = (
        min(max(sum(weight * c for weight, c in zip(row, rgb, strict=True)), 0.0), 1.0)
        for row in COLOUR_BLINDNESS[blindness]
    )
    long = (0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b) ** (1 / 3)
    medium = (0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b) ** (1 / 3)
    short = (0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b) ** (1 / 3)
    return (
        0.2104542553 * long + 0.7936177850 * medium - 0.0040720468 * short,
        1.9779984951 * long - 2.4285922050 * medium + 0.4505937099 * short,
        0.0259040371 * long + 0.7827717662 * medium - 0.8086757660 * short,
    )


def distance(one: str, other: str, blindness: str) -> float:
    pairs = zip(seen(one, blindness), seen(other, blindness), strict=True)
    return sum((a - b) ** 2 for a, b in pairs) ** 0.5


# --- tokens -------------------------------------------------------------------------------------

STEPS = [step / 10 for step in range(11)]
DRAWN = """[...document.querySelectorAll('.colored-tokens > span > span')]
    .map(span => [getComputedStyle(span).backgroundColor, getComputedStyle(span).color])"""


def as_hex(colour: str) -> str:
    return "#" + "".join(f"{int(part):02x}" for part in re.findall(r"\d+", colour))


@pytest.fixture(scope="module")
def tokens_of(chromium, tmp_path_factory):
    """The colour behind every token and that of its text, where the scale ends at -1 and 1."""

    def draw(*values: float) -> list[tuple[str, str]]:
        names = tuple(f"t{i}" for i in range(len(values)))
        source = TokenValues(names, torch.tensor([values]), (3,), "delta norm")
        path = tmp_path_factory.mktemp("tokens") / "page.html"
        token_heatmap(source, bounds=(-1.0, 1.0)).save(path)
        ready = "!document.querySelector('.psr-uncoloured')"
        (found,) = chromium.visit(path, expressions=(DRAWN,), ready=ready).results
        assert len(found) == len(values)
        return [(as_hex(behind), as_hex(text)) for behind, text in found]

    return draw


@pytest.fixture(scope="module", params=[1, -1], ids=["positive", "negative"])
def scale(request, tokens_of):
    """From zero to the end of the scale, and far beyond it."""
    return tokens_of(*(request.param * step for step in STEPS), request.param * 50.0)


def test_a_token_is_white_at_zero_and_the_darker_the_larger_its_value(scale):
    behind = [colour for colour, _ in scale]
    assert behind[0] == WHITE
    assert behind[-1] == behind[-2]
    luminances = [luminance(colour) for colour in behind[:-1]]
    assert luminances == sorted(set(luminances), reverse=True)


def test_the_text_of_every_token_is_legible(scale):
    assert all(contrast(text, behind) >= 7 for behind, text in scale)


@pytest.mark.parametrize("blindness", sorted(COLOUR_BLINDNESS))
def test_signs_of_tokens_are_distinct_for_colour_blind_readers(tokens_of, blindness):
    (positive, _), (negative, _) = tokens_of(1.0, -1.0)
    # 0.15 in Oklab is more than seven just noticeable differences (0.02).
    assert distance(positive, negative, blindness) >= 0.15


def test_a_token_without_a_value_is_white(tokens_of):
    missing, _ = tokens_of(float("nan"), 1.0)
    assert missing[0] == WHITE


def test_the_legend_begins_and_ends_in_the_colours_of_the_tokens(tokens_of):
    def legend_of(source: TokenValues) -> list[str]:
        written = token_heatmap(source).fragment()
        return re.search(r"linear-gradient\(90deg in lab,([#\w,]+)\)", written)[1].split(",")

    signed = [behind for behind, _ in tokens_of(-1.0, 0.0, 1.0)]
    assert legend_of(token_values(signed=True)) == signed
    assert legend_of(token_values()) == signed[1:]


@pytest.mark.parametrize("signed", [False, True])
def test_heatmaps_of_layers_are_white_at_zero_and_darken_from_there(signed):
    drawn = layer_token_heatmap(token_values(signed=signed)).data[0]
    places, colours = zip(*drawn.colorscale, strict=True)
    zero = places.index(-drawn.zmin / (drawn.zmax - drawn.zmin))
    assert colours[zero] == WHITE
    for outwards in (colours[zero:], colours[zero::-1]):
        luminances = [luminance(colour) for colour in outwards]
        assert luminances == sorted(set(luminances), reverse=True)


# --- lines --------------------------------------------------------------------------------------


def lines_of(figure) -> dict[str, str]:
    """The colour of every line that has a name, which is also what is read over it."""
    told = {re.match("<b>(.*?)</b>", t.hovertemplate or ""): t.line.color for t in figure.data}
    return {found[1]: colour for found, colour in told.items() if found and colour}


def drawn_lines(*names: str) -> dict[str, str]:
    """The colours of steerings in one figure."""
    report = faithfulness()
    report.relative_rmse = {name: curve(0.9, 0.8, 0.7) for name in names}
    found = lines_of(faithfulness_curves(report))
    return {name: found[name] for name in names}


NAMES = tuple(f"steering {i}" for i in range(COLOURS + 2))


@pytest.mark.parametrize("blindness", sorted(COLOUR_BLINDNESS))
def test_lines_are_distinct_for_colour_blind_readers(blindness):
    lines = drawn_lines(*NAMES[:COLOURS]).values()
    # 0.08 in Oklab is four just noticeable differences (0.02).
    for one, other in combinations(lines, 2):
        assert distance(one, other, blindness) >= 0.08, (one, other)


def test_more_lines_than_colours_take_the_same_ones_again():
    lines = list(drawn_lines(*NAMES).values())
    assert len(set(lines)) == COLOURS
    assert lines[COLOURS:] == lines[:2]


def test_lines_and_text_stand_out_from_paper():
    figure = faithfulness_curves(faithfulness())
    style = figure.layout.template.layout
    assert style.paper_bgcolor == style.plot_bgcolor == "white"
    assert min(contrast(colour, WHITE) for colour in drawn_lines(*NAMES).values()) >= 3
    assert contrast(style.font.color, WHITE) >= 7
    references = [lines_of(figure)[name] for name in faithfulness().reference]
    for muted in (style.xaxis.title.font.color, style.yaxis.title.font.color, *references):
        assert contrast(muted, WHITE) >= 4.5


METHODS = ("PSR, 2 heads", "difference in means", "const, layer 2")


def test_a_method_has_the_same_colour_in_every_figure():
    own = drawn_lines(*METHODS)
    assert len(set(own.values())) == len(METHODS)
    assert drawn_lines(*METHODS[::-1]) == own
    assert (
        drawn_lines("steering 0", *METHODS[1:]).items() >= {n: own[n] for n in METHODS[1:]}.items()
    )
    rows = [(name, alpha, 50.0, 90.0) for name in METHODS[::-1] for alpha in (1.0, 2.0)]
    assert lines_of(behaviour_curves(rows)).items() >= own.items()


def test_two_lines_of_one_method_are_told_apart():
    assert len(set(drawn_lines("PSR", "PSR, 2 heads", "const").values())) == 3


def test_what_has_no_colour_of_its_own_takes_the_template_s():
    figure = faithfulness_curves(faithfulness())
    assert tuple(figure.layout.template.layout.colorway) == tuple(
        drawn_lines(*NAMES[:COLOURS]).values()
    )


# --- the style sheet ----------------------------------------------------------------------------


def test_the_style_sheet_touches_nothing_but_our_own_elements():
    # It is shown inside notebooks, where a bare `p` or `table` would restyle the whole page.
    shown = token_heatmap(token_values(WORDS))._repr_html_()
    (sheet,) = re.findall(r"<style>(.*?)</style>", shown, re.DOTALL)
    rules = [part.split("*/")[-1].split("{")[0] for part in sheet.split("}")]
    assert len(rules) > 20
    for selectors in filter(str.strip, rules):
        if not selectors.strip().startswith("@"):
            depth = 0
            top_level = "".join(
                " " if (depth := depth + (c == "(") - (c == ")")) and c == "," else c
                for c in selectors
            )
            for selector in top_level.split(","):
                assert selector.strip().startswith((".psr-tokens", ".psr-page")), selector
