"""Files: named tensors and a JSON header in one safetensors file. No pickle anywhere.

safetensors metadata maps strings to strings, so the whole header is one JSON string under the key
`psr_lens`, with a checksum of it all.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from psr_lens.files import refuse_more_than_memory, write_bytes

FORMAT: Final = 1
_KEY: Final = "psr_lens"


def artifact_path(path: str | Path) -> Path:
    """The path with the suffix `.safetensors`, added where it is missing.

    Raises:
        ValueError: If the path has no last part that could be a file's name.
    """
    path = Path(path)
    if not path.name:
        raise ValueError(f"{str(path)!r} names no file: pass the path of a .safetensors file")
    return path if path.suffix == ".safetensors" else path.with_name(path.name + ".safetensors")


def write_artifact(
    path: str | Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]
) -> Path:
    """Write tensors and header.

    Args:
        path: Where; `.safetensors` is added if missing.
        tensors: Named tensors; they are stored contiguous on the CPU.
        header: Anything that JSON can hold.

    Returns:
        The path of the file.
    """
    return write_bytes(artifact_path(path), artifact_bytes(tensors, header))


def artifact_bytes(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> bytes:
    """What `write_artifact` writes."""
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    plain = json.loads(json.dumps({"format": FORMAT, **header}))
    full = {**plain, "sha256": _checksum(stored, plain)}
    return save(stored, {_KEY: json.dumps(full, sort_keys=True)})


def read_artifact(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_artifact` wrote.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, not of this package, of a newer format, or larger than this
            machine's memory.
    """
    given = Path(path)
    path = artifact_path(given) if artifact_path(given).is_file() else given
    if not path.is_file():
        raise FileNotFoundError(f"no steering file {str(given)!r}")
    refuse_more_than_memory(path, path.stat().st_size)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or no safetensors file: {error}") from None
    try:
        header = json.loads(metadata[_KEY])
        if not isinstance(header, dict):
            raise KeyError(_KEY)
    except (KeyError, ValueError, RecursionError):
        raise ValueError(f"{path} was not written by psr_lens: it lacks its header") from None
    if header.get("format") != FORMAT:
        raise ValueError(
            f"{path} has format {header.get('format')} but this version of psr_lens reads "
            f"{FORMAT}: upgrade psr_lens"
        )
    recorded = header.pop("sha256", None)
    if recorded != _checksum(tensors, header):
        raise ValueError(f"{path} is damaged: its contents do not match their checksum")
    return tensors, header


def _checksum(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
