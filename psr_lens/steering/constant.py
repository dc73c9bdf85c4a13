"""A constant steering vector: the same update at every token."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Unpack

import torch
from jaxtyping import Float
from torch import Tensor

from psr_lens.models import as_hooked_model
from psr_lens.models.columns import Columns
from psr_lens.models.token_rules import Tokens
from psr_lens.steering.base import ACTING, Common, Resid, Role, Steering
from psr_lens.steering.handles import FoldedSteering
from psr_lens.steering.registry import register
from psr_lens.steering.training import LayerData, LayerFit, Scale, Start
from psr_lens.steering.vector_files import Numbering, read_vectors
from psr_lens.steering.vectors import VectorLike, stack_vectors


@register
class ConstantSteering(Steering):
    r"""$A \leftarrow A + \alpha z_l$: one steering vector per layer, whatever the token.

    Fitted layer by layer, a layer's vector is the mean of what is still missing after the earlier layers'
    vectors; trained through the model, it is whatever is best for the objective. `DifferenceInMeans` and
    `PrincipalDirection` are constants with a closed form.

    To use vectors from elsewhere, see `from_vector`, `from_vectors` and `from_file`. Unless it acts inside
    its blocks, the vector of layer `l` is added to the output of block `l`, counted from 0: to what
    transformers returns as `hidden_states[l + 1]` under `output_hidden_states=True`, and where llama.cpp adds
    `direction.l` of a GGUF control vector.

    Args:
        vectors: The steering vectors `z`, one row per layer, in units of the residual stream.
        layers: The layers, ascending.
        common: `tokens`, `hook_point`, `provenance` and `fit_report`, as `Steering` has them.

    Raises:
        ValueError: If there is not one vector per layer, or they are not a table of finite numbers.
    """

    method: ClassVar[str] = "const"
    label: ClassVar[str] = "constant"
    roles: ClassVar[Mapping[str, Role]] = {"vectors": "writes"}
    settings: ClassVar[tuple[Mapping[str, Any], ...]] = ({"objective": "mse"}, {"objective": "ll"})
    # `mse` gets closer to the prompt inside the model, `ll` to its behaviour.
    apart_by_objective: ClassVar[bool] = True
    vectors: Float[Tensor, "layer d_model"]

    def __init__(
        self,
        vectors: Float[Tensor, "layer d_model"],
        layers: Sequence[int],
        **common: Unpack[Common],
    ):
        _check_arguments(vectors, layers)
        super().__init__(layers, **common)
        self.hold(vectors=vectors)

    @classmethod
    def from_vector(
        cls,
        vector: VectorLike,
        *,
        layer: int,
        tokens: Tokens = "response",
        provenance: Mapping[str, Any] | None = None,
    ) -> "ConstantSteering":
        """Your own steering vector at one layer.

        Args:
            vector: The vector, `[d_model]`, in units of the residual stream: a torch tensor, a NumPy
                array or a list. It is copied.
            layer: The block to whose output it is added, counted from 0.
            tokens: Which tokens it acts on.
            provenance: Where it comes from.

        Raises:
            ValueError: If it is not one row of finite numbers, or the layer is not a whole number from 0
                up. Width and layer are checked against the model when it is applied.

        Example:
            >>> import torch
            >>> import psr_lens as pl
            >>> model = pl.load_model("demo")
            >>> steering = pl.ConstantSteering.from_vector(torch.ones(128), layer=2)
            >>> with steering.applied(model, alpha=0.5):
            ...     answer = model.generate("describe the fox .", max_new_tokens=4)
        """
        return cls.from_vectors({layer: vector}, tokens=tokens, provenance=provenance)

    @classmethod
    def from_vectors(
        cls,
        vectors: Mapping[int, VectorLike],
        *,
        tokens: Tokens = "response",
        provenance: Mapping[str, Any] | None = None,
    ) -> "ConstantSteering":
        """Your own steering vectors at several layers.

        Args:
            vectors: The vector, `[d_model]`, for each layer: see `from_vector`.
            tokens: Which tokens it acts on.
            provenance: Where it comes from.

        Raises:
            ValueError: If there is none, one is not a row of finite numbers of the others' width, or a
                layer is not a whole number from 0 up.
        """
        table, layers = stack_vectors(vectors)
        return cls(table, layers, tokens=tokens, provenance=provenance)

    @classmethod
    def from_file(
        cls,
        path: str | Path,
        *,
        layer: int | None = None,
        numbering: Numbering | None = None,
        key: str | int | None = None,
        model: Any = None,
        tokens: Tokens = "response",
    ) -> "ConstantSteering":
        """The steering vectors in another tool's file.

        | file | what is read |
        | --- | --- |
        | torch (`.pt`, `.pth`, `.bin`) | a tensor, a list, or a dict; tensors only, no code is run |
        | NumPy (`.npy`, `.npz`) | an array, or several with names; no pickles |
        | safetensors | tensors with names |
        | GGUF control vector (repeng, llama.cpp) | `direction.1`, ...; needs `psr-lens[gguf]` |

        Names with a layer number (`15`, `"layer_15"`, `"direction.15"`) number blocks; all are taken, or
        only that of `layer`. An array `[d_model]` needs `layer`. A table `[rows, d_model]` has a row for
        every block, or one more: the embeddings first, then every block, as transformers returns them under
        `output_hidden_states=True` and persona-vectors stores them. The model's number of layers tells the
        two apart, or `numbering` does.

        Vectors are not rescaled: repeng's have length 1, so a strength of 1 hardly shows; a mean difference
        is in units of the residual stream.

        Args:
            path: The file; its kind is told by its first bytes, not its name.
            layer: The only block to take, counted from 0: block `l` is row `l + 1` of `hidden_states`, and
                `direction.l` of a GGUF control vector. If the file holds one vector, the block to add it
                to.
            numbering: `"blocks"` if row or key `l` is block `l`; `"hidden_states"` if row or key `l + 1`
                is; 0, the embeddings, is then left out. By default names number blocks, and for a table the
                model's number of layers decides.
            key: Which of several entries holds the vectors.
            model: The model they are for, checked at once; if not given, `applied` checks it.
            tokens: Which tokens it acts on.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it cannot be read, holds no vectors or several candidates, does not say which
                layers they belong to, or they do not fit the model.

        Example:
            >>> import pathlib, tempfile, torch
            >>> import psr_lens as pl
            >>> model = pl.load_model("demo")
            >>> path = pathlib.Path(tempfile.mkdtemp(), "persona.pt")
            >>> torch.save(torch.randn(7, 128), path)  # the embeddings and 6 blocks
            >>> pl.ConstantSteering.from_file(path, layer=3, model=model).layers
            (3,)
        """
        hooked = None if model is None else as_hooked_model(model)
        vectors = read_vectors(
            path,
            layer=layer,
            numbering=numbering,
            key=key,
            n_layers=None if hooked is None else hooked.n_layers,
        )
        steering = cls.from_vectors(
            vectors, tokens=tokens, provenance={"file": Path(path).name, "method": cls.method}
        )
        if hooked is not None:
            steering.check(hooked)
        return steering

    def update(self, layer: int, resid: Resid, columns: Columns | None = None) -> Resid:
        """`z_l`, at every position."""
        return self.vectors[self.row(layer)].to(resid).expand_as(resid)

    # --- how it is fitted -----------------------------------------------------------------------

    @classmethod
    def fit_layer(cls, data: LayerData, options: Any) -> LayerFit:
        """The least-squares vector: the mean of what is missing, weighted by the strengths."""
        if data.strength is None:
            vector = data.missing.mean(dim=0)
        else:
            weight = data.strength.square().sum().clamp_min(1e-30)
            vector = (data.strength @ data.missing) / weight
        return LayerFit(cls(vector[None], [data.layer], tokens=data.tokens))

    @classmethod
    def start(cls, given: Start, options: Any) -> "ConstantSteering":
        """Zeros: no steering."""
        zeros = torch.zeros(len(given.layers), given.d_model)
        return cls(zeros, given.layers, tokens=given.tokens)

    @classmethod
    def recipe(cls, n_layers: int) -> Mapping[str, Any]:
        r"""A long step, divided among the layers: $0.5 \cdot \min(1, 6 / n)$ for $n$ of them.

        So few parameters bear a long step, and reach in half the epochs what the default reaches (dev
        objective on `demo`, hedger: 0.293 against 0.297 for `mse`, 0.553 against 0.554 for `ll`). It moves
        every layer's vector by `lr` times the accumulated delta's norm there, and what the layers add
        accumulates: on 30 layers, the step for 6 ends up five times as far away. On SmolLM2, no epoch of
        such steps made the dev objective better than no steering.
        """
        return {"lr": 0.5 * min(1.0, 6 / n_layers), "epochs": 8}

    def rescaled(self, scale: Scale) -> "ConstantSteering":
        """`z / size`."""
        return self.with_tensors({"vectors": self.vectors / scale.size.to(self.vectors)[:, None]})

    def fold_into(self, hf_model: Any, alpha: float = 1.0) -> FoldedSteering:
        r"""Add $\alpha z_l$ to the weights of a plain transformers model: no hook.

        The vector goes into the bias of the block's last module that writes to the residual stream; a bias
        is made if the architecture has none. Weights cannot tell tokens apart, so this acts at **every**
        position, the whole prompt included, as `applied` does with `tokens="all"`.

        `save_pretrained` stores the bias, and `from_pretrained` reads it back if the architecture can have
        a bias there: GPT-2, GPT-NeoX, and Llama, whose `mlp_bias` is switched on and whose other MLP biases
        are 0. The other classes drop an unknown bias when they load, so fold again after loading. Gemma 2
        and 3 normalise what the block writes; there the norm is given a bias.

        Args:
            hf_model: What `AutoModelForCausalLM.from_pretrained` gave: a Llama, Mistral, Qwen2,
                Qwen3, Gemma 1 to 3, GPT-2 or GPT-NeoX.
            alpha: Strength.

        Returns:
            A handle whose `undo()` restores the weights bit for bit.

        Raises:
            ValueError: If the model is not the one that the steering belongs to, its architecture is not
                among these, or `alpha` is not finite.
        """
        from psr_lens.deploy.fold import fold

        if not adds_vectors_alone(self):
            raise ValueError(f"{self!r} adds more than its vectors: weights cannot hold that")
        return fold(self.on("all"), hf_model, alpha)

    def span(self, layer: int) -> Float[Tensor, "rank d_model"] | None:
        """The layer's vector."""
        return self.vectors[self.row(layer)].unsqueeze(0)


