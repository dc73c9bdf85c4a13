"""Where a result comes from, and whether it belongs to the model at hand."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from psr_lens.examples import Example
from psr_lens.model_record import describe_model, recorded_fingerprint, version
from psr_lens.models import HookedModel
from psr_lens.models.numerics import model_fingerprint
from psr_lens.storage.fields import if_there, listed, mapping, text


def describe_data(data: Sequence[Example], sampling: Mapping[str, Any]) -> dict[str, Any]:
    """The data's part of a provenance: its size, hashes of the tokens, keys, how it was sampled.

    And the examples' strengths, where they are not all 1.
    """
    prompts = [(example.base_ids, example.prompted_ids) for example in data]
    alphas = [float(example.alpha) for example in data]
    own = {"strengths": sorted(set(alphas)), "alphas": _short_hash(alphas)}
    return {
        **(own if any(alpha != 1 for alpha in alphas) else {}),
        "examples": len(data),
        "prompts": _short_hash(prompts),
        "responses": _short_hash([example.response_ids for example in data]),
        "sampling": dict(sampling),
        "example_keys": sorted({example.key for example in data}),
    }


def _short_hash(tokens: object) -> str:
    return hashlib.sha256(repr(tokens).encode()).hexdigest()[:16]


def provenance(model: HookedModel, **parts: Any) -> dict[str, Any]:
    """A whole provenance: package version, model, and whatever else is given, as plain JSON values."""
    whole = {"psr_lens": version("psr-lens"), "model": describe_model(model), **parts}
    # Through JSON and back, so that a steering that was saved and loaded says exactly the same.
    return json.loads(json.dumps(whole))


def check_model(
    recorded: Mapping[str, Any], model: HookedModel, highest_layer: int, width: int | None = None
) -> None:
    """Refuse a steering on another model, or on the same model with other numerics.

    Args:
        recorded: The steering's provenance; if it names no model, only layers and width are checked.
        model: The model it is to act on.
        highest_layer: The highest layer that it covers.
        width: The length of its vectors; None if it has none.

    Raises:
        ValueError: If they do not belong together.
    """
    if highest_layer >= model.n_layers:
        raise ValueError(
            f"the steering covers layer {highest_layer} but {model.name} has {model.n_layers} layers "
            f"(0 to {model.n_layers - 1})"
        )
    expected = recorded_fingerprint(recorded)
    difference = "" if expected is None else expected.difference(model_fingerprint(model))
    if difference:
        origin = recorded["model"]
        raise ValueError(
            f"the steering was fitted on {origin['name']!r} with {origin['numerics']} weights and does "
            f"not belong to {model.name!r}: {difference}; load the model it was fitted on"
        )
    # A width of 1 would be broadcast silently.
    if width not in (None, model.d_model):
        raise ValueError(
            f"the steering's vectors are {width} wide but the residual stream of {model.name} is "
            f"{model.d_model} wide: load the model that they belong to"
        )


def checked_provenance(header: Mapping[str, Any]) -> dict[str, Any]:
    """The field `provenance` of a header, with everything in it checked that is read anywhere.

    The rest may hold anything.

    Raises:
        ValueError: If it is missing, or a part of it is of the wrong kind.
    """
    found = mapping(header, "provenance")
    for name in ("method", "psr_lens"):
        if_there(found, name, text)
    model = if_there(found, "model", mapping) or {}
    for name in ("name", "numerics"):
        if_there(model, name, text)
    if_there(model, "gguf", mapping)
    if "fingerprint" in model:
        # A message about another model names these.
        text(model, "name")
        text(model, "numerics")
        recorded_fingerprint(found)
    data = if_there(found, "data", mapping) or {}
    if_there(data, "sampling", mapping)
    if_there(data, "example_keys", lambda own, name: listed(own, name, text))
    responses = if_there(found, "responses", mapping) or {}
    if_there(responses, "cut_off", text)
    if_there(responses, "shown", lambda own, name: listed(own, name, mapping))
    effect = if_there(found, "prompt_effect", mapping) or {}
    if_there(effect, "warning", text)
    return found
