"""Passes in eval mode, whatever mode a model is in."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(raw: nn.Module) -> Iterator[None]:
    """All modules in eval mode inside the context, and as they were after it."""
    training = [module for module in raw.modules() if module.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True
