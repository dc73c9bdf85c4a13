"""What the model really read, and how its response ended."""

import pytest

from psr_lens.examples import cut_off_words
from psr_lens.responses import add_negatives, make_example, sample_responses
from psr_lens.seen_prompts import SeenPrompts
from tests.tiny_models import instructed, tiny_model


def test_words_for_every_case():
    told = SeenPrompts("system Be nice. user Hi", "system Rhyme! user Hi", "Be nice.", "").words()
    assert 'the chat template puts in "Be nice." where no system message is given' in told
    assert told.endswith("the effect of the one instead of the other.")
    both = SeenPrompts("May 1. Hi", "May 1. Rhyme! Hi", "May 1.", "May 1.").words()
    assert both.startswith("Both prompts have a system text that you did not write")
    assert "in its place" not in both
    # The template's text is in the prompted one too, in front of the instruction.
    kept = SeenPrompts("Be nice. Hi", "Be nice. Rhyme! Hi", "Be nice.", "Be nice. Also").words()
    assert "in its place" not in kept
    assert kept.count("that you did not write") == 2
    assert SeenPrompts("Hi", "Rhyme! Hi").words() == ""


def test_prompts_come_back_from_a_file():
    seen = SeenPrompts("a", "b", "c", "d")
    assert SeenPrompts.from_described(seen.described()) == seen
    for broken in (None, {}, {"base": "a"}, {"wrong": "a"}, "text"):
        assert SeenPrompts.from_described(broken) is None


def test_an_example_knows_what_the_model_saw_and_how_it_ended():
    model = tiny_model("qwen2")
    pair = instructed(model, "tell me about owls", "be kind")
    ids = model.encoder.encode_response(pair.base, "The otter <b>")
    example = make_example(model, pair, ids, finished=False)
    assert example.seen is not None
    # A template with a system message of its own: it is in the base prompt, and nobody gave it.
    assert example.seen.base == model.encoder.text(pair.base)
    assert example.seen.prompted == model.encoder.text(pair.prompted)
    assert example.seen.base_template_text == "You are a helpful assistant."
    assert example.seen.prompted_template_text == ""
    assert example.ending == f"cut off at {len(ids)} tokens"
    shown = example._repr_html_()
    assert example.ending in shown
    assert "The otter &lt;b&gt;" in shown
    assert "that you did not write" in shown
    assert make_example(model, pair, ids).ending == ""


def test_counting_responses_that_were_cut_off():
    model = tiny_model("qwen2")
    pairs = [instructed(model, f"tell me about animal {i}", "be kind") for i in range(3)]
    data = sample_responses(model, pairs, max_new_tokens=3, temperature=0.0, progress=False)
    cut = [example for example in data if not example.finished]
    assert cut, "the model ends everything: choose another"
    of = f"{len(cut)} of 3 responses {'was' if len(cut) == 1 else 'were'} cut off at 3 tokens"
    assert cut_off_words(data).startswith(of)
    ended = make_example(model, pairs[0], (5, 6))
    longer = make_example(model, pairs[0], (5, 6, 7, 8), finished=False)
    assert cut_off_words([ended]) == ""
    assert cut_off_words([ended, longer]) == (
        "1 of 2 responses was cut off at 4 tokens: the model had not ended it."
    )
    assert cut_off_words([cut[0], longer]).startswith(
        "2 of 2 responses were cut off at 3 to 4 tokens"
    )
    negatives = add_negatives(model, data, max_new_tokens=2, temperature=0.0)
    last = negatives[-1]
    assert last.response_text == model.encoder.decode(last.response_ids)


@pytest.mark.parametrize("cut", [True, False])
def test_a_picture_of_a_response_says_how_it_ended(cut):
    from psr_lens.delta_collection import collect_deltas
    from tests.tiny_steerings import made_up

    model = tiny_model("qwen2")
    pair = instructed(model, "tell me about owls", "be kind")
    example = make_example(model, pair, (20, 21, 22), finished=not cut)
    (deltas,) = collect_deltas(model, [example])
    (coefficients,) = made_up("psr", model).coefficients(model, [example])
    for shown in (deltas, coefficients):
        assert ("… cut off at 3 tokens" in shown._repr_html_()) is cut
    assert "The prompts as the model saw them" in deltas._repr_html_()
