"""Where an interrupted fit was: finished stages and the last epoch, in files of a directory."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

from torch import Tensor

from psr_lens.artifacts import read_artifact, write_artifact
from psr_lens.fitting.live import LiveState
from psr_lens.fitting.report import StageReport
from psr_lens.models.quiet import one_line


@final
class FitCheckpoint:
    """Files that let a fit go on where it was, bit for bit on the same machine.

    Args:
        directory: Where they lie; made if missing. None: nothing is kept.
        fit: Everything that the fit depends on, as JSON values: every file names its fit, and a
            directory with a file of another is refused.

    Raises:
        ValueError: If a file in the directory belongs to another fit or to another place in this one,
            or is damaged.
    """

    def __init__(self, directory: str | Path | None, fit: Mapping[str, Any]):
        self._directory = None if directory is None else Path(directory)
        plain = json.loads(json.dumps(fit))
        self._key = hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
        # What a person can compare; the data and the model are in the key alone, for they are long.
        self._settings = {k: v for k, v in plain.items() if k not in ("data", "fingerprint")}
        if self._directory is None:
            return
        if self._directory.exists() and not self._directory.is_dir():
            raise ValueError(f"checkpoint={str(self._directory)!r} is a file: name a directory")
        for file in sorted(self._directory.glob("*.safetensors")):
            self._read(file)

    def _read(self, file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and header of a file that is of this fit, and in its place."""
        tensors, header = read_artifact(file)
        if header.get("fit") != self._key:
            raise ValueError(
                f"checkpoint={str(self._directory)!r} holds {file.name} of another fit "
                f"({self._difference(header)}): name an empty directory"
            )
        if header.get("run") != file.stem:
            raise ValueError(
                f"checkpoint={str(self._directory)!r} holds {file.name}, which was written as "
                f"{header.get('run')}: give it that name again, or name an empty directory"
            )
        return tensors, header

    def _difference(self, header: Mapping[str, Any]) -> str:
        """What tells the fit that a file is of from this one."""
        other = header.get("settings")
        if not isinstance(other, dict):
            return "or of none: it is no checkpoint"
        names = sorted(self._settings.keys() | other.keys())
        differing = [
            f"{name} {other.get(name)} there, {self._settings.get(name)} here"
            for name in names
            if other.get(name) != self._settings.get(name)
        ]
        return "; ".join(differing) or "other data or another model"

    def _write(self, run: str, tensors: Mapping[str, Tensor], **fields: Any) -> None:
        """A file that says of which fit it is, and which of its runs."""
        if self._directory is not None:
            about = {"fit": self._key, "settings": self._settings, "run": run}
            write_artifact(self._directory / run, tensors, {**about, **fields})

    def save_stage(self, report: StageReport, tensors: tuple[Tensor, ...]) -> None:
        """Keep a finished stage."""
        named = {f"{i}": tensor for i, tensor in enumerate(tensors)}
        self._write(f"stage-{report.layer:04d}", named, report=vars(report))

    def stages(self) -> dict[int, tuple[StageReport, tuple[Tensor, ...]]]:
        """The finished stages, by layer."""
        found = {}
        if self._directory is not None:
            for file in sorted(self._directory.glob("stage-*.safetensors")):
                tensors, header = self._read(file)
                with _one_clear_line(file):
                    report = StageReport(**header["report"])
                    ordered = tuple(tensors[f"{i}"] for i in range(len(tensors)))
                    found[report.layer] = (report, ordered)
        return found

    def save_live(self, run: str, state: LiveState) -> None:
        """Keep the state of a live run after an epoch."""
        self._write(
            f"epoch-{run}",
            state.tensors,
            epoch=state.epoch,
            losses=list(state.losses),
            dev_losses=list(state.dev_losses),
            stale=state.stale,
        )

    def live(self, run: str) -> LiveState | None:
        """The last state of a live run; None if there is none."""
        if self._directory is None:
            return None
        file = self._directory / f"epoch-{run}.safetensors"
        if not file.is_file():
            return None
        tensors, header = self._read(file)
        with _one_clear_line(file):
            return LiveState(
                header["epoch"],
                tuple(header["losses"]),
                tuple(header["dev_losses"]),
                header["stale"],
                tensors,
            )


@contextmanager
def _one_clear_line(file: Path) -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{file} is no checkpoint that this version knows: {one_line(error)} is missing, unknown "
            "or wrong"
        ) from None
