"""A file written by an earlier version is still read, tensor for tensor."""

import pytest
import torch

from psr_lens.steering import load_steering
from tests.stored_steerings import FOLDER, Shape
from tests.tiny_steerings import KINDS, made_up


@pytest.mark.parametrize("kind", KINDS)
def test_a_stored_file_is_read(kind):
    loaded, expected = load_steering(FOLDER / kind), made_up(kind, Shape())
    assert type(loaded) is type(expected)
    assert (loaded.layers, loaded.tokens) == (expected.layers, expected.tokens)
    tensors = expected.state_dict()
    assert loaded.state_dict().keys() == tensors.keys()
    for name, tensor in loaded.state_dict().items():
        assert torch.allclose(tensor, tensors[name], atol=1e-6)
    assert loaded.arguments().keys() == expected.arguments().keys()
