"""Prompts as token ids: chat templates, raw text, and where the question begins.

A prompt is one of three things.

- A list of messages (`{"role": ..., "content": ...}`): laid out by the model's chat template.
- A string: one user turn on a chat model, plain text on a base model without a template.
- `RawText`: plain text on any model.

Templates carry their own special tokens, so templated text is tokenised without adding any: no
double BOS. Plain text gets what the tokenizer adds by itself, and no second BOS if it begins with
one. A template that refuses or drops the system role gets the instruction at the head of the first
user turn instead.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

Message = Mapping[str, str]
"""One chat message, with `role` and `content`."""


@dataclass(frozen=True)
class RawText:
    """Text that is tokenised as it stands, without a chat template."""

    text: str


Prompt = str | RawText | Sequence[Message]

# How SentencePiece spells a space.
_SPACE = "\u2581"
_PROBE_SYSTEM = "psrlenssystemprobe"
_PROBE_TURN = "psrlensturnprobe"


@dataclass(frozen=True)
class PromptTokens:
    """A tokenised prompt.

    Attributes:
        ids: Token ids.
        question_start: First token that a steering instruction in front leaves as it is.
    """

    ids: tuple[int, ...]
    question_start: int


def common_suffix_length(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the longest common suffix of two token sequences."""
    length = 0
    for x, y in zip(reversed(a), reversed(b), strict=False):
        if x != y:
            break
        length += 1
    return length


def is_chat(prompt: Prompt) -> bool:
    """Whether the prompt is a list of messages."""
    return not isinstance(prompt, str | RawText)


def with_instruction(messages: Sequence[Message], instruction: str) -> list[Message]:
    """The chat with a steering instruction put in front, in its system message."""
    rest = [dict(message) for message in messages]
    if rest and rest[0]["role"] == "system":
        joined = f"{instruction}\n{rest[0]['content']}"
        return [{"role": "system", "content": joined}, *rest[1:]]
    return [{"role": "system", "content": instruction}, *rest]


