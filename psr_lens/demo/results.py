"""`results.json`: the numbers of a demo run. Of two equal runs only the times differ."""

import json
from collections.abc import Sequence
from typing import Any

from psr_lens.demo.experiment import TraitResult
from psr_lens.evaluation import Behaviour
from psr_lens.faithfulness import EQUIVALENT_PROMPT
from psr_lens.models import HookedModel
from psr_lens.steering.provenance import provenance

SCHEMA = 1


def results_json(model: HookedModel, results: Sequence[TraitResult], seed: int) -> str:
    """All results as the text of `results.json`; times are rounded to milliseconds."""
    content = {
        "schema": SCHEMA,
        "provenance": provenance(model, seed=seed),
        "traits": {result.name: trait_record(result) for result in results},
    }
    return json.dumps(content, indent=1) + "\n"


def trait_record(result: TraitResult) -> dict[str, Any]:
    """One trait's part of the results."""
    report = result.faithfulness
    return {
        "prompt": _scores(result.prompted),
        "unsteered": _scores(result.unsteered),
        "equivalent_prompt": {"relative_rmse": report.reference[EQUIVALENT_PROMPT].values},
        "selectivity": {
            **{
                f"p{at}": result.assumptions.curve("norm_quantile", at=at).values
                for at in (10, 50, 90)
            },
            "mean_energy_share": result.assumptions.curve("mean_energy_share").values,
        },
        "methods": {
            name: {
                "layers": list(steering.layers),
                "relative_rmse": report.relative_rmse[name].values,
                "interval": {
                    "low": report.relative_rmse[name].low,
                    "high": report.relative_rmse[name].high,
                },
                "fit_seconds": round(getattr(steering.fit_report, "seconds", 0.0), 3),
                "behaviour": [
                    {"alpha": behaviour.alpha, **_scores(behaviour)}
                    for behaviour in result.steered[name]
                ],
            }
            for name, steering in result.steerings.items()
        },
    }


def _scores(behaviour: Behaviour) -> dict[str, float]:
    return {"trait": behaviour.trait, "coherence": behaviour.coherence}
