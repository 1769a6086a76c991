"""Image + cue -> prompt: boxes survive every resize, and each prompt knows the frame its answer is read in."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby

import pytest
import torch
from PIL import Image

from locus.boxes import to_view
from locus.errors import LocusError
from locus.policy.prompts import PixelLimits, PromptBuilder, level_table, opened_by_template
from locus.tasks.answers import after_opened, box_text, completion_text
from locus.tasks.cue_search.prompts import PAPER
from locus.tasks.datamodule import SampleMaker
from locus.tasks.preflight import grade_written
from locus.tasks.rollouts import graded
from locus.types import Box, Completion, Frame, Grade, Prompt, Sample, Status, View
from tests.support.models import (
    FAMILIES,
    SIZES,
    NoiseImages,
    backbone,
    builder,
    cue_task,
    example,
    prompts,
    sample_maker,
)

PIXELS = {"native": PixelLimits(), "easyr1": PixelLimits(262144, 4194304)}
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


def made(family: str, size: tuple[int, int], box: tuple[int, ...], pixels: str = "native", name: str = "0") -> Sample:
    """A cue-search sample of an image of noise, under one of the limits."""
    one = example(size, box, name)
    return sample_maker(family, [one], PIXELS[pixels])(one)


def earn(make: PromptBuilder, sample: Sample, text: str) -> Grade:
    """A whole response through tokenizer, parser and reward."""
    return grade_written(cue_task([sample.example]), sample, text, make.encode, make.decode)


def processed_size(prompt: Prompt, image: int, patch: int) -> tuple[int, int]:
    """Width and height of one of the prompt's images as the vision tower sees it."""
    rows, columns = prompt.image_grid_thw[image, 1:].tolist()
    return columns * patch, rows * patch


def same(one: Prompt, other: Prompt) -> bool:
    """Tokens, types, pixels and grids, to the last bit."""
    names = ("input_ids", "mm_token_type_ids", "pixel_values", "image_grid_thw")
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in names)


# --- Boxes survive --------------------------------------------------------------------------------------------
@FAMILY
@pytest.mark.parametrize("pixels", PIXELS)
@pytest.mark.parametrize("size", IMAGES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_a_true_box_earns_one_after_any_resize(family: str, pixels: str, size: tuple[int, int]):
    """A box scored in another frame than it was written in: a perfect answer then earns 0.77 to 0.01, silently."""
    make, sample = builder(family), made(family, size, IMAGES[size], pixels)
    seen = processed_size(sample.prompt, 0, make.patch_size)
    assert seen[0] % FACTOR[family] == seen[1] % FACTOR[family] == 0
    assert sample.view == View(FAMILIES[family][1], seen) and sample.prompt.processed_size == seen
    assert sample.example.target == Box(*IMAGES[size], Frame.FILE, *size)
    # The oracle's numbers are worked out here, not by the code under test.
    width, height = seen if sample.view.frame is Frame.PROCESSED else (1000, 1000)
    x1, y1, x2, y2 = IMAGES[size]
    numbers = (x1 / size[0] * width, y1 / size[1] * height, x2 / size[0] * width, y2 / size[1] * height)
    text = "<think></think><answer>[" + ", ".join(f"{number:.3f}" for number in numbers) + "]</answer>"
    grade = earn(make, sample, text)
    assert grade.status is Status.OK and grade.parts["format"] == 1
    assert grade.total == pytest.approx(1, abs=1e-2)
    assert text == cue_task([sample.example]).gold(sample.example, sample.view)


@FAMILY
def test_a_box_in_the_file_frame_does_not_earn_one(family: str):
    """The test above must see a box that nobody converted: 500x375 under EasyR1's limits."""
    sample = made(family, (500, 375), IMAGES[500, 375], "easyr1")
    grade = earn(builder(family), sample, completion_text(box_text(sample.example.target, 3)))
    assert grade.status is Status.OK and grade.parts["iou"] < 0.2


@FAMILY
def test_image_tokens_agree_with_the_grids(family: str):
    """More or fewer image tokens than features, or types that do not mark them: transformers stops, or is wrong."""
    for record in prompts(family):
        tokens = record.image_grid_thw.prod(1) // 4
        assert int((record.mm_token_type_ids == 1).sum()) == int(tokens.sum())
        assert record.pixel_values.shape[0] == int(record.image_grid_thw.prod(1).sum())
        image = builder(family).processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")
        assert torch.equal(record.input_ids == image, record.mm_token_type_ids == 1)


# --- EasyR1's resize ------------------------------------------------------------------------------------------
def test_easyr1_resize_of_a_tiny_crop():
    """20x24 -> 467x560 (area 262,144, sides cut to whole pixels) -> 476x560 in factor 28: 17 x 20 visual tokens."""
    record = made("qwen2_5_vl", (640, 480), (413, 77, 433, 101), "easyr1").prompt
    assert processed_size(record, 1, 14) == (476, 560)
    assert int(record.image_grid_thw[1].prod()) // 4 == 340


def test_easyr1_resize_of_an_image():
    """500x375 -> 591x443 -> 588x448 in factor 28; cutting and rounding the other way round gives other sides."""
    sample = made("qwen2_5_vl", (500, 375), IMAGES[500, 375], "easyr1")
    assert processed_size(sample.prompt, 0, 14) == sample.view.processed == (588, 448)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((20, 24), (467, 560)), ((500, 375), (591, 443)), ((640, 480), (640, 480)), ((4032, 3024), (2364, 1773))],
)
def test_pixel_limits_by_hand(size: tuple[int, int], expected: tuple[int, int]):
    """sqrt(262144 / 480) = 23.3694: 467.39 x 560.87; sqrt(4194304 / 12192768) = 0.586513: 2364.8 x 1773.6."""
    assert PIXELS["easyr1"](Image.new("RGB", size)).size == expected