@final
class PromptEncoder:
    """Turns prompts into token ids and back, for one tokenizer.

    Args:
        tokenizer: A Hugging Face tokenizer.
        end_token_ids: Ids that end a response, besides the tokenizer's own end token and the
            end-of-turn token that its template writes.
    """

    def __init__(self, tokenizer: Any, end_token_ids: Sequence[int] = ()):
        self.tokenizer = tokenizer
        self._texts: dict[int, str] = {}
        added = getattr(tokenizer, "added_tokens_decoder", {})
        self._special_ids = frozenset(tokenizer.all_special_ids) | {
            int(i) for i, token in added.items() if token.special
        }
        self.has_template = bool(getattr(tokenizer, "chat_template", None))
        self.takes_system_role = self.has_template and self._template_takes_system_role()
        ends = {int(i) for i in end_token_ids}
        if tokenizer.eos_token_id is not None:
            ends.add(int(tokenizer.eos_token_id))
        if self.has_template:
            ends |= self._end_of_turn_ids()
        self.end_token_ids: frozenset[int] = frozenset(ends)
        pad = tokenizer.pad_token_id
        # Padding is always masked out, so any valid id will do where the tokenizer names none.
        self.pad_token_id: int = int(pad) if pad is not None else min(self.end_token_ids, default=0)

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids of the tokens that the tokenizer marks as special, which `decode` leaves out."""
        return self._special_ids

    @property
    def template_hash(self) -> str:
        """A short hash of the chat template, empty where there is none."""
        template = getattr(self.tokenizer, "chat_template", None)
        return hashlib.sha256(str(template).encode()).hexdigest()[:16] if template else ""

    def text(self, prompt: Prompt) -> str:
        """The prompt as the text that is tokenised.

        Raises:
            ValueError: If messages are given to a model without a chat template, are empty or
                malformed, or the template refuses them.
        """
        if isinstance(prompt, RawText):
            return prompt.text
        if isinstance(prompt, str):
            if not self.has_template:
                return prompt
            prompt = [{"role": "user", "content": prompt}]
        return self._templated(check_messages(prompt))

    def encode(self, prompt: Prompt) -> PromptTokens:
        """Token ids of a prompt and where its question begins.

        Raises:
            ValueError: As `text`, and if the prompt has no token.
        """
        ids = self._ids(prompt)
        if not ids:
            raise ValueError(f"prompt {prompt!r} has no token: a prompt needs at least one")
        return PromptTokens(tuple(ids), self._question_start(prompt, ids))

    def encode_response(self, prompt: Prompt, response: str) -> tuple[int, ...]:
        """Token ids of a response as it follows the prompt, without an end token.

        Tokenised together with the prompt where the prompt's own tokens stay as they are, so that
        a leading space is treated as the tokenizer treats it there; by itself otherwise.
        """
        text = self.text(prompt)
        ids = self._ids(prompt)
        joint = self._tokenise(text + response, templated=self._is_templated(prompt))
        if tuple(joint[: len(ids)]) == tuple(ids) and len(joint) > len(ids):
            return tuple(joint[len(ids) :])
        return tuple(self.tokenizer(response, add_special_tokens=False)["input_ids"])

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids as it follows a prompt, special tokens left out."""
        plain = [int(i) for i in ids if int(i) not in self._special_ids]
        if plain and self._piece(plain[0]).startswith(_SPACE):
            # SentencePiece drops a leading space, taking it for the one that it adds to any text.
            # Behind a first piece of its own, the response keeps its.
            return self._decode(plain[:1] + plain)[len(self._decode(plain[:1])) :]
        return self._decode(plain)

    def str_tokens(self, ids: Sequence[int]) -> tuple[str, ...]:
        """Every token as text, special tokens included, leading spaces kept."""
        for token_id in {int(token_id) for token_id in ids} - self._texts.keys():
            self._texts[token_id] = self._shown(token_id)
        return tuple(self._texts[int(token_id)] for token_id in ids)

    def _shown(self, token_id: int) -> str:
        piece = self._piece(token_id)
        if not piece:
            # The vocabulary may have rows that no token uses.
            return f"<id {token_id}>"
        if _SPACE in piece:
            return piece.replace(_SPACE, " ")
        return self._decode([token_id])

    def _decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(
            ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )

    def _piece(self, token_id: int) -> str:
        """The token as the vocabulary spells it, empty where there is none."""
        return self.tokenizer.convert_ids_to_tokens(token_id) or ""

    def _ids(self, prompt: Prompt) -> list[int]:
        return self._tokenise(self.text(prompt), templated=self._is_templated(prompt))

    def _is_templated(self, prompt: Prompt) -> bool:
        return is_chat(prompt) or (isinstance(prompt, str) and self.has_template)

    def _tokenise(self, text: str, *, templated: bool) -> list[int]:
        bos, eos = self.tokenizer.bos_token, self.tokenizer.eos_token
        plain = templated or (bool(bos) and text.startswith(bos))
        ids = list(self.tokenizer(text, add_special_tokens=not plain)["input_ids"])
        if (
            not plain
            and eos
            and not text.endswith(eos)
            and ids[-1:] == [self.tokenizer.eos_token_id]
        ):
            # Some tokenizers close plain text by themselves; a prompt has to stay open.
            ids.pop()
        return ids

    def _question_start(self, prompt: Prompt, ids: Sequence[int]) -> int:
        if not self._is_templated(prompt):
            bos = self.tokenizer.bos_token_id
            return 1 if bos is not None and len(ids) > 1 and ids[0] == bos else 0
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        instructed = self._ids(with_instruction(messages, _PROBE_SYSTEM))  # type: ignore[arg-type]
        return len(ids) - common_suffix_length(ids, instructed)

    def _templated(self, messages: Sequence[Message]) -> str:
        if not self.has_template:
            raise ValueError(
                "messages were given but the tokenizer has no chat template: "
                "pass a plain string, or set tokenizer.chat_template"
            )
        if messages[0]["role"] == "system" and not self.takes_system_role:
            messages = _system_into_user(messages)
        return self._apply_template(messages)

    def _apply_template(self, messages: Sequence[Message]) -> str:
        from jinja2.exceptions import TemplateError

        continued = messages[-1]["role"] == "assistant"
        try:
            return self.tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                tokenize=False,
                add_generation_prompt=not continued,
                continue_final_message=continued,
            )
        except TemplateError as error:
            roles = [message["role"] for message in messages]
            raise ValueError(
                f"the chat template refuses messages with roles {roles}: {error}"
            ) from error

    def _template_takes_system_role(self) -> bool:
        probe = [
            {"role": "system", "content": _PROBE_SYSTEM},
            {"role": "user", "content": _PROBE_TURN},
        ]
        try:
            return _PROBE_SYSTEM in self._apply_template(probe)
        except ValueError:
            return False

    def _end_of_turn_ids(self) -> set[int]:
        """The special token that the template writes after an assistant's turn, if any."""
        from jinja2.exceptions import TemplateError

        turns = [
            {"role": "user", "content": _PROBE_TURN},
            {"role": "assistant", "content": _PROBE_TURN},
        ]
        try:
            text = self.tokenizer.apply_chat_template(turns, tokenize=False)
        except TemplateError:
            return set()
        tail = text.rpartition(_PROBE_TURN)[2]
        ids = self.tokenizer(tail, add_special_tokens=False)["input_ids"]
        return {int(ids[0])} if ids and ids[0] in self._special_ids else set()


def check_messages(messages: Sequence[Message]) -> Sequence[Message]:
    """The messages, if each has a role and a text.

    Raises:
        ValueError: If there is no message, or one lacks a string `role` or `content`.
    """
    if not messages:
        raise ValueError("the list of messages is empty: a prompt needs at least one message")
    for message in messages:
        if not isinstance(message, Mapping):
            raise ValueError(f"{message!r} is no message: give each a 'role' and a 'content'")
        fields = (message.get("role"), message.get("content"))
        if not all(isinstance(field, str) for field in fields):
            raise ValueError(f"message {dict(message)!r} needs a string 'role' and 'content'")
    return messages


def _system_into_user(messages: Sequence[Message]) -> list[Message]:
    """The instruction at the head of the first user turn, for templates without a system role."""
    system, *rest = messages
    for i, message in enumerate(rest):
        if message["role"] == "user":
            merged = {"role": "user", "content": f"{system['content']}\n\n{message['content']}"}
            return [*rest[:i], merged, *rest[i + 1 :]]
    raise ValueError(
        "the chat template takes no system role and there is no user message to carry the "
        "instruction: add a user message"
    )
