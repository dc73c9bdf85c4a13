"""The pictures in a real browser that has no network: what a reader sees, and what is asked for."""

import json
import math

import pytest
import torch

from psr_lens._types import TokenValues
from psr_lens.pages import render_traits
from psr_lens.pages.page import html_page, write_page
from psr_lens.plots import layer_token_heatmap, token_heatmap, token_heatmaps
from psr_lens.plots.text import n_line_breaks, visible_token
from tests.plots.samples import ATTACK, SPECIAL_TOKENS, report, token_values

DRAWN = "!document.querySelector('.psr-uncoloured')"
"""circuitsvis has drawn the tokens in place of the uncoloured text."""

TOKENS = """[...document.querySelectorAll('.psr-panel')].map(panel =>
    [...panel.querySelectorAll('.colored-tokens > span')].map(span => [
        span.textContent.replaceAll('\\u2060', '').replaceAll('\\u00a0', ' '),
        getComputedStyle(span.firstChild).backgroundColor,
        span.querySelectorAll('br').length,
        Math.round(span.getBoundingClientRect().left),
        Math.round(span.getBoundingClientRect().top)]))"""


def move_slider(page, row: int, index: int = 0) -> None:
    slider = f"document.querySelectorAll('.psr-layer input')[{index}]"
    page.evaluate(
        f"{slider}.value = {row}, {slider}.dispatchEvent(new Event('input')), "
        # Two frames: React draws in the first at the latest.
        "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
    )


@pytest.fixture
def special(tmp_path):
    source = token_values(SPECIAL_TOKENS, title=ATTACK, signed=True)
    return token_heatmap(source).save(tmp_path / "special.html")


def test_the_browser_reports_what_a_bad_page_does(chromium, tmp_path):
    page = tmp_path / "bad.html"
    page.write_text(
        "<p>hello</p><script>console.error('bad', 1);"
        "fetch('https://example.com/a').catch(() => {}); throw new Error('boom')</script>"
    )
    visit = chromium.visit(page)
    assert visit.text == "hello"
    assert visit.requests == ("https://example.com/a",)
    assert visit.console_errors[0] == "bad 1"
    assert "boom" in visit.console_errors[1]
    assert visit.screenshot.startswith(b"\x89PNG")


def test_our_pages_forbid_requests_even_to_what_should_not_be_there(chromium, tmp_path):
    page = write_page(tmp_path / "page.html", html_page("t", ATTACK.replace("onerror", "title")))
    visit = chromium.visit(page, ready="document.querySelector('img').complete")
    assert visit.requests == ()
    assert any("Content Security Policy" in error for error in visit.console_errors)


def test_special_tokens_are_text(chromium, special):
    visit = chromium.visit(special, expressions=(TOKENS,), ready=DRAWN)
    assert visit.console_errors == ()
    assert visit.requests == ()
    (drawn,) = visit.results[0]
    assert len(drawn) == len(SPECIAL_TOKENS)
    for token, shown in zip(SPECIAL_TOKENS, drawn, strict=True):
        assert shown[0].rstrip() == visible_token(token)
        assert shown[2] == n_line_breaks(token)
    assert ATTACK in visit.text


def test_without_scripts_the_text_is_there_and_says_what_is_missing(chromium, special):
    still = chromium.visit(special, javascript=False)
    for token in SPECIAL_TOKENS:
        assert visible_token(token) in still.text
    assert ATTACK in still.text
    assert "circuitsvis colours this text, which needs scripts" in still.text
    assert "which needs scripts" not in chromium.visit(special, ready=DRAWN).text


def test_no_value_and_zero_are_told_apart_where_the_mouse_is(chromium, tmp_path):
    source = TokenValues(("a", "b", "c"), torch.tensor([[math.nan, 0.0, 2.0]]), (0,), "q")
    path = token_heatmap(source).save(tmp_path / "nan.html")
    for index, told in enumerate(("no value", "q 0", "q 2")):
        # A page for each: circuitsvis leaves one token's note for a while when the next one opens.
        with chromium.page(path) as page:
            page.wait_for(DRAWN)
            page.hover(".psr-panel .colored-tokens > span", index)
            page.wait_for("document.querySelector('.colored-tokens > div')")
            shown = page.evaluate("document.querySelector('.colored-tokens > div').innerText")
            assert shown.split("\n") == ["abc"[index], f"{told} · position {index} · layer 0"]


def test_without_scripts_no_dead_control_is_shown(chromium, special):
    shown = "document.querySelector('.psr-layer input').offsetWidth"
    assert chromium.visit(special, expressions=(shown,), javascript=False).results == (0,)
    assert chromium.visit(special, expressions=(shown,), ready=DRAWN).results[0] > 100


