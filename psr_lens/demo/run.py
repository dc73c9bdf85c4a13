"""The demo command's work: every trait, then report, results and steerings, whole or not at all."""

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm.auto import tqdm

from psr_lens._types import check_seed
from psr_lens.artifacts import write_bytes
from psr_lens.demo.experiment import STEPS, TraitResult, run_trait
from psr_lens.demo.instructions import FIRST_TRAITS, instruction
from psr_lens.demo.report import demo_report
from psr_lens.demo.results import results_json
from psr_lens.models import HookedModel
from psr_lens.plots import render_report


@dataclass(frozen=True)
class DemoRun:
    """What a demo run found and wrote.

    Attributes:
        results: One result per trait.
        report: Path of the page.
        numbers: Path of `results.json`.
        steerings: Paths of the fitted A-PSR files.
    """

    results: tuple[TraitResult, ...]
    report: Path
    numbers: Path
    steerings: tuple[Path, ...]


def run_demo(
    model: HookedModel,
    out: str | Path,
    *,
    traits: Sequence[str] = FIRST_TRAITS,
    seed: int = 0,
    progress: bool = True,
) -> DemoRun:
    """Run every trait; write `report.html`, `results.json` and `steering/NAME-a-psr.safetensors`.

    Nothing is written before the last trait is done; the files are made beside their place and then
    moved there.

    Args:
        model: A demo model.
        out: Directory to write to, made if missing.
        traits: Names of instructions of the demo world.
        seed: Same seed, same results.
        progress: Whether to show a bar.

    Raises:
        ValueError: If a trait is unknown, named twice, or there is none.
        OSError: If `out` cannot be written to.
    """
    if not traits or len(set(traits)) < len(traits):
        raise ValueError(f"traits={list(traits)}: name at least one trait, each once")
    for name in traits:
        instruction(name)
    check_seed(seed)
    out = Path(out)
    with tqdm(total=STEPS * len(traits), unit="step", disable=not progress) as bar:

        def done(step: str) -> None:
            bar.set_description(step)
            bar.update()

        results = tuple(run_trait(model, name, seed, done) for name in traits)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".writing-") as staging:
        staged = Path(staging)
        for result in results:
            result.steerings["a-psr"].save(staged / "steering" / f"{result.name}-a-psr")
        write_bytes(staged / "results.json", results_json(model, results, seed).encode())
        page = render_report(demo_report(model, results, seed))
        write_bytes(staged / "report.html", page.encode())
        (out / "steering").mkdir(exist_ok=True)
        for file in sorted(path for path in staged.rglob("*") if path.is_file()):
            shutil.move(file, out / file.relative_to(staged))
    return DemoRun(
        results,
        out / "report.html",
        out / "results.json",
        tuple(out / "steering" / f"{name}-a-psr.safetensors" for name in traits),
    )
