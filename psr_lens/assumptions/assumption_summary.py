"""An `AssumptionReport` in words, for a reader who did not run it."""

from typing import Final, get_args

from psr_lens.assumptions.assumption_report import Assumption, AssumptionReport
from psr_lens.statistics import why_no_interval

_ADDS: Final = {
    "local": "what the layer itself must still add to act as if prompted",
    "accumulated": "all that the prompt has changed by this layer",
}


def tally(report: AssumptionReport) -> str:
    """At how many layers each assumption holds."""
    return ", ".join(
        f"{name} {report.verdicts(name).count('holds')}" for name in get_args(Assumption)
    )


def summarise(report: AssumptionReport) -> str:
    """The whole summary: what was measured, a line per assumption, a line per layer."""
    count = "1 example" if report.examples == 1 else f"{report.examples} examples"
    n_tokens = sum(
        int(report.curve("tokens", token_class=one).values[0]) for one in report.token_classes
    )
    adds = _ADDS[report.kind]
    return "\n".join(
        [
            *filter(None, [report.caution()]),
            f"What the prompt does to {n_tokens} tokens of {count}, layer by layer ({report.kind} deltas: "
            f"{adds}). Shares are of squared length.",
            *filter(None, [why_no_interval(report.n_prompts)]),
            *_verdict_lines(report),
            *(_layer_line(report, row) for row in range(len(report.layers))),
        ]
    )


def _verdict_lines(report: AssumptionReport) -> list[str]:
    limits = report.thresholds
    one = _verdict(report, "one direction")
    same = _verdict(report, "same strength")
    decodable = _verdict(report, "decodable")
    return [
        f"3.1 One direction (at least {limits.one_direction:.0%} of the energy lies along it): {one}.",
        f"3.2 The same strength at every token (it varies by at most {limits.strength_variation:g} times "
        f"its mean): {same}.",
        f"3.2a The strength can be read off the activation (a probe explains at least "
        f"{limits.decodable:.0%} of it on held-out examples): {decodable}.",
    ]


def _verdict(report: AssumptionReport, assumption: Assumption) -> str:
    found = dict(zip(report.layers, report.verdicts(assumption), strict=True))
    parts = []
    for verdict in ("holds", "breaks", "open"):
        layers = [layer for layer, own in found.items() if own == verdict]
        if len(layers) == len(found):
            return {
                "holds": "holds at every layer",
                "breaks": "breaks at every layer",
                "open": "the data cannot tell at any layer",
            }[verdict]
        if layers:
            words = "the data cannot tell" if verdict == "open" else verdict
            parts.append(f"{words} at {_ranges(layers)}")
    return ", ".join(parts)


def _ranges(layers: list[int]) -> str:
    """Layers in words.

    >>> _ranges([0, 1, 2, 5]), _ranges([3])
    ('layers 0 to 2, 5', 'layer 3')
    """
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    parts = [f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs]
    return f"layer{'' if len(layers) == 1 else 's'} {', '.join(parts)}"


def _layer_line(report: AssumptionReport, row: int) -> str:
    shares = {at: report.curve("energy_share", at=at).values[row] for at in (1, 8)}
    variation = report.curve("strength_variation").values[row]
    mean = report.curve("mean_energy_share").values[row]
    unclear = "too few examples to tell"
    one = {"holds": "one direction", "breaks": "not one direction", "open": unclear}[
        report.verdicts("one direction")[row]
    ]
    same = {"holds": "even", "breaks": "selective", "open": unclear}[
        report.verdicts("same strength")[row]
    ]
    return (
        f"Layer {report.layers[row]}: 1 direction holds {shares[1]:.0%} of what the prompt adds "
        f"(8 hold {shares[8]:.0%}): {one}. The strength varies between tokens by {variation:.1f} times "
        f"its mean: {same}; a constant vector can express {mean:.0%}. {_probe_words(report, row)}"
    )


def _probe_words(report: AssumptionReport, row: int) -> str:
    value = report.curve("relu_r2").values[row]
    if value != value:
        return "Whether a probe can read it was not tested: no example could be held out."
    linear = report.curve("linear_r2").values[row]
    if value <= 0:
        return "A probe on the activation explains nothing of it on held-out responses."
    return (
        f"A probe on the activation explains {value:.0%} of it on held-out responses "
        f"({max(linear, 0):.0%} without the ReLU)."
    )
