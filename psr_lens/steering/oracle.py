"""The oracle: every example's own deltas, the upper bound of any steering."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Unpack, final

import torch
from jaxtyping import Float
from torch import Tensor

from psr_lens._types import AlignedTokens, check_aligned, check_count
from psr_lens.models.columns import Columns
from psr_lens.steering.base import Common, Resid, Role, Steering
from psr_lens.steering.context import Context
from psr_lens.steering.registry import register
from psr_lens.steering.training import TrainingData


@final
@register
class OracleSteering(Steering):
    r"""$A[l, i] \leftarrow A[l, i] + \alpha P_l (A(x'y')[l, i] - A[l, i])$ on its own response (ours).

    $P_l$ is the identity (the full oracle) or the projection on the span of some directions. At
    `alpha = 1` the full oracle adds exactly the local delta at every layer, so it reproduces the
    prompted residual stream and logits on the aligned tokens. With the directions of a steering
    (`along`), it shows what that steering would reach with perfect coefficients; with the leading
    principal directions of the local deltas, what any k directions per layer can reach. As in a fitted
    steering, each layer makes up for what the earlier ones missed.

    It needs the steering prompt and the response, so it can measure but not generate; it runs the prompt,
    one pass for every batch of examples.

    Args:
        layers: The layers; with all of them the steered run is reproduced at every layer.
        basis: Orthonormal directions per layer, zero rows where a layer has fewer; None: full.
        common: `tokens`, `hook_point`, `provenance` and `fit_report`, as `Steering` has them.

    Raises:
        ValueError: If there is not one basis per layer, a number is not finite, or its tokens are not
            `response` or `question+response`, the only ones whose deltas are known.
    """

    method: ClassVar[str] = "oracle"
    label: ClassVar[str] = "oracle"
    roles: ClassVar[Mapping[str, Role]] = {"basis": "writes"}
    index: ClassVar[str] = "rank"
    basis: Float[Tensor, "layer rank d_model"] | None
    depends_on_examples: ClassVar[bool] = True
    has_best_layer: ClassVar[bool] = False

    @dataclass(frozen=True)
    class Options:
        """What `fit` takes for an oracle."""

        rank: int | None = None
        """Directions per layer, the leading principal ones of the local deltas; all if not given."""
        along: Steering | None = field(default=None, metadata={"command_line": False})
        """A steering whose directions it is confined to."""

        def __post_init__(self):
            if self.rank is not None:
                check_count("rank", self.rank)
            if self.along is not None and not isinstance(self.along, Steering):
                raise ValueError(
                    f"along={self.along!r}: pass a steering, as from load_steering(path)"
                )
            if self.rank is not None and self.along is not None:
                raise ValueError(
                    f"rank={self.rank} and along=: the oracle takes its directions from one of them"
                )

    def __init__(
        self,
        layers: Sequence[int],
        *,
        basis: Float[Tensor, "layer rank d_model"] | None = None,
        **common: Unpack[Common],
    ):
        super().__init__(layers, **common)
        check_aligned(self.tokens)
        if basis is None:
            self.register_parameter("basis", None)
        else:
            self.hold(basis=basis)
        self._target: Tensor | None = None

    @classmethod
    def along(cls, steering: Steering) -> "OracleSteering":
        """The oracle confined to a steering's own directions: perfect coefficients for them.

        Args:
            steering: Any that names the `span` of its updates, as nearly all do.

        Raises:
            ValueError: If the steering has no directions, or acts inside its blocks.
        """
        if steering.hook_point != "resid_post":
            raise ValueError(
                f"{steering!r} acts at {steering.hook_point!r} and the oracle after its blocks, where other "
                "directions matter: pass a steering that acts there"
            )
        found = [steering.span(layer) for layer in steering.layers]
        rows = [own.detach() for own in found if own is not None]
        if len(rows) < len(found) or not rows:
            raise ValueError(f"{steering!r} names no directions: pass one that does, such as a PSR")
        rank = max(len(own) for own in rows)
        # Layers may have different numbers of directions: pad with zero rows.
        padded = [torch.nn.functional.pad(own, (0, 0, 0, rank - len(own))) for own in rows]
        return cls(
            steering.layers,
            basis=torch.stack([orthonormal_rows(own) for own in padded]),
            tokens=steering.tokens,
            provenance={**steering.provenance, "method": "oracle-along"},
        )

    @classmethod
    def check_options(
        cls,
        options: Any,
        *,
        solver: str = "auto",
        tokens: AlignedTokens = "response",
        has_dev: bool = True,
    ) -> None:
        """It must act on the tokens of the steering that it follows."""
        if options.along is not None and options.along.tokens != tokens:
            raise ValueError(
                f"tokens={tokens!r} but the steering given as along= acts on {options.along.tokens!r}"
            )

    @classmethod
    def closed_form(
        cls, data: TrainingData, options: Any
    ) -> "tuple[OracleSteering, Sequence[float]]":
        """Nothing is fitted but the directions of a limited oracle."""
        if options.along is not None:
            return cls.along(options.along), ()
        basis = None if options.rank is None else data.leading_directions(options.rank)
        return cls(range(data.model.n_layers), basis=basis, tokens=data.tokens), ()

    def acting(
        self, device: torch.device, dtype: torch.dtype, context: Context | None = None
    ) -> "OracleSteering":
        """The oracle for one batch of examples, in their order.

        Raises:
            ValueError: If no examples are given.
        """
        if context is None:
            raise ValueError(
                "the oracle replays the deltas of given examples: pass examples=, it cannot generate"
            )
        tensors = {name: own.to(device, dtype) for name, own in self.state_dict().items()}
        ready = self.with_tensors(tensors)
        ready._target = context.prompted(self._aligned)
        return ready

    def update(self, layer: int, resid: Resid, columns: Columns | None = None) -> Resid:
        """What the run still lacks of the prompted one, or the part of it along the basis.

        Raises:
            ValueError: If `acting` has not made it ready for a batch.
        """
        if self._target is None or columns is None:
            raise ValueError(
                "the oracle replays the deltas of given examples: apply it with examples="
            )
        mask = columns.on(self._aligned)
        missing = self._target[layer].to(resid) - resid[mask]
        basis = self.span(layer)
        if basis is not None:
            missing = missing @ basis.T @ basis
        update = torch.zeros_like(resid)
        update[mask] = missing
        return update

    @property
    def only_on(self) -> AlignedTokens:
        """Its tokens."""
        return self._aligned

    @property
    def _aligned(self) -> AlignedTokens:
        return check_aligned(self.tokens)

    def span(self, layer: int) -> Float[Tensor, "rank d_model"] | None:
        """The layer's basis, if it has one."""
        return None if self.basis is None else self.basis[self.row(layer)]


def orthonormal_rows(rows: Float[Tensor, "rank d_model"]) -> Float[Tensor, "rank d_model"]:
    """An orthonormal basis of the span of the rows, padded with zero rows to their number."""
    _, singular, directions = torch.linalg.svd(rows, full_matrices=False)
    kept = singular > 1e-6 * singular.max().clamp_min(1e-30)
    basis = torch.zeros_like(rows)
    basis[: len(directions)] = torch.where(kept.unsqueeze(-1), directions, 0.0)
    return basis
