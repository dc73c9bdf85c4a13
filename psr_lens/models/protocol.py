"""`HookedModel`: all that the rest of the package sees of a model.

The three backends, HookedTransformer, TransformerBridge and plain transformers, differ in how hook
points are spelt, how a KV cache is passed and whether a block can be run alone. The differences end
here: everything else edits residual streams through `edited`, and runs `logits`, `run`, `embed`,
`run_block` or `generate`.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from psr_lens.models.batch import TokenBatch, TokenRow, left_pad
from psr_lens.models.chat import Prompt, PromptEncoder, RawText
from psr_lens.models.columns import Columns
from psr_lens.models.editing import EditableModel
from psr_lens.models.gguf_file import GGUFOrigin
from psr_lens.models.prefix import KeyValues


class HookedModel(EditableModel):
    """A frozen language model whose residual stream can be read and edited at every layer.

    Made by `load_model`, or around a model of your own by `as_hooked_model`.

    Attributes:
        raw: The HookedTransformer, the TransformerBridge or the transformers model.
        name: Hub name, or name of the checkpoint directory.
        revision: Revision on the hub, None where there is none.
        gguf: The GGUF file that it was made from, None if there was none.
    """

    backend: ClassVar[str]

    def __init__(
        self,
        raw: nn.Module,
        *,
        name: str,
        tokenizer: Any = None,
        revision: str | None = None,
        end_token_ids: Sequence[int] = (),
        gguf: GGUFOrigin | None = None,
    ):
        super().__init__(raw)
        self.name = name
        self.revision = revision
        self.gguf = gguf
        self._tokenizer, self._end_token_ids = tokenizer, end_token_ids

    @cached_property
    def encoder(self) -> PromptEncoder:
        """Prompts to token ids and back.

        Raises:
            ValueError: If the model came without a tokenizer, and none is found where it came from.
        """
        if self._tokenizer is None:
            self._tokenizer = self._found_tokenizer()
        return PromptEncoder(self._tokenizer, self._end_token_ids)

    @property
    def template_hash(self) -> str:
        """A short hash of the chat template, empty without a template or a tokenizer."""
        try:
            return self.encoder.template_hash
        except ValueError:
            return ""

    def use_tokenizer(self, tokenizer: Any) -> None:
        """Use another tokenizer for prompts from now on, with the same template options."""
        self._tokenizer = tokenizer
        before = vars(self).pop("encoder", None)
        if before is not None:
            self.encoder.template_options = before.template_options

    def _found_tokenizer(self) -> Any:
        raise ValueError(f"{self.name} came without a tokenizer, which prompts need")

    @property
    def tokenizer(self) -> Any:
        """The Hugging Face tokenizer that prompts go through; its `chat_template` may be set."""
        return self.encoder.tokenizer

    @property
    def cfg(self) -> Any:
        """The configuration as the backend has it, TransformerLens' or that of transformers."""
        return self.raw.cfg

    def to(self, device: torch.device | str) -> "HookedModel":
        """Move the weights to another device; returns the model itself.

        The number type is chosen on loading: here, what is not a weight, such as rotary angles, would be
        rounded too.
        """
        self.raw.to(torch.device(device))
        return self

    # --- dimensions -----------------------------------------------------------------------------

    @property
    @abstractmethod
    def n_layers(self) -> int:
        """Number of blocks."""

    @property
    @abstractmethod
    def d_model(self) -> int:
        """Width of the residual stream."""

    @property
    @abstractmethod
    def d_vocab(self) -> int:
        """Number of logits per position."""

    @property
    @abstractmethod
    def n_ctx(self) -> int:
        """Longest sequence that the model takes, in tokens."""

    @cached_property
    def _embedding(self) -> Tensor:
        return next(self.raw.parameters())

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self._embedding.device

    @property
    def dtype(self) -> torch.dtype:
        """Number type of the weights."""
        return self._embedding.dtype

    # --- what a backend spells in its own way ---------------------------------------------------

    @abstractmethod
    def output_matrix(self, layer: int) -> Float[Tensor, "head d_head d_model"]:
        """What the mixed values of every query head of block `layer` are multiplied by."""

    @abstractmethod
    def final_norm(self) -> nn.Module:
        """The norm before the unembedding."""

    @abstractmethod
    def unembedding(self) -> Float[Tensor, "d_vocab d_model"]:
        """The matrix that turns the normed residual stream into logits."""

    @abstractmethod
    def _forward_from_the_end(
        self, resid: Float[Tensor, "batch pos d_model"], batch: TokenBatch
    ) -> Float[Tensor, "batch pos d_vocab"]: ...

    @abstractmethod
    def _forward(
        self, batch: TokenBatch, prefix: KeyValues | None = None
    ) -> Float[Tensor, "batch pos d_vocab"]: ...

    @abstractmethod
    def _forward_without_unembedding(
        self, batch: TokenBatch, prefix: KeyValues | None = None
    ) -> None: ...

    @abstractmethod
    def _forward_cached(
        self,
        tokens: Int[Tensor, "batch new"],
        attention_mask: Tensor,
        cache: Any,
        last: bool = False,
    ) -> tuple[Float[Tensor, "batch logits d_vocab"], Any]:
        """Logits of the new tokens, or of the last, and the cache; the mask covers all columns."""

    @abstractmethod
    def _embed(
        self, batch: TokenBatch, prefix: KeyValues | None = None
    ) -> Float[Tensor, "batch pos d_model"]: ...

    @abstractmethod
    def _run_block(
        self,
        layer: int,
        resid: Float[Tensor, "batch pos d_model"],
        batch: TokenBatch,
        prefix: KeyValues | None = None,
    ) -> Float[Tensor, "batch pos d_model"]: ...

    @property
    @abstractmethod
    def can_share(self) -> bool:
        """Whether rows may follow a prefix that they share, with a gap of padding between.

        Not if attention counts columns and not positions, as in a sliding window, or if a token leaves
        behind more than keys and values.
        """

    @abstractmethod
    def _forward_keeping_keys(self, batch: TokenBatch) -> KeyValues: ...

    @abstractmethod
    def _forward_suffix(
        self,
        layer: int,
        resid: Float[Tensor, "batch new d_model"],
        suffix: TokenBatch,
        prefix: KeyValues,
        unembed: bool,
    ) -> Tensor: ...

    def showing_patterns(self) -> AbstractContextManager[None]:
        """A context in which attention computes its weights explicitly, for a tap to read."""
        return nullcontext()

    def _as_itself(self) -> AbstractContextManager[None]:
        """A context in which `raw` runs as if nothing were running already."""
        return nullcontext()

    # --- running --------------------------------------------------------------------------------

    def logits(
        self, batch: TokenBatch, prefix: KeyValues | None = None
    ) -> Float[Tensor, "batch pos d_vocab"]:
        """Next-token logits at every column of a padded batch, `[batch, pos, d_vocab]`.

        Args:
            batch: The batch.
            prefix: Keys and values of what comes before: of one row for every row of the batch, or of
                each row.
        """
        with self._running(batch.columns):
            return self._forward(batch, prefix)

    def run(self, batch: TokenBatch, prefix: KeyValues | None = None) -> None:
        """Run all blocks for what the edits record; without logits if the backend can skip them."""
        with self._running(batch.columns):
            self._forward_without_unembedding(batch, prefix)

    def embed(
        self, batch: TokenBatch, prefix: KeyValues | None = None
    ) -> Float[Tensor, "batch pos d_model"]:
        """The residual stream that enters block 0."""
        with self._running(batch.columns):
            return self._embed(batch, prefix)

    def run_block(
        self,
        layer: int,
        resid: Float[Tensor, "batch pos d_model"],
        batch: TokenBatch,
        prefix: KeyValues | None = None,
    ) -> Float[Tensor, "batch pos d_model"]:
        """The residual stream after block `layer`, given the one that enters it."""
        with self._running(batch.columns):
            return self._run_block(layer, resid, batch, prefix)

    def unembed(self, resid: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_vocab"]:
        """Logits of residual streams that leave the last block: norm, unembedding, soft cap.

        Gradients flow to `resid`.
        """
        flat = resid.reshape(-1, 1, resid.shape[-1]).to(self.device, self.dtype)
        batch = self.pad([TokenRow((0,), 0, 0)] * len(flat))
        with self._running(batch.columns):
            logits = self._forward_from_the_end(flat, batch)
        return logits.reshape(*resid.shape[:-1], -1)

    def step(
        self,
        tokens: Int[Tensor, "batch new"],
        attention_mask: Tensor,
        columns: Columns,
        cache: Any = None,
        *,
        last: bool = False,
    ) -> tuple[Float[Tensor, "batch logits d_vocab"], Any]:
        """One cached forward pass: logits of the new columns, and the grown cache.

        Args:
            tokens: The new tokens.
            attention_mask: True on real tokens, over cached and new columns.
            columns: What the new columns are.
            cache: What the last call returned, or `begun_cache`; None to begin.
            last: Whether only the last new column's logits are needed.
        """
        with self._running(columns):
            return self._forward_cached(tokens, attention_mask, cache, last)

    @abstractmethod
    def begun_cache(self, prefix: KeyValues, rows: int) -> Any:
        """A cache for `step` in which every row already has the same prefix."""

    @abstractmethod
    def keep_rows(self, cache: Any, rows: Int[Tensor, " kept"]) -> None:
        """Drop all rows but these from a cache that `step` returned."""

    def prefill(self, batch: TokenBatch) -> KeyValues:
        """Keys and values at every layer of a left-padded batch of prefixes."""
        with self._running(batch.columns):
            return self._forward_keeping_keys(batch)

    def run_suffix(
        self,
        layer: int,
        resid: Float[Tensor, "batch new d_model"],
        suffix: TokenBatch,
        prefix: KeyValues,
        *,
        unembed: bool = False,
    ) -> Tensor:
        """Run the blocks from `layer` on, over what follows the prefixes; gradients flow.

        Args:
            layer: The first block to run; `n_layers` for none.
            resid: The residual stream that enters it.
            suffix: What follows the prefixes, as `right_pad` lays it out.
            prefix: Keys and values of the prefixes.
            unembed: Return logits, `[batch, new, d_vocab]`, and not the last residual stream.
        """
        with self._running(suffix.columns):
            return self._forward_suffix(layer, resid, suffix, prefix, unembed)

    def __call__(self, prompts: Prompt | Sequence[Prompt]) -> Float[Tensor, "batch pos d_vocab"]:
        """Next-token logits of one prompt or several, left-padded."""
        return self.logits(self.to_batch(prompts))

    def run_with_cache(self, prompts: Prompt | Sequence[Prompt], **options: Any) -> tuple[Any, Any]:
        """TransformerLens' `run_with_cache` on prompts: logits and activation cache.

        Args:
            prompts: One prompt or several.
            options: Passed on, such as `names_filter`.

        Raises:
            ValueError: If the model is a plain transformers model.
        """
        if not hasattr(self.raw, "run_with_cache"):
            raise ValueError(
                "run_with_cache is TransformerLens' own: load the model with backend='hooked' or "
                "'bridge', or read residual streams with collect_deltas(...) or model.edited(...)"
            )
        batch = self.to_batch(prompts)
        with self._running(batch.columns), self._as_itself(), torch.no_grad():
            mask = batch.attention_mask.long()
            return self.raw.run_with_cache(batch.tokens, attention_mask=mask, **options)

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        *,
        max_new_tokens: int = 128,
        temperature: float = 1.0,
        seed: int = 0,
        use_cache: bool = True,
        batch_size: int = 32,
        progress: bool = False,
        template_options: Mapping[str, Any] | None = None,
    ) -> Any:
        """Sample a response to every prompt.

        Args:
            prompts: One prompt or several.
            max_new_tokens: Longest response, in tokens.
            temperature: 0 for greedy decoding.
            seed: Every prompt draws from a stream of its own, made from this seed and the prompt's
                place in the list, so the batch size does not change what is drawn.
            use_cache: Whether to keep keys and values between steps; without, the same tokens, but slower.
            batch_size: Prompts per batch.
            progress: Whether to show a bar.
            template_options: Options of the chat template, overriding those given to `load_model`.

        Returns:
            The response's text, or a list of texts if a list of prompts was given.

        Raises:
            ValueError: If an argument is out of its range, or a prompt leaves no room in the
                context.
        """
        from psr_lens.models.generation import generate_tokens

        rendering = self.encoder.rendering(template_options)
        generations = generate_tokens(
            self,
            [self.encoder.encode(prompt, rendering) for prompt in self.to_prompts(prompts)],
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
            use_cache=use_cache,
            batch_size=batch_size,
            progress=progress,
        )
        texts = [self.encoder.decode(generation.tokens) for generation in generations]
        return texts if is_prompt_list(prompts) else texts[0]

    # --- prompts --------------------------------------------------------------------------------

    def to_prompts(self, prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
        """One prompt or several, as a list.

        Raises:
            ValueError: If the list is empty.
        """
        listed: list[Any] = list(prompts) if is_prompt_list(prompts) else [prompts]  # type: ignore[arg-type]
        if not listed:
            raise ValueError("the list of prompts is empty: pass at least one prompt")
        return listed

    def to_batch(self, prompts: Prompt | Sequence[Prompt]) -> TokenBatch:
        """Prompts as a left-padded batch; its `response` tokens are each prompt's last one."""
        rendering = self.encoder.rendering()
        encoded = [self.encoder.encode(prompt, rendering) for prompt in self.to_prompts(prompts)]
        rows = [TokenRow(p.ids, p.question_start, len(p.ids) - 1) for p in encoded]
        return self.pad(rows)

    def pad(self, rows: Sequence[TokenRow]) -> TokenBatch:
        """Token rows as a left-padded batch on the model's device.

        Raises:
            ValueError: If a row is longer than the model's context.
        """
        longest = max(len(row.tokens) for row in rows)
        if longest > self.n_ctx:
            raise ValueError(
                f"a sequence has {longest} tokens but {self.name} takes {self.n_ctx}: "
                "shorten the prompt or the response"
            )
        # Rows of equal length need no padding, and so no tokenizer.
        even = all(len(row.tokens) == longest for row in rows)
        return left_pad(rows, 0 if even else self.encoder.pad_token_id, self.device)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.name!r}, {self.n_layers} layers, d_model={self.d_model}, "
            f"{str(self.dtype).removeprefix('torch.')} on {self.device})"
        )


def is_prompt_list(prompts: Prompt | Sequence[Prompt]) -> bool:
    """Whether this is a list of prompts and not one prompt.

    Raises:
        ValueError: If it is a single message, which must be in a list.
    """
    if isinstance(prompts, Mapping):
        raise ValueError(f"{dict(prompts)!r} is one message: pass a list of messages")
    if isinstance(prompts, str | RawText):
        return False
    return not (len(prompts) > 0 and isinstance(prompts[0], Mapping))
