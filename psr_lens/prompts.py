"""Pairs of prompts: the same question without and with a steering instruction."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from psr_lens.models.chat import (
    Message,
    Prompt,
    RawText,
    check_messages,
    is_chat,
    with_instruction,
)

Question = str | Sequence[Message]
"""A user's turn, or a whole chat."""

_ROLES = ("system", "developer", "user", "assistant", "tool")
_FIELDS = ("base", "prompted", "response", "paraphrase", "paraphrases", "group")


@dataclass(frozen=True)
class PromptPair:
    """A base prompt `x` and the same prompt with a steering instruction, `x'`.

    Attributes:
        base: The prompt `x`: chat messages, a string, or `RawText`.
        prompted: The prompt `x'`.
        response: A response `y'` that the model gave to `x'`; None to have one sampled.
        paraphrases: `x` with the instruction in one or more other wordings, for the reference line of
            faithfulness reports.
        group: What must not be divided among train, dev and test (a topic, a subject). By default the text
            of the base prompt, so one question is never in two splits.
        metadata: Anything else to keep with the pair.
    """

    base: Prompt
    prompted: Prompt
    response: str | None = None
    paraphrases: Sequence[Prompt] = ()
    group: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        for name in ("response", "group"):
            value = getattr(self, name)
            if not isinstance(value, str) and not (name == "response" and value is None):
                raise ValueError(f"{name}={value!r}: it must be a string")
        paraphrases = _several("paraphrases", self.paraphrases, "prompts")
        object.__setattr__(self, "paraphrases", paraphrases)
        prompts = [("base", self.base), ("prompted", self.prompted)]
        for name, value in prompts + [("paraphrases", one) for one in self.paraphrases]:
            if isinstance(value, Mapping) or not isinstance(value, str | RawText | Sequence):
                raise ValueError(
                    f"{name}={value!r}: pass a string, a list of messages or RawText(...)"
                )
        if not self.group:
            object.__setattr__(self, "group", prompt_text(self.base))


def make_pairs(
    questions: Sequence[Question] | Mapping[str, Sequence[Question]],
    instruction: str,
    *,
    paraphrases: Sequence[str] = (),
) -> list[PromptPair]:
    """Pairs from questions and one instruction: `x` is the question, `x'` puts the instruction before it.

    The instruction becomes the system message, or the beginning of an existing one. If the chat template
    takes no system message, it goes at the beginning of the user's turn.

    Args:
        questions: Each the user's turn as text, or a whole chat as a list of messages. Or lists of these by
            group, `{"whales": ["Tell me about whales.", ...], ...}`; questions of one group stay in one
            split.
        instruction: The steering instruction.
        paraphrases: The instruction in one or more other wordings, which become the `paraphrases` of every
            pair.

    Returns:
        A pair for every question, in their order.

    Raises:
        ValueError: If there is no question, or a question, its group or the instruction is of the wrong
            type.

    Example:
        >>> pairs = make_pairs(["Tell me about whales.", "Why is the sky blue?"], "Be sycophantic.")
        >>> [message["role"] for message in pairs[0].prompted]
        ['system', 'user']
        >>> [pair.group for pair in make_pairs({"sea": ["What is a whale?", "And a squid?"]}, "Sing.")]
        ['sea', 'sea']
    """
    paraphrases = _several("paraphrases", paraphrases, "strings")
    for name, value in (("instruction", instruction), *(("paraphrases", p) for p in paraphrases)):
        if not isinstance(value, str):
            raise ValueError(f"{name}={value!r}: it must be a string")
    found = []
    for group, question in _grouped(questions):
        chat = [{"role": "user", "content": question}] if isinstance(question, str) else question
        check_messages(chat)
        found.append(
            PromptPair(
                base=list(chat),
                prompted=with_instruction(chat, instruction),
                paraphrases=tuple(with_instruction(chat, words) for words in paraphrases),
                group=group,
            )
        )
    if not found:
        raise ValueError(f"questions={questions!r}: pass at least one question")
    return found


def _grouped(
    questions: Sequence[Question] | Mapping[str, Sequence[Question]],
) -> Iterator[tuple[str, Question]]:
    """Every question with the name of its group, empty where it has none."""
    by_group: Mapping[str, Any] = {"": questions}
    if isinstance(questions, Mapping) and not {"role", "content"} <= questions.keys():
        by_group = questions
        for group in questions:
            if not isinstance(group, str) or not group:
                raise ValueError(f"questions has the group {group!r}: name each by a text")
    for group, several in by_group.items():
        given = isinstance(several, Sequence) and not isinstance(several, str)
        if not given or any(isinstance(own, Mapping) for own in several):
            raise ValueError(f"questions={several!r}: pass a list of questions, [question]")
        for question in several:
            if not isinstance(question, str | Sequence):
                raise ValueError(f"question={question!r}: pass a string or a list of messages")
            yield group, question


