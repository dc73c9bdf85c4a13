"""Where an interrupted fit was: finished stages and the last epoch, in files of a directory."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

from torch import Tensor

from psr_lens.artifacts import read_artifact, write_artifact
from psr_lens.fitting.live import LiveState
from psr_lens.fitting.report import StageReport


@final
class FitCheckpoint:
    """Files that let a fit go on where it was, bit for bit on the same machine.

    Args:
        directory: Where they lie; made if missing. None: nothing is kept.
        fit: Everything that the fit depends on, as JSON values: a directory of another fit is
            refused.

    Raises:
        ValueError: If the directory belongs to another fit, or a file in it is damaged.
    """

    def __init__(self, directory: str | Path | None, fit: Mapping[str, Any]):
        self._directory = None if directory is None else Path(directory)
        text = json.dumps(fit, sort_keys=True)
        self._key = hashlib.sha256(text.encode()).hexdigest()
        if self._directory is None:
            return
        for file in sorted(self._directory.glob("*.safetensors")):
            _, header = read_artifact(file)
            if header.get("fit") != self._key:
                raise ValueError(
                    f"checkpoint={str(self._directory)!r} holds {file.name} of another fit (other "
                    "data, model or settings): name an empty directory"
                )

    def save_stage(self, report: StageReport, tensors: tuple[Tensor, ...]) -> None:
        """Keep a finished stage."""
        if self._directory is not None:
            named = {f"{i}": tensor for i, tensor in enumerate(tensors)}
            header = {"fit": self._key, "report": vars(report)}
            write_artifact(self._directory / f"stage-{report.layer:04d}", named, header)

    def stages(self) -> dict[int, tuple[StageReport, tuple[Tensor, ...]]]:
        """The finished stages, by layer."""
        found = {}
        if self._directory is not None:
            for file in sorted(self._directory.glob("stage-*.safetensors")):
                tensors, header = read_artifact(file)
                report = StageReport(**header["report"])
                ordered = tuple(tensors[f"{i}"] for i in range(len(tensors)))
                found[report.layer] = (report, ordered)
        return found

    def save_live(self, run: str, state: LiveState) -> None:
        """Keep the state of a live run after an epoch."""
        if self._directory is not None:
            header = {
                "fit": self._key,
                "epoch": state.epoch,
                "losses": list(state.losses),
                "dev_losses": list(state.dev_losses),
                "stale": state.stale,
            }
            write_artifact(self._directory / f"epoch-{run}", state.tensors, header)

    def live(self, run: str) -> LiveState | None:
        """The last state of a live run; None if there is none."""
        if self._directory is None:
            return None
        file = self._directory / f"epoch-{run}.safetensors"
        if not file.is_file():
            return None
        tensors, header = read_artifact(file)
        return LiveState(
            header["epoch"],
            tuple(header["losses"]),
            tuple(header["dev_losses"]),
            header["stale"],
            tensors,
        )
