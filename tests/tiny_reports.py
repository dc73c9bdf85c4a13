"""One report of every kind, with made-up numbers."""

from typing import Any

import pandas as pd
import torch

from psr_lens.assumptions.assumption_report import AssumptionReport, Measurement
from psr_lens.components.component_report import Component, ComponentReport, ComponentTokens
from psr_lens.faithfulness.curves import Run
from psr_lens.faithfulness.faithfulness_report import FaithfulnessReport
from psr_lens.faithfulness.ledger import TOKEN_COLUMNS
from psr_lens.lens.reading import DirectionReading, LensReading, TokenLogit
from psr_lens.statistics import Estimate

_ORIGIN = {
    "model": {"name": "m", "numerics": "unprocessed"},
    "data": {"sampling": {"date": None}, "example_keys": ["a", "b"]},
    "responses": {"cut_off": "", "shown": [{"ending": "", "prompts": None}]},
    "prompt_effect": {"warning": ""},
}
_SUMS = {"energy": torch.ones(3, 2).double(), "missed": torch.ones(3, 2).double() / 2}
_OUTPUTS = {"kl": torch.tensor([0.1, torch.nan, 0.3]).double()}
_HALF = Estimate(0.5, 0.4, float("nan"))
_TOKENS = pd.DataFrame(
    [("v", 0, layer, 0, "ä", 1.0, 2.0, 3.0, 0.1, float("nan")) for layer in range(2)],
    columns=list(TOKEN_COLUMNS),
)

REPORTS: dict[str, Any] = {
    "faithfulness": FaithfulnessReport(
        {
            "no steering": Run("reference", (), {**_SUMS, **_OUTPUTS}),
            "v": Run("steering", (1,), _SUMS),
        },
        *(1.0, "R", 10, 0, _TOKENS, _ORIGIN),
    ),
    "faithfulness without tokens": FaithfulnessReport(
        {"no steering": Run("reference", (), _SUMS)},
        *(1.0, "QR", 0, 2**63 - 1, pd.DataFrame({column: [] for column in TOKEN_COLUMNS})),
    ),
    "assumptions": AssumptionReport(
        (
            Measurement("x", "local", 0, "all", 1, Estimate(0.5, float("nan"), float("nan"))),
            Measurement("x", "accumulated", 2, "content", 0, Estimate(float("nan"), 0.1, 0.2)),
        ),
        *((0, 2), "local", "R", 3, 2, 1),
        provenance=_ORIGIN,
    ),
    "components": ComponentReport(
        (
            Component(-1, "embed", -1, _HALF, _HALF, None, None),
            Component(0, "attn", -1, _HALF, _HALF, _HALF, None),
            Component(0, "head", 1, _HALF, _HALF, _HALF, _HALF),
        ),
        (
            ComponentTokens(("a", "b"), torch.ones(3, 2).double(), torch.zeros(3, 2).double()),
            ComponentTokens((), torch.ones(3, 0).double(), torch.ones(3, 0).double()),
        ),
        *("R", 3, _ORIGIN),
    ),
    "components without tokens": ComponentReport(
        (Component(0, "mlp", -1, _HALF, _HALF, _HALF, None),), (), "QR", 1
    ),
    "lens": LensReading(
        (
            DirectionReading("d", 0, -1, "writes", 1.0, 0.1, 2.0, (TokenLogit(3, "a", 2.0),), ()),
            DirectionReading("zero", -1, 2, "", 0.0, 0.0, 0.0, (), (TokenLogit(4, "ä", -0.0),)),
        ),
        True,
        _ORIGIN,
    ),
    "lens of nothing": LensReading((), False),
}
