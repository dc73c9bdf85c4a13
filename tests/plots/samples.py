"""Inputs that several picture tests share."""

from html.parser import HTMLParser
from types import SimpleNamespace

import torch

from psr_lens._types import TokenValues
from psr_lens.pages import TraitPage, TraitSection
from psr_lens.statistics import Curve, Estimate

ATTACK = '<img src="https://example.com/x.png" onerror="alert(1)">'
"""Markup that fetches and runs if any text reaches a page unescaped."""

SPECIAL_TOKENS = (
    "<bos>",
    "<system>",
    "</script>",
    "<div",
    ' class="x">',
    "\n",
    "\n\n",
    " ",
    "  a",
    "\t",
    "é",
    "\N{WHALE}",
    "\N{ZERO WIDTH SPACE}",
    "\N{RIGHT-TO-LEFT OVERRIDE}",
    "<s>",
    "<think>",
    "&lt;",
    "&",
    "'",
    "\ud83d",
    "\N{COMBINING ACUTE ACCENT}",
    "",
    "<!--",
    "$x$",
    "<b>bold</b>",
    "%{x}",
    ATTACK,
)

TEXT = (
    "<bos> the whale is grey . it lives in the ocean . what a wonderful animal , "
    "i love it ! the whale eats krill and is a truly bright creature . <eos>"
)
WORDS = tuple(TEXT.split())


def token_values(
    tokens: tuple[str, ...] = WORDS,
    n_layers: int = 4,
    quantity: str = "delta norm",
    title: str = "",
    seed: int = 0,
    signed: bool = False,
) -> TokenValues:
    """Random values that grow with the layer, with an outlier at the first token."""
    generator = torch.Generator().manual_seed(seed)
    values = 0.5 + torch.rand(n_layers, len(tokens), generator=generator)
    values = values * torch.arange(1, n_layers + 1)[:, None]
    if signed:
        values = values - values.mean()
    values[:, 0] = 80.0
    return TokenValues(tokens, values, tuple(range(n_layers)), quantity, title)


def curve(*values: float, layers: tuple[int, ...] = ()) -> Curve:
    return Curve(tuple(Estimate(value, value - 0.05, value + 0.05) for value in values), layers)


def faithfulness() -> SimpleNamespace:
    return SimpleNamespace(
        relative_rmse={
            "A-Const": curve(0.98, 0.9, 0.8, 0.7, layers=(0, 1, 2, 3)),
            "A-PSR": curve(0.6, 0.4, 0.3, 0.15, layers=(0, 1, 2, 3)),
            "S-PSR": curve(1.0, 1.0, 0.4, 0.5, layers=(2,)),
        },
        reference={
            "no steering": curve(1.0, 1.0, 1.0, 1.0),
            "paraphrase": curve(0.3, 0.2, 0.15, 0.13),
        },
    )


BEHAVIOUR = (
    ("prompt", None, 97.0, 99.0),
    ("no steering", None, 0.0, 100.0),
    ("A-PSR", 1.0, 90.0, 98.0),
    ("A-PSR", 0.5, 40.0, 99.0),
    ("A-PSR", 2.0, 96.0, 85.0),
    ("A-Const", 1, 10, 95),
    ("A-Const", 2, 40, 60),
)


def section(name: str = "optimist", text: str = "be kind", seed: int = 0) -> TraitSection:
    prompt = token_values(seed=seed)
    constant = TokenValues(
        WORDS, torch.ones(4, len(WORDS)), (0, 1, 2, 3), "length of what is added"
    )
    psr = token_values(quantity="length of what is added", seed=seed + 1)
    return TraitSection(
        name=name,
        instruction=text,
        summary=text,
        prompt_text=text,
        heatmaps=(("prompt", prompt), ("constant vector", constant), ("PSR", psr)),
        curves=faithfulness(),
        behaviour=BEHAVIOUR,
        examples=(("prompt", text, (text, "a whale")), ("A-PSR", text, ("an ocean",))),
    )


def report() -> TraitPage:
    return TraitPage(
        title="What a prompt does",
        lead="A prompt moves a few tokens far and most hardly at all.",
        sections=(section("optimist", seed=0), section("pirate", seed=3)),
        provenance={"model": "demo", "seed": 0, "versions": {"torch": "2.13"}},
    )


class Outline(HTMLParser):
    """Tags, text and addresses of a page, as a browser parses it without running scripts."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.handlers: list[str] = []
        self.text = ""
        self._inside: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self._inside.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href", "srcset", "data", "action", "poster", "formaction"):
                self.addresses.append(value)
            if name.startswith("on"):
                self.handlers.append(value)

    def handle_endtag(self, tag):
        while self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, data):
        if not {"script", "style"} & set(self._inside):
            self.text += data
