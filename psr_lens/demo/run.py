"""The demo command's work: every trait, then report, results and steerings, all or nothing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from psr_lens._types import check_seed
from psr_lens.demo.animals import animal_trial
from psr_lens.demo.demo_page import demo_report
from psr_lens.demo.everyday import everyday_judge, everyday_trial
from psr_lens.demo.everyday_instructions import everyday_instruction
from psr_lens.demo.experiment import TraitResult, run_trial, steps
from psr_lens.demo.instructions import FIRST_TRAITS, instruction
from psr_lens.demo.results import results_json
from psr_lens.demo.time_to_go import TimeToGo
from psr_lens.demo.trial import METHODS, PSR, Trial
from psr_lens.models import HookedModel
from psr_lens.models.sources import EMBEDDED_MODELS
from psr_lens.pages import render_traits
from psr_lens.pages.page import PAGE_MARK
from psr_lens.steering.base import KIND
from psr_lens.storage import container_bytes, refuse_foreign
from psr_lens.storage.atomic import refuse_foreign_files, write_files


@dataclass(frozen=True)
class DemoRun:
    """What a demo run found and wrote.

    Attributes:
        results: One result per trait.
        report: Path of the page.
        numbers: Path of `results.json`.
        steerings: Paths of the fitted PSR files.
    """

    results: tuple[TraitResult, ...]
    report: Path
    numbers: Path
    steerings: tuple[Path, ...]


@final
@dataclass(frozen=True)
class World:
    """What can be tried on a model.

    Attributes:
        first: The traits to run if none is named.
        check: Refuses a trait that is unknown, or whose judges are not installed.
        trial: A trait, sampled from a model.
        seconds: What a step takes, by how its name begins, as a first guess of the time to go. Measured
            on two cores, on `demo` and on SmolLM2-135M.
    """

    first: tuple[str, ...]
    check: Callable[[str], object]
    trial: Callable[[HookedModel, str, int], Trial]
    seconds: dict[str, float]


ANIMALS: Final = World(
    FIRST_TRAITS,
    instruction,
    animal_trial,
    {"sampling": 8.0, "fitting constant": 30.0, "answers": 8.0, "": 6.0},
)
EVERYDAY: Final = World(
    ("french",),
    lambda name: everyday_judge(everyday_instruction(name).name),
    everyday_trial,
    {"sampling": 90.0, "fitting difference": 80.0, "fitting constant": 140.0, "fitting": 25.0}
    | {"faithfulness": 120.0, "answers": 60.0, "": 40.0},
)
_SAMPLING: Final = "sampling"


def world_of(model: str) -> World:
    """The demo world for the models that live in it, everyday questions for any other."""
    return ANIMALS if model in EMBEDDED_MODELS else EVERYDAY


def check_traits(world: World, traits: Sequence[str]) -> tuple[str, ...]:
    """The traits to run, checked before a model is loaded.

    Raises:
        ValueError: If one is unknown or named twice, or what judges it is not installed.
    """
    if len(set(traits)) < len(traits):
        raise ValueError(f"traits={list(traits)}: name each once")
    for name in traits or world.first:
        world.check(name)
    return tuple(traits) or world.first


def run_demo(
    model: HookedModel,
    out: str | Path,
    *,
    traits: Sequence[str] = (),
    seed: int = 0,
    progress: bool = True,
    world: World | None = None,
) -> DemoRun:
    """Run every trait; write `report.html`, `results.json` and `steering/NAME-psr.safetensors`.

    A demo model is asked about its animals, any other everyday questions. Nothing is written before
    the last trait is done; then each file is replaced whole.

    Args:
        model: The model.
        out: Directory to write to, made if missing.
        traits: Names of instructions of the demo world, or of `everyday_instructions.EVERYDAY` for a real
            model; by default the world's `first`.
        seed: Same seed, same results.
        progress: Whether to show a bar with the time to go.
        world: What the model is asked; by default that of its name.

    Raises:
        ValueError: If a trait is unknown or named twice, what judges it is not installed, or something
            that is not from an earlier run is in the way of a file.
        OSError: If `out` cannot be written to.
    """
    world = world_of(model.name) if world is None else world
    traits = check_traits(world, traits)
    check_seed(seed)
    out = Path(out)
    report, numbers = out / "report.html", out / "results.json"
    steerings = [out / "steering" / f"{name}-psr.safetensors" for name in traits]
    refuse_foreign_files({report: PAGE_MARK, numbers: b'"psr_lens"'})
    for path in steerings:
        refuse_foreign(path, KIND)
    expected = {
        f"{name}: {step}": next(s for head, s in world.seconds.items() if step.startswith(head))
        for name in traits
        for step in (_SAMPLING, *steps(METHODS))
    }
    results: list[TraitResult] = []
    with TimeToGo(expected, progress) as clock:
        for name in traits:

            def begin(step: str, name: str = name) -> None:
                clock.begin(f"{name}: {step}")

            begin(_SAMPLING)
            results.append(run_trial(model, world.trial(model, name, seed), seed, begin))
    fitted = [result.steerings[PSR] for result in results]
    files = {
        path: container_bytes(KIND, own.state_dict(), own.header())
        for path, own in zip(steerings, fitted, strict=True)
    }
    files[numbers] = results_json(model, results, seed).encode()
    files[report] = render_traits(demo_report(model, results, seed)).encode()
    write_files(files)
    return DemoRun(tuple(results), report, numbers, tuple(steerings))
