"""Read a saved steering, whatever its kind."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from psr_lens.artifacts import artifact_path, read_artifact
from psr_lens.models import as_hooked_model
from psr_lens.steering.ablation import DirectionalAblation
from psr_lens.steering.actadd import ActAdd
from psr_lens.steering.base import Steering
from psr_lens.steering.constant import ConstantSteering
from psr_lens.steering.oracle import OracleSteering
from psr_lens.steering.projection import ProjectionMatch
from psr_lens.steering.psr import PSR
from psr_lens.steering.reft import LoReFT, ReFTr1
from psr_lens.steering.sums import SumSteering
from psr_lens.steering.vector_files import advice, kind_of_file

_CLASSES: Final[dict[str, type[Steering]]] = {
    cls.method: cls
    for cls in (
        ActAdd,
        ConstantSteering,
        DirectionalAblation,
        LoReFT,
        OracleSteering,
        ProjectionMatch,
        PSR,
        ReFTr1,
    )
}


def load_steering(path: str | Path, model: Any = None) -> Steering:
    """Read what `Steering.save` wrote.

    Args:
        path: The file, with or without `.safetensors`; or what `push_to_hub` put on the hub, as
            `"hf://owner/name"`, `"hf://owner/name/file"` or `"hf://owner/name@revision"`.
        model: Check at once that the steering belongs to this model; without, `applied` does.

    Raises:
        FileNotFoundError: If there is no such file, or no such repository.
        ValueError: If the file is damaged, of another tool (`ConstantSteering.from_file` reads
            those) or a newer version, or the steering does not belong to the model.
        OSError: If the hub cannot be reached, or refuses.
    """
    if isinstance(path, str) and path.startswith("hf://"):
        from psr_lens.deploy.hub import pull

        path = pull(path)
    _refuse_foreign(Path(path))
    tensors, header = read_artifact(path)
    try:
        steering = _build(tensors, header)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} holds no steering that this version knows: {error} is missing, unknown or "
            f"wrong (methods are {sorted(_CLASSES)})"
        ) from None
    if model is not None:
        steering.check(as_hooked_model(model))
    return steering


def _refuse_foreign(path: Path) -> None:
    """Name a file of another tool by what it is: it is whole, and there is a line that reads it.

    Raises:
        ValueError: If it is one, or a folder.
    """
    path = artifact_path(path) if artifact_path(path).is_file() else path
    if path.is_dir():
        raise ValueError(f"{str(path)!r} is a folder: name the steering file in it")
    kind = kind_of_file(path) if path.is_file() else None
    if kind not in (None, "psr_lens"):
        raise ValueError(advice(path, kind))
    # One that psr_lens saved has that ending; what it holds when damaged says nothing any more.
    if kind is None and path.is_file() and path.suffix != ".safetensors":
        raise ValueError(
            f"{path} is no steering that psr_lens saved, and no file of a kind that vectors are read "
            "from (torch, NumPy, safetensors, GGUF)"
        )


def _build(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> Steering:
    """The steering of a header; the parts of a sum have headers of their own."""
    if header["method"] == SumSteering.method:
        parts: list[tuple[float, Steering]] = []
        for i, part in enumerate(header["options"]["parts"]):
            prefix = f"{i}."
            own = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
            parts.append((part["weight"], _build(own, part)))
        return SumSteering(parts, provenance=header["provenance"])
    return _CLASSES[header["method"]].from_tensors(
        tensors,
        header["layers"],
        surface=header["surface"],
        provenance=header["provenance"],
        **header["options"],
    )
