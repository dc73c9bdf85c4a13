"""What an interrupted fit resumes from: finished stages and the last epoch, as files in a directory."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, final

import torch
from torch import Tensor

from psr_lens.fitting.gradient import TrainingState
from psr_lens.steering import Steering
from psr_lens.steering.fit_report import StageReport
from psr_lens.storage import read_container, write_container
from psr_lens.storage.fields import mapping, only, reading, take, whole
from psr_lens.storage.records import pack_record, unpack_record

KIND: Final = "checkpoint"
"""The kind of its files."""
_OF_ALL: Final = ("fit", "settings", "run")
_OF_STEERING: Final = "steering."


@final
class FitCheckpoint:
    """Files that let an interrupted fit resume, bit for bit on the same machine.

    Args:
        directory: Where they are kept; made if missing. None: nothing is kept.
        fit: Everything that the fit depends on, as JSON values: every file names its fit, and a directory
            with a file of another fit is refused.

    Raises:
        ValueError: If a file in the directory belongs to another fit or to another place in this one,
            or is damaged.
    """

    def __init__(self, directory: str | Path | None, fit: Mapping[str, Any]):
        self._directory = None if directory is None else Path(directory)
        plain = json.loads(json.dumps(fit))
        self._key = hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
        # For people to compare; data and model are long, and in the key alone.
        self._settings = {k: v for k, v in plain.items() if k not in ("data", "fingerprint")}
        if self._directory is None:
            return
        if self._directory.exists() and not self._directory.is_dir():
            raise ValueError(f"checkpoint={str(self._directory)!r} is a file: name a directory")
        for file in sorted(self._directory.glob("*.safetensors")):
            self._read(file)

    @property
    def keeps(self) -> bool:
        """Whether there is a directory to keep anything in."""
        return self._directory is not None

    def _read(self, file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and header of a file, if it is of this fit and has its own name."""
        tensors, header = read_container(file, KIND)
        if header.get("fit") != self._key:
            raise ValueError(
                f"checkpoint={str(self._directory)!r} holds {file.name} of another fit "
                f"({self._difference(header)}): name an empty directory"
            )
        if header.get("run") != file.stem:
            raise ValueError(
                f"checkpoint={str(self._directory)!r} holds {file.name}, which was written as "
                f"{_short(header.get('run'))}: give it that name again, or name an empty directory"
            )
        return tensors, header

    def _difference(self, header: Mapping[str, Any]) -> str:
        """How the fit that a file belongs to differs from this one."""
        other = header.get("settings")
        if not isinstance(other, dict):
            return "or of none: it is no checkpoint"
        names = sorted(self._settings.keys() | other.keys())
        differing = [
            f"{_short(name)} {_short(other.get(name))} there, {_short(self._settings.get(name))} here"
            for name in names
            if other.get(name) != self._settings.get(name)
        ]
        return "; ".join(differing[:5]) or "other data or another model"

    def _write(self, run: str, tensors: Mapping[str, Tensor], **fields: Any) -> None:
        """Write a file that names its fit, and which of its runs it is."""
        if self._directory is not None:
            about = {"fit": self._key, "settings": self._settings, "run": run}
            write_container(self._directory / run, KIND, tensors, {**about, **fields})

    def save_stage(self, report: StageReport, steering: Steering) -> None:
        """Keep a finished layer: how its fit went, and its steering."""
        named = {f"{_OF_STEERING}{name}": own for name, own in steering.state_dict().items()}
        about = {"report": pack_record(report, named), "arguments": steering.arguments()}
        self._write(f"stage-{report.layer:04d}", named, **about)

    def stages(self) -> dict[int, tuple[StageReport, dict[str, Tensor], dict[str, Any]]]:
        """The finished layers: how each went, and its steering's tensors and other arguments."""
        found = {}
        if self._directory is not None:
            for file in sorted(self._directory.glob("stage-*.safetensors")):
                tensors, header = self._read(file)
                with reading(file, KIND):
                    only(header, *_OF_ALL, "report", "arguments")
                    report = unpack_record(StageReport, mapping(header, "report"), {})
                    if file.stem != f"stage-{report.layer:04d}" or report.steps < 0:
                        raise ValueError(f"layer={report.layer} in {file.stem}")
                    names = [name for name in tensors if name.startswith(_OF_STEERING)]
                    only(tensors, *names)
                    found[report.layer] = (
                        report,
                        {name.removeprefix(_OF_STEERING): tensors[name] for name in names},
                        mapping(header, "arguments"),
                    )
        return found

    def save_training(self, run: str, state: TrainingState) -> None:
        """Keep the state of a training run after an epoch."""
        losses = {"losses": _numbers(state.losses), "dev_losses": _numbers(state.dev_losses)}
        self._write(
            f"epoch-{run}", {**state.tensors, **losses}, epoch=state.epoch, stale=state.stale
        )

    def training(self, run: str) -> TrainingState | None:
        """The last state of a training run; None if there is none."""
        if self._directory is None:
            return None
        file = self._directory / f"epoch-{run}.safetensors"
        if not file.is_file():
            return None
        tensors, header = self._read(file)
        with reading(file, KIND):
            only(header, *_OF_ALL, "epoch", "stale")
            losses, dev_losses = (
                tuple(take(tensors, name, torch.float64, 1).tolist())
                for name in ("losses", "dev_losses")
            )
            return TrainingState(
                whole(header, "epoch", 1), losses, dev_losses, whole(header, "stale"), tensors
            )


def _short(value: Any) -> str:
    """A value as a part of one line."""
    return " ".join(str(value)[:60].split())


def _numbers(values: float | tuple[float, ...]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)
