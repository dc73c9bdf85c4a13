import re
import sys
from dataclasses import replace
from subprocess import run

import pytest

from psr_lens.pages import TraitPage, render_traits
from psr_lens.plots.circuits import bundle
from psr_lens.plots.theme import LINES
from psr_lens.seen_prompts import SeenPrompts
from tests.plots.samples import ATTACK, BEHAVIOUR, Outline, report, section, token_values


@pytest.fixture(scope="module")
def page() -> str:
    return render_traits(report())


def test_the_page_is_small_enough_and_holds_each_library_once(page):
    assert len(page.encode()) <= 8_000_000
    assert page.count(bundle()) == 1
    assert len(re.findall(r"plotly\.js v\d", page)) == 1
    assert page.count("Plotly.newPlot(place") == 1


def test_equal_reports_give_equal_pages(page):
    assert render_traits(report()) == page


def test_the_page_reads_top_down(page):
    outline = Outline(page)
    wanted = (
        "What a prompt does",
        "A prompt moves a few tokens far",
        "optimist",
        "Instruction",
        "The same response in every panel",
        "constant vector",
        "Faithfulness",
        "Behaviour",
        "Examples",
        "Provenance",
    )
    places = [outline.text.index(text) for text in wanted]
    assert places == sorted(places)
    assert outline.tags.count("h1") == 1
    assert re.findall("<h2>(.*?)</h2>", page) == ["optimist", "pirate"]
    assert {"header", "nav", "main", "section", "figure", "table", "footer"} <= set(outline.tags)
    assert outline.addresses == ["#trait-0", "#trait-1"]
    assert {"trait-0", "trait-1"} <= set(outline.ids)
    assert len(outline.ids) == len(set(outline.ids))


def test_the_reading_line_names_the_quantity_that_all_panels_share():
    one, other = token_values(quantity="<length>"), token_values(quantity="<length>", seed=1)
    same = replace(section(), heatmaps=(("prompt", one), ("PSR", other)))
    told = Outline(render_traits(TraitPage("t", "l", (same,)))).text
    assert "the larger the <length> at that token. What colours a token acts on the next" in told
    mixed = replace(section(), heatmaps=(("prompt", one), ("PSR", token_values(quantity="other"))))
    assert (
        "the larger the number at that token."
        in Outline(render_traits(TraitPage("t", "l", (mixed,)))).text
    )


@pytest.mark.parametrize(("layer", "shown"), [(None, 3), (0, 0), (2, 2)])
def test_a_section_says_which_layer_is_shown_first(layer, shown):
    # By default the prompt's largest median: the values of `section` grow with the layer.
    page = render_traits(TraitPage("t", "l", (replace(section(), layer=layer),)))
    assert f'aria-valuetext="layer {shown}"' in page


def test_numbers_and_provenance_are_in_the_page(page):
    text = Outline(page).text
    for fact in ("97.0", "99.0", "40.0", "–", "demo", '{"torch": "2.13"}'):
        assert fact in text


def test_every_text_is_escaped():
    hostile = section(name=ATTACK, text=ATTACK)
    source = token_values(title=ATTACK, quantity=ATTACK)
    curves = hostile.curves
    curves.relative_rmse = {ATTACK: curves.relative_rmse["A-PSR"]}
    hostile = replace(
        hostile,
        heatmaps=((ATTACK, source),),
        behaviour=((ATTACK, None, 1.0, 1.0), (ATTACK, 1.0, 1.0, 1.0)),
        examples=((ATTACK, ATTACK, (ATTACK,)),),
    )
    written = render_traits(TraitPage(ATTACK, ATTACK, (hostile,), {ATTACK: [ATTACK]}))
    assert "<img" not in written.replace(bundle(), "")
    outline = Outline(written)
    assert outline.addresses == []
    assert outline.handlers == []
    # Title, heading, lead, name, instruction, caption, summary, prompt, examples, provenance.
    assert outline.text.count(ATTACK) >= 12


