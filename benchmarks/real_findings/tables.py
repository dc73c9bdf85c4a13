"""The tables of `docs/real-model.md`, from the numbers."""

from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from statistics import median
from typing import Any, Final

from benchmarks.findings_tables import main_components
from benchmarks.real_findings import agreement
from benchmarks.real_findings.answers import SEEDS
from benchmarks.real_findings.judged import score_difference
from benchmarks.real_findings.methods import (
    BEHAVIOUR,
    IN_BOTH,
    MANY,
    RESAMPLED,
    inside,
    seeded,
)
from benchmarks.real_findings.numbers import (
    COPIES,
    SECONDS,
    SIZES,
    TOY,
    Numbers,
    of_instructions,
)
from benchmarks.real_findings.sizes import FITS, INSTRUCTION
from benchmarks.real_findings.toy import FEW
from benchmarks.real_findings.toy import MANY as NOISY
from benchmarks.real_findings.toy import MIDDLE as IN_MIDDLE
from benchmarks.real_model import cell
from psr_lens.demo.everyday_instructions import EVERYDAY

Rows = list[list[str]]
NOT_PARTS: Final = ("provenance", SECONDS)
CONSTANTS: Final = ("difference in means", "constant, mse", "constant, ll")
PSRS: Final = ("PSR", "PSR, refined", "PSR, 4 heads", "PSR, 16 heads")
BEST: Final = inside(*MANY)
"""Between attention and MLP, with the answers of all samples."""


def closest(found: Mapping[str, Any], labels: Sequence[str]) -> str:
    """The label of the fit that is closest on the dev answers, at the last layer."""
    return min(labels, key=lambda label: found["fits"][label]["dev"])


def end(curve: Mapping[str, Sequence[float]]) -> str:
    """At the last layer, with the interval."""
    return f"{curve['values'][-1]:.2f} ({curve['low'][-1]:.2f} to {curve['high'][-1]:.2f})"


def stacked(curve: Mapping[str, Sequence[float]]) -> str:
    """The same, with the interval below in one piece, for tables with a column for every instruction."""
    low, high = curve["low"][-1], curve["high"][-1]
    return f"{curve['values'][-1]:.2f}<br>{low:.2f}\u2011{high:.2f}"


def estimate(found: Sequence[float], form: str = ".2f") -> str:
    """A number with its interval, if it has one."""
    value, low, high = found
    if low != low:
        return f"{value:{form}}"
    return f"{value:{form}} ({low:{form}} to {high:{form}})"


def prompt_rows(numbers: Numbers) -> Rows:
    """How well the prompt works: trait and fluency without and with it."""
    rows = [["instruction", "trait: base", "prompt", "its paraphrases", "fluency: base", "prompt"]]
    for name, part in of_instructions(numbers, "prompt").items():
        means = part["means"]
        rows.append(
            [
                name,
                *(
                    estimate(means[kind]["trait"], ".0f")
                    for kind in ("base", "prompt", "paraphrases")
                ),
                *(estimate(means[kind]["fluency"], ".0f") for kind in ("base", "prompt")),
            ]
        )
    return rows


def judge_rows(numbers: Numbers) -> Rows:
    """What fluency and likelihood say of prompted answers, and of the same ones made bad."""
    kinds = ("prompt", "base", "words shuffled", "letters shuffled", "in a loop")
    rows = [["instruction", *(f"fluency: {kinds[0]}", *kinds[1:])]]
    rows[0] += [f"likelihood: {kinds[0]}", *kinds[1:]]
    for name, part in of_instructions(numbers, "prompt").items():
        means = part["means"]
        rows.append(
            [
                name,
                *(f"{means[kind]['fluency'][0]:.0f}" for kind in kinds),
                *(f"{means[kind]['likelihood'][0]:.2f}" for kind in kinds),
            ]
        )
    return rows


