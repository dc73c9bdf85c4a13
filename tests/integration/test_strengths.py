"""A strength by layer or by part, and a steering at some of its layers: each as its definition says."""

import pytest
import torch

from psr_lens.models import RawText
from tests.tiny_models import BACKENDS, tiny_model
from tests.tiny_steerings import made_up

PROMPTS = [RawText("the quick brown fox"), RawText("what is a dog like")]


@pytest.fixture(scope="module", params=BACKENDS)
def model(request):
    return tiny_model("llama", request.param, "float64")


def steered(model, steering, alpha=1.0):
    with torch.no_grad(), steering.applied(model, alpha=alpha):
        return model(PROMPTS)[:, -1]


def test_a_strength_by_layer_is_that_of_each_layer_alone(model):
    psr = made_up("psr", model)
    assert psr.layers == (1, 2)
    both = steered(model, 0.5 * psr[1] + 2.0 * psr[2])
    assert torch.equal(steered(model, psr, {1: 0.5, 2: 2.0}), both)
    assert torch.equal(steered(model, psr, {2: 1.0, 1: 1.0}), steered(model, psr))
    assert not torch.allclose(steered(model, psr, {1: 1.0, 2: 0.0}), steered(model, psr))


def test_a_strength_by_part_is_a_sum_with_other_weights(model):
    one, two = made_up("psr", model), made_up("ablation", model)
    total = one - 0.5 * two
    expected = steered(model, 3.0 * one + 0.25 * two)
    torch.testing.assert_close(steered(model, total, [3.0, -0.5]), expected)
    assert torch.equal(steered(model, total, [1.0, 1.0]), steered(model, total))


def test_sum_of_a_list(model):
    parts = [made_up(kind, model) for kind in ("psr", "ablation", "projection")]
    assert torch.equal(steered(model, sum(parts)), steered(model, parts[0] + parts[1] + parts[2]))


def test_at_some_layers(model):
    psr = made_up("psr", model)
    for layers in (2, [2], slice(2, None), slice(2, 9)):
        assert psr[layers].layers == (2,)
        assert torch.equal(psr[layers].w, psr.w[1:])
    assert psr[:].layers == psr.layers
    with pytest.raises(ValueError, match=r"layers=\[0\] but PSR"):
        psr[0]
    with pytest.raises(TypeError, match="not iterable"):
        list(psr)


def test_a_steering_is_moved_like_a_module(model):
    psr = made_up("psr", model).to("cpu", torch.float32)
    assert psr.w.dtype == torch.float32
    torch.testing.assert_close(
        steered(model, psr), steered(model, made_up("psr", model)), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(
    ("alpha", "message"),
    [
        ({1: 1.0}, r"alpha names layers \[1\] but PSR.* covers \[1, 2\]: give each of these"),
        ({1: 1.0, 2: 1.0, 3: 1.0}, r"alpha names layers \[1, 2, 3\] but PSR.* covers \[1, 2\]"),
        ({1: 1.0, 2: float("inf")}, "alpha=inf: it must be a finite number"),
        ([1.0, 2.0], "has a strength for every part, and PSR.* is no sum"),
    ],
)
def test_one_clear_line(model, alpha, message):
    with pytest.raises(ValueError, match=message) as error:
        steered(model, made_up("psr", model), alpha)
    assert "\n" not in str(error.value)


def test_a_sum_wants_a_strength_for_each_of_its_parts(model):
    total = made_up("psr", model) + made_up("ablation", model)
    with pytest.raises(ValueError, match=r"has 1 strengths but .* has 2 parts: give each one"):
        steered(model, total, [1.0])
    with pytest.raises(ValueError, match="alpha=nan: it must be a finite number"):
        steered(model, total, [1.0, float("nan")])
