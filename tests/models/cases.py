"""Which tests run on which model."""

import pytest

from tests.tiny_models import BACKENDS, CORE_MODELS, MODELS

# Every family runs on both backends, and `auto` takes HookedTransformer without a warning.
every_model = pytest.mark.parametrize(("family", "backend"), MODELS)
core_models = pytest.mark.parametrize(("family", "backend"), CORE_MODELS)
every_backend = pytest.mark.parametrize("backend", BACKENDS)
needs_hooked = pytest.mark.skipif(
    "hooked" not in BACKENDS, reason="the installed TransformerLens has the bridge alone"
)

# Of different lengths, one longer than the local attention windows.
TEXTS = (
    "Tell me about the otter and the whale, and what each of them eats by the river.",
    "What does a fox eat?",
    "Hi",
)
