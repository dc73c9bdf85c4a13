"""Several methods, each at its best, fitted to the same examples and measured on the same runs."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, final

from jaxtyping import Shaped
from torch import Tensor

from psr_lens.dataset import SteeringDataset
from psr_lens.faithfulness import PARAPHRASE, FaithfulnessReport, measure_faithfulness
from psr_lens.faithfulness.measures import HEADLINES
from psr_lens.fitting import FitReport, fit_best
from psr_lens.fitting.best import settings_of
from psr_lens.fitting.plan import GRADIENT, LAYERWISE, options_of, plan_fit
from psr_lens.models import unsteered_model
from psr_lens.report import Figures, Packed, Report
from psr_lens.statistics import Estimate, why_no_interval
from psr_lens.steering import Steering
from psr_lens.steering.loading import build_steering, check_loadable
from psr_lens.steering.registry import fitted_methods, method_class
from psr_lens.storage.fields import listed, mapping, only, text

if TYPE_CHECKING:
    import pandas

_DEFAULTS: Final = {
    name: parameter.default
    for name, parameter in inspect.signature(plan_fit).parameters.items()
    if parameter.kind is not inspect.Parameter.VAR_KEYWORD
}
# Solver options: methods that the solver does not fit are fitted without them, and a note says so.
_OF_SOLVERS: Final = {
    **{key: {GRADIENT, LAYERWISE} for key in ("objective", "solver", "hook_point")},
    **{key: {GRADIENT} for key in ("recipe", "epochs", "lr")},
    **{key: {LAYERWISE} for key in ("precision", "max_memory")},
}


@final
@dataclass(frozen=True)
class Comparison(Report):
    """Methods side by side.

    Attributes:
        steerings: The fitted steerings, by name.
        faithfulness: Relative RMSE of all of them on the test examples.
        notes: Options that some methods do not take, and were fitted without.
    """

    title: ClassVar[str] = "Which method comes closest to the prompt?"

    steerings: Mapping[str, Steering]
    faithfulness: FaithfulnessReport
    notes: tuple[str, ...] = ()

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per steering: how it was fitted, relative RMSE at the last layer, the cost."""
        import pandas as pd

        n_layers = len(next(iter(self.faithfulness.relative_rmse.values())).values)
        rows = []
        for name, steering in self.steerings.items():
            last = self.faithfulness.relative_rmse[name].estimates[-1]
            report: FitReport = steering.fit_report
            rows.append(
                {
                    "steering": name,
                    "layers": "all"
                    if len(steering.layers) == n_layers
                    else ",".join(map(str, steering.layers)),
                    "objective": report.objective,
                    "solver": report.solver,
                    "relative_rmse": last.value,
                    "low": last.low,
                    "high": last.high,
                    "dev_relative_rmse": (report.dev_relative_rmse or (float("nan"),))[-1],
                    "fit_seconds": report.seconds,
                    "forwards": report.forwards,
                }
            )
        return pd.DataFrame(rows).set_index("steering")

    def differences(self) -> "pandas.DataFrame":
        """The closest steering against every other: paired differences at the last layer.

        A row's `difference` is the other's relative RMSE minus the closest one's, with its 95 % bootstrap
        interval; where that excludes zero, the closest is clearly better.
        """
        import pandas as pd

        curves = self.faithfulness.relative_rmse
        closest = min(self.steerings, key=lambda name: curves[name].values[-1])
        columns = ["steering", "closest", "difference", "low", "high"]
        rows = [
            (name, closest, *astuple(self.faithfulness.difference(name, closest).estimates[-1]))
            for name in self.steerings
            if name != closest
        ]
        return pd.DataFrame(rows, columns=columns).set_index("steering")

    def summary(self) -> str:
        """The table as text, with the paired differences and the reference line below."""
        table = self.to_dataframe().to_string(float_format="{:.3f}".format, na_rep="-")
        return "\n".join([*self._above(), "", table, *self._below()])

    def words(self) -> str:
        """The text above and below the table."""
        return "\n".join([*self._above(), *self._below()])

    def _above(self) -> list[str]:
        return [
            *filter(None, [self.caution(), why_no_interval(self.faithfulness.n_prompts)]),
            f"Relative RMSE at the last layer (1: no steering, 0: the prompt), "
            f"{self.faithfulness.examples} held-out examples; each method in the setting that was "
            "closest on the dev examples:",
        ]

    def _below(self) -> list[str]:
        lines: list[str] = []
        differences = self.differences()
        if len(differences):
            closest = differences["closest"].iloc[0]
            intervals = ", 95 % intervals" if self.faithfulness.has_intervals else ""
            lines += ["", f"further from the prompt than {closest!r}, paired{intervals}:"]
            lines += [
                f"  {name}: {Estimate(row.difference, row.low, row.high):+.3f}"
                for name, row in differences.iterrows()
            ]
        paraphrase = self.faithfulness.reference.get(PARAPHRASE)
        if paraphrase is not None:
            lines += ["", f"a paraphrase of the prompt: {paraphrase.values[-1]:.3f}"]
        return [*lines, "", *self.notes] if self.notes else lines

    def figures(self) -> Figures:
        """Those of the faithfulness report."""
        return self.faithfulness.figures()

    def drawable(self) -> Sequence[str]:
        """Those of the main measures that were taken."""
        return [name for name in self.faithfulness.drawable() if name in HEADLINES]

    def origin(self) -> Mapping[str, Any]:
        """The provenance of the faithfulness report."""
        return self.faithfulness.provenance

    def table_html(self) -> str:
        """The table."""
        from psr_lens.pages.report_page import numbers_html

        return numbers_html(self.to_dataframe())

    def packed(self) -> Packed:
        """What `save` writes: the report and the steerings, each as in a file of its own."""
        tensors, report = self.faithfulness.packed()
        tensors = {f"faithfulness.{name}": own for name, own in tensors.items()}
        for i, steering in enumerate(self.steerings.values()):
            check_loadable(steering)
            tensors |= {f"{i}.{name}": own for name, own in steering.state_dict().items()}
        steerings = [{"name": name, **own.header()} for name, own in self.steerings.items()]
        return tensors, {
            "steerings": steerings,
            "faithfulness": report,
            "notes": list(self.notes),
        }

    @classmethod
    def unpacked(
        cls, tensors: dict[str, Shaped[Tensor, "..."]], header: Mapping[str, Any]
    ) -> "Comparison":
        """The inverse of `packed`."""
        only(header, "steerings", "faithfulness", "notes")

        def part(prefix: str) -> dict[str, Tensor]:
            names = [name for name in tensors if name.startswith(prefix)]
            return {name.removeprefix(prefix): tensors.pop(name) for name in names}

        steerings = {}
        for i, about in enumerate(listed(header, "steerings", mapping)):
            rest = {key: own for key, own in about.items() if key != "name"}
            steerings[text(about, "name")] = build_steering(part(f"{i}."), rest)
        own = part("faithfulness.")
        report = FaithfulnessReport.unpacked(own, mapping(header, "faithfulness"))
        only(own)
        return cls(steerings, report, tuple(listed(header, "notes", text)))

    def check(self) -> None:
        """Refuse steerings other than those that were measured."""
        self.faithfulness.check()
        if list(self.steerings) != list(self.faithfulness.steerings):
            raise ValueError(
                f"steerings {list(self.steerings)}, and measured {list(self.faithfulness.steerings)}"
            )
        for name, steering in self.steerings.items():
            if steering.fit_report is None:
                raise ValueError(f"{name} has no fit report, and was not fitted")

    def __repr__(self) -> str:
        return self.summary()


