"""Steerings outside this package: on plain transformers models, in weights, on the hub.

Reached through `Steering.to_hf`, `ConstantSteering.fold_into` and `Steering.push_to_hub`. Nothing here
needs TransformerLens.
"""

from psr_lens.deploy.card import model_card

__all__ = ["model_card"]
