"""Prompts as token ids, for both kinds of tokenizer and every kind of template."""

import functools
import re
from copy import deepcopy
from datetime import date, datetime

import pytest

from psr_lens.models import RawText, chat
from psr_lens.models.chat import (
    PromptEncoder,
    Rendering,
    common_suffix_length,
    with_instruction,
)
from psr_lens.prompts import PromptPair
from tests.tiny import tiny_tokenizer

STYLES = ("bytes", "sentencepiece")
TEMPLATES = ("llama3", "qwen2", "gemma")
QUESTION = "Tell me about the otter."
ASK = {"role": "user", "content": QUESTION}
SHOUT = {"role": "system", "content": "Shout all the time!"}

every_style = pytest.mark.parametrize("style", STYLES)
every_template = pytest.mark.parametrize("template", TEMPLATES)


DAY_IN_SYSTEM = (
    "{{ '<|header|>system<|/header|>\n\nToday is ' + strftime_now('%d %b %Y') + '.\n\n' }}"
    "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] }}"
    "{% set rest = messages[1:] %}{% else %}{% set rest = messages %}{% endif %}{{ '<|eot|>' }}"
    "{% for m in rest %}{{ '<|header|>' + m['role'] + '<|/header|>\n\n' + m['content'] + '<|eot|>' }}"
    "{% endfor %}"
)
INSTRUCT_MARKS = (
    "{% if messages[0]['role'] == 'system' %}"
    "{% set system = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}"
    "{% set rest = messages[1:] %}{% else %}{% set system = '' %}{% set rest = messages %}{% endif %}"
    "{% for m in rest %}{% if m['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + (system if loop.first else '') + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)
PLAIN_ROLES = (
    "{% if messages[0]['role'] != 'system' %}{{ 'A chat between a user and an assistant. ' }}{% endif %}"
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] + ' ' }}"
    "{% else %}{{ m['role'] | upper + ': ' + m['content'] + ' ' }}{% endif %}{% endfor %}"
)
# A template that refuses a second turn.
ONE_TURN = (
    "{% if messages | selectattr('role', 'ne', 'system') | list | length > 1 %}"
    "{{ raise_exception('one turn') }}{% endif %}"
    "{{ '<|header|>system<|/header|>\nBe nice. ' }}"
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] }}"
    "{% else %}{{ '<|eot|>' + m['content'] }}{% endif %}{% endfor %}"
)


@functools.cache
def encoder(style, template=None):
    return PromptEncoder(tiny_tokenizer(style, template))


def count(enc, ids, token):
    return ids.count(enc.tokenizer.convert_tokens_to_ids(token))


# --- templates and the beginning of a sequence --------------------------------------------------


@every_style
@every_template
def test_templated_text_has_the_bos_of_its_template_and_no_other(style, template):
    enc = encoder(style, template)
    for prompt in (QUESTION, [ASK], [SHOUT, ASK]):
        ids = enc.encode(prompt).ids
        bos = enc.tokenizer.bos_token_id
        assert ids.count(bos) == (0 if bos is None else 1)
        assert bos is None or ids[0] == bos


@every_style
@pytest.mark.parametrize("template", [None, "llama3", "gemma"])
def test_plain_text_has_one_bos_also_where_it_is_written_out(style, template):
    enc = encoder(style, template)
    bos = enc.tokenizer.bos_token
    for text in (QUESTION, bos + QUESTION):
        ids = enc.encode(RawText(text)).ids
        assert count(enc, ids, bos) == 1
        assert ids[0] == enc.tokenizer.bos_token_id


@every_style
def test_a_string_is_a_user_turn_with_a_template_and_plain_text_without(style):
    chat, base = encoder(style, "llama3"), encoder(style)
    assert chat.encode(QUESTION) == chat.encode([ASK])
    assert chat.encode(QUESTION) != chat.encode(RawText(QUESTION))
    assert base.encode(QUESTION) == base.encode(RawText(QUESTION))


def test_the_end_token_that_a_tokenizer_appends_is_dropped():
    from tokenizers.processors import TemplateProcessing

    tokenizer = tiny_tokenizer("bytes")
    ends = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("<s>", "</s>")]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=ends
    )
    enc = PromptEncoder(tokenizer)
    assert enc.encode(QUESTION).ids == encoder("bytes").encode(QUESTION).ids
    assert enc.encode(f"{QUESTION}</s>").ids[-1] == tokenizer.eos_token_id
    assert enc.encode_response(QUESTION, " It swims.") == encoder("bytes").encode_response(
        QUESTION, " It swims."
    )