def compare(
    model: Any,
    data: SteeringDataset,
    methods: Sequence[str],
    *,
    progress: bool = False,
    **options: Any,
) -> Comparison:
    """Fit each method at its best and measure all of them on the test examples.

    Each is fitted by `fit_best`, which tries every setting of the method and lets the dev examples choose.
    Constants appear twice, fitted to squared error (`constant, mse`) and to likelihood (`constant, ll`):
    the first is closer to the prompt inside the model, the second shows more of its behaviour.

    Args:
        model: A `HookedModel`, HookedTransformer, TransformerBridge or transformers model.
        data: Examples with a test split.
        methods: Names of methods, as `fit` takes them.
        progress: Whether to show bars.
        options: Arguments of `fit`, fixed rather than chosen. A method that does not take one is fitted
            without it, as `notes` and the summary say.

    Raises:
        TypeError: If `fit` has no such option.
        ValueError: If there is no method or no test example, an option applies to none of the methods, or a
            method takes an option but not its value (`solver="layerwise"` with `loreft`); all before the
            first fit.
    """
    plan = plan_comparison(methods, options)
    hooked = unsteered_model(model, "compare(...)")
    if len(data.test) == 0:
        raise ValueError(f"{data!r} has no test examples to compare on: give test a share")
    steerings: dict[str, Steering] = {}
    for name, own in plan.fits:
        steering = fit_best(hooked, data, progress=progress, **own)
        steerings[name] = steering
    report = measure_faithfulness(
        hooked,
        steerings,
        data.test,
        tokens=options.get("tokens", "response"),
        batch_size=options.get("batch_size", 32),
        progress=progress,
    )
    return Comparison(steerings, report, plan.notes)


