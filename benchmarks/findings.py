"""What the faithfulness lab finds on the demo models: the numbers behind `docs/findings.md`.

    python -m benchmarks.findings                               # everything, two hours
    python -m benchmarks.findings --models demo --traits pirate # one instruction
    python -m benchmarks.findings --fits fits                   # takes the fits of benchmarks.methods
    python -m benchmarks.findings --tables-only                 # the page's tables from the numbers

Fits on the training animals, measures on the held-out ones. Numbers go to
`benchmarks/findings/MODEL.json` after every instruction; the tables between the markers of
`docs/findings.md` are drawn from them, its prose is written by hand.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks import findings_tables
from benchmarks.findings_pictures import picture
from benchmarks.fits import CONTROL, CORE, Fit, Fitted, best_psr, demo_fits
from psr_lens.assumptions import measure_assumptions
from psr_lens.components import measure_components
from psr_lens.dataset import SteeringDataset
from psr_lens.demo.animals import fit_data, held_out_data
from psr_lens.demo.instructions import DEFAULT_TRAITS, INSTRUCTION_NAMES, instruction
from psr_lens.examples import Example
from psr_lens.faithfulness import NO_STEERING, FaithfulnessReport, measure_faithfulness
from psr_lens.fitting import fit, transfer
from psr_lens.models import HookedModel, load_model
from psr_lens.models.generation import generate_tokens
from psr_lens.prompts import make_pairs
from psr_lens.responses import make_example
from psr_lens.steering import PSR, Steering
from psr_lens.storage.atomic import write_bytes

ROOT = Path(__file__).parents[1]
NUMBERS = ROOT / "benchmarks" / "findings"
PAGE = ROOT / "docs" / "findings.md"
PICTURES = ROOT / "docs" / "_static"
MODELS = ("demo", "demo-gpt2")
FITS: dict[str, Fit] = {
    label: CORE[label]
    for label in (
        *("constant, one layer", "constant, mse", "constant, ll"),
        *("PSR, one layer", "PSR, layer by layer", "PSR, refined", "PSR, through the model"),
        *("PSR, 4 heads", CONTROL),
    )
}
OBJECTIVES: dict[str, Fit] = {
    "constant, layer 2, ll": {
        "method": "const",
        "layers": 2,
        "solver": "gradient",
        "objective": "ll",
    },
    "PSR, mse": {"method": "psr", "solver": "gradient"},
    "PSR, ll": {"method": "psr", "solver": "gradient", "objective": "ll"},
}
"""The last two differ in nothing but the objective."""
MEASURES = ("relative_rmse", "relative_kl", "agreement", "spearman", "cosine")
DIFFERENCES = (
    ("constant, one layer", "PSR, one layer"),
    ("constant, one layer", "PSR"),
    ("constant, mse", "PSR"),
    ("constant, ll", "PSR"),
    (CONTROL, "PSR"),
    ("PSR, one layer", "PSR"),
    ("PSR", "PSR, 4 heads"),
    ("PSR, layer by layer", "PSR, refined"),
    ("PSR", "paraphrase"),
    ("PSR, 4 heads", "paraphrase"),
)
"""Paired; `PSR` is the one-head PSR that is closest on the dev animals, whichever solver fitted it."""
PARTS = ("coefficient", "direction", "uncovered", "propagation")
_DIGITS = 5


PARTS_OF_PAGE = ("faithfulness", "objectives", "assumptions", "components", "transfer")


def measure(
    model: HookedModel,
    other: HookedModel,
    name: str,
    folder: Path | None,
    parts: Sequence[str] = PARTS_OF_PAGE,
    seed: int = 0,
) -> dict[str, Any]:
    """Everything about one instruction on one model; `other` is where its PSR is carried to."""
    train = fit_data(model, name, seed)
    test = with_wordings(model, held_out_data(model, name, seed + 1), name)
    wanted = FITS if {"faithfulness", "transfer"} & set(parts) else {}
    found = demo_fits(model, train, name, wanted, folder, seed)
    steerings = {label: own.steering for label, own in found.items()}
    reports = {label: own.report for label, own in found.items()}
    makers = {
        "faithfulness": lambda: faithfulness(model, steerings, reports, test, seed),
        "objectives": lambda: objectives(
            model, demo_fits(model, train, name, OBJECTIVES, folder, seed), test, seed
        ),
        "assumptions": lambda: assumptions(model, train, test, seed),
        "components": lambda: components(model, test, seed),
        "transfer": lambda: transferred(model, other, steerings["PSR, layer by layer"], name, seed),
    }
    return {part: makers[part]() for part in parts}


def with_wordings(model: HookedModel, data: SteeringDataset, name: str) -> SteeringDataset:
    """The same examples, with two more wordings of the instruction beside the held-out one."""
    told = instruction(name)
    wordings = (told.held_out_wording, *told.wordings[1:3])

    def worded(example: Example) -> Example:
        asked = str(example.pair.metadata["question"])
        (pair,) = make_pairs([asked], told.wordings[0], paraphrases=wordings)
        full = replace(example.pair, paraphrases=pair.paraphrases)
        assert pair.prompted == example.pair.prompted
        said, finished = example.response_ids, example.finished
        return make_example(model, full, said, finished, example.rendering)

    return replace(data, examples=tuple(worded(example) for example in data))


def faithfulness(
    model: HookedModel,
    steerings: dict[str, Steering],
    reports: dict[str, dict[str, Any]],
    test: SteeringDataset,
    seed: int,
) -> dict[str, Any]:
    """Curves of every steering and reference line, paired differences, and the gap split."""
    report = measure_faithfulness(model, steerings, test, seed=seed, batch_size=64)
    psr = best_psr(reports)
    curves = {
        measure: {name: curve_numbers(own) for name, own in report.curves(measure).items()}
        for measure in MEASURES
    }
    gap = {
        part: {name: curve_numbers(own) for name, own in report.curves(f"gap_{part}").items()}
        for part in PARTS
    }

    def own(name: str) -> str:
        return psr if name == "PSR" else name

    differences = {
        f"{first} - {second}": curve_numbers(report.difference(own(first), own(second)))
        for first, second in DIFFERENCES
    }
    return {
        "examples": report.examples,
        "energy": _energy(report),
        "fits": reports,
        "psr": psr,
        "curves": curves,
        "gap": gap,
        "differences": differences,
    }


def objectives(
    model: HookedModel, found: dict[str, Fitted], test: SteeringDataset, seed: int
) -> dict[str, Any]:
    """Squared error against likelihood: curves of fits that differ in the objective."""
    steerings = {label: own.steering for label, own in found.items()}
    report = measure_faithfulness(model, steerings, test, seed=seed, batch_size=64)
    return {
        "layers": {label: list(own.layers) for label, own in steerings.items()},
        "energy": _energy(report),
        "curves": {
            measure: {name: curve_numbers(report.curves(measure)[name]) for name in steerings}
            for measure in MEASURES
        },
    }


def _energy(report: FaithfulnessReport) -> list[float]:
    """The prompt's own, by layer."""
    return rounded(report.runs[NO_STEERING].sums["energy"].sum(dim=0).tolist())


