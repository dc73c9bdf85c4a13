"""The gradient solver: train a steering through the frozen model.

Targets, prefixes and what lies below the first intervened layer come from `prepared`; a step costs
the blocks above it, forwards and backwards, over the aligned tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from threading import RLock
from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.utils import parametrize

from psr_lens._bars import tqdm
from psr_lens.fitting import objectives
from psr_lens.fitting.prepared import Prepared, StepBatch
from psr_lens.fitting.recipe import Recipe
from psr_lens.models import HookedModel
from psr_lens.steering import Steering
from psr_lens.steering.training import Scale, Watcher

_CONSTRAINED = RLock()


@final
class Trained:
    """A steering that is being trained, in the units of a model.

    Its parameters are those of a steering that reads a standardised residual stream and adds in units of
    the accumulated delta, so that one step size fits all; without a scale they are in plain units.

    Args:
        start: The steering to begin with, in these units; it is trained in place.
        scale: The units; None: plain ones.
        width: Width of the residual stream: entries of vectors this wide move by `lr / sqrt(width)`, which
            makes a step `lr` long whatever the width; None: all entries move by `lr`.
        zeros: Parameters that are held at 0.
    """

    def __init__(
        self,
        start: Steering,
        scale: Scale | None,
        width: int | None = None,
        zeros: Sequence[str] = (),
    ):
        self.steering = start
        self.scale = scale
        start.requires_grad_()
        start.constrain()
        for name in zeros:
            start.get_parameter(name).requires_grad_(False).zero_()
        self.parameters = {name: own for name, own in start.named_parameters() if own.requires_grad}
        self.steps = {
            name: own.shape[-1] ** -0.5 if own.shape[-1] == width else 1.0
            for name, own in self.parameters.items()
        }

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers, ascending."""
        return self.steering.layers

    @property
    def finds_own_strength(self) -> bool:
        """Whether it sets its own strength and ignores the example's."""
        return self.steering.finds_own_strength

    def act(
        self,
        layer: int,
        resid: Float[Tensor, "batch pos d_model"],
        on: Bool[Tensor, "batch pos"],
        regulariser: float = 0.0,
        watch: Watcher | None = None,
    ) -> tuple[Float[Tensor, "batch pos d_model"], Tensor | float]:
        """What is added at strength 1, and what the layer adds to the objective."""
        size = 1.0
        if self.scale is not None:
            row = self.steering.row(layer)
            resid = (resid - self.scale.mean[row]) / self.scale.std[row]
            size = self.scale.size[row]
        if watch is not None:
            watch(layer, resid, on)
        update, penalty = self.steering.training_update(layer, resid, on, regulariser)
        return size * update, penalty

    def check_gradients(self) -> None:
        """Refuse a parameter that has no gradient after a step.

        Raises:
            ValueError: If there is one.
        """
        idle = [name for name, own in self.parameters.items() if own.grad is None]
        if idle:
            raise ValueError(
                f"{', '.join(idle)} of {self.steering.method!r} takes no part in what it adds: switch "
                "its gradient off in constrain()"
            )

    def finished(self, watch: Callable[[Watcher], None]) -> Steering:
        """The steering with the parameters as they are, in plain units."""
        steering = self.steering
        for name in list(getattr(steering, "parametrizations", ())):
            parametrize.remove_parametrizations(steering, name, leave_parametrized=True)
        steering.requires_grad_(False)
        steering.after_training(watch)
        if self.scale is not None:
            return steering.rescaled(self.scale.inverse())
        # Built anew: a class may keep its numbers in a form, such as norm 1, that training does not.
        return steering.with_tensors(steering.state_dict())