def test_a_template_that_takes_no_system_role_gets_the_instruction_in_the_user_turn():
    enc = encoder("sentencepiece", "gemma")
    assert not enc.takes_system_role
    assert enc.text([SHOUT, ASK]) == (
        "<bos><start_of_turn>user\nShout all the time!\n\nTell me about the otter.<end_of_turn>\n"
        "<start_of_turn>model\n"
    )
    turns = [SHOUT, ASK, {"role": "assistant", "content": "It swims."}, ASK]
    assert enc.text(turns).count("Shout all the time!") == 1
    with pytest.raises(ValueError, match="no system role and there is no user message to carry"):
        enc.text([SHOUT])


def test_a_template_that_drops_the_system_role_is_noticed():
    tokenizer = tiny_tokenizer("bytes", "llama3")
    tokenizer.chat_template = (
        "{% for m in messages if m['role'] != 'system' %}{{ m['content'] }}<|eot|>{% endfor %}"
    )
    enc = PromptEncoder(tokenizer)
    assert not enc.takes_system_role
    assert enc.text([SHOUT, ASK]) == f"Shout all the time!\n\n{QUESTION}<|eot|>"


@pytest.mark.parametrize("template", ["llama3", "qwen2"])
def test_a_template_with_a_system_role_gets_the_instruction_there(template):
    enc = encoder("bytes", template)
    assert enc.takes_system_role
    text = enc.text([SHOUT, ASK])
    assert text.index("system") < text.index("Shout") < text.index("user") < text.index(QUESTION)
    assert "You are a helpful assistant" not in text


@every_template
def test_a_begun_answer_is_left_open(template):
    enc = encoder("bytes", template)
    text = enc.text([ASK, {"role": "assistant", "content": "The otter"}])
    assert text.endswith("The otter")


def test_refusals_of_a_template_are_named():
    tokenizer = tiny_tokenizer("bytes", "llama3")
    tokenizer.chat_template = (
        "{% if messages | length > 1 %}{{ raise_exception('one at a time') }}{% endif %}"
        "{{ messages[0]['content'] }}"
    )
    enc = PromptEncoder(tokenizer)
    with pytest.raises(ValueError, match=r"refuses messages with roles \['user', 'user'\]: one at"):
        enc.text([ASK, ASK])


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ([], "the list of messages is empty"),
        ([{"role": "user"}], r"needs a string 'role' and 'content'"),
        ([ASK, {"content": "Hi"}], r"needs a string 'role' and 'content'"),
    ],
)
def test_malformed_messages(prompt, words):
    with pytest.raises(ValueError, match=words):
        encoder("bytes", "llama3").encode(prompt)


def test_messages_without_a_template():
    with pytest.raises(
        ValueError, match="the tokenizer has no chat template: pass a plain str"
    ) as e:
        encoder("bytes").encode([SHOUT, ASK])
    # The pair that it names works.
    pair = eval(re.search(r"PromptPair\(.*?\)", str(e.value))[0], {"PromptPair": PromptPair})
    assert pair == PromptPair(QUESTION, f"Shout all the time! {QUESTION}")
    assert encoder("bytes").encode(pair.prompted).ids


# --- templates that come later, options, dates --------------------------------------------------


def test_a_template_is_read_when_it_is_used():
    enc = PromptEncoder(tiny_tokenizer("bytes"))
    text, ends = enc.encode(QUESTION), enc.end_token_ids
    assert (enc.has_template, enc.takes_system_role, enc.template_hash) == (False, False, "")
    enc.tokenizer.chat_template = "{% for m in messages %}[{{ m['content'] }}]</s>{% endfor %}"
    assert enc.takes_system_role
    assert enc.text([SHOUT, ASK]) == f"[Shout all the time!]</s>[{QUESTION}]</s>"
    assert enc.encode(QUESTION) != text
    first = enc.template_hash
    enc.tokenizer.chat_template = "{{ messages[-1]['content'] }}<s>"
    assert not enc.takes_system_role
    assert enc.template_hash not in ("", first)
    assert enc.end_token_ids == ends | {enc.tokenizer.bos_token_id}
    enc.tokenizer.chat_template = None
    assert (enc.encode(QUESTION), enc.end_token_ids) == (text, ends)
    enc.end_token_ids = frozenset()
    assert enc.end_token_ids == frozenset()


