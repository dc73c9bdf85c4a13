"""Models behind one protocol."""

from psr_lens.models.batch import TokenBatch, TokenRow
from psr_lens.models.chat import Message, Prompt, RawText
from psr_lens.models.load import (
    as_hooked_model,
    editable_model,
    load_model,
    unsteered_model,
)
from psr_lens.models.protocol import HookedModel

__all__ = [
    "HookedModel",
    "Message",
    "Prompt",
    "RawText",
    "TokenBatch",
    "TokenRow",
    "as_hooked_model",
    "editable_model",
    "load_model",
    "unsteered_model",
]
