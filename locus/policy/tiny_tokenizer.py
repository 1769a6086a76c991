"""The tokenizer of the tiny backbones: integers, tags and common words are single tokens, all else is bytes.

A byte-level BPE without merges: a pre-token that stands in the vocabulary is one token (``ignore_merges``), any
other text falls back to its bytes, so nothing is ever unknown and decoding gives the text back exactly.
"""

from __future__ import annotations

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

END = "<|im_end|>"
PAD = "<|endoftext|>"
SPECIAL = (PAD, "<|im_start|>", END, "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
LARGEST_INTEGER = 1000

_WORDS = """
a about above across all an and answer any are area as assistant at banded be because below between black blank blue
bottom bounding bowl box brown by can car cat center centre checked choices circle class color colour coordinate
coordinates corner count crescent cropped cross cue cyan dark describe diamond directly dog dotted down each eight
existence false few final find first five following for found four from full give gray green grey has have heart here
hexagon hidden horizontal how image in inside into is it its large leaf left letter light located location look
magenta many match matches me middle moon more most navy nearest nine no none not number object objects of olive on
one only option options or orange output over part pattern patterned patterns pentagon person pick pink pixel pixels
place plain please point position process purple question reasoning red region relation relative right ring same scene
search second see select seven shape shapes shown side single six size small solid some square star striped stripes
system tags teal ten text texture than that the then there these thing think this three tiny to top triangle true two
under up user vertical violet was what where which white whole with word yellow yes you your zero A
Assistant First User asks conversation described enclosed expression mind provides respectively solves thinks user
within
How Image Is No Please The There To What Where Which Yes
""".split()  # noqa: SIM905 - a word list reads best as words

# Digits apart from words and from the space before them, so that every integer has one token wherever it stands.
_SPLIT = r"\d{1,4}|, | ?\p{L}+|\s|[^\s\p{L}\d]"
_CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_level(text: str) -> str:
    """The byte-level alphabet's spelling of ``text``, as it stands in the vocabulary."""
    pieces = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)
    return "".join(piece for piece, _ in pieces)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Builds the tokenizer; the same vocabulary and ids at every call."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    integers = [str(number) for number in range(LARGEST_INTEGER + 1)]
    words = [spelling for word in _WORDS for spelling in (word, " " + word)]
    pieces = [*alphabet, *(byte_level(piece) for piece in (", ", *integers, *words))]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in TAGS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        chat_template=_CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=131072,
    )
