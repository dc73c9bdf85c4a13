"""A faithfulness report in words, for a reader who did not make it."""

from typing import Final

from psr_lens.examples import cut_off_of
from psr_lens.faithfulness.faithfulness_report import FaithfulnessReport
from psr_lens.faithfulness.measures import PARTS
from psr_lens.faithfulness.references import NO_STEERING, PARAPHRASE
from psr_lens.statistics import why_no_interval

_CAUSES: Final = {
    "coefficient": "the wrong strength along its directions",
    "direction": "what lies outside of its directions",
    "uncovered": "layers and tokens where it does not act",
    "propagation": "what blocks make of errors in their input",
}
_READING: Final = (
    "Relative RMSE is the distance to the prompted residual stream in units of the prompt's own "
    "effect: 0 is the prompt, 1 is doing nothing. At the last layer"
)


def describe(report: FaithfulnessReport) -> str:
    """The report in words: how close each steering comes, what it lacks, which one is closer."""
    count = "1 example" if report.examples == 1 else f"{report.examples} examples"
    lines = [
        *filter(None, [report.caution()]),
        f"Faithfulness to the prompt, {count}, {report.measured_on} tokens, alpha {report.alpha:g}.",
        *filter(None, [cut_off_of(report.provenance), why_no_interval(report.n_prompts)]),
        _READING + (", with 95 % intervals:" if report.has_intervals else ":"),
    ]
    for name in report.steerings:
        lines.append(f"- {_distance(report, name)}")
        about = (_elsewhere(report, name), _output(report, name), _cause(report, name))
        lines += [f"  {line}" for line in about if line]
    lines += _ranking(report)
    return "\n".join([*lines, _references(report)])


def _distance(report: FaithfulnessReport, name: str) -> str:
    last = report.relative_rmse[name].estimates[-1]
    value, line = last.value, f"{name}: {last:.2f}, "
    if value >= 1:
        return line + "no closer to prompting than doing nothing."
    if PARAPHRASE not in report.reference:
        return line + f"{1 - value:.0%} of the distance to prompting is gone."
    gap = report.difference(name, PARAPHRASE)
    if not gap.estimates[-1].has_interval:
        side = "further from" if gap.values[-1] > 0 else "closer to"
        return f"{line}{abs(gap.values[-1]):.2f} {side} the prompt than a paraphrase of it."
    if not gap.clear[-1]:
        return (
            line
            + "about as far from the prompt as a paraphrase of it (the difference could be chance)."
        )
    if gap.values[-1] > 0:
        return line + "further from the prompt than a paraphrase of it."
    since = len(gap.values)
    while since > 0 and gap.high[since - 1] < 0:
        since -= 1
    where = "at every layer" if since == 0 else f"from layer {since} on"
    if since == len(gap.values) - 1:
        where = "at the last layer"
    return line + f"closer to the prompt than a paraphrase of it {where}."


def _elsewhere(report: FaithfulnessReport, name: str) -> str:
    acts_on = report.runs[name].acts_on
    if not acts_on:
        return ""
    return f"It acts on {acts_on}, and its effect is measured on the {report.measured_on} tokens."


def _output(report: FaithfulnessReport, name: str) -> str:
    if "kl" not in report.runs[name].sums:
        return ""
    left = report.curve(name, "relative_kl").values[0]
    agreed = report.curve(name, "agreement").values[0]
    plain = report.curve(NO_STEERING, "agreement").values[0]
    moved = (
        f"the next-token distribution goes {_share(1 - left)} of the way to the prompted one"
        if left < 1
        else f"the next-token distribution is {left:.1f} times as far from the prompted one as before"
    )
    return (
        f"Output: {moved} (in KL); the most likely token is the prompted one at {agreed:.0%} of the "
        f"positions, without steering at {plain:.0%}."
    )


def _cause(report: FaithfulnessReport, name: str) -> str:
    if "propagation" not in report.runs[name].sums:
        return ""
    parts = {part: report.curve(name, f"gap_{part}").values[-1] for part in PARTS}
    # Parts may cancel, so shares are of the parts that make the distance larger.
    adding = sum(value for value in parts.values() if value > 0)
    if adding < 1e-6:
        return ""
    worst = max(parts, key=lambda part: parts[part])
    line = (
        f"What is left is mostly {_CAUSES[worst]} ({parts[worst] / adding:.0%} of what adds to it)"
    )
    handed_on = parts["propagation"] / adding
    if worst == "propagation" or abs(handed_on) < 0.005:
        return f"{line}."
    verb, word = ("undo", "of") if handed_on < 0 else ("add", "to")
    return f"{line}; blocks {verb} {abs(handed_on):.0%} {word} errors from below."


def _share(value: float) -> str:
    """A percentage, with a decimal if it would otherwise round to 100 %."""
    return f"{value:.1%}" if 0.99 < value < 1 else f"{value:.0%}"


def _ranking(report: FaithfulnessReport) -> list[str]:
    order = sorted(report.steerings, key=lambda name: report.relative_rmse[name].values[-1])
    lines = []
    for other in order[1:]:
        gap = report.difference(other, order[0]).estimates[-1]
        if not gap.has_interval:
            lines.append(f"{order[0]} is closer than {other} by {gap:.2f}.")
        elif gap.clear:
            lines.append(
                f"{order[0]} is closer than {other} by {gap.value:.2f} "
                f"({gap.low:.2f} to {gap.high:.2f}, paired over prompts)."
            )
        else:
            lines.append(
                f"{order[0]} and {other} cannot be told apart: they differ by {gap.value:.2f} "
                f"({gap.low:.2f} to {gap.high:.2f}, paired over prompts)."
            )
    return lines


def _references(report: FaithfulnessReport) -> str:
    told = []
    for name, curve in report.reference.items():
        if name == NO_STEERING:
            continue
        value = f"{name} {curve.values[-1]:.2f}"
        if name == PARAPHRASE and report.paraphrases:
            ends = [own.values[-1] for own in report.paraphrases.values()]
            value += f" ({len(ends)} wordings, {min(ends):.2f} to {max(ends):.2f})"
        told.append(value)
    return f"To compare: {', '.join(told)}." if told else ""
