"""Files of vectors that other tools write: torch, NumPy, safetensors, GGUF control vectors.

Everything here counts layers as this package does: a vector for block `l`, counted from 0, is added to that
block's output. Others count differently, and a table of rows does not say how:

| numbering | block `l` is | written by |
| --- | --- | --- |
| `"blocks"` | row or key `l` | hooks on decoder layers; repeng, steering-vectors |
| `"hidden_states"` | row or key `l + 1`; 0 is the embeddings | transformers; persona-vectors |

A GGUF control vector numbers blocks: llama.cpp adds tensor `direction.l` to the output of block `l`,
counted from 0, which is where repeng reads it (llama.cpp takes none for block 0). llama.cpp's own
`cvector-generator` writes what it read after block `l` as `direction.(l + 1)`; it is added where llama.cpp
would add it.
"""

import json
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

from psr_lens._types import check_count
from psr_lens.steering.vectors import as_tensor
from psr_lens.storage.container import is_container

Numbering = Literal["blocks", "hidden_states"]
"""How a file counts layers: see the module."""

Kind = Literal["psr_lens", "torch", "NumPy", "safetensors", "GGUF"]

_LAYER_IN_NAME: Final = re.compile(
    r"^\d+$|(?:^|[._/ -])(?:layers?|blocks?|direction|h)[._ -]?\d+(?=$|[._/ -])", re.IGNORECASE
)
"""Names with a layer number: `15`, `layer_15`, `model.layers.15`, `blocks.15.hook_resid_post`,
`direction.15`. NumPy's own `arr_0` is not one."""


def kind_of_file(path: Path) -> Kind | None:
    """The kind of a file, by its first bytes; None if unknown."""
    if is_container(path):
        return "psr_lens"
    with path.open("rb") as file:
        head = file.read(16)
    if head.startswith(b"GGUF"):
        return "GGUF"
    if head.startswith(b"\x93NUMPY"):
        return "NumPy"
    if head.startswith(b"PK\x03\x04"):
        try:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
        except zipfile.BadZipFile:
            return "NumPy" if path.suffix == ".npz" else "torch"
        if any(name.endswith("data.pkl") for name in names):
            return "torch"
        return "NumPy" if any(name.endswith(".npy") for name in names) else None
    # Eight bytes with the length of a header, then the header, which is JSON.
    if head[8:9] == b"{":
        return _kind_of_safetensors(path)
    # A bare pickle, as torch wrote before it wrote archives.
    return "torch" if head.startswith(b"\x80") else None


def read_vectors(
    path: str | Path,
    *,
    layer: int | None = None,
    numbering: Numbering | None = None,
    key: str | int | None = None,
    n_layers: int | None = None,
) -> dict[int, Float[Tensor, " d_model"]]:
    """The vectors of a file by block: `ConstantSteering.from_file` without the steering.

    Args:
        path: The file.
        layer: The only block to take; if a file holds one vector, the block to add it to.
        numbering: How the file counts layers.
        key: Which of several entries holds the vectors.
        n_layers: Blocks of the model, if known.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read, holds no vectors, or does not say which layers they belong to.
    """
    path = Path(path)
    if layer is not None:
        check_count("layer", layer, 0)
    if numbering not in (None, *get_args(Numbering)):
        raise ValueError(f"numbering={numbering!r}: choose 'blocks' or 'hidden_states'")
    kind, contents = _read(path)
    if kind == "GGUF" and numbering == "hidden_states":
        raise ValueError(
            f"numbering='hidden_states' but {path} is a GGUF control vector, whose direction.15 "
            "belongs to block 15: leave numbering out"
        )
    entry = _entry(path, contents, key)
    if isinstance(entry, Mapping):
        rows = {block: as_tensor(f"{path}, layer {block}", own) for block, own in entry.items()}
        if numbering == "hidden_states":
            rows = {number - 1: row for number, row in rows.items() if number > 0}
    else:
        rows = _rows(path, as_tensor(str(path), entry), layer, numbering, n_layers)
    # Some tools write every vector as a table of one row.
    rows = {
        block: row[0] if row.ndim == 2 and len(row) == 1 else row for block, row in rows.items()
    }
    if layer is None:
        return rows
    if layer not in rows:
        raise ValueError(
            f"layer={layer} but {path} has vectors for the blocks {sorted(rows)}, counted from 0"
        )
    return {layer: rows[layer]}


