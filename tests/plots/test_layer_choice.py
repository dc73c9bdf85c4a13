"""The layer that a page shows first, on values whose right answer is worked out by hand."""

import re

import pytest
import torch

from psr_lens._types import TokenValues
from psr_lens.plots import layer_to_show

# Three of six tokens, and steerings that follow them. Pearson's r of 0/1 rows with three ones among
# six tokens and k ones in common: (k - 6/4) / (3 - 6/4), so 1, 1/3 and -1.
ALL = [1.0, 1, 1, 0, 0, 0]
MOST = [1.0, 1, 0, 1, 0, 0]
NONE = [0.0, 0, 0, 1, 1, 1]


def values(*rows: list[float], layers: tuple[int, ...] | None = None) -> TokenValues:
    tokens = tuple(f"t{i}" for i in range(len(rows[0])))
    return TokenValues(tokens, torch.tensor(rows), layers or tuple(range(len(rows))), "length")


def test_the_layer_is_the_one_that_the_steering_follows_best():
    assert layer_to_show([values(ALL, ALL, ALL)], [values(NONE, ALL, MOST)]) == 1
    apart = (4, 9)
    assert (
        layer_to_show([values(ALL, ALL, layers=apart)], [values(MOST, ALL, layers=apart)])
        == apart[1]
    )
    assert layer_to_show([values(ALL, ALL)], [values(ALL, ALL)]) == 0


@pytest.mark.parametrize("scale", [1e-7, 1e6])
def test_neither_the_unit_nor_how_hard_a_steering_pushes_matters(scale):
    prompt = values(ALL, [scale * x for x in ALL])
    steering = values(MOST, [0.4 * scale * x for x in ALL])
    assert layer_to_show([prompt], [steering]) == 1


def test_responses_count_alike():
    easy, hard = values(ALL, MOST), values(NONE, MOST)
    prompt = values(ALL, ALL)
    assert layer_to_show([prompt], [easy]) == 0
    # Layer 0: (1 - 1) / 2 = 0. Layer 1: (1/3 + 1/3) / 2.
    assert layer_to_show([prompt, prompt], [easy, hard]) == 1


@pytest.mark.parametrize(
    ("prompt", "steering"),
    [
        pytest.param([9.0, 0, 0, 0, 0, 0], [9.0, 0, 0, 0, 0, 0], id="one token, r = 1"),
        pytest.param([1.0, 1, 0, 0, 0, 0], [1.0, 1, 0, 0, 0, 0], id="two tokens, r = 1"),
        # The prompt lights (9 + 3 * 4)^2 / (81 + 3 * 16) = 3.4; r = 4.5 / sqrt(7.5 * 7.5) = 0.6.
        pytest.param([3.0, 2, 2, 2, 0, 0], [3.0, 0, 0, 0, 0, 0], id="one in the steering"),
        pytest.param([3.0, 0, 0, 0, 0, 0], [3.0, 2, 2, 2, 0, 0], id="one in the prompt"),
        pytest.param([0.0] * 6, [0.0] * 6, id="nothing"),
        pytest.param(ALL, [0.1] * 6, id="a constant vector, r = 0"),
    ],
)
def test_a_layer_that_lights_too_little_is_left_out(prompt, steering):
    # r = 1/3 at layer 1, where both light three tokens.
    assert layer_to_show([values(prompt, ALL)], [values(steering, MOST)]) == 1


def test_where_all_layers_light_too_little_the_best_followed_one_is_taken():
    one, other = [9.0, 0, 0, 0, 0, 0], [0.0, 9, 0, 0, 0, 0]
    assert layer_to_show([values(one, one)], [values(other, one)]) == 1
    assert layer_to_show([values(one, one)], [values(one, other)]) == 0


def test_what_lies_beyond_the_colour_scale_makes_no_agreement():
    # Of the 11 non-zero lengths the 95 % quantile is 1, so that 80 has the colour of 1.
    prompt = [80.0] + [1.0] * 10 + [0.0] * 10
    steering = [80.0] + [0.0] * 10 + [1.0] * 10
    assert torch.corrcoef(torch.tensor([prompt, steering]))[0, 1] > 0.99
    # Colours: r of 11 and 11 ones with one in common is below 0; at layer 1, 3 within 11: above.
    follows = [1.0] * 3 + [0.0] * 18
    assert layer_to_show([values(prompt, prompt)], [values(steering, follows)]) == 1


def test_a_token_without_a_value_has_no_colour():
    missing = [float("nan") if x == 0 else x for x in ALL]
    assert layer_to_show([values(ALL, missing)], [values(MOST, ALL)]) == 1


@pytest.mark.parametrize(
    ("prompt", "steering", "message"),
    [
        ([], [], "0 responses of the prompt, 0 of the steering: pass the same responses for both"),
        ([values(ALL)], [], "1 responses of the prompt, 0 of the steering"),
        (
            [values(ALL)],
            [values([1.0, 2])],
            "response 0: 6 tokens of the prompt, 2 of the steering",
        ),
        ([values(ALL)], [values(ALL, layers=(3,))], "response 0 has layers [3], the first one of"),
        (
            [values(ALL, ALL), values(ALL)],
            [values(ALL, ALL), values(ALL)],
            "response 1 has layers [0], the first one of the prompt [0, 1]: all must have the same",
        ),
    ],
)
def test_what_does_not_match_is_named(prompt, steering, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        layer_to_show(prompt, steering)
    assert "\n" not in str(error.value)
