"""What prompt, constant and PSR add to the tokens of one answer: the numbers of a picture."""

from collections.abc import Mapping
from typing import Any, Final

from benchmarks.findings import rounded
from benchmarks.fits import Fitted
from benchmarks.real_findings.answers import Answers
from psr_lens.delta_collection import collect_deltas
from psr_lens.models import HookedModel
from psr_lens.plots import layer_to_show

SHOWN: Final = ("constant, mse", "PSR")


def heatmap_part(model: HookedModel, data: Answers, fits: Mapping[str, Fitted]) -> dict[str, Any]:
    """The length of what is added to every token of the first test answer, at one layer.

    The layer is where the PSR compares best with the prompt on dev answers (`layer_to_show`).
    """
    dev, example = data.fitted_on[0].dev, data.test[0]
    psr = fits["PSR"].steering
    layer = layer_to_show(
        [own.token_values("local") for own in collect_deltas(model, dev)],
        [own.token_values() for own in psr.coefficients(model, dev)],
    )
    one = [example]
    prompt = collect_deltas(model, one)[0].token_values("local")
    rows = {"prompt": prompt} | {
        label: fits[label].steering.coefficients(model, one)[0].token_values() for label in SHOWN
    }
    return {
        "layer": layer,
        "question": str(example.pair.metadata["question"]),
        "tokens": list(prompt.tokens),
        "added": {
            label: rounded(own.values[own.layers.index(layer)].tolist())
            for label, own in rows.items()
        },
    }
