"""Several methods, fitted to the same examples and measured on the same runs: one table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from psr_lens.artifacts import write_bytes
from psr_lens.examples import SteeringDataset
from psr_lens.faithfulness import EQUIVALENT_PROMPT, FaithfulnessReport, measure_faithfulness
from psr_lens.fitting import FitReport, fit
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
        """One row per steering: relative RMSE at the last layer with its interval, and the cost."""
        import pandas as pd

        rows = []
        for name, steering in self.steerings.items():
            curve = self.faithfulness.relative_rmse[name]
            report: FitReport = steering.fit_report
            rows.append(
                {
                    "steering": name,
                    "layers": len(steering.layers),
                    "relative_rmse": curve.values[-1],
                    "low": curve.low[-1],
                    "high": curve.high[-1],
                    "dev_relative_rmse": (report.dev_relative_rmse or (float("nan"),))[-1],
                    "solver": report.solver,
                    "fit_seconds": report.seconds,
                    "forwards": report.forwards,
                }
            )
        return pd.DataFrame(rows).set_index("steering")

    def table(self) -> str:
        """The same as text, with the reference lines below."""
        lines = [
            f"Relative RMSE at the last layer (1: no steering, 0: the prompt), "
            f"{self.faithfulness.examples} held-out examples:",
            "",
            self.to_dataframe().to_string(float_format="{:.3f}".format),
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
    """Fit each method with the same options and measure all of them on the test examples.

    Args:
        model: A `HookedModel`, HookedTransformer or TransformerBridge.
        data: Examples with a test split.
        methods: Names of methods, as `fit` takes them.
        progress: Whether to show bars.
        options: Arguments of `fit`; those that a method does not take are left out for it.

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
            key: value for key, value in options.items() if method in _OF_SOME.get(key, (method,))
        }
        if options.get("solver") == "replay" and method in ("loreft", "reft_r1"):
            own["solver"] = "live"
        if options.get("layers") == "best" and method not in HAVE_BEST:
            own["layers"] = "all"
        steering = fit(hooked, data, method=method, progress=progress, **own)
        steerings[method if method not in steerings else f"{method} ({len(steerings)})"] = steering
    report = measure_faithfulness(
        hooked, steerings, data.test, surface=options.get("surface", "R"), progress=progress
    )
    return Comparison(steerings, report)