def test_the_slider_recolours_every_panel_and_moves_no_token(chromium, tmp_path):
    sources = {"prompt": token_values(), "PSR": token_values(quantity="coefficient", seed=1)}
    path = token_heatmaps(sources, layer=0).save(tmp_path / "two.html")
    with chromium.page(path) as page:
        page.wait_for(DRAWN)
        before = page.evaluate(TOKENS)
        legend = page.evaluate("document.querySelector('.psr-legend').innerText")
        move_slider(page, 2)
        after = page.evaluate(TOKENS)
        assert page.evaluate("document.querySelector('.psr-layer output').textContent") == "2"
        assert page.evaluate("document.querySelector('.psr-legend').innerText") != legend
        for old, new in zip(before, after, strict=True):
            assert [token[3:] for token in old] == [token[3:] for token in new]
            assert [token[1] for token in old] != [token[1] for token in new]
        move_slider(page, 0)
        assert page.evaluate(TOKENS) == before
        assert page.console_errors == []


def test_hovering_tells_token_position_value_and_links_the_panels(chromium, tmp_path):
    sources = {"prompt": token_values(), "PSR": token_values(quantity="coefficient", seed=1)}
    path = token_heatmaps(sources, layer=3).save(tmp_path / "two.html")
    with chromium.page(path) as page:
        page.wait_for(DRAWN)
        page.hover(".psr-panel .colored-tokens > span", 2)
        page.wait_for("document.querySelector('.colored-tokens > div')")
        shown = page.evaluate("document.querySelector('.colored-tokens > div').innerText")
        value = token_values().values[3, 2].item()
        assert shown.split("\n") == [
            "whale",
            f"delta norm {float(f'{value:.4g}'):g} · position 2 · layer 3",
        ]
        linked = "[...document.querySelectorAll('.psr-linked')].map(span => span.textContent)"
        assert page.evaluate(linked) == ["whale", "whale"]


def test_outputs_of_a_notebook_are_each_complete(chromium, tmp_path):
    heatmap = token_heatmap(token_values())
    other = token_heatmap(token_values(seed=1))
    outputs = [heatmap._repr_html_(), other._repr_html_(), heatmap._repr_html_()]
    path = tmp_path / "notebook.html"
    path.write_text("<!doctype html><meta charset=utf-8>" + "<hr>".join(outputs), encoding="utf-8")
    live = "[...document.querySelectorAll('[id*=-live-]')].map(element => element.id)"
    visit = chromium.visit(
        path,
        expressions=(TOKENS, live, "document.head.querySelectorAll('script').length"),
        ready=DRAWN,
    )
    panels, ids, n_bundles = visit.results
    assert [len(panel) for panel in panels] == [33, 33, 33]
    assert [token[1] for token in panels[0]] == [token[1] for token in panels[2]]
    assert [token[1] for token in panels[0]] != [token[1] for token in panels[1]]
    assert len(set(ids)) == 3
    assert n_bundles == 1
    assert visit.console_errors == ()
    assert visit.requests == ()


@pytest.fixture(scope="module")
def report_page(tmp_path_factory):
    return write_page(tmp_path_factory.mktemp("report") / "report.html", render_traits(report()))


WHOLE = DRAWN + " && document.querySelectorAll('.psr-figure .main-svg').length >= 4"


def test_the_first_screen_of_the_report_is_the_picture(chromium, report_page):
    bottoms = (
        "[...document.querySelectorAll('#trait-0 .psr-panel')]"
        ".map(panel => panel.getBoundingClientRect().bottom)"
    )
    tops = bottoms.replace("bottom)", "top)")
    buttons = (
        "[...document.querySelectorAll('.modebar-btn')]"
        ".map(button => button.dataset.title + button.ariaLabel)"
    )
    with chromium.page(report_page, width=1280, height=800) as page:
        page.wait_for(WHOLE)
        assert len(page.evaluate(bottoms)) == 3
        assert max(page.evaluate(bottoms)) < 800
        assert len(set(page.evaluate(tops))) == 1
        # One selector drives the three panels of its own trait and no other.
        before = page.evaluate(TOKENS)
        move_slider(page, 0)
        after = page.evaluate(TOKENS)
        changed = [old != new for old, new in zip(before, after, strict=True)]
        assert changed == [True, False, True, False, False, False]
        titles = json.dumps(page.evaluate(buttons))
        assert "Download" in titles
        assert "Share" not in titles
        assert "plotly.com" not in titles
        assert page.console_errors == []
        assert page.requests == ()


def test_the_report_fits_a_narrow_screen(chromium, report_page):
    visit = chromium.visit(
        report_page,
        width=400,
        ready=WHOLE,
        expressions=("document.documentElement.scrollWidth",),
    )
    assert visit.results == (400,)
    assert visit.console_errors == ()
    assert visit.requests == ()


def test_plotly_shows_tokens_as_they_are(chromium, tmp_path):
    tokens = ("<bos>", "<b>bold</b>", "$x$", "&lt;", "%{x}", "the", "the", "</script>")
    figure = layer_token_heatmap(token_values(tokens, title="<i>title</i>"))
    path = tmp_path / "layers.html"
    figure.write_html(path, include_plotlyjs=True)
    ticks = "[...document.querySelectorAll('.xtick text')].map(tick => tick.textContent)"
    title = "document.querySelector('.gtitle').textContent"
    visit = chromium.visit(
        path, ready="document.querySelector('.xtick text')", expressions=(ticks, title)
    )
    assert tuple(visit.results[0]) == tokens
    assert visit.results[1].startswith("<i>title</i>")
    assert visit.requests == ()
