"""The tables of `docs/findings.md`, from the numbers that `benchmarks/findings.py` wrote.

A table stands between `<!-- table NAME MODEL -->` and `<!-- end -->`; what is between is replaced.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

Trait = Mapping[str, Any]
_READABLE = 0.8
_MARKED = re.compile(r"(<!-- table (\S+) (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def fill(page: str, numbers: Mapping[str, Mapping[str, Trait]]) -> str:
    """The page with every marked table drawn anew.

    Raises:
        ValueError: If a marker names no table; a model that was not measured keeps its table.
    """

    def draw(match: re.Match[str]) -> str:
        head, table, model, end = match.groups()
        if table not in TABLES:
            raise ValueError(f"no table {table!r}: choose one of {', '.join(TABLES)}")
        if model not in numbers:
            return match.group()
        heading, row = TABLES[table]
        titles = ["instruction", *heading.split(" | ")]
        lines = [titles, ["---"] * len(titles)]
        lines += [[name, *row(trait)] for name, trait in numbers[model].items()]
        return head + "".join(f"| {' | '.join(cells)} |\n" for cells in lines) + end

    return _MARKED.sub(draw, page)


def _last(curve: Mapping[str, Sequence[float]]) -> str:
    """At the last layer, with the interval."""
    return f"{curve['values'][-1]:.2f} ({curve['low'][-1]:.2f} to {curve['high'][-1]:.2f})"


def _over_layers(curve: Mapping[str, Sequence[float]], form: str = ".2f") -> str:
    """Median over layers, with the least and the most."""
    values = curve["values"]
    return f"{median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def _selectivity(trait: Trait) -> list[str]:
    found = trait["assumptions"]
    tenth, half, ninetieth = (found[f"norm p{p}"]["values"] for p in (10, 50, 90))
    spread = [high / max(low, 1e-9) for low, high in zip(tenth, ninetieth, strict=True)]
    return [
        f"{median(spread):.0f}",
        f"{median(half):.1f}",
        _over_layers(found["variation"]),
        _over_layers(found["mean energy"], ".0%"),
    ]


def _directions(trait: Trait) -> list[str]:
    found = trait["assumptions"]
    shares = [_over_layers(found[f"share of {k}"], ".0%") for k in (1, 4, 8)]
    relu, linear = (found[name]["values"] for name in ("relu r2", "linear r2"))
    gains = [own - other for own, other in zip(relu, linear, strict=True)]
    readable = sum(value >= _READABLE for value in relu)
    return [*shares, _over_layers(found["relu r2"]), f"{readable}", f"{median(gains):+.2f}"]


CONSTANTS = ("constant, one layer", "constant, mse", "constant, ll")
SHOWN = (*CONSTANTS, "PSR, one layer", "PSR", "PSR, 4 heads")


def psr_of(trait: Trait) -> str:
    """The label of the instruction's PSR: the closest of three solvers on the dev animals."""
    return trait["faithfulness"]["psr"]


def best_constant(trait: Trait) -> str:
    """The label of the constant that is closest on the dev animals."""
    return min(CONSTANTS, key=lambda label: trait["faithfulness"]["fits"][label]["dev"])


def spans(found: Mapping[str, Trait]) -> dict[str, Any]:
    """The figures that prose quotes: least and most over the instructions, at the last layer."""

    def span(label_of: Callable[[Trait], str]) -> str:
        values = [
            trait["faithfulness"]["curves"]["relative_rmse"][label_of(trait)]["values"][-1]
            for trait in found.values()
        ]
        return f"{min(values):.2f} to {max(values):.2f}"

    closer = sum(
        trait["faithfulness"]["differences"][f"{best_constant(trait)} - PSR"]["low"][-1] > 0
        for trait in found.values()
    )
    return {"constant": span(best_constant), "PSR": span(psr_of), "closer": closer}


def _distances(trait: Trait) -> list[str]:
    curves = trait["faithfulness"]["curves"]["relative_rmse"]
    names = [psr_of(trait) if name == "PSR" else name for name in SHOWN]
    band = [
        own["values"][-1]
        for name, own in curves.items()
        if name.startswith("paraphrase") and name != "paraphrase"
    ]
    others = ("oracle rank 1", "oracle rank 4", "control: PSR, wrong prompts")
    references = [curves[name]["values"][-1] for name in others]
    return [
        *(_last(curves[name]) for name in names),
        f"{min(band):.2f} to {max(band):.2f}",
        *(f"{value:.2f}" for value in references),
    ]


def _paired(trait: Trait) -> list[str]:
    """By how much the first is further from the prompt than the second, at the last layer."""
    differences = trait["faithfulness"]["differences"]
    names = (
        "constant, one layer - PSR, one layer",
        f"{best_constant(trait)} - PSR",
        "PSR, one layer - PSR",
        "PSR - PSR, 4 heads",
        "PSR, layer by layer - PSR, refined",
        "control: PSR, wrong prompts - PSR",
    )
    return [_last(differences[name]) for name in names]


