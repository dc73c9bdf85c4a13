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
from psr_lens.models.token_rules import FromResponseToken, LastPromptToken, TokenIds, TokenRule

__all__ = [
    "FromResponseToken",
    "HookedModel",
    "LastPromptToken",
    "Message",
    "Prompt",
    "RawText",
    "TokenBatch",
    "TokenIds",
    "TokenRow",
    "TokenRule",
    "as_hooked_model",
    "editable_model",
    "load_model",
    "unsteered_model",
]