def confusion_rows(numbers: Numbers) -> Rows:
    """Every judge on the prompted answers to every instruction."""
    found = of_instructions(numbers, "prompt")
    rows = [["answers to", *(f"judge of {name}" for name in found)]]
    for name, part in found.items():
        texts = [row["text"] for row in part["answers"]["prompt"]]
        scores = [sum(map(EVERYDAY[judge].judge, texts)) / len(texts) for judge in found]
        cells = [f"{score:.0f}" for score in scores]
        rows.append(
            [name, *(f"**{c}**" if j == name else c for j, c in zip(found, cells, strict=True))]
        )
    return rows


def distance_rows(numbers: Numbers) -> Rows:
    """Relative RMSE at the last layer of every method, and the lines beside it."""
    shown = (
        *CONSTANTS,
        *("projection match", "ReFT-r1", "LoReFT"),
        *PSRS,
        *(BEST, "paraphrase", "random direction"),
    )
    found = of_instructions(numbers, "distances")
    rows = [["", *found]]
    for label in shown:
        curves = [part["relative_rmse"].get(label) for part in found.values()]
        rows.append([label, *("" if own is None else stacked(own) for own in curves)])
    return rows


def ladder_rows(numbers: Numbers) -> Rows:
    """What a limited oracle leaves, and where the distance of the closest one-head PSR comes from."""
    parts = ("coefficient", "direction", "uncovered", "propagation")
    rows = [
        ["instruction", "oracle rank 1", "rank 4", "rank 16", "PSR²", *parts, "16 heads²", *parts]
    ]
    for name, part in of_instructions(numbers, "distances").items():
        cells = [
            f"{part['relative_rmse'][f'oracle rank {k}']['values'][-1]:.2f}" for k in (1, 4, 16)
        ]
        for label in (closest(part, PSRS[:2]), "PSR, 16 heads"):
            cells.append(f"{part['relative_rmse'][label]['values'][-1] ** 2:.3f}")
            cells += [f"{part['gap'][kind][label][0]:+.3f}" for kind in parts]
        rows.append([name, *cells])
    return rows


def seeds_rows(numbers: Numbers) -> Rows:
    """Layerwise fits on answers of three sampling seeds, at the last layer."""
    rows = [["instruction", *RESAMPLED]]
    for name, part in of_instructions(numbers, "distances").items():
        curves = part["relative_rmse"]
        cells = []
        for label in RESAMPLED:
            labels = [label, *(seeded(label, seed) for seed in SEEDS[1:])]
            cells.append(", ".join(f"{curves[own]['values'][-1]:.2f}" for own in labels))
        rows.append([name, *cells])
    return rows


def paired_rows(numbers: Numbers) -> Rows:
    """How much further the first is from the prompt than the second, resampled over questions."""
    rows = [
        [
            *("instruction", "closest constant", "it − closest 1-head PSR"),
            *("it − 16 heads", "paraphrase − 64 heads between"),
        ]
    ]
    for name, part in of_instructions(numbers, "distances").items():
        constant, psr = closest(part, CONSTANTS), closest(part, PSRS[:2])
        pairs = [(constant, psr), (constant, "PSR, 16 heads"), ("paraphrase", BEST)]
        differences = [estimate(agreement.difference(part["questions"], *pair)) for pair in pairs]
        rows.append([name, constant, *differences])
    return rows


def assumption_rows(numbers: Numbers) -> Rows:
    """Median over the layers of what the assumption tests found."""
    rows = [
        [
            *("instruction", "90th / 10th percentile of the norm", "variation of the strength"),
            *("energy in the mean", "1 direction", "4", "8", "R² of the ReLU probe", "linear"),
        ]
    ]

    for name, part in of_instructions(numbers, "assumptions").items():
        low, high = part["norm p10"]["values"], part["norm p90"]["values"]
        spread = median([b / max(a, 1e-9) for a, b in zip(low, high, strict=True)])
        shares = ("mean energy", "share of 1", "share of 4", "share of 8")
        rows.append(
            [
                name,
                f"{spread:.1f}",
                f"{median(part['variation']['values']):.2f}",
                *(f"{median(part[key]['values']):.0%}" for key in shares),
                *(f"{median(part[key]['values']):.2f}" for key in ("relu r2", "linear r2")),
            ]
        )
    return rows


