"""Qwen's own tokenizer: prompts, tags and vision tokens are what conf/backbone and the group forward take them for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import PreTrainedTokenizerBase

from locus.policy.backbone import Backbone
from locus.policy.prompts import PixelLimits, PromptBuilder
from locus.tasks.answers import after_opened, completion_text
from locus.tasks.cue_search.prompts import PAPER
from locus.types import Frame
from tests.support.qwen_tokenizer import qwen_tokenizer
from tests.support.released import ENDS, RELEASED, TOKENS

pytestmark = pytest.mark.slow
OLDER = [name for name in RELEASED if name.startswith(("qwen2_5", "qwen3_vl"))]
"""Whose vocabulary it is."""
TEXTS = (
    completion_text("[12, 345, 678, 1000]", "The cue is at [3, 4]; it's \n\n a  cup."),
    completion_text("[0, 0, 1, 1]"),
    "<think>\nSo, 北京 é\n</think>\n\n<answer>[1, 2, 3, 4]</answer>",
)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return qwen_tokenizer()


def test_ids_are_those_of_the_released_configurations(tokenizer: PreTrainedTokenizerBase):
    """Image tokens that no picture is put at; rows that run on to the limit as their end has another number."""
    names = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    assert [tokenizer.encode(name) for name in names] == [[number] for number in TOKENS.values()]
    assert [tokenizer.encode(name) for name in ("<|im_end|>", "<|endoftext|>")] == [[number] for number in ENDS]


def test_a_policy_never_samples_what_stands_for_vision(tokenizer: PreTrainedTokenizerBase, tmp_path: Path):
    """The fifth such token, <|vision_pad|>, is in no configuration: a completion with it would end the run."""
    released = RELEASED["qwen3_vl_4b_instruct"]
    config = released.shrunk()
    config.get_text_config().vocab_size, config.get_text_config().pad_token_id = 151936, ENDS[1]
    config.update(TOKENS)
    config.save_pretrained(tmp_path)
    released.processor(tokenizer).save_pretrained(tmp_path)
    vlm = Backbone(frame="unit1000", path=str(tmp_path), random_weights=True).load()
    assert set(vlm.forbidden.tolist()) == {151652, 151653, 151654, 151655, 151656}
    special = {tokenizer.convert_ids_to_tokens(number) for number in vlm.forbidden.tolist()}
    assert not [token for token in tokenizer.all_special_tokens if "vision" in token and token not in special]


@pytest.mark.parametrize("name", OLDER)
def test_prompts_are_the_processors_and_completions_continue_them(name: str, tokenizer: PreTrainedTokenizerBase):
    """A prompt is put together from parts tokenised alone, and so is each completion: where a merge spans the seam, a
    policy is trained and scored on tokens that it would never have seen or written."""
    processor = RELEASED[name].processor(tokenizer)
    builder = PromptBuilder(processor, PixelLimits())
    frame = Frame.UNIT1000 if "qwen3" in name else Frame.PROCESSED
    images = [Image.new("RGB", (300, 260)), Image.new("RGB", (64, 80))]
    for count, text in ((0, "Where?"), (0, "\nWhere?"), (1, PAPER.text(frame, "the red cup")), (2, PAPER.text(frame))):
        content = [{"type": "image"}] * count + [{"type": "text", "text": text}]
        turn = [{"role": "user", "content": content}]
        written = processor.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        expected = processor(text=[written], images=images[:count] or None, return_tensors="pt")["input_ids"][0]
        prompt = builder.build("0", text, images[:count])
        assert torch.equal(prompt.input_ids, expected)
        assert int(prompt.mm_token_type_ids.sum()) == int(prompt.image_grid_thw.prod(-1).sum()) // 4
        for response in TEXTS:
            completion = after_opened(response, builder.opened).removeprefix("\n")  # what was opened ends with one
            together = builder.encode(builder.turn(text) + completion)
            assert together == builder.encode(builder.turn(text)) + builder.encode(completion), completion
    (shown,) = builder.image_prompts(images[:1])
    whole = builder.build("0", "Where?", images[:1]).input_ids.tolist()
    assert [*shown.input_ids.tolist(), *builder.encode(builder.turn("Where?"))] == whole


def test_completions_come_back_to_the_letter(tokenizer: PreTrainedTokenizerBase):
    """A tag or a number that is lost or spaced on its way through tokens: the parser reads what was not written."""
    builder = PromptBuilder(RELEASED["qwen3_vl_4b_thinking"].processor(tokenizer), PixelLimits())
    for text in TEXTS:
        ids = torch.tensor([*builder.encode(text), ENDS[0]])
        assert builder.decode(ids) == text
    assert [builder.encode(tag) for tag in ("<think>", "</think>")] == [[151667], [151668]]
    assert all(len(builder.encode(tag)) > 1 for tag in ("<answer>", "</answer>"))  # written letter by letter, no token
    assert builder.encode("[12, 345]") == builder.encode("[") + builder.encode("12, 345") + builder.encode("]")


def test_the_released_text_template_writes_the_same_turns(tokenizer: PreTrainedTokenizerBase):
    """Turns that are not Qwen's: the package carries Qwen3's own template, which Qwen3-VL's follows for text."""
    text = "Where is the cup?"
    turn = [{"role": "user", "content": text}]
    expected = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    for name in ("qwen3_vl_4b_instruct", "qwen3_vl_4b_thinking"):
        released = RELEASED[name]
        builder = PromptBuilder(released.processor(tokenizer), PixelLimits())
        ids = builder.build("0", text, []).input_ids
        assert tokenizer.decode(ids) == expected + released.opened