@final
class Objective:
    """The objective on a set of prepared examples.

    Args:
        model: The model.
        prepared: The examples.
        first: The first intervened layer.
        objective: `mse` or `ll`.
        recipe: For the regulariser and the normalisation.
        batch_size: Examples per pass where no gradient is taken.
    """

    def __init__(
        self,
        model: HookedModel,
        prepared: Sequence[Prepared],
        first: int,
        objective: str,
        recipe: Recipe,
        batch_size: int = 32,
    ):
        self.model, self.prepared, self.first = model, prepared, first
        self.objective, self.recipe, self.batch_size = objective, recipe, batch_size
        self.ends = torch.tensor(sorted(model.encoder.end_token_ids), device=model.device)
        tokens = sum(len(one.start) for one in prepared)
        energy = sum(float(one.energy.sum()) for one in prepared) / (max(tokens, 1) * model.d_model)
        self.unit = energy if recipe.normalise and objective == "mse" and energy > 0 else 1.0

    def loss(
        self, indices: Sequence[int], trained: Trained, watch: Watcher | None = None
    ) -> Float[Tensor, ""]:
        """The objective on a batch, penalties included."""
        objective, penalties = self._parts(indices, trained, watch)
        return objective + penalties

    @torch.no_grad()
    def mean_loss(self, trained: Trained, watch: Watcher | None = None) -> float:
        """The objective over all examples, however they are batched."""
        totals, counts = [0.0, 0.0], [0, 0]
        for indices in _by_length(self.prepared, self.batch_size):
            own = [self.prepared[i] for i in indices]
            scored = sum(one.predicted if self.objective == "ll" else len(one.start) for one in own)
            parts = self._parts(indices, trained, watch)
            # The objective is a mean over tokens, a penalty one over responses.
            for i, (part, count) in enumerate(zip(parts, (scored, len(own)), strict=True)):
                if count:
                    totals[i] += float(part) * count
                    counts[i] += count
        return sum(total / max(count, 1) for total, count in zip(totals, counts, strict=True))

    def _parts(
        self, indices: Sequence[int], trained: Trained, watch: Watcher | None
    ) -> tuple[Tensor, Tensor | float]:
        """The objective on a batch, and the penalties."""
        own = [self.prepared[i] for i in indices]
        batch = StepBatch(self.model, own, self.first)
        penalties: list[Tensor | float] = []

        def act(layer: int, resid: Tensor) -> Tensor:
            update, penalty = trained.act(layer, resid, batch.on, self.recipe.regulariser, watch)
            penalties.append(penalty)
            return update if trained.finds_own_strength else batch.strength * update

        # Constrained tensors are computed once and not at every layer. One thread at a time, because torch
        # caches them for the whole process.
        with _CONSTRAINED, parametrize.cached():
            acted, last = batch.run(self.model, trained.layers, act, self.objective == "ll")
        if self.objective == "ll":
            tokens, on, ends = batch.next_tokens(self.model, own)
            loss = objectives.cross_entropy(last, tokens, on, ends, self.ends)
        else:
            loss = objectives.mse(acted, batch.target, batch.on) / self.unit
        return loss, sum(penalties)