def advice(path: Path, kind: Kind) -> str:
    """What a file of another tool is, and the line that reads it, for a message."""
    said = f"{path} is a {kind} file, not a steering that psr_lens saved"
    try:
        entry = _entry(path, _read(path)[1], None)
        shape = None if isinstance(entry, Mapping) else tuple(as_tensor("it", entry).shape)
    except ValueError as error:
        return f"{said}; psr_lens.ConstantSteering.from_file, which reads vectors, says: {error}"
    arguments = f"{str(path)!r}"
    if shape is not None:
        single = len(shape) == 1 or shape[0] == 1
        arguments += ", layer=..." if single else ", layer=..., model=model"
    return f"{said}: read it with psr_lens.ConstantSteering.from_file({arguments})"


def _rows(
    path: Path,
    table: Tensor,
    layer: int | None,
    numbering: Numbering | None,
    n_layers: int | None,
) -> dict[int, Tensor]:
    """A single array by block."""
    if table.ndim == 1 or (table.ndim == 2 and len(table) == 1 and numbering is None):
        if layer is None:
            raise ValueError(
                f"{path} holds one vector and does not say of which layer: pass layer=..., the "
                "block, counted from 0, to whose output it is to be added"
            )
        if numbering is not None:
            raise ValueError(
                f"numbering={numbering!r} but {path} holds one vector and no rows to number: leave "
                "it out; layer= counts blocks from 0"
            )
        return {layer: table}
    if table.ndim != 2:
        raise ValueError(
            f"{path} holds an array of shape {list(table.shape)}: steering vectors are one row "
            "[d_model] or a row for every layer [layers, d_model]"
        )
    expected = {"blocks": n_layers, "hidden_states": None if n_layers is None else n_layers + 1}
    if numbering is None:
        fitting: list[Numbering] = [
            name for name in get_args(Numbering) if expected[name] == len(table)
        ]
        if not fitting:
            have = "" if n_layers is None else f" and the model {n_layers} layers"
            raise ValueError(
                f"{path} has {len(table)} rows{have}, which does not say which row is which layer: "
                "pass numbering='hidden_states' where row l + 1 is block l (a row more than layers, "
                "as persona-vectors writes), numbering='blocks' where row l is block l"
                + (", or model=..., whose number of layers tells" if n_layers is None else "")
            )
        numbering = fitting[0]
    elif expected[numbering] not in (None, len(table)):
        raise ValueError(
            f"numbering={numbering!r} means {expected[numbering]} rows for a model of {n_layers} "
            f"layers, but {path} has {len(table)}: leave numbering out, or pass the model that it "
            "belongs to"
        )
    skipped = 1 if numbering == "hidden_states" else 0
    return dict(enumerate(table[skipped:]))


def _entry(path: Path, contents: Any, key: str | int | None) -> Any:
    """The one array that holds vectors, or vectors by the number in their names."""
    if key is not None:
        if not isinstance(contents, Mapping) or key not in contents:
            names = (
                _names(contents) if isinstance(contents, Mapping) else "one array without a name"
            )
            raise ValueError(f"key={key!r} but {path} holds {names}: pass one of its own")
        contents = contents[key]
    if not isinstance(contents, Mapping):
        if isinstance(contents, list | tuple):
            # One per layer, in a list.
            rows = [as_tensor(f"{path}, row {i}", row) for i, row in enumerate(contents)]
            if len({row.shape for row in rows}) != 1:
                raise ValueError(f"{path} holds a list of {len(rows)} rows of different lengths")
            return torch.stack(rows)
        return contents
    arrays = {name: own for name, own in contents.items() if hasattr(own, "shape")}
    numbers = {name: _number(name) for name in arrays}
    found = [number for number in numbers.values() if number is not None]
    if arrays and len(found) == len(arrays) == len(set(found)):
        return {number: arrays[name] for name, number in numbers.items()}
    if len(arrays) == 1:
        return next(iter(arrays.values()))
    raise ValueError(
        f"{path} holds {_names(contents)}, which does not say where the steering vectors are: pass "
        "key=..., one of these names"
        if arrays
        else f"{path} holds {_names(contents)} and no array of numbers"
    )


