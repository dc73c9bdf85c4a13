"""Read a saved steering, whatever its kind."""

from pathlib import Path
from typing import Any, Final

from psr_lens.artifacts import read_artifact
from psr_lens.models import as_hooked_model
from psr_lens.steering.base import Steering
from psr_lens.steering.constant import ConstantSteering
from psr_lens.steering.oracle import OracleSteering
from psr_lens.steering.provenance import check_model
from psr_lens.steering.psr import PSR

_CLASSES: Final[dict[str, type[Steering]]] = {
    cls.method: cls for cls in (ConstantSteering, PSR, OracleSteering)
}


def load_steering(path: str | Path, model: Any = None) -> Steering:
    """Read what `Steering.save` wrote.

    Args:
        path: The file, with or without `.safetensors`.
        model: Check at once that the steering belongs to this model; without, `applied` does.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, of another program or a newer version, or the steering
            does not belong to the model.
    """
    tensors, header = read_artifact(path)
    try:
        cls = _CLASSES[header["method"]]
        steering = cls.from_tensors(
            tensors, header["layers"], surface=header["surface"], provenance=header["provenance"]
        )
    except KeyError as error:
        raise ValueError(
            f"{path} holds no steering that this version knows: {error} is missing or unknown "
            f"(methods are {sorted(_CLASSES)})"
        ) from None
    if model is not None:
        check_model(steering.provenance, as_hooked_model(model), max(steering.layers, default=-1))
    return steering