OPTIONS = (
    "{% if tools %}{{ tools[0]['name'] }}: {% endif %}{% for m in messages %}{{ m['content'] }}"
    "{% endfor %}{% if thinking is defined and not thinking %} no thoughts{% endif %}"
)


def with_template(template):
    tokenizer = tiny_tokenizer("bytes", "llama3")
    tokenizer.chat_template = template
    return PromptEncoder(tokenizer)


def test_options_reach_the_template():
    enc = with_template(OPTIONS)
    assert enc.text([ASK]) == QUESTION
    own = enc.rendering({"thinking": False, "tools": [{"name": "clock"}]})
    assert enc.text([ASK], own) == f"clock: {QUESTION} no thoughts"
    assert own.described() == {
        "template_options": {"thinking": False, "tools": [{"name": "clock"}]}
    }
    enc.template_options = {"thinking": False}
    assert enc.text([ASK]) == f"{QUESTION} no thoughts"
    assert enc.text([ASK], enc.rendering({"thinking": True})) == QUESTION
    assert enc.rendering().described() == {"template_options": {"thinking": False}}


@pytest.mark.parametrize(
    ("options", "date", "words"),
    [
        (
            {"thinkin": False},
            None,
            "template_options names 'thinkin', which the chat template does not",
        ),
        ({"messages": []}, None, "template_options names 'messages', which"),
        ({"tools": [print]}, None, "'tools' is no JSON value"),
        (
            None,
            "2026-11-25",
            "date='2026-11-25' but the chat template writes no date: leave it out",
        ),
    ],
)
def test_options_that_would_do_nothing_are_refused(options, date, words):
    with pytest.raises(ValueError, match=words):
        with_template(OPTIONS).rendering(options, date)


def test_options_without_a_template():
    with pytest.raises(ValueError, match="but the tokenizer has no chat template"):
        encoder("bytes").rendering({"thinking": True})


DATED = (
    "\n  {% if date_string is not defined %}{% set date_string = strftime_now('%d %b %Y, 100%%') %}"
    "{% endif %}Today: {{ date_string }}. {{ strftime_now('%-d/%m') }}\n"
    "{% for m in messages %}{{ m['content'] }}{% endfor %}"
)


def test_a_template_that_writes_the_date_gets_one_day(monkeypatch):
    monkeypatch.setattr(chat, "today", lambda: date(2026, 3, 7))
    enc = with_template(DATED)
    assert enc.text([ASK]) == f"\nToday: 07 Mar 2026, 100%. 7/03\n{QUESTION}"
    first = enc.rendering()
    assert first == Rendering({}, "2026-03-07")
    monkeypatch.setattr(chat, "today", lambda: date(2027, 10, 31))
    assert "31 Oct 2027, 100%. 31/10" in enc.text([ASK])
    assert "07 Mar 2026" in enc.text([ASK], first)
    assert "24 Dec 2026" in enc.text([ASK], enc.rendering(date="2026-12-24"))
    assert "Today: soon. 31/10" in enc.text([ASK], enc.rendering({"date_string": "soon"}))
    # All else is as transformers has it, white space included.
    theirs = enc.tokenizer.apply_chat_template([ASK], tokenize=False, add_generation_prompt=True)
    spelt = datetime.now().strftime("%d %b %Y")
    assert theirs.replace(spelt, "") == enc.text(
        [ASK], enc.rendering(date=str(date.today()))
    ).replace(spelt, "")
    with pytest.raises(ValueError, match="date='soon': write it as 2026-11-25"):
        enc.rendering(date="soon")


@pytest.mark.parametrize("head", ["", "\n", "  ", " \n "])
@pytest.mark.parametrize(
    "start", ["{% if true %}\n", "{%- if true %}", "{%+ if true %}", "{{- 1 }}", "x"]
)
def test_white_space_at_the_head_of_a_dated_template_stays(head, start):
    body = "{% endif %}" if "if" in start else ""
    enc = with_template(f"{head}{start}a {{{{ strftime_now('%H') }}}}{body}")
    theirs = enc.tokenizer.apply_chat_template([ASK], tokenize=False)
    assert enc.text([ASK]).rpartition("a ")[0] == theirs.rpartition("a ")[0]


