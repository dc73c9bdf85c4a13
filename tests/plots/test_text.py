import html
import json
import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psr_lens.plots.text import (
    circuitsvis_token,
    escape,
    n_line_breaks,
    plotly_text,
    script_json,
    visible_token,
)

ANY_TEXT = st.text(st.characters(codec=None))  # lone surrogates included


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        ("cat", "cat"),
        (" cat", "·cat"),
        ("\n\n", "↵↵"),
        ("\t", "⇥"),
        ("", "∅"),
        ("<bos>", "<bos>"),
        ("\u200b", "\\u200b"),
        ("a\u202eb", "a\\u202eb"),
        ("\x00", "\\x00"),
        ("\ud83d", "\\ud83d"),
        ("\N{COMBINING ACUTE ACCENT}", "\N{DOTTED CIRCLE}\N{COMBINING ACUTE ACCENT}"),
        # The joiner inside a family emoji is part of its shape; alone it is invisible.
        ("\U0001f468\u200d\U0001f469", "\U0001f468\u200d\U0001f469"),
        ("\u200d", "\\u200d"),
    ],
)
def test_every_token_is_visible(token, shown):
    assert visible_token(token) == shown


@given(ANY_TEXT)
def test_nothing_invisible_remains(token):
    shown = visible_token(token)
    assert shown
    shown.encode("utf-8")
    for character in shown.replace("\N{ZERO WIDTH JOINER}", ""):
        assert unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zs", "Zl", "Zp")


@given(ANY_TEXT)
def test_circuitsvis_tokens_hold_no_markup(token):
    written = circuitsvis_token(token)
    assert re.search("[<&](?!\N{WORD JOINER})", written) is None
    plain = written.replace("\N{WORD JOINER}", "").rstrip("\n")
    assert plain == visible_token(token)
    assert written.count("\n") == n_line_breaks(token) == token.count("\n")


@given(st.text())
def test_escaped_text_reads_as_the_text(text):
    assert html.unescape(escape(text)) == html.unescape(html.escape(text.replace("\0", "\ufffd")))
    assert not set(escape(text)) & set("<>\"'")


def test_half_a_surrogate_pair_can_be_written():
    assert escape("a\ud83d").encode("utf-8") == b"a\\ud83d"


@given(st.recursive(ANY_TEXT | st.integers(), lambda inner: st.lists(inner)))
def test_script_json_is_json_without_markup(value):
    written = script_json(value)
    assert json.loads(written) == value
    assert not set(written) & set("<>&")
    written.encode("ascii")


def test_script_json_refuses_what_json_has_not():
    with pytest.raises(ValueError, match="JSON compliant"):
        script_json([float("nan")])


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("<b>x</b>", "&lt;b&gt;x&lt;/b&gt;"),
        ("$x$", "&#36;x&#36;"),
        ("it's", "it's"),
        ("&lt;", "&amp;lt;"),
    ],
)
def test_plotly_text(text, written):
    assert plotly_text(text) == written
