"""Which tokens a steering acts on: three names, or a rule.

| `tokens` | what it acts on |
| --- | --- |
| `"response"` | the last prompt token and every response token |
| `"question+response"` | the question's tokens as well |
| `"all"` | every token, the chat template's included |
| a `TokenRule` | what the rule says: `LastPromptToken`, `FromResponseToken`, `TokenIds`, or one of your own |

The first two are the tokens that base and prompted run share, on which steerings are fitted and measured.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import Any, Final, Literal, cast, final, get_args

import torch
from jaxtyping import Bool
from torch import Tensor

from psr_lens._types import AlignedTokens, check_count, check_whole
from psr_lens.models.columns import Columns

NamedTokens = AlignedTokens | Literal["all"]
NAMED: Final[tuple[NamedTokens, ...]] = (*get_args(AlignedTokens), "all")
_RULES: "dict[str, type[TokenRule]]" = {}
"""Every rule that is known in this process, by the name of its class."""


class TokenRule(ABC):
    """A rule of your own: a frozen dataclass whose fields are numbers, strings or tuples of them.

    It is saved with its steering. Whoever loads that must have imported the class.

    Attributes:
        reach: The smallest of the named sets that holds every token the rule can choose; what it chooses
            beyond is left out. A prefix before it that rows share may then be run only once.

    Example:
        >>> from dataclasses import dataclass
        >>> import psr_lens as pl
        >>> @dataclass(frozen=True)
        ... class EverySecond(pl.TokenRule):
        ...     reach = "response"
        ...     def chosen(self, columns):
        ...         after = columns.position - columns.response_start
        ...         return (after >= 0) & (after % 2 == 0)
        >>> pl.ConstantSteering(torch.ones(1, 4), [2], tokens=EverySecond())
        ConstantSteering(const, layer 2 of an unnamed model, EverySecond() tokens)
    """

    reach: "NamedTokens" = "all"

    def __init_subclass__(cls, **options: Any):
        super().__init_subclass__(**options)
        known = _RULES.get(cls.__name__)
        if known is not None and _of_the_package(known) and not _of_the_package(cls):
            raise ValueError(f"psr_lens has a rule {cls.__name__} already: choose another name")
        _RULES[cls.__name__] = cls

    @abstractmethod
    def chosen(self, columns: Columns) -> Bool[Tensor, "batch pos"]:
        """Which columns of a pass to act on; its values on padding do not matter.

        Args:
            columns: What every column is: its position in its row, where the response begins, its token.
        """


def _of_the_package(rule: type[TokenRule]) -> bool:
    return rule.__module__.startswith("psr_lens.")


Tokens = NamedTokens | TokenRule
"""Which tokens a steering acts on."""


@final
@dataclass(frozen=True)
class LastPromptToken(TokenRule):
    """Only the last token of the prompt, at which the first response token is predicted."""

    reach = "response"

    def chosen(self, columns: Columns) -> Bool[Tensor, "batch pos"]:
        """Where the aligned tokens begin."""
        return columns.position == columns.response_start


@final
@dataclass(frozen=True)
class FromResponseToken(TokenRule):
    """The response from its n-th token on.

    Attributes:
        n: Which is the first; 1 for the whole response, without the last prompt token.

    Raises:
        ValueError: If it is below 1.
    """

    n: int = 1
    reach = "response"

    def __post_init__(self):
        object.__setattr__(self, "n", check_count("n", self.n))

    def chosen(self, columns: Columns) -> Bool[Tensor, "batch pos"]:
        """Tokens that come `n` or more after the last prompt token."""
        return columns.position >= columns.response_start + self.n


@final
@dataclass(frozen=True)
class TokenIds(TokenRule):
    """Tokens by id, wherever they occur.

    Attributes:
        ids: The ids.
        within: The tokens among which to look for them.

    Raises:
        ValueError: If there is no id, or one is not a whole number from 0 up.
    """

    ids: Sequence[int]
    within: NamedTokens = "response"

    def __post_init__(self):
        if isinstance(self.ids, str) or not isinstance(self.ids, Iterable):
            raise ValueError(f"ids={self.ids!r}: pass several token ids, [{self.ids!r}]")
        found = tuple(sorted({check_whole("ids", one) for one in self.ids}))
        if not found or found[0] < 0:
            raise ValueError(f"ids={self.ids!r}: name at least one token id, from 0 up")
        object.__setattr__(self, "ids", found)
        if self.within not in NAMED:
            raise ValueError(f"within={self.within!r}: choose one of {', '.join(NAMED)}")
        object.__setattr__(self, "reach", self.within)

    def chosen(self, columns: Columns) -> Bool[Tensor, "batch pos"]:
        """The columns with one of the ids.

        Raises:
            ValueError: If the pass does not show its token ids.
        """
        if columns.ids is None:
            raise ValueError(
                f"{self!r} goes by token ids and this call does not show any (embeddings or text went "
                "in): use the HookedModel's own methods, or pass token ids"
            )
        wanted = torch.tensor(self.ids, device=columns.ids.device)
        return torch.isin(columns.ids, wanted) & mask_of(self.within, columns)


def mask_of(tokens: Tokens, columns: Columns) -> Bool[Tensor, "batch pos"]:
    """Which columns of a pass to act on.

    Raises:
        ValueError: If the pass lacks what the rule goes by, or a rule does not return a mask of the
            columns.
    """
    if isinstance(tokens, TokenRule):
        chosen = tokens.chosen(columns)
        if chosen.dtype != torch.bool or chosen.shape != columns.position.shape:
            raise ValueError(
                f"{tokens!r} chose {list(chosen.shape)} of {chosen.dtype}: return a boolean mask "
                f"{list(columns.position.shape)}, one entry per column"
            )
        reach = aligned_reach(tokens)
        return chosen if reach is None else chosen & columns.on(reach)
    return columns.position >= 0 if tokens == "all" else columns.on(tokens)


def reach_of(tokens: Tokens) -> NamedTokens:
    """The smallest of the named sets that holds them."""
    return tokens.reach if isinstance(tokens, TokenRule) else tokens


def aligned_reach(tokens: Tokens) -> AlignedTokens | None:
    """The smallest set of aligned tokens that holds them; None if they reach further."""
    reach = reach_of(tokens)
    return None if reach == "all" else reach


def check_tokens(tokens: Any) -> Tokens:
    """Return the tokens if they are a valid name or rule.

    Raises:
        ValueError: If it is neither a name nor a rule, or a rule that cannot be saved or compared.
    """
    if isinstance(tokens, str) and tokens in NAMED:
        return cast(NamedTokens, tokens)
    if not isinstance(tokens, TokenRule):
        raise ValueError(
            f"tokens={tokens!r}: choose 'response' (last prompt token and response), "
            "'question+response', 'all', or a rule such as LastPromptToken()"
        )
    kind = type(tokens)
    if not (is_dataclass(tokens) and kind.__dataclass_params__.frozen):  # type: ignore[attr-defined]
        raise ValueError(f"{kind.__name__} must be a frozen dataclass: put @dataclass(frozen=True)")
    if tokens.reach not in NAMED:
        raise ValueError(f"reach={tokens.reach!r} of {tokens!r}: choose one of {', '.join(NAMED)}")
    try:
        kept = _made(kind, json.loads(json.dumps(asdict(cast(Any, tokens)))))
        hash(tokens)
    except (TypeError, ValueError):
        kept = None
    if kept != tokens:
        raise ValueError(
            f"{tokens!r} would not come back from a file: let its fields be numbers, texts or tuples of "
            "these, all of them arguments"
        )
    return tokens


def described_tokens(tokens: Tokens) -> str | dict[str, Any]:
    """Tokens as JSON values."""
    if isinstance(tokens, TokenRule):
        return {"rule": type(tokens).__name__, "fields": asdict(cast(Any, tokens))}
    return tokens


def tokens_from(described: Any) -> Tokens:
    """The inverse of `described_tokens`.

    Raises:
        ValueError: If it describes no tokens, or a rule whose class is not known.
    """
    return check_tokens(_rule_from(described) if isinstance(described, Mapping) else described)


def _rule_from(described: Mapping[str, Any]) -> TokenRule:
    name, given = described.get("rule"), described.get("fields")
    cls = _RULES.get(str(name))
    if cls is None:
        raise ValueError(f"tokens follow a rule {name!r}: import the module that defines it first")
    if not isinstance(given, Mapping) or set(given) != {own.name for own in fields(cast(Any, cls))}:
        raise ValueError(f"tokens follow {name} with fields {given}, and it has others")
    return _made(cls, given)


def _made(cls: type[TokenRule], given: Mapping[str, Any]) -> TokenRule:
    return cls(**{key: tuple(own) if isinstance(own, list) else own for key, own in given.items()})
