"""Fitting through the model against a plain loop, and against fitting layer by layer."""

from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks import plain
from benchmarks.figures import Figure
from benchmarks.models import as_dataset, make_examples
from benchmarks.sizes import BACKENDS, Bench
from benchmarks.timing import alternate
from psr_lens.dataset import SteeringDataset
from psr_lens.demo.animals import fit_data, held_out_data
from psr_lens.faithfulness import measure_faithfulness
from psr_lens.fitting import fit
from psr_lens.models import HookedModel
from psr_lens.steering import PSR, Steering
from psr_lens.steering.training import Start

SAME_CURVE = 1e-3
GRADIENT_BOUNDS = {40: 2.0, 400: 5.0}
LAYERWISE_BOUND = 10.0
_BACKEND = BACKENDS[0]
_TRAIT = "optimist"
_TRAIN_PER_DEV = 3
"""As `sample_responses` splits."""


def run_gradient(bench: Bench) -> Iterator[Figure]:
    """`gradient` and the plain loop from the same start, over the same batches."""
    for name in bench.names:
        for prompt in bench.sizes.prompts:
            yield from _gradient_against_plain(bench, name, prompt)


def run_layerwise(bench: Bench) -> Iterator[Figure]:
    """`layerwise` and `gradient`: seconds, and the relative RMSE that each reaches."""
    for name in bench.names:
        for backend in BACKENDS:
            yield from _layerwise_against_gradient(bench, name, backend)


def fit_psr(
    model: HookedModel,
    data: SteeringDataset,
    solver: str,
    bench: Bench,
    epochs: int | None = None,
) -> Steering:
    """A-PSR by one of our solvers, `gradient` by the paper's recipe."""
    options: dict[str, Any] = {"solver": solver, "batch_size": bench.sizes.fit_batch_size}
    if solver == "gradient":
        options |= {"objective": "mse", "recipe": "paper", "epochs": epochs or bench.sizes.epochs}
    return fit(model, data, method="psr", layers="all", seed=0, n_heads=1, **options)


def initial_heads(model: HookedModel, seed: int) -> plain.Heads:
    """Where `gradient` starts from at this seed, all layers, one head."""
    start = Start(
        layers=tuple(range(model.n_layers)),
        d_model=model.d_model,
        tokens="response",
        seed=seed,
        standardised=False,
        contrast=lambda: torch.zeros(model.n_layers, model.d_model),
    )
    psr = PSR.start(start, PSR.Options())
    return plain.Heads(*(part.to(model.device, model.dtype) for part in (psr.w, psr.b, psr.z)))


def curve_gap(ours: Sequence[float], reference: Sequence[float]) -> float:
    """Largest relative difference between two loss curves of the same length.

    Raises:
        ValueError: If they have not the same number of steps.
    """
    if len(ours) != len(reference):
        raise ValueError(f"{len(ours)} steps against {len(reference)}: run the same on both")
    return max(abs(a - b) / abs(b) for a, b in zip(ours, reference, strict=True))


def _gradient_against_plain(bench: Bench, name: str, prompt: int) -> Iterator[Figure]:
    sizes = bench.sizes
    model = bench.model(name, _BACKEND)
    # One group, so that no dev part is set aside and both train on the same examples.
    # In the order in which a fit takes them, so that both draw the same batches.
    made = make_examples(sizes.fit_examples, prompt, sizes.response, group="pairs")
    train = as_dataset(made).sorted().examples
    losses: dict[str, Sequence[float]] = {}

    def run_plain() -> None:
        losses["plain"] = plain.fit_psr(
            model,
            train,
            initial_heads(model, seed=0),
            tuple(range(model.n_layers)),
            epochs=sizes.epochs,
            batch_size=sizes.fit_batch_size,
        )[1]

    def run_gradient() -> None:
        steering = fit_psr(model, as_dataset(train), "gradient", bench)
        losses["gradient"] = steering.fit_report.losses

    timings = alternate(
        {"plain loop": run_plain, "gradient": run_gradient}, sizes.fit_repeats, warm_up=False
    )
    case = (
        f"prompts of {prompt}, {sizes.epochs} epochs of {len(train)} examples, "
        f"batch {sizes.fit_batch_size}"
    )
    yield Figure(
        "gradient",
        name,
        _BACKEND,
        case,
        "plain loop / gradient",
        timings.ratio("plain loop", "gradient"),
        GRADIENT_BOUNDS.get(prompt),
        "higher",
        timings.medians(),
    )
    yield Figure(
        "gradient",
        name,
        _BACKEND,
        case,
        "largest relative difference of the loss curves",
        curve_gap(losses["gradient"], losses["plain"]),
        SAME_CURVE,
    )


def _layerwise_against_gradient(bench: Bench, name: str, backend: str) -> Iterator[Figure]:
    sizes = bench.sizes
    model = bench.model(name, backend)
    if name == "demo":
        data, held_out = fit_data(model, _TRAIT, seed=0), held_out_data(model, _TRAIT, seed=1)
        if len(data.train) > 8 * sizes.fit_examples:
            count = 8 * sizes.fit_examples
            kept = (*data.train[:count], *data.dev[: count // _TRAIN_PER_DEV])
            data = SteeringDataset(kept, data.split_of_group, data.provenance)
        text = f"sampled responses of the trait {_TRAIT}"
    else:
        count = sizes.fit_examples
        both = count + count // _TRAIN_PER_DEV
        examples = make_examples(3 * count, sizes.prompts[0], sizes.response)
        data = as_dataset(examples[:count], examples[count:both])
        held_out = as_dataset((), (), examples[both:])
        text = f"prompts of {sizes.prompts[0]}"
    found: dict[str, Steering] = {}

    def fitted(solver: str) -> None:
        found[solver] = fit_psr(model, data, solver, bench)

    batches = plain.both_batches(model, [*data.train, *data.dev], sizes.fit_batch_size)

    def two_forwards() -> None:
        for batch in batches:
            plain.run(model, batch)

    timings = alternate(
        {
            "layerwise": lambda: fitted("layerwise"),
            "gradient": lambda: fitted("gradient"),
            "two forwards": two_forwards,
        },
        sizes.fit_repeats,
        warm_up=False,
    )
    case = (
        f"{text}, {len(data.train)} examples, {len(data.dev)} to stop on, "
        f"{sizes.epochs} epochs through the model"
    )
    yield Figure(
        "layerwise",
        name,
        backend,
        case,
        "gradient / layerwise",
        timings.ratio("gradient", "layerwise"),
        LAYERWISE_BOUND if name == bench.large else None,
        "higher",
        timings.medians(),
    )
    yield Figure(
        "layerwise",
        name,
        backend,
        case,
        "gradient / a base run and a prompted run alone, which the layerwise solver cannot do without",
        timings.ratio("gradient", "two forwards"),
        better="higher",
    )
    for label, part in (("training", data.train), ("held-out", held_out)):
        report = measure_faithfulness(
            model,
            found,
            part,
            outputs=False,
            gap=False,
            random_direction=False,
            oracle_ranks=(),
            token_examples=0,
            n_bootstrap=0,
            allow_seen=True,
        )
        curves = report.relative_rmse
        mean = {solver: sum(curves[solver].values) / model.n_layers for solver in found}
        yield Figure(
            "layerwise",
            name,
            backend,
            case,
            f"relative RMSE on {label} examples, layerwise / gradient",
            mean["layerwise"] / mean["gradient"],
            1.0,
            note=f"{mean['layerwise']:.3f} and {mean['gradient']:.3f}, means over layers",
        )
