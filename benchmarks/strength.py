"""Trait at coherence 80 and at the prompt's coherence: the tables of docs/strength.md.

    python -m benchmarks.strength demo       # the ten instructions of the demo world
    python -m benchmarks.strength smollm2    # the eight instructions of docs/real-model.md
    python -m benchmarks.strength smollm2 poem child    # some of them; the other numbers stay
    python -m benchmarks.strength            # draws the tables from the numbers that are kept

In the demo world constants and PSRs are fitted in several settings (`DEMO`, `AT_ALL`), and for every
instruction and target the setting is chosen on dev questions. On SmolLM2 each fit of
`benchmarks.real_findings`, from its folder where it is there, is shown by itself. Strengths are chosen on
dev questions, and everything shown is measured on questions about other subjects. Finished answers are kept
in `strength-report/`, so that the command goes on where it was stopped; numbers in
`benchmarks/strength.json`.
"""

import argparse
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psr_lens as pl
from benchmarks import strength_picture
from benchmarks.fits import Fit, Fitted, fitted
from benchmarks.real_findings.answers import PER_QUESTION, SAMPLING, answers
from benchmarks.real_findings.methods import CLOSED, LAYERWISE, TRAINED, fast_arithmetic
from psr_lens.demo.animals import MAX_NEW_TOKENS, fit_data, held_out_data
from psr_lens.demo.everyday import everyday_judge
from psr_lens.demo.everyday_instructions import EVERYDAY
from psr_lens.demo.exact_judge import ExactJudge
from psr_lens.demo.instructions import DEFAULT_TRAITS, INSTRUCTION_NAMES
from psr_lens.evaluation.questions import PROMPT
from psr_lens.storage.atomic import write_bytes

ROOT: Final = Path(__file__).parents[1]
NUMBERS: Final = ROOT / "benchmarks" / "strength.json"
PAGE: Final = ROOT / "docs" / "strength.md"
PICTURE: Final = ROOT / "docs" / "_static" / "strength.svg"
KEPT: Final = ROOT / "strength-report"
FINDINGS: Final = ROOT / "real-findings"
TARGETS: Final = {"80": "TA@C80", ">=80": "best trait at 80 or more", "prompt": "TA@Cp"}
_MARKED: Final = "(<!-- table strength {} -->\n).*?(<!-- end -->)"


@dataclass(frozen=True)
class Case:
    """One instruction: what is compared, where, and how it is judged."""

    steerings: Mapping[str, pl.Steering]
    dev: Sequence[pl.Example]
    test: Sequence[pl.Example]
    judge: pl.Judge


@dataclass(frozen=True)
class Study:
    """A model with its instructions.

    Attributes:
        model: Its name.
        names: The instructions.
        case: Fits and samples one of them.
        methods: The methods, each in one setting.
        columns: What the table of instructions shows beside the prompt: methods and keys of `FAMILIES`.
        options: Of `measure_behaviour`.
    """

    model: str
    names: Sequence[str]
    case: Callable[[pl.HookedModel, str], Case]
    methods: Sequence[str]
    columns: Sequence[str]
    options: Mapping[str, Any]


BEST_CONSTANT: Final = "the best constant"
BEST_PSR: Final = "the best PSR"
FAMILIES: Final = {BEST_CONSTANT: "constant, ", BEST_PSR: "PSR, "}
"""Methods that are one method in several settings, and how their names begin."""