def head_rows(numbers: Numbers) -> Rows:
    """Which parts bring the instruction in."""
    rows = [["instruction", "attention", "MLP", "heads that write most", "heads that read it most"]]
    for name, parts in of_instructions(numbers, "components").items():
        total, writers, readers = main_components(parts)
        rows.append(
            [
                name,
                *(f"{total[kind]:.0%}" for kind in ("attn", "mlp")),
                ", ".join(f"{own['name']} ({own['share'][0]:.1%})" for own in writers),
                ", ".join(f"{own['name']} ({own['attention'] or 0:.0%})" for own in readers),
            ]
        )
    return rows


def behaviour_rows(numbers: Numbers) -> Rows:
    """Trait, fluency and likelihood on test questions, at the strength chosen on dev questions."""
    found = of_instructions(numbers, "behaviour")
    rows = [["", *found]]
    for kind in ("base", "prompt", "paraphrases"):
        means = [numbers[name]["prompt"]["means"][kind] for name in found]
        rows.append([kind, *map(_scores, means)])
    of_layers = of_instructions(numbers, "layers")
    if of_layers:
        own = [of_layers.get(name) for name in found]
        cells = ["" if one is None else _at_best(one, f"<br>layer {one['layer']}") for one in own]
        rows.append(["difference in means, by what it says", *cells])
    for label in BEHAVIOUR:
        own = [part["methods"].get(label) for part in found.values()]
        rows.append([label, *("" if one is None else _at_best(one) for one in own)])
    return rows


def _at_best(found: Mapping[str, Any], where: str = "") -> str:
    return _scores(found["test"], f" at {found['alpha']:g}{where}")


def _scores(means: Mapping[str, Sequence[float]], strength: str = "") -> str:
    """The trait and where it was reached; below it, fluency and likelihood."""
    likely = means.get("likelihood")
    shown = "" if likely is None else f"{likely[0]:.2f}".replace("-", "\u2212")
    first = f"**{means['trait'][0]:.0f}**{strength}"
    # A narrow column is broken before a strength, a layer or a likelihood, and inside none of them.
    for word in ("at", "layer"):
        first = first.replace(f"{word} ", f"{word}\u00a0")
    return f"{first}<br>{means['fluency'][0]:.0f}\u00a0/ {shown}"


DUELLISTS: Final = (
    ("constant, mse", "constant, ll"),
    ("PSR", "PSR, refined", "PSR, 16 heads"),
)
"""Constants and PSRs that were fitted to the same answers."""


def duel_rows(numbers: Numbers) -> Rows:
    """What the PSR says beside what the constant says, each the one that shows most on dev questions."""
    rows = [
        [
            *("instruction", "constant", "PSR", "trait: PSR − constant"),
            *("fluency", "likelihood"),
        ]
    ]
    for name, part in of_instructions(numbers, "behaviour").items():
        methods = part["methods"]
        there = [[label for label in labels if label in methods] for labels in DUELLISTS]
        chosen = [max(labels, key=lambda own: _dev_trait(methods[own])) for labels in there]
        constant, psr = (methods[label] for label in chosen)
        named = [f"{label} at {methods[label]['alpha']:g}" for label in chosen]
        gaps = [
            estimate(score_difference(psr["answers"], constant["answers"], score), form)
            for score, form in (("trait", "+.0f"), ("fluency", "+.0f"), ("likelihood", "+.2f"))
        ]
        rows.append([name, *named, *gaps])
    return rows


def _dev_trait(found: Mapping[str, Any]) -> float:
    """The trait on dev questions at the strength that they chose."""
    return next(own["trait"] for own in found["dev"] if own["alpha"] == found["alpha"])


