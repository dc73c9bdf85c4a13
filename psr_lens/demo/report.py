"""A demo run as a page that explains itself."""

from collections.abc import Sequence

from psr_lens.demo.experiment import TraitResult
from psr_lens.evaluation import Behaviour
from psr_lens.faithfulness import EQUIVALENT_PROMPT
from psr_lens.models import HookedModel
from psr_lens.plots import Report, TraitSection
from psr_lens.steering.provenance import describe_model

_LEAD = (
    "A system prompt changes what goes on inside a language model, at every layer and at every "
    "token, but not everywhere alike. The first panel colours one response by how much the prompt "
    "pushes each token. A constant steering vector pushes every token equally (second panel). A PSR, "
    "a small probe that reads each token and decides how hard to push, was fitted in seconds (third "
    "panel) and makes the model behave as if prompted, without the prompt. All numbers are from "
    "animals that no fit has seen."
)
_SHOWN = ("a-const", "a-psr")
_N_EXAMPLES = 3


def demo_report(model: HookedModel, results: Sequence[TraitResult], seed: int) -> Report:
    """The page of a demo run.

    Args:
        model: The model that ran.
        results: One result per trait.
        seed: The run's seed.
    """
    described = describe_model(model)
    described.pop("fingerprint")
    return Report(
        "What did this prompt do inside the model?",
        _LEAD,
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
        # Delta norms and coefficients are lengths of pushes, all in units of the residual stream.
        shared_scale=True,
    )


def _summary(result: TraitResult) -> str:
    curves = result.faithfulness.relative_rmse
    assumptions = result.assumptions
    share = assumptions.curve("mean_energy_share").values[-1]
    read = assumptions.curve("relu_r2").values[-1]
    paraphrase = result.faithfulness.reference[EQUIVALENT_PROMPT].values[-1]
    p10, p90 = (assumptions.curve("norm_quantile", at=at).values[-1] for at in (10, 90))
    at_one = {name: _at(result.steered[name], 1.0) for name in _SHOWN}
    return (
        f"At the last layer the prompt moves one token in ten by more than {p90:.1f} and one in ten by "
        f"less than {p10:.1f}; {share:.0%} of the energy lies in the mean, which is all that a constant "
        f"vector can express. A probe on the activation explains {max(read, 0):.0%} of how hard the prompt "
        f"pushes along its main direction. The relative RMSE there (1: no steering, 0: the prompt) is "
        f"{curves['a-const'].values[-1]:.2f} with constant vectors and "
        f"{curves['a-psr'].values[-1]:.2f} with PSR at all layers, beside {paraphrase:.2f} for the same "
        f"instruction in other words. The trait score goes from {result.unsteered.trait:.0f} without "
        f"steering to {at_one['a-const'].trait:.0f} with constant vectors and "
        f"{at_one['a-psr'].trait:.0f} with PSR (coherence {at_one['a-psr'].coherence:.0f}), where the "
        f"prompt itself gets {result.prompted.trait:.0f}."
    )


def _behaviour_rows(result: TraitResult):
    yield ("no steering", None, result.unsteered.trait, result.unsteered.coherence)
    yield ("prompt", None, result.prompted.trait, result.prompted.coherence)
    for name, behaviours in result.steered.items():
        if name == "oracle":
            continue
        for behaviour in behaviours:
            yield (name, behaviour.alpha, behaviour.trait, behaviour.coherence)


def _examples(result: TraitResult):
    sources = {
        "no steering": result.unsteered,
        "prompt": result.prompted,
        **{f"{name}, alpha 1": _at(result.steered[name], 1.0) for name in _SHOWN},
    }
    # One question per animal: the questions come animal by animal.
    step = max(1, len(result.questions) // _N_EXAMPLES)
    for i in range(0, step * min(_N_EXAMPLES, len(result.questions)), step):
        for source, behaviour in sources.items():
            yield (source, result.questions[i], (behaviour.responses[i],))


def _at(behaviours: Sequence[Behaviour], alpha: float) -> Behaviour:
    return next(behaviour for behaviour in behaviours if behaviour.alpha == alpha)
