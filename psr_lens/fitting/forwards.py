"""How many forward passes a fit takes."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from psr_lens.models import HookedModel
from psr_lens.models.columns import Columns


class ForwardCount:
    """A running number of forward passes."""

    def __init__(self):
        self.sequences = 0.0


@contextmanager
def counting_forwards(model: HookedModel) -> Iterator[ForwardCount]:
    """Count what goes through the model's blocks inside the context."""
    count = ForwardCount()

    def add(resid: Tensor, columns: Columns) -> None:
        count.sequences += len(resid) / model.n_layers

    # An edit that changes nothing: it counts what this thread runs and no other. A prefix that rows share
    # and that is run once counts as part of their own passes.
    with model.edited(dict.fromkeys(range(model.n_layers), add), only_on="response"):
        yield count