def test_no_limits_leave_the_image_alone():
    """A resize, even to the same size, that changes pixels under pixels=native."""
    image = Image.new("RGB", (7, 5))
    assert PixelLimits()(image) is image


def test_limits_that_contradict_each_other_are_refused():
    """``pixels.max_pixels=`` below the recipe's least area: small images beyond the budget that it was lowered for."""
    with pytest.raises(LocusError, match=r"pixels\.min_pixels=262144 is above pixels\.max_pixels=131072: lower the"):
        PixelLimits(262144, 131072)
    assert PixelLimits(100, 100).size(20, 20) == (10, 10)


@FAMILY
@pytest.mark.parametrize("pixels", PIXELS)
def test_extreme_aspect_ratio_is_one_clear_error(family: str, pixels: str):
    """The processor's ValueError without the image's name, in the middle of a run."""
    with pytest.raises(LocusError, match=r"long\.png.*aspect ratio") as caught:
        made(family, (2100, 10), (5, 0, 20, 10), pixels, "long")
    assert "\n" not in str(caught.value)


@FAMILY
@pytest.mark.parametrize("pixels", PIXELS)
def test_a_cue_of_few_pixels_is_enlarged(family: str, pixels: str):
    """A crop smaller than one patch: it must become at least the processor's least area, and not fail."""
    record = made(family, (96, 80), (10, 10, 13, 12), pixels).prompt
    assert int(record.image_grid_thw[1].prod()) >= 4


