"""Every method at its best on one instruction, fitted once for all pages.

`fitted` takes down how each fit went and keeps the steerings in a folder, where one is given, so that
the page on the methods and the page of findings measure the same fits.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psr_lens.dataset import SteeringDataset
from psr_lens.demo.animals import control_data
from psr_lens.fitting import FitRuns, fit, fit_best
from psr_lens.models import HookedModel
from psr_lens.steering import Steering, load_steering
from psr_lens.storage.atomic import write_bytes

Fit = dict[str, Any]
BEST = "best"
"""In place of a solver: every setting of `fit_best`."""
CONTROL = "control: PSR, wrong prompts"

CORE: dict[str, Fit] = {
    "difference in means": {"method": "dim", "solver": BEST},
    "constant, one layer": {"method": "const", "layers": "best", "solver": "refine"},
    "constant, mse": {"method": "const", "objective": "mse", "solver": "gradient"},
    "constant, ll": {"method": "const", "objective": "ll", "solver": "gradient"},
    "constant, layer by layer": {"method": "const", "solver": "layerwise"},
    "PSR, one layer": {"method": "psr", "layers": "best", "solver": "refine"},
    "PSR, layer by layer": {"method": "psr", "solver": "layerwise"},
    "PSR, refined": {"method": "psr", "solver": "refine"},
    "PSR, through the model": {"method": "psr", "solver": "gradient"},
    "PSR, 4 heads": {"method": "psr", "solver": "refine", "n_heads": 4},
    "PSR, 16 heads": {"method": "psr", "solver": "layerwise", "n_heads": 16},
    "PSR, auto heads": {"method": "psr", "solver": "layerwise", "n_heads": "auto"},
    CONTROL: {"method": "psr", "solver": "layerwise"},
}
"""On all instructions."""
REST: dict[str, Fit] = {
    "principal direction": {"method": "pca", "solver": BEST},
    "activation addition": {"method": "actadd", "layers": "best"},
    "projection match": {"method": "projection", "solver": BEST},
    "directional ablation": {"method": "ablation"},
    "LoReFT": {"method": "loreft", "solver": BEST},
    "ReFT-r1": {"method": "reft_r1", "solver": BEST},
}
"""The rest of the family: on `demo`, on the five instructions that means are taken over."""
FAMILY = CORE | REST
PSRS = ("PSR, layer by layer", "PSR, refined", "PSR, through the model")
"""One head at all layers; the best of them on the dev animals is the PSR of the page."""


@dataclass(frozen=True)
class Fitted:
    """A steering, and how its fit went as JSON values.

    Attributes:
        steering: The steering.
        report: How its fit went.
        kept: Whether it was there already.
    """

    steering: Steering
    report: dict[str, Any]
    kept: bool = False


def fitted(
    model: HookedModel,
    train: SteeringDataset,
    fits: Mapping[str, Fit],
    control: Callable[[], SteeringDataset],
    folder: Path | None = None,
    seed: int = 0,
    done: Callable[[str], None] = lambda label: None,
    runs: FitRuns | None = None,
) -> dict[str, Fitted]:
    """The fits of one instruction, taken from the folder where they are there already.

    Args:
        model: The model.
        train: What to fit on.
        fits: Label to options.
        control: Makes what `CONTROL` is fitted on.
        folder: Where these fits are kept, None to keep none.
        seed: Of the fits.
        done: Called after each, with its label.
        runs: What these fits and others to the same examples have in common; None: each makes its own runs,
            and its seconds are what it takes alone.
    """
    found = {}
    for label, options in fits.items():
        place = None if folder is None else folder / _slug(label)
        kept = place is not None and place.with_suffix(".json").is_file()
        if place is not None and kept:
            report = json.loads(place.with_suffix(".json").read_text())
            steering = load_steering(place.with_suffix(".safetensors"), model)
        else:
            if label == CONTROL:
                steering = _fit(model, control(), options, seed, None)
            else:
                steering = _fit(model, train, options, seed, runs)
            report = _report(steering)
            if place is not None:
                place.parent.mkdir(parents=True, exist_ok=True)
                steering.save(place)
                # Last, so that a fit that is there is there whole.
                write_bytes(place.with_suffix(".json"), json.dumps(report).encode())
        found[label] = Fitted(steering, report, kept)
        done(label)
    return found


def demo_fits(
    model: HookedModel,
    train: SteeringDataset,
    instruction: str,
    fits: Mapping[str, Fit],
    folder: Path | None,
    seed: int = 0,
) -> dict[str, Fitted]:
    """`fitted` for an instruction of the demo world."""
    return fitted(
        model,
        train,
        fits,
        lambda: control_data(model, train, instruction),
        None if folder is None else folder / model.name / instruction,
        seed,
    )


def best_psr(found: dict[str, dict[str, Any]]) -> str:
    """The label of the one-head PSR at all layers that is closest on the dev animals."""
    return min(PSRS, key=lambda label: found[label]["dev"])


def setting(report: dict[str, Any]) -> str:
    """How a method was fitted, in a few words."""
    layers = report["layers"]
    where = "all layers" if len(layers) > 1 else f"layer {layers[0]}"
    how = [report["objective"], report["solver"]] if report["objective"] else [report["solver"]]
    return ", ".join([where, *how])


def _fit(
    model: HookedModel, data: SteeringDataset, options: Fit, seed: int, runs: FitRuns | None
) -> Steering:
    if options.get("solver") == BEST:
        rest = {key: value for key, value in options.items() if key != "solver"}
        return fit_best(model, data, seed=seed, runs=runs, **rest)
    return fit(model, data, seed=seed, runs=runs, **options)


def _report(steering: Steering) -> dict[str, Any]:
    own = steering.fit_report
    return {
        "layers": list(steering.layers),
        "objective": own.objective,
        "solver": own.solver,
        "seconds": round(own.seconds, 2),
        "forwards": round(own.forwards),
        "dev": _last(own.dev_relative_rmse),
        "tried": [*own.tried, *own.settings],
        "heads": steering.z.shape[1] if hasattr(steering, "z") else None,
    }


def _last(values: Sequence[float]) -> float | None:
    return round(values[-1], 5) if values else None


def _slug(label: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in label.lower())