ANSWERED: Final = ("difference in means", "constant, mse", "constant, ll", "PSR", BEST)


def answer_rows(numbers: Numbers) -> Rows:
    """What is said to the first test question, without the prompt, with it, and under some steerings."""
    rows = [["instruction", "under", "answer"]]
    for name, part in of_instructions(numbers, "behaviour").items():
        prompt = numbers[name]["prompt"]["answers"]
        rows += [
            [
                f"{name}: {cell(prompt['base'][0]['question'])}",
                "nothing",
                cell(prompt["base"][0]["text"]),
            ],
            ["", "the prompt", cell(prompt["prompt"][0]["text"])],
        ]
        for label in ANSWERED:
            own = part["methods"].get(label)
            if own is not None:
                rows.append(["", f"{label}, at {own['alpha']:g}", cell(own["answers"][0]["text"])])
    return rows


def answers_counted(found: Mapping[str, Any]) -> list[int]:
    """The numbers of answers that fits were measured at, from the fewest up."""
    return sorted(int(part) for part in found if part.isdigit())


def size_rows(numbers: Numbers) -> Rows:
    """The distance by number of answers and of heads, at the last layer."""
    found = numbers.get(SIZES, {})
    numbers_of_answers = answers_counted(found)
    rows = [["fit", *(f"{n} answers" for n in numbers_of_answers)]]
    for label in FITS:
        curves = [found[str(n)]["relative_rmse"].get(label) for n in numbers_of_answers]
        rows.append([label, *("" if own is None else end(own) for own in curves)])
    return rows


def limit_rows(numbers: Numbers) -> Rows:
    """Where the squared distance comes from, and how often it is below the paraphrase's."""
    found = numbers.get(SIZES, {})
    parts = ("coefficient", "direction", "uncovered", "propagation")
    rows = [["fit", "relative RMSE²", *parts, "layers below the paraphrase"]]
    measured = [
        (f"{label}, {n} answers", label, found[str(n)])
        for label in FITS
        for n in answers_counted(found)
        if label in found[str(n)]["relative_rmse"]
    ]
    for row, label, own in measured:
        square = own["relative_rmse"][label]["values"][-1] ** 2
        shares = (f"{own['gap'][part][label]:+.3f}" for part in parts)
        rows.append([row, f"{square:.3f}", *shares, below(own, label)])
    return rows


def idea_rows(numbers: Numbers) -> Rows:
    """Sixteen exact heads against 64 noisy ones on the same answers, in the demo world and here."""
    rows = [["", "answers", "16 exact heads", "64 noisy heads", "difference"]]
    for name, own in numbers.get(TOY, {}).items():
        if name not in NOT_PARTS:
            cells = (end(own[key]) for key in (FEW, NOISY, "difference"))
            rows.append([f"demo world, {name}", str(own["answers"]), *cells])
    found = numbers.get(SIZES, {})
    for n in answers_counted(found):
        curves, both = found[str(n)]["relative_rmse"], ("16 heads", "64 heads")
        if all(label in curves for label in both):
            gap = estimate(agreement.difference(found[str(n)]["questions"], *both))
            cells = (end(curves[label]) for label in both)
            rows.append([f"SmolLM2, {INSTRUCTION}", str(n), *cells, gap])
    return rows


def middle_rows(numbers: Numbers) -> Rows:
    """The same fits after the blocks and between attention and MLP, and below by how much they differ."""
    every = of_instructions(numbers, "distances")
    found = {name: own for name, own in every.items() if inside("PSR") in own["fits"]}
    rows = [["", *found]]
    for label in IN_BOTH:
        cells = []
        for own in found.values():
            curves = [own["relative_rmse"][one] for one in (label, inside(label))]
            ends = " → ".join(f"{curve['values'][-1]:.2f}" for curve in curves)
            gap = agreement.difference(own["questions"], label, inside(label))
            cells.append(f"{ends}<br>{gap[1]:.2f}\u00a0to\u00a0{gap[2]:.2f}")
        rows.append([label, *cells])
    return rows


