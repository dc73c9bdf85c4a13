"""What the model says under every steering: its strength chosen on dev questions, judged on test ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch

from benchmarks.real_findings.answers import SAMPLING, Answers
from benchmarks.real_findings.judged import judged, judged_together, mean_scores
from benchmarks.real_findings.prompt import ANSWER_SEED
from psr_lens.demo.everyday import everyday_judge
from psr_lens.evaluation import JudgedAnswers, Sampling, Score, answer_and_judge
from psr_lens.examples import Example, number_prompts
from psr_lens.models import HookedModel
from psr_lens.statistics import bootstrap, resamples
from psr_lens.steering import Steering

ALPHAS: Final = (0.5, 1.0, 1.5, 2.0, 3.0)
OF_ONE_LAYER: Final = (1.0, 2.0, 3.0, 5.0, 8.0, 12.0)
"""What is added at one layer alone may have to be far larger than what the prompt does there."""
LAYERS: Final = (0.55, 0.7, 0.85)
"""Heights in the model at which difference in means is tried for what it says."""
OF_EVERY_LAYER: Final = (2.0, 3.0, 5.0, 8.0)
_DEV_SEED: Final = 102
_N_BOOTSTRAP: Final = 1000

Scores = dict[str, Any]
"""Of one strength on dev questions: `alpha`, mean `trait` and `fluency`, and `behind`: by how much the
prompt's answers to the same questions are more fluent, with the ends of its interval."""


def best_of(curve: Sequence[Scores]) -> Scores:
    """The highest trait among strengths that are not shown to be less fluent than the prompt.

    Of equal ones the weakest; the most fluent of all, if each is shown to be less fluent.
    """
    allowed = [own for own in curve if own["behind"][1] <= 0]
    if allowed:
        return max(allowed, key=lambda own: (own["trait"], -own["alpha"]))
    return max(curve, key=lambda own: own["fluency"])


@dataclass(frozen=True)
class _Trial:
    """One instruction's questions, its judge, and how fluent the prompt's answers to dev questions are."""

    model: HookedModel
    name: str
    data: Answers
    prompt_fluency: Sequence[float]

    @classmethod
    def of(
        cls, model: HookedModel, name: str, data: Answers, prompt: Mapping[str, Any]
    ) -> "_Trial":
        """Given what `prompt_part` found."""
        rows = prompt["answers"]["prompt, dev"]
        return cls(model, name, data, [row["fluency"] for row in rows])

    def dev(self, steering: Steering, alphas: Sequence[float]) -> list[Scores]:
        """Answers to dev questions at every strength, judged."""
        asked: list[Example] = list(self.data.fitted_on[0].dev)
        curve = answer_and_judge(
            self.model,
            [one.base_prompt for one in asked],
            everyday_judge(self.name),
            steering=steering,
            alphas=alphas,
            questions=[one.question for one in asked],
            sampling=Sampling(seed=_DEV_SEED, **SAMPLING),
        )
        return [
            {
                "alpha": own.alpha,
                "trait": own.trait,
                "fluency": own.coherence,
                "behind": self._behind(own, number_prompts(asked)),
            }
            for own in curve
        ]

    def _behind(self, own: JudgedAnswers, prompt_of: Sequence[int]) -> list[float]:
        gaps = [
            there - (score.coherence or 0.0)
            for there, score in zip(self.prompt_fluency, own.scores, strict=True)
        ]
        values = torch.tensor(gaps, dtype=torch.float64)
        counts = resamples(prompt_of, _N_BOOTSTRAP, 0)
        return bootstrap(torch.div, (values, torch.ones_like(values)), counts).tolist()

    def said(self, steering: Steering, alpha: float) -> tuple[Sequence[Example], Sequence[str]]:
        """Test questions, and the answers to them at one strength."""
        (said,) = answer_and_judge(
            self.model,
            [one.base_prompt for one in self.data.test],
            lambda question, text: Score(None, None, "judged below"),
            steering=steering,
            alphas=(alpha,),
            questions=[one.question for one in self.data.test],
            sampling=Sampling(seed=ANSWER_SEED, **SAMPLING),
        )
        return list(self.data.test), said.answers


def behaviour_part(
    model: HookedModel,
    name: str,
    data: Answers,
    steerings: Mapping[str, Steering],
    prompt: Mapping[str, Any],
) -> dict[str, Any]:
    """Dev scores of every steering at every strength, test answers at the best one: see `best_of`.

    Args:
        model: The chat model.
        name: The instruction's name.
        data: The answers.
        steerings: By name.
        prompt: What `prompt_part` found.
    """
    trial, curves, said = _Trial.of(model, name, data, prompt), {}, {}
    for label, steering in steerings.items():
        curves[label] = trial.dev(steering, ALPHAS if len(steering.layers) > 1 else OF_ONE_LAYER)
        said[label] = trial.said(steering, best_of(curves[label])["alpha"])
    rows = judged_together(model, name, said)
    return {
        "methods": {
            label: {"dev": curve, "alpha": best_of(curve)["alpha"], **_scored(rows[label])}
            for label, curve in curves.items()
        }
    }


def _scored(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {"test": mean_scores(rows), "answers": rows}


def layers_part(
    model: HookedModel,
    name: str,
    data: Answers,
    everywhere: Steering,
    prompt: Mapping[str, Any],
) -> dict[str, Any]:
    """Difference in means at the layer, and the strength there, at which it says most on dev questions.

    The layer at which it is nearest to the prompt need not be the one at which it steers best. All layers and
    strengths are tried, and `best_of` chooses.

    Args:
        model: The chat model.
        name: The instruction's name.
        data: The answers.
        everywhere: Difference in means at all layers.
        prompt: What `prompt_part` found.
    """
    trial = _Trial.of(model, name, data, prompt)
    curves = {
        layer: trial.dev(everywhere.at((layer,)), OF_EVERY_LAYER)
        for layer in (int(height * model.n_layers) for height in LAYERS)
    }
    best = best_of([{**own, "layer": layer} for layer, curve in curves.items() for own in curve])
    said = trial.said(everywhere.at((best["layer"],)), best["alpha"])
    return {
        "dev": {str(layer): curve for layer, curve in curves.items()},
        "layer": best["layer"],
        "alpha": best["alpha"],
        **_scored(judged(model, name, *said)),
    }
