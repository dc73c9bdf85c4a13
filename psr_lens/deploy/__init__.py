"""Steerings outside this package: in weights, and on the hub.

Reached through `ConstantSteering.fold_into` and `Steering.push_to_hub`. Nothing here needs
TransformerLens.
"""

from psr_lens.deploy.card import model_card

__all__ = ["model_card"]