# --- The prompt -----------------------------------------------------------------------------------------------
@FAMILY
def test_full_image_comes_first_then_the_cue(family: str):
    """The two pictures swapped: the text calls Image 1 the scene, and the answer's frame is the first one's."""
    make, one = builder(family), example((96, 80), (8, 12, 40, 68))
    image, cue = cue_task([one]).prompt(one, Frame.FILE).images
    record, swapped = (make.build("0", "Where?", images) for images in ((image, cue), (cue, image)))
    cut = int(record.image_grid_thw[0].prod())
    alone = make.processor.image_processor(images=[image], return_tensors="pt")
    assert torch.equal(record.image_grid_thw[:1], alone["image_grid_thw"])
    assert torch.equal(record.pixel_values[:cut], alone["pixel_values"])
    assert torch.equal(record.image_grid_thw.flip(0), swapped.image_grid_thw)
    runs = [len(list(run)) for kind, run in groupby(record.mm_token_type_ids.tolist()) if kind == 1]
    assert runs == (record.image_grid_thw.prod(1) // 4).tolist() and runs[0] > runs[1]


@FAMILY
def test_the_prompt_is_the_papers_text_in_the_frame_spoken(family: str):
    """A template that drops the instruction, or a frame that the model is not told."""
    make, (record, *_) = builder(family), prompts(family)
    text = make.processor.tokenizer.decode(record.input_ids)
    assert PAPER.text(FAMILIES[family][1]) in text
    assert ("from 0 to 1000" in text) == (FAMILIES[family][1] is Frame.UNIT1000)
    assert text.endswith("<|im_start|>assistant\n")


@FAMILY
def test_records_own_their_pixels(family: str):
    """Pixels sliced from a flat batch tensor: a record would then depend on what it was batched with."""
    together, alone = prompts(family), made(family, *SIZES[1], name="1").prompt
    assert same(together[1], alone) and together[1].prompt_id == "example-1"
    make, images = builder(family), [NoiseImages().open(example(*size).image_path) for size in SIZES]
    for part, image in zip(make.image_prompts(images), images, strict=True):
        assert same(part, make.image_prompts([image])[0])


@FAMILY
@pytest.mark.parametrize("pixels", PIXELS)
def test_pixels_are_the_processors_to_the_last_bit(family: str, pixels: str):
    """Images travel as levels of colour, an eighth of the bytes: normalising them later must round as the processor."""
    processor = backbone(family).processor()
    processor.image_processor.image_mean, processor.image_processor.image_std = [0.48, 0.5, 0.41], [0.27, 0.26, 0.3]
    for make in (PromptBuilder(processor, PIXELS[pixels]), PromptBuilder(backbone(family).processor(), PIXELS[pixels])):
        images = [NoiseImages().open(example(*size).image_path) for size in SIZES]
        expected = make.processor.image_processor([PIXELS[pixels](image) for image in images], return_tensors="pt")
        made = make.picture_inputs(images).pixels
        assert made.values().dtype == torch.float32 and torch.equal(made.values(), expected["pixel_values"])
        assert made.levels.dtype == torch.uint8 and 8 * made.levels.nbytes == expected["pixel_values"].nbytes


@FAMILY
def test_the_table_has_every_level(family: str):
    """A level without a value would be a number left over in memory; channels mixed up would tint the images."""
    processor = backbone(family).processor().image_processor
    processor.image_mean, processor.image_std = [0.1, 0.4, 0.7], [0.2, 0.3, 0.6]
    grey = torch.arange(256, dtype=torch.float64) / 255
    for channel, (mean, std) in enumerate(zip(processor.image_mean, processor.image_std, strict=True)):
        table = level_table(processor)[channel].double()
        torch.testing.assert_close(table, (grey - mean) / std, rtol=1e-6, atol=1e-6)


TEXT = 'Where is "the {odd} cup"? <think>\n[x1, y1] é 北京'
"""With what a template's own language could take for itself."""


@FAMILY
@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_prompts_are_the_chat_template(family: str, count: int):
    """A prompt that the backbone has not been trained on: one token more, images in another order, other pixels.

    Expected is what the processor makes of the template by itself.
    """
    make = builder(family)
    images = [NoiseImages().open(example(*size).image_path) for size in SIZES[:count]]
    content = [{"type": "image"}] * count + [{"type": "text", "text": TEXT}]
    text = make.processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    whole = make.processor(text=[text], images=images or None, return_tensors="pt")
    for built in (make.build("q-7", TEXT, images), make.prompt("q-7", make.picture_inputs(images), TEXT)):
        assert built.prompt_id == "q-7" and torch.equal(built.input_ids, whole["input_ids"][0])
        assert torch.equal(built.mm_token_type_ids, (built.input_ids == make.processor.image_token_id).long())
        assert built.image_grid_thw.shape == (count, 3)
        if images:
            assert torch.equal(built.image_grid_thw, whole["image_grid_thw"])
            assert torch.allclose(built.pixel_values, whole["pixel_values"])
        assert built.processed_size == (processed_size(built, 0, make.patch_size) if images else (0, 0))
        assert built.length == len(built.input_ids) == len(built.mm_token_type_ids)


@FAMILY
def test_an_image_and_its_turn_are_the_whole_prompt(family: str):
    """Pretraining's rows, a question continuing an image's prompt, that are other tokens than those of evaluation."""
    make, image = builder(family), NoiseImages().open(example(*SIZES[0]).image_path)
    (shown,) = make.image_prompts([image])
    whole = make.build("0", "What colour is the star?", [image])
    assert [*shown.input_ids.tolist(), *make.encode(make.turn("What colour is the star?"))] == whole.input_ids.tolist()
    assert torch.equal(shown.pixel_values, whole.pixel_values) and shown.processed_size == whole.processed_size


# --- Templates that open the thinking -------------------------------------------------------------------------
def thinking_builder(family: str) -> PromptBuilder:
    """A builder whose template opens ``<think>`` for the completion, as Qwen3-VL-Thinking's does."""
    processor = backbone(family).processor()
    ending = "<|im_start|>assistant\n{% endif %}"
    assert processor.chat_template.endswith(ending)
    processor.chat_template = processor.chat_template.removesuffix(ending) + ending.replace("\n", "\n<think>\n")
    return PromptBuilder(processor, PixelLimits())


def small(make: PromptBuilder, family: str) -> Sample:
    """A sample of such a builder."""
    one = example((96, 80), (8, 12, 40, 44))
    return SampleMaker(cue_task([one]), make, FAMILIES[family][1])(one)


def answered(sample: Sample, make: PromptBuilder, completion: str) -> Grade:
    """What a policy's own completion earns."""
    ids = torch.tensor(make.encode(completion))
    written = Completion(ids, torch.zeros(len(ids)), finished=True)
    return graded(cue_task([sample.example]), sample, written, make.decode(ids)).grade


@FAMILY
def test_a_template_that_opens_the_thinking_is_seen(family: str):
    """A completion without ``<think>`` would count as malformed, and the format reward would be 0 for ever."""
    make = thinking_builder(family)
    assert make.opened == "<think>\n"
    sample = small(make, family)
    assert sample.prompt.opened == "<think>\n"
    box = box_text(to_view(sample.example.target, sample.view), 3)
    text = after_opened(completion_text(box, "it is here"), sample.prompt.opened)
    assert text.startswith("it is here</think><answer>[")
    assert answered(sample, make, text).total == pytest.approx(1, abs=1e-2)
    assert answered(sample, make, "<think>" + text).parts["format"] == 0  # opened twice
    unseen = replace(sample, prompt=replace(sample.prompt, opened=""))
    assert answered(unseen, make, text).parts["format"] == 0


@FAMILY
def test_a_template_that_only_mentions_the_thinking_is_not(family: str):
    """The instruction names the tags; taking that for an opened block would accept completions without one."""
    make = builder(family)
    sample = small(make, family)
    assert "<think>" in make.decode(sample.prompt.input_ids) and make.opened == sample.prompt.opened == ""
    whole = completion_text(box_text(to_view(sample.example.target, sample.view), 3), "it")
    assert answered(sample, make, whole).parts["format"] == 1
    assert answered(sample, make, whole.removeprefix("<think>")).parts["format"] == 0


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
    make, text = builder(family), completion_text("[1, 2, 30, 40]")
    ids = torch.tensor([*make.encode(text), make.processor.tokenizer.eos_token_id])
    assert make.decode(ids) == text
