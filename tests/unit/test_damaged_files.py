"""Whatever a file holds, reading it ends in what was written or in one line, and soon.

Random changes of each sort to a small file of each kind: 400 with every run of the tests, and as many as
the environment variable PSR_LENS_DAMAGED_FILES says. Flips and cuts never pass the
checksum. Files that were crafted have a right one: they may load, if they say what a file may say, and
then all that they say is in what was loaded.
"""

import json
import os
import random
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from psr_lens.dataset import SteeringDataset
from psr_lens.fitting.fit_checkpoint import FitCheckpoint
from psr_lens.fitting.gradient import TrainingState
from psr_lens.steering import load_steering
from psr_lens.steering.fit_report import StageReport
from psr_lens.storage import read_container
from tests.sealed import sealed, taken_apart
from tests.steps import at_most
from tests.stored_steerings import Shape
from tests.tiny_datasets import made_up_dataset
from tests.tiny_reports import REPORTS
from tests.tiny_steerings import made_up

CASES = int(os.environ.get("PSR_LENS_DAMAGED_FILES", "400"))
FIT = {"method": "psr", "seed": 0}
STEPS = 300_000
"""Reading one of these small files takes a third of it at most; counting makes it twice as slow."""


def steering_file(folder: Path) -> Path:
    steering = made_up("sum", Shape())
    steering.weighted_parts()[0][1].fit_report = REPORTS["fit"]
    return steering.save(folder / "s")


def stage_file(folder: Path) -> Path:
    steering = made_up("psr", Shape())
    FitCheckpoint(folder, FIT).save_stage(StageReport(1, 0.5, None, 3, 2, 0.1), steering)
    return folder / "stage-0001.safetensors"


def epoch_file(folder: Path) -> Path:
    state = TrainingState(1, (0.5, 0.4), (0.3, 0.2), 0, made_up("constant", Shape()).state_dict())
    FitCheckpoint(folder, FIT).save_training("gradient", state)
    return folder / "epoch-gradient.safetensors"


def dataset_file(folder: Path) -> Path:
    return made_up_dataset().save(folder / "data")


def read_checkpoint(path: Path) -> None:
    kept = FitCheckpoint(path.parent, FIT)
    assert kept.stages() or kept.training("gradient")


def read_and_keep(read: Callable[[Path], Any]) -> Callable[[Path], None]:
    """What loads is all that the file says: saved again it says the same."""

    def act(path: Path) -> None:
        back = read(path)
        kind, header, *_ = taken_apart(path.read_bytes())
        again = back.save(path.with_name("again"))
        assert read_container(again, kind)[1] == json.loads(header)

    return act


def kept(kind: str) -> tuple[Callable[[Path], Path], Callable[[Path], None]]:
    """How a report of a kind is written and read."""
    report = REPORTS[kind]
    return lambda folder: report.save(folder / "report"), read_and_keep(type(report).load)


KINDS: dict[str, tuple[Callable[[Path], Path], Callable[[Path], None]]] = {
    "steering": (steering_file, read_and_keep(load_steering)),
    "stage": (stage_file, read_checkpoint),
    "epoch": (epoch_file, read_checkpoint),
    "dataset": (dataset_file, read_and_keep(SteeringDataset.load)),
    **{kind: kept(kind) for kind in ("faithfulness", "fit", "comparison", "deltas", "components")},
}


def outcome(read: Callable[[Path], None], path: Path, content: bytes, counted: bool = True) -> str:
    """What comes of a file: the line that refuses it, or nothing where it loads."""
    path.write_bytes(content)
    try:
        with at_most(STEPS) if counted else nullcontext():
            read(path)
        found = ""
    except ValueError as error:
        found = str(error)
        assert "\n" not in found
        assert len(found) < 1000
        assert path.name in found
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_flips_and_cuts_are_noticed(tmp_path, kind):
    write, read = KINDS[kind]
    path, rng = write(tmp_path), random.Random(0)
    sound = path.read_bytes()
    for _ in range(CASES):
        flipped = bytearray(sound)
        for _ in range(rng.choice([1, 1, 1, 2, 50])):
            # Half of them where something stands that is read before the checksum.
            place = rng.randrange(rng.choice([150, len(sound)]))
            flipped[place] ^= 1 << rng.randrange(8)
        assert flipped == sound or outcome(read, path, bytes(flipped))
    for _ in range(CASES):
        begin, end = sorted(rng.randrange(len(sound) + 1) for _ in range(2))
        cut = rng.choice([sound[:begin], sound[begin:], sound[:begin] + sound[end:]])
        assert cut == sound or outcome(read, path, cut)
    path.write_bytes(sound)
    read(path)


JUNK = (
    *(None, True, False, 0, 1, -1, 2, 7, 2**31, 2**63, -(2**63), 10**400, 0.0, -0.5, 1.5, 1e308),
    *(
        "",
        "response",
        "question+response",
        "0",
        "x" * 500,
        "ä\ud800\n",
        "../../x",
        "float64",
        "steering",
        "local",
    ),
    *([], {}, [[]], [{}], [None], {"": 0}, [1, 2], [0.5], ["a"], {"a": [1]}, [1] * 1000),
)


def crafted(rng: random.Random, value: Any, depth: int = 0) -> Any:
    """A JSON value with one thing changed, somewhere in it."""
    if isinstance(value, dict | list) and value and (depth == 0 or rng.random() < 0.85):
        keys = list(value) if isinstance(value, dict) else range(len(value))
        key = rng.choice(keys)
        found = value.copy()
        act = rng.random()
        if act < 0.1:
            del found[key]
        elif act < 0.15 and isinstance(found, dict):
            found[rng.choice(["more", "layers", "weight", "texts"])] = rng.choice(JUNK)
        elif act < 0.2 and isinstance(found, list):
            found.append(rng.choice([*found, *JUNK]))
        else:
            found[key] = crafted(rng, value[key], depth + 1)
        return found
    if type(value) in (int, float) and rng.random() < 0.4:
        return value + rng.choice([-2, -1, 1, 0.5, 2**40])
    return rng.choice(JUNK)


def crafted_text(rng: random.Random, text: str) -> str:
    """The same of JSON as text, now and then of the text itself."""
    if rng.random() < 0.1:
        place = rng.randrange(len(text) + 1)
        wrong = ["NaN", "Infinity", "1e999", "{", "}", "[" * 5000, ",", '"', "\\ud800", "null", "-"]
        return text[:place] + rng.choice(wrong) + text[place + rng.randrange(3) :]
    found = json.dumps(crafted(rng, json.loads(text)))
    if rng.random() < 0.05:
        found = f"{found[:-1]},{found[1:]}"
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_crafted_files_load_as_they_say_or_are_refused(tmp_path, kind):
    write, read = KINDS[kind]
    path, rng = write(tmp_path), random.Random(1)
    name, header, tensors, data = taken_apart(path.read_bytes())
    refused = 0
    for i in range(CASES):
        new, entries, more = header, tensors, data
        act = rng.random()
        if act < 0.6:
            new = crafted_text(rng, header)
        elif act < 0.9:
            entries = crafted_text(rng, f"{{{tensors}}}")[1:-1]
        else:
            more = rng.choice([data[:-1], data + b"\0", data[::-1], b""])
        file = sealed(new, entries, more, name)
        refused += bool(outcome(read, path, file, counted=i % 8 == 0))
    # Losses, times and the words of a fit may be anything.
    assert (0.6 if kind == "fit" else 0.8) * CASES < refused < CASES
