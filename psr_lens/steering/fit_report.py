"""How a fit went."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, final

from psr_lens.report import Figures, Report

if TYPE_CHECKING:
    import pandas


@final
@dataclass(frozen=True)
class StageReport:
    """How the fit of one layer went.

    Attributes:
        layer: The layer.
        train_loss: What is still missing, as a share of the energy of what was missing, on the training
            tokens.
        dev_loss: The same on the dev tokens; None without dev examples.
        steps: Optimiser steps taken, 0 for a closed form.
        heads: PSR heads that the layer uses; None for other methods.
        penalty: The penalty they were fitted with; None for other methods.
    """

    layer: int
    train_loss: float
    dev_loss: float | None
    steps: int
    heads: int | None = None
    penalty: float | None = None


@final
@dataclass(frozen=True)
class FitReport(Report):
    """How a fit went.

    Attributes:
        method: The method.
        objective: `mse` or `ll`; empty for a closed form.
        solver: How the steering was found: `closed form`, `layerwise`, `gradient`, or
            `layerwise, then gradient`.
        stages: One report per layer that was fitted by itself or by a closed form.
        losses: Training loss of every step of the gradient solver.
        dev_losses: The gradient solver's objective on the dev examples before the first step and after each
            epoch.
        dev_relative_rmse: Relative RMSE of the finished steering per layer, on the dev examples;
            empty without them.
        candidates: Relative RMSE at the last layer on the dev examples, of every layer that
            `layers="best"` tried; empty otherwise.
        tried: Solvers that `auto` compared, and step sizes where the first was too large, each with its best
            objective on the dev examples.
        seconds: Wall-clock time.
        forwards: Forward passes run, in sequences through the whole model: each sequence that goes
            through one of L blocks counts 1/L. What `FitRuns` held already is not run.
        examples: Training examples.
        dev_examples: Dev examples.
        settings: What `fit_best` compared, each with its relative RMSE at the last layer on the dev
            examples; empty for a plain `fit`.
        warning: Says that the prompts did next to nothing, with a response of each kind, or that training
            never got better than its start; else empty.
    """

    title: ClassVar[str] = "How did the fit go?"

    method: str
    objective: str
    solver: str
    stages: tuple[StageReport, ...]
    losses: tuple[float, ...]
    dev_losses: tuple[float, ...]
    dev_relative_rmse: tuple[float, ...]
    candidates: tuple[float, ...]
    tried: tuple[tuple[str, float], ...]
    seconds: float
    forwards: float
    examples: int
    dev_examples: int
    settings: tuple[tuple[str, float], ...] = ()
    warning: str = ""

    def caution(self) -> str:
        """Its warning."""
        return self.warning

    def summary(self) -> str:
        """What was fitted and how, how long it took, and how close it came."""
        reached = ""
        if self.dev_relative_rmse:
            reached = (
                f"\nRelative RMSE on {self.dev_examples} dev examples: {self.dev_relative_rmse[-1]:.3f} at "
                "the last layer (0 is the prompt, 1 is doing nothing)."
            )
        return (
            f"{self.method}, fitted by {self.solver} on {self.examples} examples in {self.seconds:.1f} s, "
            f"{self.forwards:.0f} forward passes.{reached}"
        )

    def to_dataframe(self) -> "pandas.DataFrame":
        """Tidy long form: one row per number.

        Columns: `quantity`; `name`, that of a solver, step size or setting that was tried, else empty; `at`,
        the layer, or the step of `losses` and the epoch of `dev_losses`, missing where there is none; and
        `value`.
        For every layer there are `train_loss`, `dev_loss`, `steps`, `heads` and `penalty` from its
        `StageReport`, `dev_relative_rmse` and `candidates`; for the whole fit `seconds`, `forwards`,
        `examples` and `dev_examples`.
        """
        import pandas as pd

        rows: list[tuple[str, str, int | None, float]] = []
        for stage in self.stages:
            own = {k: v for k, v in asdict(stage).items() if k != "layer" and v is not None}
            rows += [(quantity, "", stage.layer, value) for quantity, value in own.items()]
        for quantity in ("losses", "dev_losses", "dev_relative_rmse", "candidates"):
            rows += [(quantity, "", i, value) for i, value in enumerate(getattr(self, quantity))]
        for quantity in ("tried", "settings"):
            rows += [(quantity, name, None, value) for name, value in getattr(self, quantity)]
        for quantity in ("seconds", "forwards", "examples", "dev_examples"):
            rows.append((quantity, "", None, getattr(self, quantity)))
        table = pd.DataFrame(rows, columns=["quantity", "name", "at", "value"])
        return table.astype({"at": "Int64", "value": float})

    def figures(self) -> Figures:
        """What there is to draw.

        `layers`: relative RMSE on the dev examples and what each layer's fit left missing. `losses`: the
        objective over the steps.
        """
        from psr_lens import plots

        return {
            "layers": partial(plots.fit_layers, self),
            "losses": partial(plots.fit_losses, self),
        }

    def drawable(self) -> Sequence[str]:
        """The figures that there are numbers for."""
        there = {"layers": self.dev_relative_rmse or self.stages, "losses": self.losses}
        return [name for name, numbers in there.items() if numbers]

    def check(self) -> None:
        """Refuse counts below zero."""
        counts = [*(stage.steps for stage in self.stages), *(stage.layer for stage in self.stages)]
        if min([self.examples, self.dev_examples, *counts]) < 0:
            raise ValueError(
                f"examples={self.examples}, stages {self.stages}: no number is below 0"
            )

    def __repr__(self) -> str:
        reached = (
            f", dev relative RMSE {self.dev_relative_rmse[-1]:.3f} at the last layer"
            if self.dev_relative_rmse
            else ""
        )
        first = f"{self.warning}\n" if self.warning else ""
        return (
            f"{first}FitReport({self.method} by {self.solver}: {self.seconds:.1f} s, {self.forwards:.0f} "
            f"forwards, {self.examples} examples{reached})"
        )
