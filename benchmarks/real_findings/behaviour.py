"""What the model says under every steering: its strength chosen on dev questions, judged on test ones."""

from collections.abc import Mapping
from typing import Any, Final

from benchmarks.real_findings.answers import PER_QUESTION, SAMPLING, Answers
from benchmarks.real_findings.judged import judged, mean_scores
from benchmarks.real_findings.prompt import ANSWER_SEED
from psr_lens.demo.everyday import everyday_judge
from psr_lens.evaluation import Score, best_strength, measure_behaviour, measure_strengths
from psr_lens.models import HookedModel
from psr_lens.steering import Steering

ALPHAS: Final = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0)
OF_ONE_LAYER: Final = (*ALPHAS, 5.0, 8.0, 12.0)
"""What is added at one layer alone may have to be far larger than what the prompt does there."""
_DEV_SEED: Final = 102


def behaviour_part(
    model: HookedModel,
    name: str,
    data: Answers,
    steerings: Mapping[str, Steering],
    prompt: Mapping[str, Any],
) -> dict[str, Any]:
    """Dev scores of every steering at every strength, test answers at the best one.

    The best is the strength with the highest trait among those whose fluency is not below the prompt's
    by more than the interval of the latter, on dev questions.

    Args:
        model: The chat model.
        name: The instruction's name.
        data: The answers.
        steerings: By name.
        prompt: What `prompt_part` found.
    """
    judge = everyday_judge(name)
    dev, test = list(data.fitted_on[0].dev)[::PER_QUESTION], data.test
    least = prompt["means"]["prompt, dev"]["fluency"][1]

    def score(i: int, text: str, finished: bool) -> Score:
        return judge(dev[i], text, finished)

    found = {}
    for label, steering in steerings.items():
        curve = measure_strengths(
            model,
            [one.base_prompt for one in dev],
            score,
            steering=steering,
            alphas=ALPHAS if len(steering.layers) > 1 else OF_ONE_LAYER,
            seed=_DEV_SEED,
            **SAMPLING,
        )
        best = best_strength(curve, least)
        said = measure_behaviour(
            model,
            [one.base_prompt for one in test],
            lambda i, text, finished: Score(0.0, 0.0),
            steering=steering,
            alpha=best,
            seed=ANSWER_SEED,
            **SAMPLING,
        )
        rows = judged(model, name, list(test), said.responses)
        found[label] = {
            "dev": [
                {"alpha": own.alpha, "trait": own.trait, "fluency": own.coherence} for own in curve
            ],
            "alpha": best,
            "test": mean_scores(rows),
            "answers": rows,
        }
    return {"least fluency": least, "methods": found}
