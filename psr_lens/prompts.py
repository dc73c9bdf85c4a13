"""Pairs of prompts: the same question without and with a steering instruction."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from psr_lens.models.chat import Message, Prompt, RawText, check_messages, with_instruction

_ROLES = ("system", "developer", "user", "assistant", "tool")
_FIELDS = ("base", "steered", "response", "equivalent", "equivalents", "group")


@dataclass(frozen=True)
class PromptPair:
    """A base prompt `x` and the same prompt with a steering instruction, `x'`.

    Attributes:
        base: The prompt `x`: chat messages, a string, or `RawText`.
        steered: The prompt `x'`.
        response: A response `y'` that the model gave to `x'`; None to have one sampled.
        equivalents: `x` with the instruction in other words, once or several times, for the
            reference line of faithfulness reports.
        group: What must not be torn apart between train, dev and test (a topic, a subject). By
            default the text of the base prompt, so that one question never stands on two sides.
        metadata: Anything else that the user wants to keep beside it.
    """

    base: Prompt
    steered: Prompt
    response: str | None = None
    equivalents: Sequence[Prompt] = ()
    group: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        for name in ("response", "group"):
            value = getattr(self, name)
            if not isinstance(value, str) and not (name == "response" and value is None):
                raise ValueError(f"{name}={value!r}: it must be a string")
        object.__setattr__(self, "equivalents", _several(self.equivalents, "prompts"))
        prompts = [("base", self.base), ("steered", self.steered)]
        for name, value in prompts + [("equivalents", one) for one in self.equivalents]:
            if isinstance(value, Mapping) or not isinstance(value, str | RawText | Sequence):
                raise ValueError(
                    f"{name}={value!r}: pass a string, a list of messages or RawText(...)"
                )
        if not self.group:
            object.__setattr__(self, "group", prompt_text(self.base))


def instruct(
    question: str | Sequence[Message],
    instruction: str,
    *,
    equivalents: Sequence[str] = (),
    response: str | None = None,
    group: str = "",
) -> PromptPair:
    """A pair from a question and an instruction for the system message.

    Args:
        question: The user's turn, or a whole chat.
        instruction: The steering instruction; it becomes (the head of) the system message. Where a
            chat template takes no system message, the model puts it at the head of the user's turn.
        equivalents: The same instruction in other words, once or several times.
        response: A response given to the steered prompt, None to have one sampled.
        group: As in `PromptPair`.

    Example:
        >>> pair = instruct("Tell me about whales.", "Be sycophantic.")
        >>> [message["role"] for message in pair.steered]
        ['system', 'user']
    """
    equivalents = _several(equivalents, "strings")
    for name, value in (("instruction", instruction), *(("equivalents", e) for e in equivalents)):
        if not isinstance(value, str):
            raise ValueError(f"{name}={value!r}: it must be a string")
    if not isinstance(question, str | Sequence):
        raise ValueError(f"question={question!r}: pass a string or a list of messages")
    chat = [{"role": "user", "content": question}] if isinstance(question, str) else question
    check_messages(chat)
    return PromptPair(
        base=list(chat),
        steered=with_instruction(chat, instruction),
        response=response,
        equivalents=tuple(with_instruction(chat, words) for words in equivalents),
        group=group,
    )


def _several(equivalents: Any, what: str) -> tuple[Any, ...]:
    if isinstance(equivalents, str | RawText | Mapping) or not isinstance(equivalents, Sequence):
        raise ValueError(
            f"equivalents={equivalents!r}: pass a list of {what}, one for each wording"
        )
    return tuple(equivalents)


def prompt_text(prompt: Prompt) -> str:
    """A prompt as one plain string, without a template: for grouping and for showing."""
    if isinstance(prompt, RawText):
        return prompt.text
    if isinstance(prompt, str):
        return prompt
    return "\n".join(f"{message['role']}: {message['content']}" for message in prompt)


def load_pairs(path: str | Path) -> list[PromptPair]:
    """Read prompt pairs from a JSON Lines file.

    Every line is an object with `base` and `steered`, each a string or a list of messages, and
    optionally `response`, `equivalent` (one prompt) or `equivalents` (a list of prompts), and
    `group`. A prompt of the form `{"raw": "..."}` is text that no chat template touches. Other keys
    are kept as metadata. Empty lines are skipped.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a line is wrong, with its number and what is wrong, or there is no pair.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no pairs file {str(path)!r}: pass a JSON Lines file")
    try:
        # At line feeds alone: JSON may hold the other characters that `splitlines` takes for one.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error.reason}): save it as UTF-8") from None
    pairs = [
        _parse_line(line, f"{path}, line {number}")
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    if not pairs:
        raise ValueError(f"{path} holds no pair: write one JSON object per line")
    return pairs


def _parse_line(line: str, where: str) -> PromptPair:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not JSON ({error.msg} at column {error.colno})") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: not JSON that can be read ({error})") from None
    try:
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"{where}: a lone surrogate, which is no text; write the character"
        ) from None
    except RecursionError as error:
        raise ValueError(f"{where}: not JSON that can be read ({error})") from None
    if not isinstance(record, dict):
        raise ValueError(f"{where}: {type(record).__name__} instead of an object with 'base' ...")
    missing = [key for key in ("base", "steered") if key not in record]
    if missing:
        raise ValueError(f"{where}: key {missing[0]!r} is missing; keys are {sorted(record)}")
    for key in ("response", "group"):
        if not isinstance(record.get(key, ""), str | None):
            raise ValueError(f"{where}: {key!r} must be a string, not {record[key]!r}")
    return PromptPair(
        base=_parse_prompt(record["base"], f"{where}, 'base'"),
        steered=_parse_prompt(record["steered"], f"{where}, 'steered'"),
        response=record.get("response"),
        equivalents=_parse_equivalents(record, where),
        group=record.get("group") or "",
        metadata={key: value for key, value in record.items() if key not in _FIELDS},
    )


def _parse_equivalents(record: Mapping[str, Any], where: str) -> tuple[Prompt, ...]:
    one, several = record.get("equivalent"), record.get("equivalents")
    if one is not None and several is not None:
        raise ValueError(
            f"{where}: both 'equivalent' and 'equivalents': put all into 'equivalents'"
        )
    if one is not None:
        return (_parse_prompt(one, f"{where}, 'equivalent'"),)
    if several is None:
        return ()
    if not isinstance(several, list):
        raise ValueError(f"{where}: 'equivalents' must be a list of prompts, not {several!r}")
    return tuple(_parse_prompt(value, f"{where}, 'equivalents'") for value in several)


def _parse_prompt(value: Any, where: str) -> Prompt:
    if isinstance(value, str) and value:
        return value
    if isinstance(value, dict) and set(value) == {"raw"} and isinstance(value["raw"], str):
        return RawText(value["raw"])
    if isinstance(value, list) and all(isinstance(message, dict) for message in value):
        roles = [message.get("role") for message in value]
        unknown = [role for role in roles if role not in _ROLES]
        if unknown:
            raise ValueError(f"{where}: role {unknown[0]!r}: choose one of {', '.join(_ROLES)}")
        try:
            return list(check_messages(value))
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
    raise ValueError(
        f"{where}: {value!r} is neither a non-empty string, a list of messages, "
        'nor {"raw": "text"}'
    )