def assumptions(
    model: HookedModel, train: SteeringDataset, test: SteeringDataset, seed: int
) -> dict[str, Any]:
    """The three assumption tests, local deltas, probes fitted on the training animals."""
    report = measure_assumptions(model, test, probe_data=train.train, seed=seed, batch_size=64)
    rows = {
        **{f"share of {k}": report.curve("energy_share", at=k) for k in (1, 2, 4, 8)},
        "variation": report.curve("strength_variation"),
        "mean energy": report.curve("mean_energy_share"),
        "relu r2": report.curve("relu_r2"),
        "linear r2": report.curve("linear_r2"),
        **{f"norm p{p}": report.curve("norm_quantile", at=p) for p in (10, 50, 90)},
    }
    classes = {
        own: curve_numbers(report.curve("class_energy_share", token_class=own))
        for own in report.token_classes
    }
    return {**{name: curve_numbers(own) for name, own in rows.items()}, "classes": classes}


def components(model: HookedModel, test: SteeringDataset, seed: int) -> list[dict[str, Any]]:
    """Every component's share, and for heads the attention to the instruction."""
    report = measure_components(model, test, seed=seed, batch_size=64)
    found = []
    for own in report.components:
        attention = own.instruction_attention
        found.append(
            {
                "name": own.name,
                "kind": own.kind,
                "share": rounded([own.share.value, own.share.low, own.share.high]),
                "attention": None if attention is None else round(attention.value, _DIGITS),
            }
        )
    return found


