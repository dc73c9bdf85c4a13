"""What is recorded of a model with everything made from it: name, versions and fingerprint."""

from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from importlib import metadata
from typing import Any

from psr_lens.models import HookedModel
from psr_lens.models.numerics import Fingerprint, model_fingerprint
from psr_lens.storage.fields import listed, mapping, number, only, text, whole


@cache
def version(package: str) -> str:
    """The version of an installed package, whose files are read once."""
    return metadata.version(package)


def describe_model(model: HookedModel) -> dict[str, Any]:
    """The model's part of a provenance: name, versions, numerics, fingerprint.

    If it was made from a GGUF file, `"gguf"` names the file and its quantisation.
    """
    return {
        "name": model.name,
        "revision": model.revision,
        **({} if model.gguf is None else {"gguf": asdict(model.gguf)}),
        "backend": model.backend,
        "dtype": str(model.dtype).removeprefix("torch."),
        "numerics": "unprocessed",
        "hook_point": "blocks.{layer}.hook_resid_post",
        "chat_template": model.template_hash,
        "transformer_lens": version("transformer-lens"),
        "transformers": version("transformers"),
        "torch": version("torch"),
        "fingerprint": asdict(model_fingerprint(model)),
    }


def recorded_fingerprint(recorded: Mapping[str, Any]) -> Fingerprint | None:
    """The fingerprint of the model that a provenance names; None where it has none.

    Raises:
        ValueError: If a part of it is missing or wrong.
    """
    model = recorded.get("model", {})
    if "fingerprint" not in model:
        return None
    stored = mapping(model, "fingerprint")
    only(stored, "n_layers", "d_model", "d_vocab", "dtype", "norms", "coordinates")
    n_layers, d_model, d_vocab = (
        whole(stored, name, 1) for name in ("n_layers", "d_model", "d_vocab")
    )
    norms = tuple(listed(stored, "norms", number))
    rows = tuple(
        tuple(row)
        for row in listed(stored, "coordinates", lambda own, name: listed(own, name, number))
    )
    if not len(norms) == len(rows) == n_layers + 1:
        raise ValueError(f"{len(norms)} norms and {len(rows)} coordinates of {n_layers} layers")
    return Fingerprint(n_layers, d_model, d_vocab, text(stored, "dtype"), norms, rows)