def test_half_a_character_does_not_stop_the_page_from_being_written():
    text = "whale \ud83d"
    curves = section().curves
    curves.relative_rmse = {text: curves.relative_rmse["A-PSR"]}
    broken = replace(
        section(name=text, text=text), curves=curves, behaviour=((text, 1.0, 2.0, 3.0),)
    )
    written = render_traits(TraitPage(text, text, (broken,), {text: text}))
    assert b"whale \\ud83d</h1>" in written.encode("utf-8")


def test_a_method_has_one_colour_in_a_section():
    behaviour = (("A-PSR", 1.0, 90.0, 98.0), ("A-Const", 1.0, 20.0, 95.0))
    written = render_traits(TraitPage("t", "l", (replace(section(), behaviour=behaviour),)))
    figures = re.search(r'id="psr-figures">(.*?)</script>', written)[1]
    # A-Const leads among the curves and keeps that colour where A-PSR comes first.
    assert figures.count(f'"color":"{LINES[0]}"') == figures.count(f'"color":"{LINES[1]}"')


SEEN = SeenPrompts(
    f"<s>system Be nice.<e>user {ATTACK}", f"<s>system Rhyme!<e>user {ATTACK}", "Be nice.", ""
)


def test_the_prompts_are_shown_as_the_model_saw_them():
    sections = [replace(section(name), prompts=SEEN) for name in ("optimist", "pirate")]
    page = render_traits(replace(report(), sections=tuple(sections), notes=("3 were cut off.",)))
    outline = Outline(page)
    assert outline.text.count(SEEN.base) == outline.text.count(SEEN.prompted) == 2
    assert "The whole prompt" not in outline.text
    assert ATTACK not in page
    # What the template does to all of them is said once, at the head of the page.
    assert (
        'a system text that you did not write: the chat template puts in "Be nice."' in outline.text
    )
    assert outline.text.count("that you did not write") == 1
    assert "3 were cut off." in outline.text
    assert outline.text.index("that you did not write") < outline.text.index("Instruction")


def test_a_template_that_writes_other_things_in_other_sections_is_told_there():
    other = replace(SEEN, base_template_text="", base=ATTACK)
    sections = (replace(section("a"), prompts=SEEN), replace(section("b"), prompts=other))
    page = render_traits(replace(report(), sections=sections))
    assert page.count('<p class="psr-template-note">') == 1
    assert page.count('<p class="psr-page-note">') == 0


def test_notes_stand_under_the_summary():
    page = render_traits(replace(report(), sections=(replace(section(), notes=("cut <off>",)),)))
    assert "cut &lt;off&gt;" in page


def test_parts_that_are_not_given_are_left_out():
    bare = replace(
        section(), heatmaps=(), curves=None, behaviour=(), examples=(), summary="", prompt_text=""
    )
    written = render_traits(TraitPage("t", "l", (bare,)))
    outline = Outline(written)
    assert "Plotly" not in written
    assert {"nav", "table", "footer", "details", "h3", "figure"} & set(outline.tags) == set()
    levels = replace(bare, behaviour=BEHAVIOUR[:2])
    written = render_traits(TraitPage("t", "l", (levels,)))
    assert "Plotly" not in written
    assert "table" in Outline(written).tags


def test_long_tables_are_folded():
    rows = tuple(("A-PSR", alpha / 10, 1.0, 2.0) for alpha in range(13))
    text = Outline(render_traits(TraitPage("t", "l", (replace(section(), behaviour=rows),)))).text
    assert "All 13 numbers" in text


def test_errors():
    with pytest.raises(ValueError, match="the page has no section"):
        render_traits(TraitPage("t", "l", ()))
    twice = (("prompt", token_values()), ("prompt", token_values()))
    with pytest.raises(ValueError, match=r"captions \['prompt', 'prompt'\] repeat"):
        render_traits(TraitPage("t", "l", (replace(section(), heatmaps=twice),)))
    other = (("prompt", token_values()), ("PSR", token_values(("a", "b"))))
    with pytest.raises(ValueError, match="'PSR' has 2 tokens, 'prompt' has 33"):
        render_traits(TraitPage("t", "l", (replace(section(), heatmaps=other),)))


def test_importing_the_pictures_loads_no_plotting_library():
    code = "import sys, psr_lens.plots; print({'plotly', 'circuitsvis'} & set(sys.modules))"
    done = run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
