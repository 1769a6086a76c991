"""The tiny backbones' tokenizer: integers, tags and the prompt's words are single tokens; any text comes back."""

from __future__ import annotations

import hashlib
import json
import random
import sys

import pytest

from locus.policy.tiny import TinyQwen3VL
from locus.policy.tiny_tokenizer import END, LARGEST_INTEGER, PAD, SPECIAL, TAGS, tiny_tokenizer
from locus.tasks.answers import box_text, completion_text
from locus.tasks.cue_search.prompts import PAPER
from locus.types import Box, Frame

TOKENIZER = tiny_tokenizer()
VOCABULARY = "03327666943ad3db"


def pieces(text: str) -> list[str]:
    """The text's tokens, each as text."""
    return [TOKENIZER.decode([token]) for token in TOKENIZER.encode(text, add_special_tokens=False)]


def round_trip(text: str) -> str:
    return TOKENIZER.decode(TOKENIZER.encode(text, add_special_tokens=False), skip_special_tokens=False)


@pytest.mark.parametrize("frame", ["{}", " {}", "[{}", "({})", "{},", "{}, ", "x{}y", "-{}", "{}.", "<answer>{}<"])
def test_integers_are_single_tokens_wherever_they_stand(frame: str):
    """A number in digits costs a policy several tokens, and one place a token of its own: learning is slow."""
    own = {number: TOKENIZER.encode(str(number)) for number in range(LARGEST_INTEGER + 1)}
    assert all(len(tokens) == 1 for tokens in own.values())
    assert len({tokens[0] for tokens in own.values()}) == 1001
    for number, tokens in own.items():
        found = TOKENIZER.encode(frame.format(number), add_special_tokens=False)
        assert found.count(tokens[0]) == 1
        assert TOKENIZER.decode(found) == frame.format(number)


def test_boxes_cost_one_token_a_part():
    """Brackets, four integers and three separators: 9 tokens, the same for every box, so places line up."""
    for numbers in ((0, 1, 2, 3), (10, 250, 999, 1000)):
        assert pieces("[{}, {}, {}, {}]".format(*numbers)) == [
            *("[", str(numbers[0]), ", ", str(numbers[1]), ", ", str(numbers[2]), ", ", str(numbers[3]), "]")
        ]
    assert pieces(completion_text(box_text(Box(1, 22, 333, 1000, Frame.UNIT1000, 1000, 1000)))) == [
        *("<think>", "</think>", "<answer>", "[", "1", ", ", "22", ", ", "333", ", ", "1000", "]", "</answer>")
    ]


def test_larger_numbers_and_leading_zeros_come_back():
    """Integers above 1,000, and digits that are no integer's own spelling, fall back without a loss."""
    for text in ("1001", "4032", "123456789", "007", "0.25", "1e-6", "-17"):
        assert round_trip(text) == text


@pytest.mark.parametrize("tag", [*TAGS, *SPECIAL])
def test_tags_are_single_tokens(tag: str):
    """A tag in pieces can be written half, and glued to its neighbours."""
    for text in (tag, f"a{tag}b", f" {tag} ", f"1{tag}2", tag + tag):
        tokens = TOKENIZER.encode(text, add_special_tokens=False)
        assert tokens.count(TOKENIZER.convert_tokens_to_ids(tag)) == text.count(tag)
        assert TOKENIZER.decode(tokens) == text


def test_tags_survive_decoding_and_special_tokens_do_not():
    """Tags dropped by ``skip_special_tokens``: the parser would never see an answer."""
    text = "<think>so</think><answer>[1, 2, 3, 4]</answer>"
    assert TOKENIZER.decode(TOKENIZER.encode(text + END + PAD), skip_special_tokens=True) == text


@pytest.mark.parametrize("frame", Frame)
def test_the_prompts_words_are_single_tokens(frame: Frame):
    """A prompt of bytes is three times as long: no token boundary lies within a word, or between it and its space."""
    text = PAPER.text(frame)
    tokens = TOKENIZER(text, return_offsets_mapping=True, add_special_tokens=False)
    spans = tokens["offset_mapping"]
    assert len(spans) > 90
    split = [text[start:] for start, end in spans if text[end - 1].isalpha() and text[end : end + 1].isalpha()]
    split += [text[start:] for start, end in spans if text[start:end] == " " and text[end].isalpha()]
    assert split == []


def test_any_text_comes_back():
    """Unknown characters replaced, spaces merged or cleaned up: decoded text would not be what was written."""
    rng = random.Random(0)
    characters = [chr(c) for c in range(sys.maxunicode) if not 0xD800 <= c <= 0xDFFF]
    texts = ["".join(rng.choices(characters, k=40)) for _ in range(200)]
    texts += ["".join(rng.choices(characters[:0x250] + list(" \t\n,.[]<>/'"), k=60)) for _ in range(200)]
    texts += ["", " ", "  two  spaces ", "\r\n\t", "a , b . c ! don't", "\x00\x07", "<|im_end>", "<thin", "e\u0301 ﬀ ß"]
    texts += ["北京 東京", "👩\u200d🔬🏽"]
    for text in texts:
        assert round_trip(text) == text


def test_every_word_of_the_vocabulary_can_be_written():
    """A word that the splitting never yields is a dead row of the embedding."""
    words = [token for token in TOKENIZER.get_vocab().values() if "\ufffd" not in TOKENIZER.decode([token])]
    dead = [token for token in words if TOKENIZER.encode(TOKENIZER.decode([token])) != [token]]
    assert [TOKENIZER.decode([token]) for token in dead] == []


def test_ids_have_no_hole_and_the_embedding_is_as_large():
    """Ids beyond the model's vocabulary, or holes in it."""
    vocabulary = TOKENIZER.get_vocab()
    assert sorted(vocabulary.values()) == list(range(len(TOKENIZER)))
    architecture = TinyQwen3VL()
    assert architecture.config(architecture.processor()).get_text_config().vocab_size == len(TOKENIZER)


def test_ids_are_stable():
    """A changed id makes every trained policy, and the shipped weights, speak nonsense. Change both or neither."""
    vocabulary = TOKENIZER.get_vocab()
    assert vocabulary == tiny_tokenizer().get_vocab()
    digest = hashlib.sha256(json.dumps(sorted(vocabulary.items(), key=lambda item: item[1])).encode()).hexdigest()
    assert digest[:16] == VOCABULARY
