"""What several files of this folder need."""

import pytest

from psr_lens.steering import registry


@pytest.fixture
def own_methods(monkeypatch):
    """Methods that a test registers are forgotten after it: there is no other way to take one back."""
    monkeypatch.setattr(registry, "_CLASSES", dict(registry._CLASSES))