def test_a_prompt_without_a_token():
    with pytest.raises(ValueError, match="has no token: a prompt needs at least one"):
        encoder("bytes", "qwen2").encode(RawText(""))


# --- where the question begins ------------------------------------------------------------------


@every_style
@every_template
def test_the_question_is_what_an_instruction_leaves_as_it_is(style, template):
    enc = encoder(style, template)
    base = enc.encode([ASK])
    for instruction in ("Shout all the time!", "Answer like a pirate"):
        steered = enc.encode(with_instruction([ASK], instruction))
        length = len(base.ids) - base.question_start
        assert base.ids[-length:] == steered.ids[-length:]
        assert common_suffix_length(base.ids, steered.ids) == length
    shown = enc.decode(base.ids[base.question_start :])
    assert QUESTION in shown
    assert "helpful assistant" not in shown


def test_a_default_system_prompt_is_no_part_of_the_question():
    # The trap: without a system message the template writes one, which the instruction replaces.
    enc = encoder("bytes", "qwen2")
    base = enc.encode([ASK])
    context = enc.tokenizer.decode(base.ids[: base.question_start])
    assert context == "<|im_start|>system\nYou are a helpful assistant."
    assert enc.tokenizer.decode(base.ids[base.question_start :]) == (
        f"<|im_end|>\n<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
    )


@every_style
@pytest.mark.parametrize("template", [None, "qwen2"])
@pytest.mark.parametrize("gap", [" ", "\n"])
def test_the_question_of_a_plain_text_is_what_any_instruction_in_front_leaves(style, template, gap):
    enc = encoder(style, template)
    base = enc.encode(RawText(QUESTION))
    steered = enc.encode(RawText(f"Shout all the time!{gap}{QUESTION}"))
    question = base.ids[base.question_start :]
    assert question == steered.ids[-len(question) :]
    # No more is left out than the first word, which may be another token at the start of a text.
    assert "".join(enc.str_tokens(question)).endswith(QUESTION.partition(" ")[2])


def test_a_prompt_of_one_token_is_its_own_question():
    assert encoder("bytes", "qwen2").encode(RawText("Tell")).question_start == 0


@every_style
@pytest.mark.parametrize(
    ("template", "base", "prompted"),
    [
        (None, "", ""),
        ("llama3", "", ""),
        ("gemma", "", ""),
        ("qwen2", "You are a helpful assistant.", ""),
        (DAY_IN_SYSTEM, "Today is 01 May 2026.", "Today is 01 May 2026."),
        (INSTRUCT_MARKS, "", ""),
        (PLAIN_ROLES, "A chat between a user and an assistant.", ""),
        (ONE_TURN, "Be nice.", "Be nice."),
    ],
    ids=["none", "llama3", "gemma", "default", "date", "marks", "roles", "one turn"],
)
def test_what_a_template_writes_by_itself(style, template, base, prompted):
    enc = encoder(style, template if template in (None, *TEMPLATES) else "llama3")
    if template not in (None, *TEMPLATES):
        enc = PromptEncoder(deepcopy(enc.tokenizer))
        enc.tokenizer.chat_template = template
    rendering = enc.rendering(date="2026-05-01") if template == DAY_IN_SYSTEM else None
    # A question that the template's own text holds is not taken for the turn.
    for question in (QUESTION, "a"):
        ask = {"role": "user", "content": question}
        if template is None:
            assert enc.template_text(question) == ""
            continue
        assert enc.template_text([ask], rendering) == base
        assert enc.template_text(question, rendering) == base
        assert enc.template_text([SHOUT, ask], rendering) == prompted
        assert enc.template_text(RawText(question), rendering) == ""


@every_style
@every_template
def test_a_prompt_as_the_model_sees_it(style, template):
    enc = encoder(style, template)
    prompt = [SHOUT, {"role": "user", "content": "naïve café 🐋"}]
    seen, text = enc.seen_text(enc.encode(prompt).ids), enc.text(prompt)
    # SentencePiece puts a space of its own in front of words after a special token.
    assert seen == text if style == "bytes" else seen.replace(" ", "") == text.replace(" ", "")


