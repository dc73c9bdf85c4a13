"""`fit_best`: try a method in every setting that it has, and keep the best on the dev split.

A comparison is only as good as its weakest baseline, and what suits one method does not suit another:
difference in means acts best at one layer, a fitted constant at all of them, trained through the model
rather than layer by layer. So each method is tried in all its settings, and dev examples choose.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from psr_lens.dataset import SteeringDataset
from psr_lens.fitting.fit import fit
from psr_lens.fitting.fit_runs import FitRuns
from psr_lens.fitting.plan import plan_fit
from psr_lens.steering import Steering
from psr_lens.steering.registry import method_class


def settings_of(
    method: str | type[Steering], options: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Everything that `fit_best` tries, by name: arguments of `fit`, checked to go together.

    Args:
        method: The method.
        options: Arguments that were given, and so are not varied.

    Raises:
        ValueError: If the options of one of them do not go together.
    """
    found: dict[str, dict[str, Any]] = {}
    for setting in method_class(method).settings:
        own = {key: value for key, value in setting.items() if key not in options}
        # The layerwise solver cannot fit this objective, and `plan_fit` would refuse it.
        if options.get("solver") == "layerwise" and own.get("objective") == "ll":
            continue
        name = ", ".join(f"{key}={value}" for key, value in own.items()) or "as given"
        found.setdefault(name, {"method": method, **options, **own})
    for own in found.values():
        plan_fit(**own)
    return found


def fit_best(
    model: Any,
    data: SteeringDataset,
    *,
    method: str | type[Steering] = "psr",
    runs: FitRuns | None = None,
    progress: bool = False,
    **options: Any,
) -> Steering:
    """Fit a method in each of its settings and keep the closest to the prompt.

    Closest means the lowest relative RMSE at the last layer on the dev examples. A method with a closed
    form is tried at one layer and at all, a trained one with `mse` and with `ll`, each by `solver="auto"`,
    which itself compares solvers.

    Args:
        model: A `HookedModel`, HookedTransformer, TransformerBridge or transformers model.
        data: Examples, as for `fit`.
        method: As for `fit`.
        runs: As for `fit`; the settings share theirs in any case.
        progress: Whether to show bars.
        options: Arguments of `fit`; a setting that is given is not varied.

    Returns:
        The steering. Its `fit_report.settings` names every setting with that relative RMSE.

    Raises:
        ValueError: If `fit` would refuse an argument in any of the settings, which is checked before the
            first is fitted; or if there are several settings and a `checkpoint`, which keeps one fit.
    """
    settings = settings_of(method, options)
    if len(settings) > 1 and options.get("checkpoint") is not None:
        raise ValueError(
            f"checkpoint= with {len(settings)} settings of {method} to try, {'; '.join(settings)}: a "
            "directory keeps one fit; leave it out, or name the setting"
        )
    known = runs or FitRuns()
    found = {
        name: fit(model, data, runs=known, progress=progress, **own)
        for name, own in settings.items()
    }
    errors = {
        name: (own.fit_report.dev_relative_rmse or (float("nan"),))[-1]
        for name, own in found.items()
    }
    # Written so that NaN, without dev examples, never wins over a number.
    best = min(found, key=lambda name: (errors[name] != errors[name], errors[name]))
    steering = found[best]
    steering.fit_report = replace(steering.fit_report, settings=tuple(errors.items()))
    return steering
