"""A checkpoint directory holds one fit, and every file in it says which run it is of."""

import math
import shutil
from pathlib import Path

import pytest
import torch

from psr_lens.fitting.fit_checkpoint import FitCheckpoint
from psr_lens.fitting.gradient import TrainingState
from psr_lens.steering import ConstantSteering
from psr_lens.steering.fit_report import StageReport
from psr_lens.storage import read_container, write_container
from tests.stored_steerings import FOLDER


class Sized(ConstantSteering):
    """One with an argument beside its tensors."""

    def arguments(self):
        return {"size": 2}


STEERING = Sized(torch.ones(1, 3), [1])
FIT = {"method": "psr", "seed": 0, "recipe": [{"lr": 0.01}], "data": {"responses": "a"}}
STATE = TrainingState(3, (0.5,), (0.4, 0.3), 1, {"w": torch.ones(2)})


@pytest.fixture
def directory(tmp_path):
    kept = FitCheckpoint(tmp_path / "c", FIT)
    kept.save_stage(StageReport(1, 0.5, None, 3), STEERING)
    kept.save_training("gradient", STATE)
    return tmp_path / "c"


def test_what_was_kept_comes_back(directory):
    kept = FitCheckpoint(directory, FIT)
    ((report, tensors, arguments),) = kept.stages().values()
    assert report == StageReport(1, 0.5, None, 3)
    assert torch.equal(tensors["vectors"], torch.ones(1, 3))
    assert arguments == {"size": 2}
    state = kept.training("gradient")
    assert state is not None
    assert (state.epoch, state.losses, state.dev_losses, state.stale) == (3, (0.5,), (0.4, 0.3), 1)
    assert kept.training("refining") is None


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
        ("epoch-gradient", "epoch-refining"),
        ("stage-0001", "stage-0002"),
        ("epoch-gradient", "epoch-gradient copy"),
    ],
)
def test_a_file_in_another_run_s_place_is_refused(directory, source, target):
    shutil.copy(directory / f"{source}.safetensors", directory / f"{target}.safetensors")
    with pytest.raises(ValueError, match=f"holds {target}.*, which was written as {source}"):
        FitCheckpoint(directory, FIT)


def back(directory, run):
    kept = FitCheckpoint(directory, FIT)
    return kept.training("gradient") if run == "epoch-gradient" else kept.stages()


def refused(directory, run, change):
    """Why a file is refused that a change was made to, with a right checksum."""
    tensors, header = read_container(directory / run, "checkpoint")
    change(tensors, header)
    write_container(directory / run, "checkpoint", tensors, header)
    with pytest.raises(ValueError, match=r"\w") as error:
        back(directory, run)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("run", ["epoch-gradient", "stage-0001"])
def test_every_missing_or_wrong_field_is_one_line(directory, run):
    was, about = read_container(directory / run, "checkpoint")
    for name in about:
        write_container(directory / run, "checkpoint", was, about)
        assert refused(directory, run, lambda _, h, n=name: h.pop(n))
        for value in (None, 1.5, "B", [], {"no": 1}, True, -1):
            write_container(directory / run, "checkpoint", was, about)
            if (name, value) != ("arguments", {"no": 1}) and name != "settings":
                assert refused(directory, run, lambda _, h, n=name, v=value: h.update({n: v}))
    write_container(directory / run, "checkpoint", was, about)
    assert "unknown" in refused(directory, run, lambda _, h: h.update(more=1))


@pytest.mark.parametrize(
    ("run", "change", "message"),
    [
        ("epoch-gradient", lambda t, _: t.pop("losses"), "'losses' is missing"),
        (
            "epoch-gradient",
            lambda t, _: t.update(losses=torch.ones(2)),
            "losses is of torch.float32",
        ),
        ("epoch-gradient", lambda t, _: t.update(dev_losses=torch.ones(()).double()), "has 0 axes"),
        ("epoch-gradient", lambda _, h: h.update(epoch=0), "epoch=0: it must be at least 1"),
        ("stage-0001", lambda _, h: h["report"].pop("train_loss"), "'train_loss' is missing"),
        ("stage-0001", lambda t, _: t.update(more=torch.ones(2)), "'more'"),
        ("stage-0001", lambda _, h: h["report"].update(layer=2), "layer=2 in stage-0001"),
        ("stage-0001", lambda _, h: h["report"].update(heads=1.5), "heads=1.5: it must be a whole"),
        ("stage-0001", lambda _, h: h["report"].pop("steps"), "'steps' is missing"),
        ("stage-0001", lambda _, h: h["report"].update(more=1), "unknown"),
    ],
)
def test_what_a_file_says_is_checked(directory, run, change, message):
    found = refused(directory, run, change)
    assert f"{run}.safetensors holds no checkpoint that this version knows" in found
    assert message in found


def test_losses_that_are_no_numbers_come_back(tmp_path):
    kept = FitCheckpoint(tmp_path / "c", FIT)
    state = TrainingState(1, (math.inf, 0.1), (math.nan,), 0, {"w": torch.ones(1)})
    kept.save_training("gradient", state)
    kept.save_stage(StageReport(0, math.nan, None, 0, heads=2, penalty=math.inf), STEERING)
    found = kept.training("gradient")
    assert found is not None
    assert repr(found) == repr(state)
    assert repr(kept.stages()[0][0]) == repr(StageReport(0, math.nan, None, 0, 2, math.inf))


def test_what_is_no_checkpoint_is_refused(directory, tmp_path):
    shutil.copy(Path(FOLDER) / "psr.safetensors", directory)
    with pytest.raises(ValueError, match=r"psr\.safetensors holds a steering, not a checkpoint"):
        FitCheckpoint(directory, FIT)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="is a file: name a directory"):
        FitCheckpoint(tmp_path / "file", FIT)
