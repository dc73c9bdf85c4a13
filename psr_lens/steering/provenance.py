"""Where a result comes from, and whether it belongs to the model at hand."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from importlib import metadata
from typing import Any

from psr_lens.examples import Example
from psr_lens.models import HookedModel
from psr_lens.models.numerics import Fingerprint, model_fingerprint


@cache
def version(package: str) -> str:
    """Of an installed package; its files are read once."""
    return metadata.version(package)


def describe_model(model: HookedModel) -> dict[str, Any]:
    """The model's part of a provenance: name, versions, numerics, fingerprint."""
    return {
        "name": model.name,
        "revision": model.revision,
        "backend": model.backend,
        "dtype": str(model.dtype).removeprefix("torch."),
        "numerics": "unprocessed",
        "hook_point": "blocks.{layer}.hook_resid_post",
        "chat_template": model.encoder.template_hash,
        "transformer_lens": version("transformer-lens"),
        "transformers": version("transformers"),
        "torch": version("torch"),
        "fingerprint": asdict(model_fingerprint(model)),
    }


def describe_data(data: Sequence[Example], sampling: Mapping[str, Any]) -> dict[str, Any]:
    """The data's part of a provenance: how much, the keys of the examples, how they were sampled."""
    responses = hashlib.sha256(repr([e.response_ids for e in data]).encode()).hexdigest()[:16]
    return {
        "examples": len(data),
        "responses": responses,
        "sampling": dict(sampling),
        "example_keys": sorted({example.key for example in data}),
    }


def provenance(model: HookedModel, **parts: Any) -> dict[str, Any]:
    """A whole provenance: package version, model, and whatever else is given, as plain JSON values."""
    whole = {"psr_lens": version("psr-lens"), "model": describe_model(model), **parts}
    # Through JSON and back, so that a steering that was saved and loaded says exactly the same.
    return json.loads(json.dumps(whole))


def check_model(recorded: Mapping[str, Any], model: HookedModel, highest_layer: int) -> None:
    """Refuse a steering on another model, or on another numerics of the same.

    Args:
        recorded: The steering's provenance; one without a model is not checked beyond its layers.
        model: The model it is to act on.
        highest_layer: The highest layer that it covers.

    Raises:
        ValueError: If they do not belong together.
    """
    check_origin(
        recorded, highest_layer, model.name, model.n_layers, lambda: model_fingerprint(model)
    )


def check_origin(
    recorded: Mapping[str, Any],
    highest_layer: int,
    name: str,
    n_layers: int,
    found: Callable[[], Fingerprint],
) -> None:
    """`check_model` for whatever has a fingerprint.

    Args:
        recorded: The steering's provenance; one without a model is not checked beyond its layers.
        highest_layer: The highest layer that it covers.
        name: What the model is called.
        n_layers: How many layers it has.
        found: Gives its fingerprint, where one is needed.

    Raises:
        ValueError: If they do not belong together.
    """
    if highest_layer >= n_layers:
        raise ValueError(
            f"the steering covers layer {highest_layer} but {name} has {n_layers} layers "
            f"(0 to {n_layers - 1})"
        )
    expected = recorded_fingerprint(recorded)
    if expected is None:
        return
    difference = expected.difference(found())
    if difference:
        origin = recorded["model"]
        raise ValueError(
            f"the steering was fitted on {origin['name']!r} with {origin['numerics']} weights and does "
            f"not belong to {name!r}: {difference}; load the model it was fitted on"
        )


def recorded_fingerprint(recorded: Mapping[str, Any]) -> Fingerprint | None:
    """The fingerprint of the model that a provenance names; None where it has none.

    Raises:
        KeyError: If a part of it is missing.
        TypeError: If a part of it is of the wrong kind.
        AttributeError: If the model is.
    """
    stored = recorded.get("model", {}).get("fingerprint")
    if stored is None:
        return None
    return Fingerprint(
        stored["n_layers"],
        stored["d_model"],
        stored["d_vocab"],
        stored["dtype"],
        tuple(stored["norms"]),
        tuple(tuple(row) for row in stored["coordinates"]),
    )