def transferred(
    model: HookedModel, other: HookedModel, steering: Steering, name: str, seed: int
) -> dict[str, Any]:
    """The PSR of `model` carried to `other`, against that one's own, on its held-out animals."""
    assert isinstance(steering, PSR)
    test = held_out_data(other, name, seed + 1)
    own = fit(other, fit_data(other, name, seed), solver="layerwise", seed=seed)
    compared: dict[str, Steering] = {"own": own}
    for label, texts in shared_texts(model, other, name, seed).items():
        compared[label] = transfer(steering, model, other, texts)
    report = measure_faithfulness(
        other, compared, test, seed=seed, batch_size=64, oracle_ranks=(), gap=False
    )
    return {
        "to": other.name,
        **{label: curve_numbers(curve) for label, curve in report.relative_rmse.items()},
    }


def shared_texts(
    model: HookedModel, other: HookedModel, name: str, seed: int
) -> dict[str, list[tuple[int, ...]]]:
    """Text of training animals that both models read, without and with the instruction's."""
    data = [fit_data(each, name, seed) for each in (model, other)]
    plain = [_plain_rows(each, seed) for each in (model, other)]
    neutral = [row for rows in plain for row in rows]
    shown = [
        tokens
        for part in data
        for example in part
        for tokens in (example.base_row.tokens, example.prompted_row.tokens)
    ]
    return {"neutral text": neutral, "text with the trait": neutral + shown}


@cache
def _plain_rows(model: HookedModel, seed: int) -> list[tuple[int, ...]]:
    prompts = [example.pair.base for example in fit_data(model, "pirate", seed)]
    said = generate_tokens(model, prompts, max_new_tokens=96, seed=seed, batch_size=256)
    return [
        (*model.encoder.encode(prompt).ids, *own.tokens)
        for prompt, own in zip(prompts, said, strict=True)
    ]


def curve_numbers(curve: Any) -> dict[str, list[float]]:
    """A curve and the ends of its intervals, as JSON values."""
    return {end: rounded(getattr(curve, end)) for end in ("values", "low", "high")}


def rounded(values: Sequence[float]) -> list[float]:
    """Numbers as a file of findings holds them."""
    return [round(float(value), _DIGITS) for value in values]


def read_numbers() -> dict[str, dict[str, Any]]:
    """What has been measured so far, by model and instruction."""
    files = {name: NUMBERS / f"{name}.json" for name in MODELS}
    return {name: json.loads(file.read_text()) for name, file in files.items() if file.is_file()}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.findings", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    everything = [*DEFAULT_TRAITS, *(n for n in INSTRUCTION_NAMES if n not in DEFAULT_TRAITS)]
    parser.add_argument("--traits", nargs="+", default=everything, choices=everything)
    parser.add_argument("--parts", nargs="+", default=PARTS_OF_PAGE, choices=PARTS_OF_PAGE)
    parser.add_argument("--fits", type=Path, default=None, help="folder to keep the fits in")
    parser.add_argument("--tables-only", action="store_true", help="measure nothing")
    options = parser.parse_args(arguments)
    if not options.tables_only:
        models = {name: load_model(name) for name in MODELS}
        for name in options.models:
            found = read_numbers().get(name, {})
            (other,) = (model for key, model in models.items() if key != name)
            for trait in options.traits:
                start = time.perf_counter()
                found.setdefault(trait, {}).update(
                    measure(models[name], other, trait, options.fits, options.parts)
                )
                content = json.dumps(found, indent=0) + "\n"
                write_bytes(NUMBERS / f"{name}.json", content.encode())
                print(f"{name} {trait}: {time.perf_counter() - start:.0f} s", flush=True)
    numbers = read_numbers()
    page = findings_tables.fill(PAGE.read_text(encoding="utf-8"), numbers)
    write_bytes(PAGE, page.encode())
    for name, found in numbers.items():
        write_bytes(PICTURES / f"findings-{name}.svg", picture(found).encode())


if __name__ == "__main__":
    main()