def test_common_suffixes():
    assert common_suffix_length((1, 2, 3), (9, 2, 3)) == 2
    assert common_suffix_length((1, 2), (1, 2)) == 2
    assert common_suffix_length((1,), (2,)) == common_suffix_length((), (1,)) == 0


def test_instructions_are_joined_to_a_system_message():
    assert with_instruction([SHOUT, ASK], "Be brief.") == [
        {"role": "system", "content": "Be brief.\nShout all the time!"},
        ASK,
    ]
    assert with_instruction([ASK], "Be brief.")[0] == {"role": "system", "content": "Be brief."}


# --- responses and text -------------------------------------------------------------------------

RESPONSES = ("The fox swims.", " otters", "\n\nYes", "  two spaces", "é — 🐋!", " ")


@every_style
@pytest.mark.parametrize("template", [None, *TEMPLATES])
@pytest.mark.parametrize("response", RESPONSES)
def test_responses_come_back_as_they_were(style, template, response):
    enc = encoder(style, template)
    for prompt in (QUESTION, RawText("Tell me about ot")):
        ids = enc.encode_response(prompt, response)
        assert enc.decode(ids) == response
        assert not set(ids) & set(enc.tokenizer.all_special_ids)


def test_a_response_is_tokenised_as_it_follows_the_prompt():
    enc = encoder("sentencepiece", "llama3")
    # By itself the text would get a leading space.
    assert enc.str_tokens(enc.encode_response([ASK], "The fox"))[0] == "T"
    assert (
        enc.str_tokens(enc.tokenizer("The fox", add_special_tokens=False)["input_ids"])[0] == " T"
    )


def test_a_response_that_would_change_the_prompts_tokens_stands_alone():
    enc = encoder("bytes")
    prompt = RawText("The whal")
    assert enc.str_tokens(enc.encode(RawText("The whale")).ids)[-1] == " whale"
    ids = enc.encode_response(prompt, "e swims")
    assert enc.decode(enc.encode(prompt).ids) + enc.decode(ids) == "The whale swims"


@every_style
def test_tokens_as_text(style):
    enc = encoder(style, "gemma")
    ids = enc.encode([{"role": "user", "content": "<div> owl\nthe"}]).ids
    shown = enc.str_tokens(ids)
    assert len(shown) == len(ids)
    assert shown[:2] == ("<bos>", "<start_of_turn>")
    assert "".join(shown) == (
        "<bos><start_of_turn>user\n<div> owl\nthe<end_of_turn>\n<start_of_turn>model\n"
    )


@every_style
def test_rows_of_the_vocabulary_that_no_token_uses(style):
    enc = encoder(style)
    unused = len(enc.tokenizer) + 2
    assert enc.str_tokens([unused]) == (f"<id {unused}>",)
    assert enc.decode([unused]) == ""


# --- ends ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "ends"),
    [
        (None, {"</s>"}),
        ("llama3", {"<|end|>", "<|eot|>"}),
        ("qwen2", {"<|im_end|>"}),
        ("gemma", {"<eos>", "<end_of_turn>"}),
    ],
)
def test_end_tokens_are_eos_and_the_end_of_a_turn(template, ends):
    enc = encoder("bytes", template)
    assert set(enc.tokenizer.convert_ids_to_tokens(sorted(enc.end_token_ids))) == ends
    more = PromptEncoder(enc.tokenizer, [5, 7])
    assert more.end_token_ids == enc.end_token_ids | {5, 7}


def test_padding_without_a_pad_token():
    tokenizer = tiny_tokenizer("bytes")
    assert PromptEncoder(tokenizer).pad_token_id == tokenizer.eos_token_id
    tokenizer.pad_token = None
    assert PromptEncoder(tokenizer).pad_token_id == tokenizer.eos_token_id
    tokenizer.eos_token = None
    assert PromptEncoder(tokenizer).pad_token_id == 0
    assert PromptEncoder(tokenizer).end_token_ids == frozenset()


def test_the_hash_tells_templates_apart():
    hashes = {encoder("bytes", template).template_hash for template in (None, *TEMPLATES)}
    assert len(hashes) == 4
    assert encoder("bytes").template_hash == ""
    assert (
        encoder("sentencepiece", "gemma").template_hash == encoder("bytes", "gemma").template_hash
    )
