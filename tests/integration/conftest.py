"""What several files of this folder need."""

import pytest

from psr_lens.steering import registry
from tests import by_hand
from tests.tiny_models import CORE_MODELS, tiny_model


@pytest.fixture
def own_methods(monkeypatch):
    """Methods that a test registers are forgotten after it: there is no other way to take one back."""
    monkeypatch.setattr(registry, "_CLASSES", dict(registry._CLASSES))


@pytest.fixture(scope="module")
def llama():
    """For what is the same on every model."""
    return tiny_model(*CORE_MODELS[0], dtype="float64")


@pytest.fixture(scope="module")
def its_data(llama):
    return by_hand.animal_examples(llama)