def _several(name: str, wordings: Any, what: str) -> tuple[Any, ...]:
    if isinstance(wordings, str | RawText | Mapping) or not isinstance(wordings, Sequence):
        raise ValueError(f"{name}={wordings!r}: pass a list of {what}, one for each wording")
    return tuple(wordings)


def prompt_text(prompt: Prompt) -> str:
    """A prompt as one plain string, without a template: for grouping and for showing."""
    if isinstance(prompt, RawText):
        return prompt.text
    if isinstance(prompt, str):
        return prompt
    return "\n".join(f"{message['role']}: {message['content']}" for message in prompt)


def prompt_words(prompt: Prompt) -> tuple[tuple[str, str], ...]:
    """What a prompt says before any template: `(role, text)` of each turn.

    Plain text counts as a user's turn, which it is on a chat model.
    """
    if is_chat(prompt):
        return tuple((m["role"], m["content"].strip()) for m in prompt)  # type: ignore[union-attr]
    return (("user", prompt_text(prompt).strip()),)


def load_pairs(path: str | Path) -> list[PromptPair]:
    """Read prompt pairs from a JSON Lines file.

    Every line is an object with `base` and `prompted`, each a string or a list of messages, and
    optionally `response`, `paraphrase` (one prompt) or `paraphrases` (a list of prompts), and
    `group`. A prompt of the form `{"raw": "..."}` is text that no chat template touches. Other keys
    are kept as metadata. Empty lines are skipped.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If there is no pair, or a line is wrong; the message has its number and the fault.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no pairs file {str(path)!r}: pass a JSON Lines file")
    try:
        # Only at line feeds: JSON may contain the other characters that `splitlines` splits at.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error.reason}): save it as UTF-8") from None
    pairs = [
        parse_line(line, f"{path}, line {number}")
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    if not pairs:
        raise ValueError(f"{path} holds no pair: write one JSON object per line")
    return pairs


def pair_line(pair: PromptPair) -> str:
    """A pair as a line of a pairs file, from which `parse_line` restores it.

    Raises:
        ValueError: If JSON cannot represent it exactly.
    """
    about = f"the pair of {prompt_text(pair.base)[:60]!r} cannot be kept in a file"
    taken = sorted(pair.metadata.keys() & set(_FIELDS))
    if taken:
        raise ValueError(f"{about}: its metadata has {taken[0]!r}, which pairs have too: rename it")
    record = {
        **pair.metadata,
        "base": _plain(pair.base),
        "prompted": _plain(pair.prompted),
        "response": pair.response,
        "paraphrases": [_plain(prompt) for prompt in pair.paraphrases],
        "group": pair.group,
    }
    try:
        line = json.dumps(record, allow_nan=False)
        again = parse_line(line, "what was written")
    except (TypeError, ValueError) as error:
        raise ValueError(f"{about}: {error}") from None
    if again != pair:
        raise ValueError(f"{about}: it has values that JSON does not keep, a tuple say; use lists")
    return line


def _plain(prompt: Prompt) -> Any:
    if isinstance(prompt, RawText):
        return {"raw": prompt.text}
    return prompt if isinstance(prompt, str) else [dict(message) for message in prompt]


def parse_line(line: str, where: str) -> PromptPair:
    """The pair that a line of a pairs file describes.

    Args:
        line: The line.
        where: What error messages call it.

    Raises:
        ValueError: If it is wrong.
    """
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
    missing = [key for key in ("base", "prompted") if key not in record]
    if missing:
        raise ValueError(f"{where}: key {missing[0]!r} is missing; keys are {sorted(record)}")
    for key in ("response", "group"):
        if not isinstance(record.get(key, ""), str | None):
            raise ValueError(f"{where}: {key!r} must be a string, not {record[key]!r}")
    return PromptPair(
        base=_parse_prompt(record["base"], f"{where}, 'base'"),
        prompted=_parse_prompt(record["prompted"], f"{where}, 'prompted'"),
        response=record.get("response"),
        paraphrases=_parse_paraphrases(record, where),
        group=record.get("group") or "",
        metadata={key: value for key, value in record.items() if key not in _FIELDS},
    )


def _parse_paraphrases(record: Mapping[str, Any], where: str) -> tuple[Prompt, ...]:
    one, several = record.get("paraphrase"), record.get("paraphrases")
    if one is not None and several is not None:
        raise ValueError(
            f"{where}: both 'paraphrase' and 'paraphrases': put all into 'paraphrases'"
        )
    if one is not None:
        return (_parse_prompt(one, f"{where}, 'paraphrase'"),)
    if several is None:
        return ()
    if not isinstance(several, list):
        raise ValueError(f"{where}: 'paraphrases' must be a list of prompts, not {several!r}")
    return tuple(_parse_prompt(value, f"{where}, 'paraphrases'") for value in several)


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
