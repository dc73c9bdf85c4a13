"""Every aligned token is in exactly one class, by its place first and its text second."""

import pytest

from psr_lens.assumptions.token_classes import TOKEN_CLASSES, classify_tokens, is_punctuation
from psr_lens.models import load_model
from psr_lens.prompts import PromptPair, make_pairs
from psr_lens.responses import make_example
from tests.tiny_models import tiny_model


@pytest.fixture(scope="module")
def demo():
    return load_model("demo")


def names(model, example, tokens):
    return [TOKEN_CLASSES[i] for i in classify_tokens(model.encoder, [example], tokens)]


def spelt(model, response):
    """An example whose response is these tokens of the demo's vocabulary."""
    ids = model.encoder.tokenizer.convert_tokens_to_ids(response)
    (pair,) = make_pairs(["what does the bat eat ?"], "answer like a pirate .")
    return make_example(model, pair, ids)


def test_classes_of_a_response(demo):
    example = spelt(demo, [".", "the", "bat", ",", "<user>", "!", "<eos>", "blue"])
    assert names(demo, example, "response") == [
        "last prompt token",
        "first response token",
        "content",
        "content",
        "punctuation",
        "special",
        "punctuation",
        "special",
        "content",
    ]


def test_the_question_comes_first_where_it_is_asked_for(demo):
    example = spelt(demo, ["the", "bat"])
    found = names(demo, example, "question+response")
    assert found[: example.question_length - 1] == ["question"] * (example.question_length - 1)
    assert found[example.question_length - 1 :] == names(demo, example, "response")
    assert len(found) == example.aligned_length("question+response")
    assert example.question_length > 3


def test_an_empty_response_has_the_last_prompt_token_only(demo):
    assert names(demo, spelt(demo, []), "response") == ["last prompt token"]


def test_examples_lie_end_to_end(demo):
    both = [spelt(demo, ["the", "."]), spelt(demo, ["a", "bat", "!"])]
    together = classify_tokens(demo.encoder, both, "response").tolist()
    apart = [classify_tokens(demo.encoder, [one], "response").tolist() for one in both]
    assert together == apart[0] + apart[1]


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_other_tokenizers(family):
    model = tiny_model(family)
    end = max(model.encoder.end_token_ids)
    text = "The otter , it eats fish !"
    ids = [*model.encoder.encode_response("hello", text), end]
    pair = PromptPair("hello", "be kind hello")
    if model.encoder.has_template:
        (pair,) = make_pairs(["hello"], "be kind")
    example = make_example(model, pair, ids)
    found = dict(
        zip(model.encoder.str_tokens(ids), names(model, example, "response")[1:], strict=True)
    )
    assert {kind for text, kind in found.items() if text.strip() in (",", "!")} == {"punctuation"}
    assert list(found.values())[-1] == "special"
    assert "content" in found.values()


@pytest.mark.parametrize(
    ("text", "mark"),
    [
        ("", True),
        (" ", True),
        ("\n\n", True),
        ("—", True),
        ("$+", True),
        ("3", False),
        ("é", False),
        ("\N{COMBINING ACUTE ACCENT}", False),
        ("\N{REPLACEMENT CHARACTER}", False),
        (" ⟨E280⟩", False),
        ("⟨⟩", True),
        ("(a", False),
    ],
)
def test_punctuation_has_no_letter_and_no_digit(text, mark):
    assert is_punctuation(text) is mark