@final
@dataclass(frozen=True, eq=False)
class TrainingState:
    """The state of a run after some epochs: everything that the rest of it depends on.

    Attributes:
        epoch: Epochs done.
        losses: Training loss of every step.
        dev_losses: Dev objective before the first step and after every epoch.
        stale: Epochs since the best dev objective.
        tensors: Parameters, the best so far, and the optimiser's moments, by name.
    """

    epoch: int
    losses: tuple[float, ...]
    dev_losses: tuple[float, ...]
    stale: int
    tensors: dict[str, Tensor]

    @property
    def futile(self) -> bool:
        """Whether there were steps, and none made the dev objective better than at the start."""
        return (
            self.epoch > 0
            and len(self.dev_losses) > 1
            and min(self.dev_losses) == self.dev_losses[0]
        )

    def overshot(self, epochs: int) -> bool:
        """Whether the dev objective was best within the first eighth of the epochs: steps were too large.

        Args:
            epochs: How many the run would have had; of fewer than sixteen, an eighth is the first.
        """
        first = max(1, epochs // 8)
        losses = self.dev_losses
        if len(losses) <= first + 1 or not isfinite(losses[0]):
            return False
        return losses.index(min(losses)) <= first

    @classmethod
    def start(cls, trained: Trained, dev: Objective | None) -> "TrainingState":
        """Before the first step."""
        losses = () if dev is None else (dev.mean_loss(trained),)
        return cls(0, (), losses, 0, _copies(trained, "best"))

    def after(
        self,
        epoch: int,
        losses: Sequence[float],
        trained: Trained,
        optimiser: torch.optim.Optimizer,
        dev: Objective | None,
    ) -> "TrainingState":
        """After one more epoch."""
        dev_losses = self.dev_losses
        better = True
        if dev is not None:
            dev_losses = (*dev_losses, dev.mean_loss(trained))
            # Written so that NaN does not count as an improvement.
            better = dev_losses[-1] < min(dev_losses[:-1])
        best = _copies(trained, "best") if better else self._named("best")
        moments = {
            f"{key}.{name}": optimiser.state[value][key].clone()
            for name, value in trained.parameters.items()
            for key in ("step", "exp_avg", "exp_avg_sq")
        }
        tensors = {**best, **_copies(trained, "now"), **moments}
        stale = 0 if better else self.stale + 1
        return TrainingState(epoch, tuple(losses), dev_losses, stale, tensors)

    def check(self, trained: Trained, *, per_epoch: int, has_dev: bool) -> None:
        """Refuse a state that is not one of such a run.

        Raises:
            ValueError: If it is not, because it was read from a file, which can hold anything.
        """
        shapes = {
            f"{key}.{name}": torch.Size() if key == "step" else value.shape
            for name, value in trained.parameters.items()
            for key in ("best", "now", "step", "exp_avg", "exp_avg_sq")
        }
        counts = (self.epoch * per_epoch, self.epoch + 1 if has_dev else 0)
        if {name: own.shape for name, own in self.tensors.items()} != shapes or (
            len(self.losses),
            len(self.dev_losses),
        ) != counts:
            raise ValueError(
                "the checkpoint holds other tensors or losses than this fit has: name an empty "
                "directory"
            )

    def restore(self, trained: Trained, optimiser: torch.optim.Optimizer) -> None:
        """Put parameters and moments where the run had them."""
        if self.epoch == 0:
            return
        with torch.no_grad():
            for name, value in trained.parameters.items():
                value.copy_(self.tensors[f"now.{name}"])
                optimiser.state[value] = {
                    key: self.tensors[f"{key}.{name}"]
                    .to("cpu" if key == "step" else value.device)
                    .clone()
                    for key in ("step", "exp_avg", "exp_avg_sq")
                }

    def put_back(self, trained: Trained) -> None:
        """The best parameters."""
        with torch.no_grad():
            for name, value in trained.parameters.items():
                value.copy_(self.tensors[f"best.{name}"])

    def _named(self, prefix: str) -> dict[str, Tensor]:
        return {name: own for name, own in self.tensors.items() if name.startswith(f"{prefix}.")}


def train(
    problem: Objective,
    dev: Objective | None,
    trained: Trained,
    *,
    begin: "TrainingState | None" = None,
    after_epoch: Callable[["TrainingState"], None] = lambda state: None,
    progress: bool = False,
) -> "TrainingState":
    """Train until the recipe or the dev split says stop, then restore the best parameters.

    Args:
        problem: The objective on the training examples.
        dev: The same on the dev examples; None: the last parameters are kept.
        trained: What is trained, in place.
        begin: The state of an interrupted run.
        after_epoch: Called after every epoch, to save.
        progress: Whether to show a bar.

    Raises:
        ValueError: If the result is not finite, or `begin` is not the state of such a run.
    """
    recipe = problem.recipe
    groups = [
        {"params": [own], "step": trained.steps[name]} for name, own in trained.parameters.items()
    ]
    optimiser = torch.optim.AdamW(groups, lr=recipe.lr, weight_decay=recipe.weight_decay)
    per_epoch = -(-len(problem.prepared) // recipe.batch_size)
    total = per_epoch * recipe.epochs
    generator = torch.Generator().manual_seed(recipe.shuffle_seed)
    state = begin or TrainingState.start(trained, dev)
    if begin is not None:
        begin.check(trained, per_epoch=per_epoch, has_dev=dev is not None)
        begin.restore(trained, optimiser)
    # The orders of finished epochs are drawn again, so that the next ones come out the same.
    orders = [_epoch(problem, generator) for _ in range(recipe.epochs)]
    losses = list(state.losses)
    with tqdm(total=total, desc="gradient", unit="step", disable=not progress) as bar:
        bar.update(len(losses))
        for epoch in range(state.epoch, recipe.epochs):
            if recipe.patience and state.stale >= recipe.patience:
                break
            for indices in orders[epoch]:
                for group in optimiser.param_groups:
                    group["lr"] = group["step"] * recipe.lr * (1 - len(losses) / total)
                optimiser.zero_grad()
                loss = problem.loss(indices, trained)
                loss.backward()
                trained.check_gradients()
                optimiser.step()
                losses.append(float(loss.detach()))
                bar.update()
            state = state.after(epoch + 1, losses, trained, optimiser, dev)
            bar.set_postfix_str(f"loss {losses[-1]:.3g}")
            after_epoch(state)
    state.put_back(trained)
    if not all(bool(value.isfinite().all()) for value in trained.parameters.values()):
        raise ValueError(
            f"the gradient solver reached NaN or infinity after {len(losses)} steps with lr={recipe.lr:g}: "
            "choose a smaller lr"
        )
    return state


def _copies(trained: Trained, prefix: str) -> dict[str, Tensor]:
    return {
        f"{prefix}.{name}": value.detach().clone() for name, value in trained.parameters.items()
    }


def _epoch(problem: Objective, generator: torch.Generator) -> list[list[int]]:
    """The batches of one epoch."""
    size = problem.recipe.batch_size
    order = torch.randperm(len(problem.prepared), generator=generator).tolist()
    if not problem.recipe.adaptive:
        return [order[i : i + size] for i in range(0, len(order), size)]
    # Batches of like length: sorted within windows of the shuffled order, then shuffled again.
    window = 8 * size
    batches: list[list[int]] = []
    for begin in range(0, len(order), window):
        part = sorted(order[begin : begin + window], key=lambda i: len(problem.prepared[i].start))
        batches += [part[i : i + size] for i in range(0, len(part), size)]
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


def _by_length(prepared: Sequence[Prepared], size: int) -> list[list[int]]:
    order = sorted(range(len(prepared)), key=lambda i: len(prepared[i].start))
    return [order[i : i + size] for i in range(0, len(order), size)]
