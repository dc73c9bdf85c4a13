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
    """The model's part of a provenance: name, versions, numerics, fingerprint.

    Where it was made of a GGUF file, `"gguf"` says which file and which quantisation.
    """
    return {
        "name": model.name,
        "revision": model.revision,
        **({} if model.gguf is None else {"gguf": asdict(model.gguf)}),
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
    """The data's part of a provenance: how much, hashes of the tokens, keys, how it was sampled."""
    prompts = [(example.base_ids, example.steered_ids) for example in data]
    return {
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
    """Refuse a steering on another model, or on another numerics of the same.

    Args:
        recorded: The steering's provenance; without a model in it, layers and width are all that
            is checked.
        model: The model it is to act on.
        highest_layer: The highest layer that it covers.
        width: Numbers in each of its vectors; None where it has none.

    Raises:
        ValueError: If they do not belong together.
    """
    check_origin(
        recorded,
        highest_layer,
        width,
        model.name,
        (model.n_layers, model.d_model),
        lambda: model_fingerprint(model),
    )


def check_origin(
    recorded: Mapping[str, Any],
    highest_layer: int,
    width: int | None,
    name: str,
    size: tuple[int, int],
    found: Callable[[], Fingerprint],
) -> None:
    """`check_model` for whatever has a fingerprint.

    Args:
        recorded: The steering's provenance; without a model in it, layers and width are all that
            is checked.
        highest_layer: The highest layer that it covers.
        width: Numbers in each of its vectors; None where it has none.
        name: What the model is called.
        size: How many layers it has, and how wide its residual stream is.
        found: Gives its fingerprint, where one is needed.

    Raises:
        ValueError: If they do not belong together.
    """
    n_layers, d_model = size
    if highest_layer >= n_layers:
        raise ValueError(
            f"the steering covers layer {highest_layer} but {name} has {n_layers} layers "
            f"(0 to {n_layers - 1})"
        )
    expected = recorded_fingerprint(recorded)
    difference = "" if expected is None else expected.difference(found())
    if difference:
        origin = recorded["model"]
        raise ValueError(
            f"the steering was fitted on {origin['name']!r} with {origin['numerics']} weights and does "
            f"not belong to {name!r}: {difference}; load the model it was fitted on"
        )
    # A width of 1 would be broadcast in silence.
    if width not in (None, d_model):
        raise ValueError(
            f"the steering's vectors are {width} wide but the residual stream of {name} is {d_model} "
            "wide: load the model that they belong to"
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
