"""A checkpoint directory holds one fit, and every file in it says which run it is of."""

import shutil
from pathlib import Path

import pytest
import torch

from psr_lens.artifacts import read_artifact, write_artifact
from psr_lens.fitting.checkpoints import FitCheckpoint
from psr_lens.fitting.live import LiveState
from psr_lens.fitting.report import StageReport
from tests.stored_steerings import FOLDER

FIT = {"method": "psr", "seed": 0, "recipe": [{"lr": 0.01}], "data": {"responses": "a"}}
STATE = LiveState(3, (0.5,), (0.4, 0.3), 1, {"w": torch.ones(2)})


@pytest.fixture
def directory(tmp_path):
    kept = FitCheckpoint(tmp_path / "c", FIT)
    kept.save_stage(StageReport(1, 0.5, None, 3), (torch.ones(2), torch.zeros(1)))
    kept.save_live("live", STATE)
    return tmp_path / "c"


def test_what_was_kept_comes_back(directory):
    kept = FitCheckpoint(directory, FIT)
    ((report, tensors),) = kept.stages().values()
    assert report == StageReport(1, 0.5, None, 3)
    assert torch.equal(tensors[0], torch.ones(2))
    state = kept.live("live")
    assert state is not None
    assert (state.epoch, state.losses, state.dev_losses, state.stale) == (3, (0.5,), (0.4, 0.3), 1)
    assert kept.live("refining") is None


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"seed": 1}, "seed 0 there, 1 here"),
        ({"method": "const", "seed": 2}, "method psr there, const here; seed 0 there, 2 here"),
        ({"data": {"responses": "b"}}, "other data or another model"),
    ],
)
def test_another_fit_is_refused_in_words(directory, other, told):
    with pytest.raises(ValueError, match=r"of another fit \(.*\): name an empty") as error:
        FitCheckpoint(directory, {**FIT, **other})
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("epoch-live", "epoch-refining"),
        ("stage-0001", "stage-0002"),
        ("epoch-live", "epoch-live copy"),
    ],
)
def test_a_file_in_another_run_s_place_is_refused(directory, source, target):
    shutil.copy(directory / f"{source}.safetensors", directory / f"{target}.safetensors")
    with pytest.raises(ValueError, match=f"holds {target}.*, which was written as {source}"):
        FitCheckpoint(directory, FIT)


@pytest.mark.parametrize("run", ["epoch-live", "stage-0001"])
def test_a_missing_field_is_one_line(directory, run):
    tensors, header = read_artifact(directory / run)
    kept = FitCheckpoint(directory, FIT)
    for name in header.keys() - {"format", "fit", "settings", "run"}:
        less = {key: value for key, value in header.items() if key != name}
        write_artifact(directory / run, tensors, less)
        with pytest.raises(ValueError, match=f"'{name}' is missing"):
            kept.live("live") if run == "epoch-live" else kept.stages()


def test_what_is_no_checkpoint_is_refused(directory, tmp_path):
    shutil.copy(Path(FOLDER) / "psr.safetensors", directory)
    with pytest.raises(ValueError, match=r"psr\.safetensors of another fit .*it is no checkpoint"):
        FitCheckpoint(directory, FIT)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="is a file: name a directory"):
        FitCheckpoint(tmp_path / "file", FIT)
