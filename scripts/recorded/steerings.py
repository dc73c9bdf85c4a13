"""Steerings: made by hand, and fitted by every method."""

import torch
from torch import Tensor

import psr_lens as pl
from scripts.recorded.fits import FITS
from scripts.recorded.given import PROMPTS, Given
from scripts.recorded.names import needs_examples, round_trip, tensors_of
from scripts.recorded.record import Record


def record_steering(
    given: Given, record: Record, steering: pl.Steering, tolerance: str = "rounding"
) -> None:
    """A steering's tensors, how strongly it pushes, and what the model then says."""
    record.add_exact("layers", [*steering.layers, steering.tokens, len(tensors_of(steering))])
    for name, tensor in tensors_of(steering).items():
        record.add_tensor(name, tensor, tolerance)
    examples = given.data.test[:2]
    coefficients = steering.coefficients(given.model, examples, alpha=0.7)
    together = torch.cat([own.values for own in coefficients], dim=1)
    record.add_tensor("coefficients", together, tolerance)
    if needs_examples(steering):
        return
    said = []
    for alpha in (1.0, -0.5):
        with steering.applied(given.model, alpha) as steered:
            if alpha == 1.0:
                logits = steered(list(PROMPTS))[:, -1]
                record.add_tensor("logits", logits, tolerance)
            said += [steered.generate(PROMPTS[0], max_new_tokens=8, temperature=0.0)]
    record.add_exact("said", said)


def record_by_hand(given: Given, record: Record) -> None:
    """Steerings of every kind with given tensors, and their sums, without any fit."""
    model = given.model
    generator = torch.Generator().manual_seed(1)
    layers = (1, 2, 4)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    n, d = len(layers), model.d_model
    rotation = torch.linalg.qr(random(n, d, 2)).Q.mT
    psr = pl.PSR(random(n, 2, d), random(n, 2), random(n, 2, d), layers, tokens="question+response")
    constant = pl.ConstantSteering.from_vectors({layer: random(d) for layer in layers})
    made = {
        "constant": constant,
        "psr": psr,
        "actadd": pl.ActAdd(random(n, 3, d), layers),
        "actadd of texts": pl.ActAdd.from_texts(model, "be optimistic", "shout", [2], pad="."),
        "projection": pl.ProjectionMatch(random(n, d), 5 * random(n), layers),
        "ablation": pl.DirectionalAblation(random(n, d), layers, tokens="question+response"),
        "reft_r1": pl.ReFTr1(random(n, d), 3 * random(n).abs(), layers),
        "loreft": pl.LoReFT(rotation, 0.1 * random(n, 2, d), random(n, 2), layers),
        "sum": 0.5 * psr - constant,
        "oracle": pl.OracleSteering(layers, tokens="question+response"),
        "oracle along": pl.OracleSteering.along(psr),
    }
    same = {}
    for name, steering in made.items():
        record_steering(given, record.within(name), steering)
        again = tensors_of(round_trip(steering))
        same[name] = all(torch.equal(own, again[key]) for key, own in tensors_of(steering).items())
    record.add_exact("saved and loaded alike", list(same.items()))


def record_fit(given: Given, record: Record, steering: pl.Steering, tolerance: str) -> None:
    """A fit: the steering, and its report."""
    report = steering.fit_report
    share = "share" if tolerance == "rounding" else f"{tolerance} share"
    if tolerance == "unstable":
        record.add("dev relative RMSE", report.dev_relative_rmse, share)
        record.add("stages, dev", [own.dev_loss for own in report.stages], share)
        return
    record_steering(given, record, steering, tolerance)
    record.add_exact(
        "report",
        [
            report.method,
            report.objective,
            report.solver,
            report.examples,
            report.dev_examples,
            bool(report.warning),
            round(report.forwards, 2),
            [name for name, _ in report.tried],
            [[own.layer, own.heads, own.penalty] for own in report.stages if own.heads is not None],
        ],
    )
    curves = {
        "dev relative RMSE": report.dev_relative_rmse,
        "candidates": report.candidates,
        "losses": report.losses,
        "dev losses": report.dev_losses,
        "tried": [value for _, value in report.tried],
        "stages, train": [own.train_loss for own in report.stages],
        "stages, dev": [own.dev_loss for own in report.stages if own.dev_loss is not None],
    }
    for name, curve in curves.items():
        if len(curve):
            record.add(name, curve, share)


def record_fits(given: Given, record: Record) -> dict[str, pl.Steering]:
    """Every method with every solver, as far as the setup goes."""
    found: dict[str, pl.Steering] = {}
    for own in FITS:
        if not given.setup.covers(own.part_of):
            continue
        options = {"along": found[own.along]} if own.along else {}
        data = given.with_negatives if own.negatives else given.data
        if own.weighted:
            data = data.weighted([1.0 if i % 4 else 0.25 for i in range(len(data))])
        found[own.name] = pl.fit(given.model, data, **own.options, **options)
        record_fit(given, record.within(own.name), found[own.name], own.tolerance)
    return found