def _healing(trait: Trait) -> list[str]:
    to_mse, to_ll = trait["faithfulness"], trait["objectives"]
    energy = to_mse["energy"]
    layers = (to_mse["fits"]["constant, one layer"]["layers"][0], 2)
    cells = []
    for found, name, layer in zip(
        (to_mse, to_ll), ("constant, one layer", "constant, layer 2, ll"), layers, strict=True
    ):
        values = found["curves"]["relative_rmse"][name]["values"]
        grown = (values[-1] / values[layer]) ** 2 * energy[-1] / energy[layer]
        kl = found["curves"]["relative_kl"][name]["values"][-1]
        cells += [f"{layer}", f"{values[layer]:.2f}", f"{values[-1]:.2f}"]
        cells += ["" if layer == len(values) - 1 else f"{grown:.1f}", f"{kl:.2f}"]
    return [*cells, f"{energy[-1] / energy[2]:.0f}"]


def _crossing(trait: Trait) -> list[str]:
    differences = trait["faithfulness"]["differences"]
    cells = []
    for name in ("PSR", "PSR, 4 heads"):
        found = differences[f"{name} - paraphrase"]
        ends = zip(found["low"], found["high"], strict=True)
        signs = "".join("-" if high < 0 else "+" if low > 0 else "·" for low, high in ends)
        cells += [f"`{signs}`", f"{found['values'][-1]:+.2f}"]
    return cells


def _gap(trait: Trait) -> list[str]:
    gap = trait["faithfulness"]["gap"]
    psr = psr_of(trait)
    whole = trait["faithfulness"]["curves"]["relative_rmse"][psr]["values"][-1] ** 2
    parts = [gap[part][psr]["values"][-1] for part in gap]
    return [f"{whole:.3f}", *(f"{part:+.3f}" for part in parts)]


def _objectives(trait: Trait) -> list[str]:
    found = trait["objectives"]["curves"]
    return [
        f"{found[measure][name]['values'][-1]:{form}}"
        for measure, form in (
            ("relative_rmse", ".2f"),
            ("relative_kl", ".2%"),
            ("agreement", ".1%"),
        )
        for name in ("PSR, mse", "PSR, ll")
    ]


def main_components(
    parts: Sequence[Mapping[str, Any]],
) -> tuple[dict[str, float], list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    """Shares of attention and MLPs, the three heads that write most, and the three that read most."""
    total: dict[str, float] = {
        kind: sum(own["share"][0] for own in parts if own["kind"] == kind)
        for kind in ("attn", "mlp")
    }
    heads = [own for own in parts if own["kind"] == "head"]
    writers = sorted(heads, key=lambda own: -own["share"][0])[:3]
    readers = sorted(heads, key=lambda own: -(own["attention"] or 0))[:3]
    return total, writers, readers


def _heads(trait: Trait) -> list[str]:
    parts = trait["components"]
    total, writers, readers = main_components(parts)
    return [
        f"{total['attn']:.0%}",
        f"{total['mlp']:.0%}",
        ", ".join(f"{own['name']} ({own['share'][0]:.0%})" for own in writers),
        ", ".join(f"{own['name']} ({own['attention'] or 0:.0%})" for own in readers),
    ]


def _transfer(trait: Trait) -> list[str]:
    found = trait["transfer"]
    return [_last(found[name]) for name in ("own", "neutral text", "text with the trait")]


TABLES: dict[str, tuple[str, Callable[[Trait], list[str]]]] = {
    "selectivity": (
        "90th / 10th percentile of the norm | median norm | variation of the strength | "
        "energy in the mean",
        _selectivity,
    ),
    "directions": (
        "1 direction | 4 | 8 | R² of the ReLU probe | layers at 0.8 or more | more than linear",
        _directions,
    ),
    "distances": (
        "constant, one layer | constant, mse | constant, ll | PSR, one layer | PSR | PSR, 4 heads | "
        "paraphrases | oracle rank 1 | oracle rank 4 | control",
        _distances,
    ),
    "paired": (
        "constant − PSR, one layer | best constant − PSR | PSR, one layer − all | PSR, 1 − 4 heads | "
        "PSR, layer by layer − refined | control − PSR",
        _paired,
    ),
    "healing": (
        "constant, mse, at layer | there | last layer | squared error, last / there | relative KL | "
        "constant, ll, at layer | there | last layer | squared error, last / there | relative KL | "
        "prompt's energy, last / layer 2",
        _healing,
    ),
    "crossing": ("PSR, by layer | last layer | PSR, 4 heads, by layer | last layer", _crossing),
    "gap": ("relative RMSE² | coefficient | direction | uncovered | propagation", _gap),
    "objectives": (
        "relative RMSE, mse | ll | relative KL, mse | ll | agreement, mse | ll",
        _objectives,
    ),
    "heads": ("attention | MLP | heads that write most | heads that read it most", _heads),
    "transfer": (
        "fitted there | carried over, neutral text | with the trait's text",
        _transfer,
    ),
}
