"""How a fit went."""

from dataclasses import dataclass


@dataclass(frozen=True)
class StageReport:
    """How the fit of one layer went.

    Attributes:
        layer: The layer.
        train_loss: Share of the energy of what was missing that is still missing, on the training
            tokens.
        dev_loss: The same on the dev tokens; None without dev examples.
        steps: Optimiser steps taken, 0 for a closed form.
        heads: PSR heads that the layer uses; None for other methods.
        penalty: The penalty that they were fitted with; None for other methods.
    """

    layer: int
    train_loss: float
    dev_loss: float | None
    steps: int
    heads: int | None = None
    penalty: float | None = None


@dataclass(frozen=True)
class FitReport:
    """How a fit went.

    Attributes:
        method: The method.
        objective: `mse` or `ll`; empty where there is a closed form alone.
        solver: What led to the steering: `closed form`, `replay`, `live`, or `replay, then live`.
        stages: One report per layer that replay or a closed form fitted.
        losses: Training loss of every step of the live solver.
        dev_losses: Its objective on the dev examples before the first step and after each epoch.
        dev_relative_rmse: Relative RMSE of the finished steering per layer, on the dev examples;
            empty without them.
        candidates: Relative RMSE at the last layer on the dev examples, of every layer that
            `layers="best"` tried; empty otherwise.
        tried: Solvers that `auto` compared, each with its best objective on the dev examples.
        seconds: Wall-clock time.
        forwards: Forward passes run, in sequences through the whole model: each sequence that goes
            through one of L blocks counts 1/L.
        examples: Training examples.
        dev_examples: Dev examples.
        settings: What `fit_best` compared, each with its relative RMSE at the last layer on the dev
            examples; empty for a plain `fit`.
        warning: That the prompts did next to nothing, with a response of each kind, or that training
            never got better than its start; else empty.
    """

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
