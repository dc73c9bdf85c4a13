"""One steering of every kind, with made-up tensors, for a given model."""

from typing import Any

import torch

from psr_lens.steering import (
    PSR,
    ActAdd,
    ConstantSteering,
    DirectionalAblation,
    LoReFT,
    ProjectionMatch,
    ReFTr1,
    Steering,
)
from psr_lens.storage import read_container

KINDS = (
    *("actadd", "actadd-start", "constant", "ablation", "loreft", "projection", "psr", "reft_r1"),
    "sum",
)
INSIDE = "psr, resid_mid"
"""A kind of its own only where it matters where a steering acts."""


def made_up(kind: str, model: Any, tokens: str = "response", scale: float = 1.0) -> Steering:
    """A steering of that kind on all layers but the first, the same at every call."""
    if kind == INSIDE:
        return made_up("psr", model, tokens, scale).at_hook_point("resid_mid")
    generator = torch.Generator().manual_seed(KINDS.index(kind))
    layers = tuple(range(1, model.n_layers))
    n, d = len(layers), model.d_model

    def random(*shape: int) -> torch.Tensor:
        return scale * torch.randn(*shape, generator=generator, dtype=torch.float64).to(
            torch.promote_types(model.dtype, torch.float32)
        )

    options = {"tokens": tokens}
    if kind == "actadd":
        return ActAdd(random(n, 3, d), layers, **options)
    if kind == "actadd-start":
        return ActAdd(random(n, 3, d), layers, **{"tokens": "all", **options})
    if kind == "constant":
        return ConstantSteering(random(n, d), layers, **options)
    if kind == "ablation":
        return DirectionalAblation(random(n, d), layers, **options)
    if kind == "loreft":
        rotation = torch.linalg.qr(random(n, d, 2)).Q.mT
        return LoReFT(rotation, 0.1 * random(n, 2, d), random(n, 2), layers, **options)
    if kind == "projection":
        return ProjectionMatch(random(n, d), 5 * random(n), layers, **options)
    if kind == "psr":
        return PSR(random(n, 2, d), random(n, 2), random(n, 2, d), layers, **options)
    if kind == "reft_r1":
        return ReFTr1(random(n, d), 3 * random(n).abs(), layers, **options)
    return 0.5 * made_up("psr", model, tokens) - made_up("constant", model)


def content(path):
    """All that a steering's file says but what its fit cost, which differs between equal fits."""
    tensors, header = read_container(path, "steering")
    for cost in ("seconds", "forwards"):
        header["fit_report"].pop(cost)
    return {name: tensor.tolist() for name, tensor in tensors.items()}, header