def _number(name: Any) -> int | None:
    """The layer that a name says, if it says one."""
    if isinstance(name, int) and not isinstance(name, bool):
        return name if name >= 0 else None
    found = _LAYER_IN_NAME.findall(name) if isinstance(name, str) else []
    return int(re.findall(r"\d+", found[0])[-1]) if len(found) == 1 else None


def _names(contents: Mapping[Any, Any]) -> str:
    names = [repr(name) for name in contents]
    shown = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
    return f"{len(names)} entries ({shown})" if names else "nothing"


def _read(path: Path) -> tuple[Kind, Any]:
    """What a file is, and what is in it: an array, or a mapping from names to arrays."""
    if not path.exists():
        raise FileNotFoundError(f"no file {str(path)!r}")
    if path.is_dir():
        raise ValueError(f"{str(path)!r} is a folder: pass the file with the vectors in it")
    kind = kind_of_file(path)
    if kind is None:
        raise ValueError(
            f"{path} is no torch, NumPy, safetensors or GGUF file: read it with its own tool and pass "
            "the vectors to ConstantSteering.from_vectors({layer: vector})"
        )
    if kind == "psr_lens":
        raise ValueError(f"{path} was saved by psr_lens: psr_lens.load_steering({str(path)!r})")
    try:
        return kind, _READERS[kind](path)
    except ImportError:
        raise ValueError(
            f"{path} is a GGUF file, which needs the gguf package: pip install 'psr-lens[gguf]'"
        ) from None
    except Exception as error:  # every reader has errors of its own
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} is a {kind} file that cannot be read: {reason}") from None


def _read_torch(path: Path) -> Any:
    # Nothing in the file is run: only tensors, numbers, names and their containers are read.
    try:
        # Memory-mapped, so that a large file of another kind is not read for nothing.
        mapped = zipfile.is_zipfile(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:
        if "weights_only" not in str(error) and "Unsupported" not in str(error):
            raise
        raise ValueError(
            "it holds objects that are no tensors, and reading those can run code; where it was "
            "written, save only the tensors: torch.save({layer: vector}, path)"
        ) from None


def _read_numpy(path: Path) -> Any:
    found = np.load(path, allow_pickle=False)
    return found if isinstance(found, np.ndarray) else dict(found)


def _read_safetensors(path: Path) -> Any:
    return load_file(path)


def _read_gguf(path: Path) -> Any:
    from gguf import GGUFReader

    reader = GGUFReader(path)
    found = {tensor.name: tensor for tensor in reader.tensors if _is_direction(tensor.name)}
    if not found:
        raise ValueError(
            "it has no tensors called direction.1, direction.2, ...: no control vector"
        )
    for name, tensor in found.items():
        if tensor.tensor_type.name not in ("F32", "F16", "F64"):
            raise ValueError(
                f"{name} is quantised ({tensor.tensor_type.name}): write it as F32, F16 or F64"
            )
    return {name: tensor.data for name, tensor in found.items()}


def _is_direction(name: str) -> bool:
    return re.fullmatch(r"direction\.\d+", name) is not None


_READERS: Final[Mapping[Kind, Callable[[Path], Any]]] = {
    "torch": _read_torch,
    "NumPy": _read_numpy,
    "safetensors": _read_safetensors,
    "GGUF": _read_gguf,
}


def _kind_of_safetensors(path: Path) -> Kind | None:
    """Whether a file that begins like safetensors is one."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        # Longer than the file: damaged, or something else that has a brace there.
        if length > path.stat().st_size:
            return None
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError):
            return None
    return "safetensors" if isinstance(header, dict) else None
