"""The claims of the palette: legible, ordered, and distinct for colour-blind readers."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psr_lens.plots.theme import (
    DIVERGING,
    INK,
    LINES,
    MUTED,
    NEGATIVE,
    POSITIVE,
    SEQUENTIAL,
    line_colour,
    style_sheet,
    template,
    tint,
    value_colour,
)

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


def linear(colour: str) -> list[float]:
    channels = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]


def luminance(rgb: list[float]) -> float:
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), rgb, strict=True))


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(linear(one)), luminance(linear(other))), reverse=True)
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


@pytest.mark.parametrize("colour", [POSITIVE, NEGATIVE])
def test_black_text_is_legible_on_every_token(colour):
    for step in range(11):
        # 7 to 1 is the strictest level of WCAG 2.
        assert contrast("#000000", tint(colour, step / 10)) >= 7


@pytest.mark.parametrize("colour", [POSITIVE, NEGATIVE])
def test_a_tint_runs_from_white_to_the_colour_and_darkens(colour):
    steps = [tint(colour, step / 10) for step in range(11)]
    assert steps[0] == "#ffffff"
    assert steps[-1] == colour
    luminances = [luminance(linear(step)) for step in steps]
    assert luminances == sorted(luminances, reverse=True)
    assert len(set(steps)) == 11


@pytest.mark.parametrize("scale", [SEQUENTIAL, DIVERGING[2:], DIVERGING[2::-1]])
def test_plotly_scales_darken_away_from_zero(scale):
    luminances = [luminance(linear(colour)) for _, colour in scale]
    assert luminances[0] == pytest.approx(1.0)
    assert luminances == sorted(luminances, reverse=True)


@pytest.mark.parametrize("blindness", sorted(COLOUR_BLINDNESS))
def test_lines_and_signs_are_distinct_for_colour_blind_readers(blindness):
    # 0.1 in Oklab is five times a just noticeable difference (0.02).
    for one, other in combinations(LINES, 2):
        assert distance(one, other, blindness) >= 0.08, (one, other)
    assert distance(POSITIVE, NEGATIVE, blindness) >= 0.15


def test_lines_and_text_stand_out_from_paper():
    assert min(contrast(colour, "#ffffff") for colour in LINES) >= 3
    assert contrast(INK, "#ffffff") >= 7
    assert contrast(MUTED, "#ffffff") >= 4.5


@given(st.floats(-50, 50), st.floats(0.5, 20))
def test_value_colours(value, bound):
    colour = value_colour(value, -bound, bound)
    if value >= bound:
        assert colour == POSITIVE
    elif value <= -bound:
        assert colour == NEGATIVE
    assert value_colour(-abs(value), 0.0, bound) == "#ffffff"
    assert value_colour(0.0, -bound, bound) == "#ffffff"


def test_the_line_palette_repeats():
    assert line_colour(0) == LINES[0]
    assert line_colour(len(LINES) + 1) == LINES[1]


def test_template_uses_the_palette():
    assert list(template().layout.colorway) == list(LINES)


def test_the_style_sheet_touches_nothing_but_our_own_elements():
    # It is shown inside notebooks, where a bare `p` or `table` would restyle the whole page.
    rules = [part.split("*/")[-1].split("{")[0] for part in style_sheet().split("}")]
    for selectors in filter(str.strip, rules):
        if not selectors.strip().startswith("@"):
            depth = 0
            top_level = "".join(
                " " if (depth := depth + (c == "(") - (c == ")")) and c == "," else c
                for c in selectors
            )
            for selector in top_level.split(","):
                assert selector.strip().startswith((".psr-tokens", ".psr-page")), selector
