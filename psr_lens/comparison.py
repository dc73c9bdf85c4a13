"""Several methods, each at its best, fitted to the same examples and measured on the same runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from psr_lens.examples import SteeringDataset
from psr_lens.faithfulness import EQUIVALENT_PROMPT, FaithfulnessReport, measure_faithfulness
from psr_lens.files import write_bytes
from psr_lens.fitting import FitReport, fit_best
from psr_lens.fitting.choices import HAVE_BEST
from psr_lens.models import as_hooked_model
from psr_lens.steering import Steering

if TYPE_CHECKING:
    import pandas

# Options that only some methods take, with what leaves them out.
_OF_SOME: Final = {
    "objective": ("const", "psr", "loreft", "reft_r1"),
    "solver": ("const", "psr", "loreft", "reft_r1"),
    "n_heads": ("psr",),
    "rank": ("loreft", "oracle"),
    "recipe": ("const", "psr", "loreft", "reft_r1"),
    "epochs": ("const", "psr", "loreft", "reft_r1"),
    "lr": ("const", "psr", "loreft", "reft_r1"),
    "precision": ("const", "psr"),
    "max_memory": ("const", "psr"),
}


@dataclass(frozen=True)
class Comparison:
    """Methods side by side.

    Attributes:
        steerings: The fitted steerings, by name.
        faithfulness: Relative RMSE of all of them on the test examples.
    """

    steerings: Mapping[str, Steering]
    faithfulness: FaithfulnessReport

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per steering: how it was fitted, relative RMSE at the last layer, the cost."""
        import pandas as pd

        n_layers = len(next(iter(self.faithfulness.relative_rmse.values())).values)
        rows = []
        for name, steering in self.steerings.items():
            curve = self.faithfulness.relative_rmse[name]
            report: FitReport = steering.fit_report
            rows.append(
                {
                    "steering": name,
                    "layers": "all"
                    if len(steering.layers) == n_layers
                    else ",".join(map(str, steering.layers)),
                    "objective": report.objective,
                    "solver": report.solver,
                    "relative_rmse": curve.values[-1],
                    "low": curve.low[-1],
                    "high": curve.high[-1],
                    "dev_relative_rmse": (report.dev_relative_rmse or (float("nan"),))[-1],
                    "fit_seconds": report.seconds,
                    "forwards": report.forwards,
                }
            )
        return pd.DataFrame(rows).set_index("steering")

    def differences(self) -> "pandas.DataFrame":
        """The closest steering against every other: paired differences at the last layer.

        A row's `difference` is the other's relative RMSE minus the closest one's, with its 95 %
        bootstrap interval; the closest is clearly better where that has no zero in it.
        """
        import pandas as pd

        curves = self.faithfulness.relative_rmse
        closest = min(self.steerings, key=lambda name: curves[name].values[-1])
        rows = []
        for name in self.steerings:
            if name != closest:
                found = self.faithfulness.difference(name, closest)
                rows.append(
                    {
                        "steering": name,
                        "closest": closest,
                        "difference": found.values[-1],
                        "low": found.low[-1],
                        "high": found.high[-1],
                    }
                )
        columns = ["steering", "closest", "difference", "low", "high"]
        return pd.DataFrame(rows, columns=columns).set_index("steering")

    def table(self) -> str:
        """The same as text, with the paired differences and the reference line below."""
        lines = [
            f"Relative RMSE at the last layer (1: no steering, 0: the prompt), "
            f"{self.faithfulness.examples} held-out examples; each method in the setting that was "
            "closest on the dev examples:",
            "",
            self.to_dataframe().to_string(float_format="{:.3f}".format),
        ]
        differences = self.differences()
        if len(differences):
            closest = differences["closest"].iloc[0]
            lines += ["", f"further from the prompt than {closest}, paired, 95 % intervals:"]
            lines += [
                f"  {name}: {row.difference:+.3f} ({row.low:+.3f} to {row.high:+.3f})"
                for name, row in differences.iterrows()
            ]
        equivalent = self.faithfulness.reference.get(EQUIVALENT_PROMPT)
        if equivalent is not None:
            lines += ["", f"a paraphrase of the prompt: {equivalent.values[-1]:.3f}"]
        return "\n".join(lines)

    def save(self, path: str | Path) -> Path:
        """Write every layer's figures as CSV, whole or not at all."""
        return write_bytes(path, self.faithfulness.to_dataframe().to_csv(index=False).encode())

    def __repr__(self) -> str:
        return self.table()

    def _repr_html_(self) -> str:
        return self.to_dataframe().to_html(float_format="{:.3f}".format)


def compare(
    model: Any,
    data: SteeringDataset,
    methods: Sequence[str],
    *,
    progress: bool = False,
    **options: Any,
) -> Comparison:
    """Fit each method at its best and measure all of them on the test examples.

    Each is fitted by `fit_best`: in every setting that it has, of which the dev examples choose.
    Constants appear twice, fitted to squared error (`const mse`) and to likelihood (`const ll`): the
    one is closer to the prompt inside, the other buys more of its behaviour.

    Args:
        model: A `HookedModel`, HookedTransformer or TransformerBridge.
        data: Examples with a test split.
        methods: Names of methods, as `fit` takes them.
        progress: Whether to show bars.
        options: Arguments of `fit`, which then are not chosen; those that a method does not take are
            left out for it.

    Raises:
        ValueError: If there is no method or no test example, or `fit` refuses an option.
    """
    hooked = as_hooked_model(model)
    if not methods:
        raise ValueError("methods is empty: name at least one")
    if len(data.test) == 0:
        raise ValueError(f"{data!r} has no test examples to compare on: give test a share")
    steerings: dict[str, Steering] = {}
    for method in methods:
        own = {
            key: value
            for key, value in options.items()
            if value is not None and method in _OF_SOME.get(key, (method,))
        }
        if options.get("solver") == "replay" and method in ("loreft", "reft_r1"):
            own["solver"] = "live"
        if options.get("layers") == "best" and method not in HAVE_BEST:
            own["layers"] = "all"
        for name, objective in _named(method, own):
            steering = fit_best(hooked, data, method=method, progress=progress, **own, **objective)
            steerings[name if name not in steerings else f"{name} ({len(steerings)})"] = steering
    report = measure_faithfulness(
        hooked, steerings, data.test, surface=options.get("surface", "R"), progress=progress
    )
    return Comparison(steerings, report)


def _named(method: str, options: Mapping[str, Any]) -> list[tuple[str, dict[str, str]]]:
    """The rows of a method: its name, and the objective where that tells two rows apart."""
    if method != "const" or "objective" in options or options.get("solver") == "replay":
        return [(method, {})]
    return [(f"const {objective}", {"objective": objective}) for objective in ("mse", "ll")]
