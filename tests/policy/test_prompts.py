"""Image + cue -> prompt: boxes survive every resize, and each prompt knows the frame its answer is read in."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from itertools import groupby

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image

from locus.boxes import convert
from locus.errors import LocusError
from locus.policy.prompts import CueCollator, PixelLimits, opened_by_template
from locus.tasks.cue_search.prompts import answer_text, cue_search_text
from locus.tasks.cue_search.reward import BoxReward, judge
from locus.types import Box, Completion, Frame, PromptRecord, Rollout, Status
from tests.support.models import FAMILIES, backbone, collator, prompts, sample
from tests.support.paths import CONF

PIXELS = ("native", "easyr1")
FACTOR = {"qwen3_vl": 16, "qwen2_5_vl": 28}
"""Processed sides are multiples of it: patch size times merge size."""
FAMILY = pytest.mark.parametrize("family", FAMILIES)
# Image size with a crop of 20 x 24 to 21 x 17 px at no round place; the last fills a corner.
IMAGES = {
    (640, 480): (413, 77, 433, 101),
    (500, 375): (101, 201, 121, 225),
    (333, 500): (7, 451, 28, 468),
    (4032, 3024): (4012, 3000, 4032, 3024),
}


@lru_cache
def collator_of(family: str, pixels: str) -> CueCollator:
    """A collator with one of the shipped pixel limits."""
    limits = instantiate(OmegaConf.load(CONF / "pixels" / f"{pixels}.yaml"))
    return CueCollator(backbone(family).processor(), FAMILIES[family][1], limits)


def earn(make: CueCollator, record: PromptRecord, text: str) -> Rollout:
    """A completion of this text through tokenizer, parser and reward."""
    ids = torch.tensor(make.encode(text))
    return judge(Completion(ids, torch.zeros(len(ids)), finished=True), make.decode(ids), record, BoxReward())


def processed_size(record: PromptRecord, image: int, patch: int) -> tuple[int, int]:
    """Width and height of one of the prompt's images as the vision tower sees it."""
    rows, columns = record.image_grid_thw[image, 1:].tolist()
    return columns * patch, rows * patch


