"""Read a saved steering, whatever its kind."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, get_args

import torch
from torch import Tensor

from psr_lens._types import check_finite
from psr_lens.model_record import recorded_fingerprint
from psr_lens.models import as_hooked_model
from psr_lens.models.editing import HookPoint
from psr_lens.models.token_rules import tokens_from
from psr_lens.steering.base import KIND, Steering
from psr_lens.steering.fit_report import FitReport
from psr_lens.steering.provenance import checked_provenance
from psr_lens.steering.registry import known_methods
from psr_lens.steering.sums import SumSteering
from psr_lens.steering.vector_files import advice, kind_of_file
from psr_lens.storage import container_path, read_container
from psr_lens.storage.fields import choice, listed, mapping, number, only, reading, whole

_NUMBERS: Final = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def load_steering(path: str | Path, model: Any = None) -> Steering:
    """Read what `Steering.save` wrote.

    Args:
        path: The file, with or without `.safetensors`; or what `push_to_hub` put on the hub, as
            `"hf://owner/name"`, `"hf://owner/name/file"` or `"hf://owner/name@revision"`.
        model: Check at once that the steering belongs to this model; if not given, `applied` checks it.

    Raises:
        FileNotFoundError: If there is no such file, or no such repository.
        ValueError: If the file is damaged, from another tool (`ConstantSteering.from_file` reads those) or
            from a newer version, has a tensor or field that the method does not have, or the steering does
            not belong to the model.
        OSError: If the hub cannot be reached, or refuses.
    """
    if isinstance(path, str) and path.startswith("hf://"):
        from psr_lens.deploy.hub import pull

        path = pull(path)
    _refuse_foreign(Path(path))
    tensors, header = read_container(path, KIND)
    with reading(path, KIND):
        steering = build_steering(tensors, header)
    if model is not None:
        steering.check(as_hooked_model(model))
    return steering


def _refuse_foreign(path: Path) -> None:
    """Refuse another tool's file, which is not damaged, by saying what it is and which line reads it.

    Raises:
        ValueError: If it is one.
    """
    if not path.name or path.is_dir():
        return
    path = container_path(path) if container_path(path).is_file() else path
    kind = kind_of_file(path) if path.is_file() else None
    if kind not in (None, "psr_lens"):
        raise ValueError(advice(path, kind))
    # Files that psr_lens saved have that ending; a damaged one can no longer be told by its contents.
    if kind is None and path.is_file() and path.suffix != ".safetensors":
        raise ValueError(
            f"{path} is no steering that psr_lens saved, nor a kind of file that vectors are read "
            "from (torch, NumPy, safetensors, GGUF)"
        )


def build_steering(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> Steering:
    """The steering that a header describes; the parts of a sum have headers of their own.

    Raises:
        ValueError: If header and tensors are not those of a steering.
    """
    if "fit_report" in header:
        rest = {name: own for name, own in header.items() if name != "fit_report"}
        found = build_steering(tensors, rest)
        found.fit_report = FitReport.unpacked({}, mapping(header, "fit_report"))
        found.fit_report.check()
        return found
    only(header, "method", "layers", "tokens", "hook_point", "arguments", "provenance")
    classes = known_methods()
    method = choice(header, "method", [*sorted(classes), SumSteering.method])
    arguments, origin = mapping(header, "arguments"), checked_provenance(header)
    fingerprint = recorded_fingerprint(origin)
    tokens = tokens_from(header.get("tokens"))
    hook_point = choice(header, "hook_point", get_args(HookPoint))
    layers = listed(header, "layers", whole)
    if method != SumSteering.method:
        cls = classes[method]
        sizes = {"layer": len(layers)}
        if fingerprint is not None:
            sizes["d_model"] = fingerprint.d_model
        check_tensors(cls, tensors, sizes)
        found = cls(
            **tensors,
            layers=layers,
            tokens=tokens,
            hook_point=hook_point,
            provenance=origin,
            **arguments,
        )
        if found.arguments() != arguments:
            raise ValueError(f"arguments {arguments}, but a {cls.__name__} has {found.arguments()}")
        # Finite numbers can overflow in what the class makes of them.
        for name, tensor in found.state_dict().items():
            check_finite(name, tensor)
        return found
    parts: list[tuple[float, Steering]] = []
    left = set(tensors)
    only(arguments, "parts")
    for i, part in enumerate(listed(arguments, "parts", mapping)):
        prefix = f"steerings.{i}."
        own = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
        left -= {prefix + name for name in own}
        weight = number(part, "weight")
        parts.append(
            (weight, build_steering(own, {k: v for k, v in part.items() if k != "weight"}))
        )
    if left or not parts:
        raise ValueError(f"a sum of {len(parts)} parts, and tensors {sorted(left)} beside them")
    total = SumSteering(parts, provenance=origin)
    if (list(total.layers), total.tokens, total.hook_point) != (layers, tokens, hook_point):
        raise ValueError(
            f"layers {layers}, {tokens} tokens and {hook_point}, but its parts have "
            f"{list(total.layers)}, {total.tokens} and {total.hook_point}"
        )
    return total


def check_tensors(
    cls: type[Steering], tensors: Mapping[str, Tensor], sizes: Mapping[str, int]
) -> None:
    """Refuse tensors that are not those of a kind of steering.

    Their shapes must be those that its constructor names, axis by axis.

    Args:
        cls: The class.
        tensors: The tensors, by the names of its parameters.
        sizes: Known sizes of axes.

    Raises:
        ValueError: If a tensor is unknown, not of one of the four floating-point types, of another shape,
            or not finite.
    """
    shapes = _shapes(cls)
    if not tensors.keys() <= shapes.keys():
        raise ValueError(f"tensors {sorted(tensors)}, but a {cls.__name__} has {sorted(shapes)}")
    known = dict(sizes)
    for name, tensor in tensors.items():
        if tensor.dtype not in _NUMBERS:
            raise ValueError(
                f"{name} is of {tensor.dtype}: steerings are of float64, float32, bfloat16 or float16"
            )
        axes = shapes[name].split()
        if tensor.ndim != len(axes) or any(
            known.setdefault(axis, size) != size or (size == 0 and axis != "layer")
            for axis, size in zip(axes, tensor.shape, strict=True)
        ):
            expected = ", ".join(
                f"{axis}={known[axis]}" if axis in known else axis for axis in axes
            )
            raise ValueError(f"{name} has shape {list(tensor.shape)}, and not [{expected}]")
        if not bool(tensor.isfinite().all()):
            raise ValueError(f"{name} is not finite: it was not fitted, or is damaged")


def check_loadable(steering: Steering) -> None:
    """Refuse to write what could not be read back.

    Raises:
        ValueError: If its class, or that of a part of it, is not registered, or its constructor does not
            name the axes of its tensors.
    """
    if isinstance(steering, SumSteering):
        for _, part in steering.parts:
            check_loadable(part)
        return
    cls = type(steering)
    if known_methods().get(cls.method) is not cls:
        raise ValueError(
            f"{cls.__name__} is not registered, so its file could not be loaded: put @register above it"
        )
    unnamed = sorted(steering.state_dict().keys() - _shapes(cls).keys())
    if unnamed:
        raise ValueError(
            f"{cls.__name__}() does not name the axes of {', '.join(unnamed)}, so its file could not be "
            'loaded: annotate them, as in Float[Tensor, "layer d_model"]'
        )


def _shapes(cls: type[Steering]) -> dict[str, str]:
    """The axes of every tensor that a kind of steering is made of, as its constructor names them."""
    found = {}
    for name, parameter in inspect.signature(cls, eval_str=True).parameters.items():
        for kind in (parameter.annotation, *get_args(parameter.annotation)):
            if hasattr(kind, "dim_str"):
                found[name] = kind.dim_str
    return found