def adds_vectors_alone(steering: Steering) -> bool:
    """Whether a steering is a constant that adds its vectors and no more: a subclass may act otherwise."""
    own = type(steering)
    return isinstance(steering, ConstantSteering) and all(
        getattr(own, name) is getattr(ConstantSteering, name) for name in ("update", *ACTING)
    )


def _check_arguments(vectors: Any, layers: Any) -> None:
    """Refuse what is not a table of vectors with its layers, and say what to use instead.

    Raises:
        ValueError: If it is not.
    """
    way_out = (
        "; for your own vectors there are ConstantSteering.from_vector(vector, layer=15) and "
        ".from_vectors({15: vector}), which take NumPy too"
    )
    if not isinstance(vectors, Tensor):
        raise ValueError(
            f"vectors of type {type(vectors).__name__}: pass a tensor [layer, d_model]{way_out}"
        )
    if vectors.ndim != 2 or not vectors.is_floating_point():
        raise ValueError(
            f"vectors has shape {list(vectors.shape)} and type "
            f"{str(vectors.dtype).removeprefix('torch.')}: pass floating-point numbers "
            f"[layer, d_model], one row per layer{way_out}"
        )
    if isinstance(layers, int | str) or not hasattr(layers, "__iter__"):
        raise ValueError(f"layers={layers!r}: pass a list, [15], one layer per row{way_out}")