STRENGTHS: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""Up to the strongest that a search tries."""
ONE_HEAD: Final = "PSR, 1 head"
CONSTANT: Final = "constant, ll"
FOR_ALL: Final = "PSR, 4 heads, ll, for all strengths"
DEMO: Final[Mapping[str, Mapping[str, Any]]] = {
    "difference in means": {"method": "dim", "layers": "best"},
    "constant, mse": {"method": "const", "solver": "gradient"},
    CONSTANT: {"method": "const", "solver": "gradient", "objective": "ll"},
    ONE_HEAD: {"method": "psr", "solver": "layerwise"},
    "PSR, refined": {"method": "psr", "solver": "refine"},
    "PSR, 16 heads": {"method": "psr", "solver": "layerwise", "n_heads": 16},
    "PSR, 4 heads, ll": {"method": "psr", "n_heads": 4, "solver": "gradient", "objective": "ll"},
}
"""Everything that is fitted at strength 1."""
AT_ALL: Final[Mapping[str, Mapping[str, Any]]] = {
    "constant, ll, for all strengths": DEMO[CONSTANT],
    FOR_ALL: {**DEMO["PSR, 4 heads, ll"], "lr": 0.03},
}
"""Fitted to be right at each of `STRENGTHS`."""
LOOKED_AT: Final = ("pirate", "optimist", "flatterer")
"""While the heads, the step size and the strengths of `FOR_ALL` were set by hand."""

DRAWN: Final = {ONE_HEAD: 0, CONSTANT: 4, FOR_ALL: 3}
"""In the picture, and the number of the colour."""


def _demo_case(model: pl.HookedModel, name: str) -> Case:
    fitted_on, test = fit_data(model, name, 0), held_out_data(model, name, 1)
    steerings = {label: pl.fit(model, fitted_on, **own) for label, own in DEMO.items()}
    several = fitted_on.at_strengths(STRENGTHS)
    steerings |= {label: pl.fit(model, several, **own) for label, own in AT_ALL.items()}
    return Case(steerings, fitted_on.dev, test, ExactJudge(name))


def _real_case(model: pl.HookedModel, name: str) -> Case:
    data = answers(model, name, FINDINGS)
    first = data.fitted_on[0]
    place = FINDINGS / name / "fits"

    def fits(all_fits: Mapping[str, Fit]) -> dict[str, Fitted]:
        own = {label: fit for label, fit in all_fits.items() if label in REAL}
        return fitted(model, first, own, lambda: first, place)

    found = fits({**CLOSED, **LAYERWISE})
    with fast_arithmetic(model, first):
        found |= fits(TRAINED)
    steerings = {label: found[label].steering for label in REAL}
    return Case(steerings, first.dev, data.test, everyday_judge(name))


REAL: Final = (
    "difference in means",
    "constant, mse",
    "constant, ll",
    "PSR, refined",
    "PSR, 16 heads",
)
_REAL_OPTIONS: Final = {**SAMPLING, "samples_per_prompt": PER_QUESTION, "most_evaluations": 10}
STUDIES: Final = {
    "demo": Study(
        "demo",
        (*DEFAULT_TRAITS, *(own for own in INSTRUCTION_NAMES if own not in DEFAULT_TRAITS)),
        _demo_case,
        (*DEMO, *AT_ALL),
        ("difference in means", *FAMILIES),
        {"max_new_tokens": MAX_NEW_TOKENS, "batch_size": 256},
    ),
    "smollm2": Study(
        "smollm2",
        tuple(EVERYDAY),
        _real_case,
        REAL,
        REAL,
        _REAL_OPTIONS,
    ),
}


def measured(study: Study, model: pl.HookedModel, name: str, kept: Path) -> dict[str, Any]:
    """One instruction: for every method and target the strength, and both scores on test questions.

    Args:
        study: Where it belongs.
        model: The model.
        name: The instruction.
        kept: Where answers are kept, in a folder of its name.
    """
    case = study.case(model, name)
    place = kept / name
    found = pl.measure_behaviour(
        model,
        case.steerings,
        case.test,
        case.judge,
        dev=case.dev,
        targets=list(TARGETS),
        checkpoint=place,
        **study.options,
    )
    found.save(place.with_suffix(".safetensors"))
    found.to_html(place.with_suffix(".html"))
    return {
        "dev_questions": len(found.dev_questions),
        "questions": len(found.questions),
        "methods": {
            label: {target: _cell(found, label, target) for target in TARGETS}
            | _curve(found, label)
            for label in (*study.methods, PROMPT)
        },
        "against the prompt": {
            label: {target: _ends(found.difference(label, PROMPT, target)) for target in TARGETS}
            for label in study.methods
        },
    }


def _cell(found: pl.Behaviour, label: str, target: Any) -> dict[str, Any]:
    run = found.at(label, target)
    return {
        "alpha": run.alpha,
        "how": "" if run.alpha is None else found.strength(label, target).how,
        **{aspect: _ends(found.estimate(run, aspect)) for aspect in ("trait", "coherence")},
    }


def _curve(found: pl.Behaviour, label: str) -> dict[str, Any]:
    """Strength, trait and coherence of everything that was tried on dev questions."""
    runs = found.runs(label, "dev") if label in found.steerings else ()
    return {
        "dev": [
            [round(own.alpha or 0.0, 3), round(own.trait, 2), round(own.coherence, 2)]
            for own in runs
        ]
    }


def _ends(found: Any) -> list[float]:
    return [round(own, 2) for own in (found.value, found.low, found.high)]


def chosen(own: Mapping[str, Any], column: str, target: str) -> str:
    """The method behind a column, for one instruction.

    Of a family it is the setting with the best trait on dev questions, each at the strength that was chosen
    there for the target; of equals the first.
    """
    if column not in FAMILIES:
        return column
    family = [label for label in own["methods"] if label.startswith(FAMILIES[column])]
    return max(family, key=lambda label: _dev_trait(own["methods"][label], target))


def _dev_trait(method: Mapping[str, Any], target: str) -> float:
    alpha = method[target]["alpha"]
    return next(trait for tried, trait, _ in method["dev"] if tried == round(alpha, 3))


def means(
    traits: Mapping[str, Any], column: str, target: str, names: Sequence[str] | None = None
) -> tuple[float, float]:
    """Trait and coherence of a method or family on test questions, mean over all or these instructions."""
    found = [traits[name] for name in names or traits]
    rows = [own["methods"][chosen(own, column, target)][target] for own in found]
    trait, coherence = (
        sum(row[aspect][0] for row in rows) / len(rows) for aspect in ("trait", "coherence")
    )
    return trait, coherence


def fill(page: str, numbers: Mapping[str, Any]) -> str:
    """The page with the marked tables drawn anew."""
    for key, study in STUDIES.items():
        if key in numbers:
            tables = {key: _table(study, numbers[key])}
            if set(study.columns) & set(FAMILIES):
                tables[f"{key} settings"] = _settings(study, numbers[key])
            for mark, table in tables.items():
                page = re.sub(
                    _MARKED.format(mark),
                    lambda match, own=table: match.group(1) + own + match.group(2),
                    page,
                    flags=re.DOTALL,
                )
    return page


def _settings(study: Study, traits: Mapping[str, Any]) -> str:
    """Every method in every setting: trait and coherence, means over the instructions."""
    columns = (*study.methods, *FAMILIES, PROMPT)
    lines = [["mean over the instructions", *TARGETS.values()], ["---"] * (len(TARGETS) + 1)]
    for label in columns:
        both = [means(traits, label, target) for target in TARGETS]
        lines.append([label, *(f"{trait:.1f} / {coherence:.0f}" for trait, coherence in both)])
    return _drawn(lines)


def _table(study: Study, traits: Mapping[str, Any]) -> str:
    """Every instruction, one block for each target; short lines where there are many columns."""
    columns = (*study.columns, PROMPT)
    narrow = len(columns) > 5
    lines = []
    for target, title in TARGETS.items():
        lines.append([f"**{title}**", *columns])
        if len(lines) == 1:
            lines.append(["---"] * len(lines[0]))
        for name, own in traits.items():
            lines.append([name, *(_shown(own, label, target, narrow) for label in columns)])
        both = [means(traits, label, target) for label in columns]
        lines.append(["mean", *(f"**{trait:.1f}** / {coherence:.0f}" for trait, coherence in both)])
    return _drawn(lines)


def _drawn(lines: Sequence[Sequence[str]]) -> str:
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _shown(own: Mapping[str, Any], column: str, target: str, narrow: bool) -> str:
    label = chosen(own, column, target)
    cell = own["methods"][label][target]
    trait, low, high = cell["trait"]
    # A hyphen at which no line is broken.
    interval = f"{low:.0f}\u2011{high:.0f}"
    scores = f"{trait:.0f} / {cell['coherence'][0]:.0f}"
    if cell["alpha"] is None:
        return f"{scores}<br>{interval}" if narrow else f"{scores}<br>({interval})"
    setting = f"{label.removeprefix(FAMILIES[column])} " if column in FAMILIES else ""
    strength = f"{setting}at {cell['alpha']:.3g}"
    if narrow:
        return f"{scores}<br>{interval}<br>{strength}"
    return f"{scores} ({interval})".replace(" ", "\u00a0") + f"<br>{strength}"


def _kept() -> dict[str, Any]:
    return json.loads(NUMBERS.read_text(encoding="utf-8")) if NUMBERS.is_file() else {}


def as_lines(numbers: Mapping[str, Mapping[str, Any]]) -> str:
    """As JSON, one instruction on a line."""

    def block(name: str, lines: Sequence[str]) -> str:
        return f"{json.dumps(name)}: {{\n" + ",\n".join(lines) + "\n}"

    studies = [
        block(key, [f"{json.dumps(name)}: {json.dumps(own)}" for name, own in found.items()])
        for key, found in numbers.items()
    ]
    return "{\n" + ",\n".join(studies) + "\n}\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.strength", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("study", nargs="?", choices=STUDIES, help="what to measure")
    parser.add_argument("names", nargs="*", help="which instructions (default: all)")
    options = parser.parse_args(arguments)
    if options.study is not None:
        study = STUDIES[options.study]
        if unknown := set(options.names) - set(study.names):
            parser.error(f"{sorted(unknown)}: take from {', '.join(study.names)}")
        # The bare model of transformers decodes fastest.
        model = pl.load_model(study.model, backend="transformers", progress=False)
        for name in options.names or study.names:
            started = time.perf_counter()
            found = measured(study, model, name, KEPT / options.study)
            # Read anew, so that numbers of a command that was at work meanwhile stay.
            numbers = _kept()
            numbers.setdefault(options.study, {})[name] = found
            write_bytes(NUMBERS, as_lines(numbers).encode())
            print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)
    numbers = _kept()
    page = fill(PAGE.read_text(encoding="utf-8"), numbers)
    write_bytes(PAGE, page.encode())
    found = numbers.get("demo", {})
    if all(label in own["methods"] for own in found.values() for label in DRAWN):
        write_bytes(PICTURE, strength_picture.drawn(found, DRAWN).encode())


if __name__ == "__main__":
    main()