def middle_toy_rows(numbers: Numbers) -> Rows:
    """Sixteen heads in both places in the demo world."""
    rows = [["", "after the block", "between attention and MLP", "difference"]]
    for name, own in numbers.get(TOY, {}).items():
        if name not in NOT_PARTS:
            keys = (FEW, IN_MIDDLE, "difference, resid_mid")
            rows.append([f"demo world, {name}", *(end(own[key]) for key in keys)])
    return rows


def height_rows(numbers: Numbers) -> Rows:
    """At how many layers fits are nearer than a paraphrase, and where the closest one is not."""
    rows = [
        [
            *("instruction", "1 head", "16 heads", "64 heads, between"),
            "64 heads between, not nearer at layers",
        ]
    ]
    for name, found in of_instructions(numbers, "distances").items():
        labels = (closest(found, PSRS[:2]), "PSR, 16 heads", BEST)
        counts = [below(found, label) for label in labels]
        own, line = (found["relative_rmse"][label]["values"] for label in (BEST, "paraphrase"))
        above = [str(i) for i, (a, b) in enumerate(zip(own, line, strict=True)) if a >= b]
        rows.append([name, *counts, ", ".join(above) or "–"])
    return rows


def below(found: Mapping[str, Any], label: str) -> str:
    """At how many layers a fit is nearer to the prompt than its paraphrases."""
    own, line = (found["relative_rmse"][name]["values"] for name in (label, "paraphrase"))
    return f"{sum(a < b for a, b in zip(own, line, strict=True))} of {len(own)}"


def copy_rows(numbers: Numbers) -> Rows:
    """The PSR of the original on every copy, beside one fitted to the copy anew."""
    rows = [["copy", "carried", "fitted anew", "difference"]]
    for name, own in numbers.get(COPIES, {}).items():
        if name in NOT_PARTS:
            continue
        keys = ("carried", "fitted anew", "carried - fitted anew")
        rows.append([name, *(end(own[key]) if key in own else "" for key in keys)])
    return rows


def agreement_rows(numbers: Numbers) -> Rows:
    """How distance and behaviour go together: rank correlations over methods, with intervals."""
    rows = [["nearness and ...", "mean over instructions", *of_instructions(numbers, "behaviour")]]
    for label, (mean, each) in agreement.rank_correlations(numbers).items():
        cells = (f"{own:+.2f}" if isfinite(own) else "–" for own in each.values())
        rows.append([label, estimate(mean, "+.2f"), *cells])
    return rows


def time_rows(numbers: Numbers) -> Rows:
    """How long each part took, in minutes of two processes side by side."""
    rows = [["part", "minutes"]]
    spent: dict[str, float] = {}
    for file, found in numbers.items():
        for part, seconds in found.get(SECONDS, {}).items():
            title = f"every instruction: {part}" if file in EVERYDAY else file
            spent[title] = spent.get(title, 0.0) + seconds / 120
    rows += [[title, f"{minutes:.0f}"] for title, minutes in spent.items()]
    return [*rows, ["everything", f"{sum(spent.values()):.0f}"]] if spent else rows


TABLES: Final[Mapping[str, Callable[[Numbers], Rows]]] = {
    "prompt": prompt_rows,
    "judges": judge_rows,
    "confusion": confusion_rows,
    "distances": distance_rows,
    "paired": paired_rows,
    "ladder": ladder_rows,
    "seeds": seeds_rows,
    "middle": middle_rows,
    "middle-toy": middle_toy_rows,
    "heights": height_rows,
    "assumptions": assumption_rows,
    "heads": head_rows,
    "behaviour": behaviour_rows,
    "duel": duel_rows,
    "answers": answer_rows,
    "agreement": agreement_rows,
    "sizes": size_rows,
    "limits": limit_rows,
    "ideas": idea_rows,
    "copies": copy_rows,
    "time": time_rows,
}
