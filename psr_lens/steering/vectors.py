"""Your own vectors: the forms that other libraries give them, and the tensors that a steering needs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from psr_lens._types import check_count, check_finite

VectorLike = Tensor | np.ndarray | Sequence[float | int]
"""A row of numbers: a torch tensor, a NumPy array, or a list."""


def as_vector(name: str, vector: Any) -> Float[Tensor, " d_model"]:
    """One vector as a new, detached tensor of the same floating-point type.

    Whole numbers become float32.

    Args:
        name: What it is called in messages.
        vector: See `VectorLike`.

    Raises:
        ValueError: If it is not a row of finite real numbers.
    """
    tensor = as_tensor(name, vector)
    if tensor.ndim != 1 or len(tensor) == 0:
        raise ValueError(
            f"{name} has shape {list(tensor.shape)}: a steering vector is one row of as many numbers "
            "as the residual stream is wide, [d_model]"
        )
    return check_finite(name, tensor)


def as_tensor(name: str, values: Any) -> Tensor:
    """Numbers of any shape as a new, detached floating-point tensor.

    Raises:
        ValueError: If they are not real numbers, or their rows differ in length.
    """
    if isinstance(values, Tensor):
        tensor = values.detach().clone()
    else:
        try:
            # A copy, so that later changes to the array do not reach the steering.
            array = np.array(values, subok=False)
            tensor = torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))
        except (TypeError, ValueError, RuntimeError):
            raise ValueError(
                f"{name} of type {type(values).__name__} is not an array of numbers: pass a torch "
                "tensor, a NumPy array or a list"
            ) from None
    if tensor.is_complex() or tensor.dtype == torch.bool:
        raise ValueError(
            f"{name} holds values of type {str(tensor.dtype).removeprefix('torch.')}: a steering "
            "vector is made of real numbers"
        )
    return tensor if tensor.is_floating_point() else tensor.float()


def stack_vectors(
    vectors: Mapping[int, Any],
) -> tuple[Float[Tensor, "layer d_model"], tuple[int, ...]]:
    """Vectors by layer as a table and its layers, ascending.

    Raises:
        ValueError: If there is none, a layer is not a whole number from 0 up, or a vector is not a
            row of finite numbers of the others' width.
    """
    if not isinstance(vectors, Mapping):
        raise ValueError(
            f"vectors of type {type(vectors).__name__}: pass a mapping from layers to vectors, "
            "{15: vector}; for a single one there is ConstantSteering.from_vector(vector, layer=15)"
        )
    if not vectors:
        raise ValueError("vectors is empty: pass at least one layer with its vector")
    rows = {
        check_count("layer", layer, 0): as_vector(f"the vector of layer {layer}", vector)
        for layer, vector in vectors.items()
    }
    layers = tuple(sorted(rows))
    first = rows[layers[0]]
    for layer in layers:
        if len(rows[layer]) != len(first):
            raise ValueError(
                f"the vector of layer {layers[0]} has {len(first)} numbers and that of layer {layer} "
                f"{len(rows[layer])}: all vectors of a model are as wide as its residual stream"
            )
    dtype = first.dtype
    for row in rows.values():
        dtype = torch.promote_types(dtype, row.dtype)
    return torch.stack([rows[layer].to(first.device, dtype) for layer in layers]), layers
