"""What several files of this folder need."""

import pytest

from tests import by_hand
from tests.tiny_models import CORE_MODELS, tiny_model


@pytest.fixture(scope="module")
def llama():
    """For what is the same on every model."""
    return tiny_model(*CORE_MODELS[0], dtype="float64")


@pytest.fixture(scope="module")
def its_data(llama):
    return by_hand.animal_examples(llama)
