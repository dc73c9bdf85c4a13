"""The fits that `recorded_outputs` writes down: every method, with every solver that it has."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch

from scripts.recorded.given import Extent


@dataclass(frozen=True)
class Fit:
    """One call of `fit`.

    Attributes:
        name: Name of its quantities.
        options: Its arguments.
        tolerance: `rounding`, `trained` or `unstable`.
        part_of: The least extent of a setup that includes it.
        along: Name of an earlier fit to whose directions it is confined.
        negatives: Whether plain responses are among its examples.
        weighted: Whether its examples have strengths, some of them negative.
    """

    name: str
    options: Mapping[str, Any]
    tolerance: str = "rounding"
    part_of: Extent = "most"
    along: str = ""
    negatives: bool = False
    weighted: bool = False


def _trained(name: str, part_of: Extent = "most", **options: Any) -> Fit:
    negatives = options["method"] == "reft_r1"
    if options["method"] == "psr" and options.get("solver") != "gradient":
        options["precision"] = torch.float64
    return Fit(name, {"epochs": 2, **options}, "trained", part_of, negatives=negatives)


def _layerwise(name: str, part_of: Extent = "most", weighted: bool = False, **options: Any) -> Fit:
    # In float32 the search for heads ends elsewhere if sums are taken in another order.
    options = {"solver": "layerwise", "precision": torch.float64, **options}
    return Fit(name, {"method": "psr", **options}, part_of=part_of, weighted=weighted)


def _unstable(name: str, **options: Any) -> Fit:
    options = {"method": "psr", "solver": "layerwise", **options}
    return Fit(name, options, "unstable", "all")


FITS: Final = (
    Fit("dim", {"method": "dim"}, part_of="few"),
    Fit("dim best", {"method": "dim", "layers": "best"}, part_of="few"),
    Fit(
        "dim QR", {"method": "dim", "layers": [1, 3], "tokens": "question+response"}, part_of="all"
    ),
    Fit("pca", {"method": "pca"}),
    Fit("pca best", {"method": "pca", "layers": "best"}, part_of="all"),
    Fit("actadd", {"method": "actadd", "layers": 2}),
    Fit("actadd best", {"method": "actadd", "layers": "best", "tokens": "question+response"}),
    Fit("projection", {"method": "projection"}, part_of="few"),
    Fit("projection best", {"method": "projection", "layers": "best"}, part_of="all"),
    Fit("ablation", {"method": "ablation"}),
    Fit("const layerwise", {"method": "const", "solver": "layerwise"}, part_of="few"),
    Fit(
        "const layerwise best",
        {"method": "const", "solver": "layerwise", "layers": "best"},
        part_of="all",
    ),
    Fit(
        "const layerwise weighted",
        {"method": "const", "solver": "layerwise"},
        part_of="all",
        weighted=True,
    ),
    _trained("const gradient", method="const", solver="gradient"),
    _trained("const ll", "all", method="const", solver="gradient", objective="ll"),
    _trained("const auto", method="const"),
    _trained("const auto best", "all", method="const", layers="best"),
    _trained("const refine", "all", method="const", solver="refine"),
    _layerwise("psr layerwise", "few"),
    _layerwise("psr layerwise QR", tokens="question+response"),
    _layerwise("psr layerwise best", layers="best"),
    # In later layers, where heads explain next to nothing, the search is unstable even in float64.
    _layerwise("psr layerwise weighted", weighted=True, layers=[0, 1]),
    _layerwise("psr layerwise k=4", "all", n_heads=4, layers=[1, 4]),
    _unstable("psr layerwise float32"),
    _unstable("psr layerwise k=auto", n_heads="auto", layers=[4]),
    _trained("psr gradient", method="psr", solver="gradient"),
    _trained("psr gradient k=4", "all", method="psr", solver="gradient", n_heads=4, layers=[2, 4]),
    _trained("psr gradient paper", "all", method="psr", solver="gradient", recipe="paper", lr=0.01),
    _trained("psr refine", method="psr", solver="refine"),
    _trained("psr auto", method="psr"),
    _trained("psr auto best", "all", method="psr", layers="best"),
    _trained("psr ll", "all", method="psr", objective="ll"),
    _trained("reft_r1", method="reft_r1", layers=2),
    _trained("reft_r1 mse", "all", method="reft_r1", objective="mse"),
    _trained("loreft", method="loreft", rank=2),
    _trained("loreft ll", "all", method="loreft", objective="ll", layers=[1, 3]),
    Fit("oracle", {"method": "oracle"}, part_of="few"),
    Fit("oracle rank 2", {"method": "oracle", "rank": 2}),
    Fit("oracle along", {"method": "oracle"}, along="psr layerwise"),
)
