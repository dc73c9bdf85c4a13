"""A demo run as a page that explains itself."""

from collections.abc import Sequence
from typing import Final

from psr_lens.demo.experiment import CONTROL, TraitResult
from psr_lens.demo.trial import CONSTANTS, METHODS, PSR
from psr_lens.examples import cut_off_of
from psr_lens.faithfulness import PARAPHRASE
from psr_lens.model_record import describe_model
from psr_lens.models import HookedModel
from psr_lens.pages import TraitPage, TraitSection

_LEAD = (
    "A system prompt changes what goes on inside a language model, at every layer and at every "
    "token, but not equally. The first panel colours one response by how much the prompt "
    "adds at each token. A constant steering vector adds the same everywhere (second panel). A PSR, "
    "a small probe that reads each token and decides how hard to push, was fitted layer by layer (third "
    "panel) and makes the model behave as if prompted, without the prompt. The constants had their "
    "best shot: difference in means at its best layer, and one vector for every layer, fitted through "
    "the model to the prompted residual stream (mse) and to the likelihood of the prompted responses "
    "(ll). All numbers are from {subjects} that no fit has seen; layers and strengths were chosen on "
    "yet others."
)
SHOWN: Final = tuple(name for name, how in METHODS.items() if how.get("layers") != "best")
"""The methods whose answers are shown: those that act on all layers."""


def demo_report(model: HookedModel, results: Sequence[TraitResult], seed: int) -> TraitPage:
    """The page of a demo run.

    Args:
        model: The model that ran.
        results: One result per trait.
        seed: The run's seed.
    """
    described = describe_model(model)
    described.pop("fingerprint")
    return TraitPage(
        "What did this prompt do inside the model?",
        _LEAD.format(subjects=results[0].trial.subjects),
        tuple(_section(result) for result in results),
        {**described, "seed": str(seed), "examples": str(len(results[0].questions))},
    )


def _section(result: TraitResult) -> TraitSection:
    return TraitSection(
        result.name,
        result.instruction,
        _summary(result),
        f"system: {result.instruction}\nuser: {result.questions[0]}",
        result.panels,
        result.faithfulness,
        tuple(_behaviour_rows(result)),
        tuple(_examples(result)),
        shared_scale=True,
        layer=result.layer,
        prompts=result.faithfulness.prompts(0),
        notes=tuple(filter(None, [cut_off_of(result.faithfulness.provenance)])),
    )


def _summary(result: TraitResult) -> str:
    curves = result.faithfulness.relative_rmse
    assumptions = result.assumptions
    share = assumptions.curve("mean_energy_share").values[-1]
    paraphrase = result.faithfulness.reference[PARAPHRASE].values[-1]
    p10, p90 = (assumptions.curve("norm_quantile", at=at).values[-1] for at in (10, 90))
    closest = min(CONSTANTS, key=lambda name: curves[name].values[-1])
    gain = result.faithfulness.difference(closest, PSR).estimates[-1]
    return (
        f"The panels show layer {result.layer} first, where they compare best (chosen on other "
        "responses). At the last layer the prompt moves one token in ten by more than "
        f"{p90:.1f} and one in ten by less than {p10:.1f}; {share:.0%} of the energy lies in the mean. "
        f"The relative RMSE there (1: no steering, 0: the prompt) is {curves[PSR].values[-1]:.2f} "
        f"with the PSR and {curves[closest].values[-1]:.2f} with the closest constant "
        f"({closest}), {gain.value:.2f} more ({gain.low:.2f} to {gain.high:.2f}, "
        f"paired); {paraphrase:.2f} for the same instruction in other words, and "
        f"{curves[CONTROL].values[-1]:.2f} for a PSR fitted to the same responses with the wrong "
        f"prompts. {compared(result)}"
    )


def compared(result: TraitResult) -> str:
    """One sentence: what was compared with what in behaviour, and what came out."""
    parts = [
        f"{name} at {result.strengths[name]:g} shows the trait {own.trait:.0f} with coherence "
        f"{own.coherence:.0f}{_beside(result, name)}"
        for name, own in ((name, result.at_best(name)) for name in METHODS)
    ]
    return (
        "Behaviour, each method at its own best strength (the highest trait score with coherence of "
        f"at least {result.trial.coherent:.0f} on the {result.trial.subjects} that strengths are chosen on): "
        f"{'; '.join(parts)}; the prompt itself has {result.prompted.trait:.0f} with "
        f"{result.prompted.coherence:.0f}, and no steering {result.base.trait:.0f} with "
        f"{result.base.coherence:.0f}. Scored {result.trial.judged}."
    )


def _beside(result: TraitResult, name: str) -> str:
    """Trait and coherence at strength 1, and one step of strength above the best."""
    best = result.strengths[name]
    above = [own.alpha for own in result.steered[name] if own.alpha and own.alpha > best]
    shown: list[float] = sorted({1.0, *above[:1]} - {best})
    parts = [
        f"{own.trait:.0f} with {own.coherence:.0f} at {own.alpha:g}"
        for own in (result.at(name, alpha) for alpha in shown)
    ]
    return f" ({', '.join(parts)})" if parts else ""


def _behaviour_rows(result: TraitResult):
    yield ("no steering", None, result.base.trait, result.base.coherence)
    yield ("prompt", None, result.prompted.trait, result.prompted.coherence)
    for name in METHODS:
        for behaviour in result.steered[name]:
            yield (name, behaviour.alpha, behaviour.trait, behaviour.coherence)


def _examples(result: TraitResult):
    sources = {
        "no steering": result.base,
        "prompt": result.prompted,
        **{f"{name}, alpha {result.strengths[name]:g}": result.at_best(name) for name in SHOWN},
    }
    for i in result.shown():
        for source, behaviour in sources.items():
            yield (source, result.questions[i], (behaviour.shown(i),))
