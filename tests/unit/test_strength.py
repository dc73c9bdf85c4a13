"""The strength at which a method is judged."""

import pytest

from psr_lens.evaluation import Behaviour, Score, best_strength


def curve(**points):
    return [
        Behaviour(float(alpha[1:].replace("_", ".")), ("",), (Score(*map(float, scores)),))
        for alpha, scores in points.items()
    ]


@pytest.mark.parametrize(
    ("behaviours", "best"),
    [
        # The highest trait among the coherent ones, though an incoherent one has more.
        (curve(a0_5=(10, 100), a1=(60, 96), a1_5=(99, 94.9)), 1.0),
        # Exactly at the bound is coherent.
        (curve(a0_5=(10, 100), a1=(60, 95)), 1.0),
        # The weakest of equals.
        (curve(a0_5=(100, 98), a1=(100, 100), a2=(100, 99)), 0.5),
        (curve(a2=(100, 98), a1=(100, 98)), 1.0),
        # None is coherent: the most coherent one, whatever its trait.
        (curve(a0_5=(0, 60), a1=(90, 50), a2=(99, 0)), 0.5),
    ],
)
def test_the_best_strength(behaviours, best):
    assert best_strength(behaviours) == best


def test_another_bound():
    behaviours = curve(a1=(60, 96), a1_5=(99, 80))
    assert best_strength(behaviours, coherent=80.0) == 1.5


def test_there_must_be_strengths():
    with pytest.raises(ValueError, match="at one strength or more"):
        best_strength([])
    with pytest.raises(ValueError, match=r"strengths \[None\]"):
        best_strength([Behaviour(None, ("",), (Score(1.0, 1.0),))])
