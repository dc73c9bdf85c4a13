"""Prompt pairs and their file."""

import json

import pytest

from psr_lens.models import RawText
from psr_lens.prompts import PromptPair, load_pairs, make_pairs


def write(path, *lines):
    path.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines))
    return path


def test_load_pairs_reads_all_forms(tmp_path):
    chat = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
    path = write(
        tmp_path / "pairs.jsonl",
        {"base": "Hi", "prompted": chat, "response": "Hello", "topic": "greeting", "id": 3},
        "",
        {"base": {"raw": "Once"}, "prompted": {"raw": "Kindly. Once"}, "group": "g"},
        {"base": "Hi", "prompted": "Be kind. Hi", "paraphrase": "Show kindness. Hi"},
        {"base": "Hi", "prompted": "Be kind. Hi", "paraphrases": ["Kindly. Hi", chat]},
    )
    first, second, third, fourth = load_pairs(path)
    assert first.base == "Hi"
    assert first.prompted == chat
    assert first.response == "Hello"
    assert first.metadata == {"topic": "greeting", "id": 3}
    assert second.base == RawText("Once")
    assert second.group == "g"
    assert third.paraphrases == ("Show kindness. Hi",)
    assert fourth.paraphrases == ("Kindly. Hi", chat)
    assert first.paraphrases == ()
    assert third.group == first.group == "Hi"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{not json", "line 2: not JSON"),
        ("[1]", "line 2: list instead of an object"),
        (
            '{"base": "a", "prompted": "b", "paraphrase": "c", "paraphrases": ["d"]}',
            "line 2: both 'paraphrase' and 'paraphrases': put all into 'paraphrases'",
        ),
        (
            '{"base": "a", "prompted": "b", "paraphrases": "d"}',
            "line 2: 'paraphrases' must be a list of prompts, not 'd'",
        ),
        ('{"base": "a"}', "line 2: key 'prompted' is missing"),
        ('{"base": "", "prompted": "b"}', "line 2, 'base': ''"),
        ('{"base": 3, "prompted": "b"}', "line 2, 'base': 3"),
        ('{"base": "a", "n": ' + "9" * 5000 + "}", "line 2: not JSON that can be read"),
        ("[" * 200_000, "line 2: not JSON that can be read"),
        (r'{"base": "a \ud800", "prompted": "b"}', "line 2: a lone surrogate"),
        (
            '{"base": [{"role": "king", "content": "a"}], "prompted": "b"}',
            "line 2, 'base': role 'king': choose one of system",
        ),
        ('{"base": [], "prompted": "b"}', "line 2, 'base': the list of messages is empty"),
        ('{"base": [{"role": "user"}], "prompted": "b"}', "line 2, 'base': message"),
        ('{"base": "a", "prompted": "b", "response": 5}', "line 2: 'response' must be a string"),
    ],
)
def test_a_wrong_line_is_named_by_its_number(tmp_path, line, message):
    path = write(tmp_path / "p.jsonl", {"base": "a", "prompted": "b"}, line)
    with pytest.raises(ValueError) as error:  # noqa: PT011
        load_pairs(path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_only_a_line_feed_ends_a_line(tmp_path):
    odd = "a\u2028b\u0085c"
    path = tmp_path / "p.jsonl"
    record = json.dumps({"base": odd, "prompted": "b"}, ensure_ascii=False)
    path.write_bytes((record + "\r\n" + record + "\n").encode())
    assert [pair.base for pair in load_pairs(path)] == [odd, odd]


def test_an_empty_or_missing_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no pair"):
        load_pairs(write(tmp_path / "empty.jsonl", ""))
    with pytest.raises(FileNotFoundError, match="absent"):
        load_pairs(tmp_path / "absent.jsonl")
    (tmp_path / "latin").write_bytes(b'{"base": "\xff"}')
    with pytest.raises(ValueError, match="not UTF-8"):
        load_pairs(tmp_path / "latin")


def test_the_instruction_is_the_system_message():
    pair, other = make_pairs(["Why?", "How?"], "Be brief.", paraphrases=["Few words.", "Short."])
    assert [pair.group, other.group] == ["user: Why?", "user: How?"]
    assert pair.base == [{"role": "user", "content": "Why?"}]
    assert pair.prompted[0] == {"role": "system", "content": "Be brief."}
    assert pair.prompted[1:] == pair.base
    assert [prompt[0]["content"] for prompt in pair.paraphrases] == ["Few words.", "Short."]


def test_equivalents_are_several_prompts():
    with pytest.raises(ValueError, match=r"paraphrases='Few words.': pass a list of"):
        make_pairs(["Why?"], "Be brief.", paraphrases="Few words.")
    with pytest.raises(ValueError, match=r"paraphrases='Few words.': pass a list of"):
        PromptPair("Why?", "Be brief. Why?", paraphrases="Few words.")


def test_questions_by_group():
    asked = {"sea": ["What is a whale?", "And a squid?"], "content": ["What is wool?"]}
    pairs = make_pairs(asked, "Sing.")
    assert [pair.group for pair in pairs] == ["sea", "sea", "content"]
    by_itself = make_pairs([question for own in asked.values() for question in own], "Sing.")
    assert [(pair.base, pair.prompted) for pair in pairs] == [
        (pair.base, pair.prompted) for pair in by_itself
    ]


def test_a_system_message_that_is_there_is_kept():
    chat = [{"role": "system", "content": "You are Bob."}, {"role": "user", "content": "Why?"}]
    (pair,) = make_pairs([chat], "Be brief.")
    assert pair.prompted[0]["content"] == "Be brief.\nYou are Bob."
    assert pair.base == chat


def test_group_defaults_to_the_question():
    assert PromptPair("q", "s q").group == PromptPair("q", "t q").group == "q"
    assert PromptPair("q", "s q", group="g").group == "g"