# --- Boxes survive --------------------------------------------------------------------------------------------
@FAMILY
@pytest.mark.parametrize("pixels", PIXELS)
@pytest.mark.parametrize("size", IMAGES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_a_true_box_earns_one_after_any_resize(family: str, pixels: str, size: tuple[int, int]):
    """A box scored in another frame than it was written in: a perfect answer then earns 0.77 to 0.01, silently."""
    make = collator_of(family, pixels)
    (record,) = make([sample(size, IMAGES[size])])
    seen = processed_size(record, 0, make.patch_size)
    assert seen[0] % FACTOR[family] == seen[1] % FACTOR[family] == 0
    assert record.answer_size == {Frame.PROCESSED: seen, Frame.UNIT1000: (1000, 1000)}[record.answer_frame]
    assert record.target == Box(*IMAGES[size], Frame.FILE, *size)
    # The oracle's numbers are worked out here, not by the code under test.
    width, height = seen if record.answer_frame is Frame.PROCESSED else (1000, 1000)
    x1, y1, x2, y2 = IMAGES[size]
    numbers = (x1 / size[0] * width, y1 / size[1] * height, x2 / size[0] * width, y2 / size[1] * height)
    text = "<think>here</think><answer>[" + ", ".join(f"{number:.3f}" for number in numbers) + "]</answer>"
    rollout = earn(make, record, text)
    assert rollout.answer.well_formed and rollout.reward.format == 1
    assert rollout.reward.total == pytest.approx(1, abs=1e-2)
    assert text == answer_text(convert(record.target, record.answer_frame, width, height), "here", digits=3)


@FAMILY
def test_a_box_in_the_file_frame_does_not_earn_one(family: str):
    """The test above must see a box that nobody converted: 500x375 under EasyR1's limits."""
    make = collator_of(family, "easyr1")
    (record,) = make([sample((500, 375), IMAGES[500, 375])])
    rollout = earn(make, record, answer_text(record.target, "", digits=3))
    assert rollout.answer.status is Status.OK and rollout.reward.iou < 0.2


@FAMILY
def test_image_tokens_agree_with_the_grids(family: str):
    """More or fewer image tokens than features, or types that do not mark them: transformers stops, or is wrong."""
    for record in prompts(family):
        tokens = record.image_grid_thw.prod(1) // 4
        assert int((record.mm_token_type_ids == 1).sum()) == int(tokens.sum())
        assert record.pixel_values.shape[0] == int(record.image_grid_thw.prod(1).sum())
        image = collator(family).processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")
        assert torch.equal(record.input_ids == image, record.mm_token_type_ids == 1)


# --- EasyR1's resize ------------------------------------------------------------------------------------------
def test_easyr1_resize_of_a_tiny_crop():
    """20x24 -> 467x560 (area 262,144, sides cut to whole pixels) -> 476x560 in factor 28: 17 x 20 visual tokens."""
    (record,) = collator_of("qwen2_5_vl", "easyr1")([sample((640, 480), (413, 77, 433, 101))])
    assert processed_size(record, 1, 14) == (476, 560)
    assert int(record.image_grid_thw[1].prod()) // 4 == 340


def test_easyr1_resize_of_an_image():
    """500x375 -> 591x443 -> 588x448 in factor 28; cutting and rounding the other way round gives other sides."""
    (record,) = collator_of("qwen2_5_vl", "easyr1")([sample((500, 375), IMAGES[500, 375])])
    assert processed_size(record, 0, 14) == record.answer_size == (588, 448)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((20, 24), (467, 560)), ((500, 375), (591, 443)), ((640, 480), (640, 480)), ((4032, 3024), (2364, 1773))],
)
def test_pixel_limits_by_hand(size: tuple[int, int], expected: tuple[int, int]):
    """sqrt(262144 / 480) = 23.3694: 467.39 x 560.87; sqrt(4194304 / 12192768) = 0.586513: 2364.8 x 1773.6."""
    limits = PixelLimits(262144, 4194304)
    assert limits(Image.new("RGB", size)).size == expected


def test_no_limits_leave_the_image_alone():
    """A resize, even to the same size, that changes pixels under pixels=native."""
    image = Image.new("RGB", (7, 5))
    assert PixelLimits()(image) is image


@FAMILY
@pytest.mark.parametrize("pixels", PIXELS)
def test_extreme_aspect_ratio_is_one_clear_error(family: str, pixels: str):
    """The processor's ValueError without the image's name, in the middle of a run."""
    with pytest.raises(LocusError, match=r"long\.png.*aspect ratio") as caught:
        collator_of(family, pixels)([sample((2100, 10), (5, 0, 20, 10), "long")])
    assert "\n" not in str(caught.value)


@FAMILY
@pytest.mark.parametrize("pixels", PIXELS)
def test_a_cue_of_few_pixels_is_enlarged(family: str, pixels: str):
    """A crop smaller than one patch: it must become at least the processor's least area, and not fail."""
    (record,) = collator_of(family, pixels)([sample((96, 80), (10, 10, 13, 12))])
    assert int(record.image_grid_thw[1].prod()) >= 4