@dataclass(frozen=True)
class Plan:
    """What a comparison will fit, known before there is a model.

    Attributes:
        fits: The rows: a name, and arguments of `fit_best`.
        notes: Options that some methods do not take.
    """

    fits: tuple[tuple[str, dict[str, Any]], ...]
    notes: tuple[str, ...]


def plan_comparison(methods: Sequence[str], options: Mapping[str, Any]) -> Plan:
    """Which fits a comparison is made of.

    Args:
        methods: Names of methods.
        options: Arguments of `fit`; None counts as not given.

    Raises:
        TypeError: If `fit` has no such option.
        ValueError: If there is no method, options conflict, or one applies to none of the methods.
    """
    if not methods:
        raise ValueError("methods is empty: name at least one")
    for method in methods:
        method_class(method)
    given = {key: value for key, value in options.items() if value is not None}
    if "checkpoint" in given:
        raise ValueError(
            "checkpoint= with a comparison: a directory keeps one fit; leave it out, or fit the methods "
            "one by one"
        )
    of_methods = {key for cls in fitted_methods().values() for key in options_of(cls)}
    for key in options:
        if key in ("method", "progress") or key not in {*_DEFAULTS, *of_methods}:
            raise TypeError(f"compare has no option {key!r}: those of fit are taken")
    takers = {key: tuple(_takers(key)) for key in given if key in {*_OF_SOLVERS, *of_methods}}
    # Options given at their defaults are dropped: they neither fail nor need a note.
    asked = {key: given[key] for key, own in takers.items() if _asks(key, given[key], own, methods)}
    for key, value in asked.items():
        if not set(methods) & set(takers[key]):
            raise ValueError(
                f"{key}={value!r} with {', '.join(methods)}: it is for {', '.join(takers[key])}; "
                "leave it out"
            )
    fits = []
    for method in methods:
        own = {
            key: value
            for key, value in given.items()
            if method in takers.get(key, (method,)) and (key in asked or key not in takers)
        }
        for name, objective in _named(method, own):
            fits.append((name, {"method": method, **own, **objective}))
            settings_of(method, {**own, **objective})
    notes = (
        f"{key}={value!r} is not for {', '.join(left)}, fitted without it"
        for key, value in asked.items()
        if (left := [name for name in dict.fromkeys(methods) if name not in takers[key]])
    )
    return Plan(tuple(_apart(fits)), tuple(notes))


def _apart(
    fits: Sequence[tuple[str, dict[str, Any]]],
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows whose names differ: with the method where several have one label, numbered if it is repeated."""
    methods: dict[str, set[str]] = {}
    for name, own in fits:
        methods.setdefault(name, set()).add(own["method"])
    seen: set[str] = set()
    for name, own in fits:
        name = name if len(methods[name]) == 1 else f"{name} [{own['method']}]"
        unique, number = name, 2
        while unique in seen or (unique != name and unique in methods):
            unique, number = f"{name} ({number})", number + 1
        seen.add(unique)
        yield unique, own


def _asks(key: str, value: Any, takers: Sequence[str], methods: Sequence[str]) -> bool:
    """Whether an option differs from its default for any of the methods that take it."""
    found = [options_of(method_class(name)) for name in takers if name in methods]
    defaults = [own.get(key, _DEFAULTS.get(key)) for own in found] or [
        options_of(method_class(name)).get(key, _DEFAULTS.get(key)) for name in takers
    ]
    return not all(_same(value, default) for default in defaults)


def _takers(option: str) -> Iterator[str]:
    """The methods that take an option."""
    for name, cls in fitted_methods().items():
        if option in options_of(cls) or _OF_SOLVERS.get(option, set()) & set(cls.solvers()):
            yield name


def _same(value: Any, default: Any) -> bool:
    """Whether an option equals its default; a tensor or a steering never does."""
    return type(value) is type(default) and bool(value == default)


def _named(method: str, options: Mapping[str, Any]) -> list[tuple[str, dict[str, str]]]:
    """A method's rows: its name in words, and the objective where it tells two rows apart."""
    cls = method_class(method)
    given = "objective" in options or options.get("solver") == "layerwise"
    if given or not (cls.apart_by_objective and GRADIENT in cls.solvers()):
        return [(cls.in_words(), {})]
    return [
        (f"{cls.in_words()}, {objective}", {"objective": objective}) for objective in ("mse", "ll")
    ]
