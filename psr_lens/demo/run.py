"""The demo command's work: every trait, then report, results and steerings, whole or not at all."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm.auto import tqdm

from psr_lens._types import check_seed
from psr_lens.artifacts import artifact_bytes
from psr_lens.demo.experiment import STEPS, TraitResult, run_trait
from psr_lens.demo.instructions import FIRST_TRAITS, instruction
from psr_lens.demo.report import demo_report
from psr_lens.demo.results import results_json
from psr_lens.files import refuse_foreign_files, write_files
from psr_lens.models import HookedModel
from psr_lens.plots import render_report
from psr_lens.plots.page import PAGE_MARK


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

    Nothing is written before the last trait is done; then each file is replaced whole.

    Args:
        model: A demo model.
        out: Directory to write to, made if missing.
        traits: Names of instructions of the demo world.
        seed: Same seed, same results.
        progress: Whether to show a bar.

    Raises:
        ValueError: If a trait is unknown, named twice, or there is none, or something that is not of
            an earlier run is where a file is to be written.
        OSError: If `out` cannot be written to.
    """
    if not traits or len(set(traits)) < len(traits):
        raise ValueError(f"traits={list(traits)}: name at least one trait, each once")
    for name in traits:
        instruction(name)
    check_seed(seed)
    out = Path(out)
    report, numbers = out / "report.html", out / "results.json"
    steerings = [out / "steering" / f"{name}-a-psr.safetensors" for name in traits]
    refuse_foreign_files(
        {report: PAGE_MARK, numbers: b'"psr_lens"', **dict.fromkeys(steerings, b"psr_lens")}
    )
    with tqdm(total=STEPS * len(traits), unit="step", disable=not progress) as bar:

        def done(step: str) -> None:
            bar.set_description(step)
            bar.update()

        results = tuple(run_trait(model, name, seed, done) for name in traits)
    fitted = [result.steerings["a-psr"] for result in results]
    files = {
        path: artifact_bytes(own.tensors(), own.header())
        for path, own in zip(steerings, fitted, strict=True)
    }
    files[numbers] = results_json(model, results, seed).encode()
    files[report] = render_report(demo_report(model, results, seed)).encode()
    write_files(files)
    return DemoRun(results, report, numbers, tuple(steerings))