# --- The prompt -----------------------------------------------------------------------------------------------
@FAMILY
def test_full_image_comes_first_then_the_cue(family: str):
    """The two pictures swapped: the text calls Image 1 the scene, and the answer's frame is the first one's."""
    make, pair = collator(family), sample((96, 80), (8, 12, 40, 68))
    (record,) = make([pair])
    (swapped,) = make([replace(pair, image=pair.cue, cue=pair.image)])
    cut = int(record.image_grid_thw[0].prod())
    alone = make.processor.image_processor(images=[pair.image], return_tensors="pt")
    assert torch.equal(record.image_grid_thw[:1], alone["image_grid_thw"])
    assert torch.equal(record.pixel_values[:cut], alone["pixel_values"])
    assert torch.equal(record.image_grid_thw.flip(0), swapped.image_grid_thw)
    runs = [len(list(run)) for kind, run in groupby(record.mm_token_type_ids.tolist()) if kind == 1]
    assert runs == (record.image_grid_thw.prod(1) // 4).tolist() and runs[0] > runs[1]


@FAMILY
def test_the_prompt_is_the_papers_text_in_the_frame_spoken(family: str):
    """A template that drops the instruction, or a frame that the model is not told."""
    make, (record, *_) = collator(family), prompts(family)
    text = make.processor.tokenizer.decode(record.input_ids)
    assert cue_search_text(FAMILIES[family][1]) in text
    assert ("from 0 to 1000" in text) == (FAMILIES[family][1] is Frame.UNIT1000)
    assert text.endswith("<|im_start|>assistant\n")


@FAMILY
def test_records_own_their_pixels(family: str):
    """Pixels sliced from a flat batch tensor: a record would then depend on what it was batched with."""
    together = collator(family)([sample((96, 80), (8, 12, 40, 44)), sample((64, 128), (5, 60, 37, 124), "1")])
    (alone,) = collator(family)([sample((64, 128), (5, 60, 37, 124), "1")])
    for name in ("input_ids", "mm_token_type_ids", "pixel_values", "image_grid_thw"):
        assert torch.equal(getattr(together[1], name), getattr(alone, name))
    assert together[1].prompt_id == "example-1"


# --- Templates that open the thinking -------------------------------------------------------------------------
def thinking_collator(family: str) -> CueCollator:
    """A collator whose template opens ``<think>`` for the completion, as Qwen3-VL-Thinking's does."""
    processor = backbone(family).processor()
    ending = "<|im_start|>assistant\n{% endif %}"
    assert processor.chat_template.endswith(ending)
    processor.chat_template = processor.chat_template.removesuffix(ending) + ending.replace("\n", "\n<think>\n")
    return CueCollator(processor, FAMILIES[family][1], PixelLimits())


@FAMILY
def test_a_template_that_opens_the_thinking_is_seen(family: str):
    """A completion without ``<think>`` would count as malformed, and the format reward would be 0 for ever."""
    make = thinking_collator(family)
    assert make.opened == "<think>\n"
    (record,) = make([sample((96, 80), (8, 12, 40, 44))])
    assert record.opened == "<think>\n"
    box = convert(record.target, record.answer_frame, *record.answer_size)
    text = answer_text(box, "it is here", 3, record.opened)
    assert text.startswith("it is here</think><answer>[")
    assert earn(make, record, text).reward.total == pytest.approx(1, abs=1e-2)
    assert earn(make, record, "<think>" + text).reward.format == 0  # opened twice
    assert earn(make, replace(record, opened=""), text).reward.format == 0


@FAMILY
def test_a_template_that_only_mentions_the_thinking_is_not(family: str):
    """The instruction names the tags; taking that for an opened block would accept completions without one."""
    make = collator(family)
    assert "<think>" in make.text and make.opened == ""
    (record,) = make([sample((96, 80), (8, 12, 40, 44))])
    box = convert(record.target, record.answer_frame, *record.answer_size)
    assert earn(make, record, answer_text(box, "it", 3)).reward.format == 1
    assert earn(make, record, answer_text(box, "it", 3, "<think>")).reward.format == 0


@pytest.mark.parametrize(
    ("prompt", "opened"),
    [
        ("use <think> tags<|im_end|>\nassistant\n<think>\n", "<think>\n"),
        ("assistant\n<think>", "<think>"),
        ("use <think> </think> tags\nassistant\n", ""),
        ("assistant\n<think>\n\n</think>\n\n", ""),  # thinking switched off by an empty block
        ("assistant\n", ""),
        ("", ""),
    ],
)
def test_what_a_template_opened(prompt: str, opened: str):
    """An empty, closed block opens nothing; a mention in the text neither."""
    assert opened_by_template(prompt) == opened


@FAMILY
def test_special_tokens_do_not_reach_the_parser(family: str):
    """An end token left in the text makes every completion malformed."""
    make, (record, *_) = collator(family), prompts(family)
    text = answer_text(Box(1, 2, 30, 40, record.answer_frame, *record.answer_size))
    ids = torch.tensor([*make.encode(text), make.processor.tokenizer.eos_token_id])
    assert make.decode(ids) == text
