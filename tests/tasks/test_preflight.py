"""The pre-flight passes on right frames and stops a run on planted faults, with a message that names them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from PIL import Image

from locus.boxes import frame_size
from locus.errors import LocusError
from locus.policy.prompts import CueCollator
from locus.tasks.cue_search.dataset import CueDataset
from locus.tasks.cue_search.reward import BoxReward
from locus.tasks.preflight import PreflightReport, preflight
from locus.types import CuePixels, Frame, PromptRecord
from tests.support.models import FAMILIES, collator, sample

FAMILY = pytest.mark.parametrize("family", FAMILIES)
SAMPLES = [
    sample((500, 375), (101, 201, 121, 225), "bowl"),
    sample((333, 500), (7, 451, 28, 468), "cup"),
    sample((96, 80), (8, 12, 40, 44), "fork"),
]


def check(make: CueCollator, records: Sequence[PromptRecord], **changes: object) -> PreflightReport:
    """The pre-flight as a run calls it; ``changes`` replace its arguments."""
    arguments = {
        "encode": make.encode,
        "decode": make.decode,
        "reward": BoxReward(),
        "frame": make.frame,
        "patch_size": make.patch_size,
    }
    return preflight(records, **(arguments | changes))


@FAMILY
def test_right_frames_pass(family: str):
    """A true run that is stopped. A box shifted by half its sides keeps 1/4 of it: IoU 1/7, reward 0.9/7 + 0.1."""
    report = check(collator(family), collator(family)(SAMPLES))
    assert report.prompts == 3
    assert report.oracle == pytest.approx(1, abs=1e-3)
    assert report.shifted == pytest.approx(0.9 / 7 + 0.1, abs=1e-3)
    assert report.shifted < report.integers < report.oracle


def answer_size_of_the_file(record: PromptRecord) -> PromptRecord:
    return replace(record, answer_size=(record.target.width, record.target.height))


def answer_size_swapped(record: PromptRecord) -> PromptRecord:
    return replace(record, answer_size=record.answer_size[::-1])


def answer_in_unit1000(record: PromptRecord) -> PromptRecord:
    return replace(record, answer_frame=Frame.UNIT1000, answer_size=(1000, 1000))


@pytest.mark.parametrize("fault", [answer_size_of_the_file, answer_size_swapped, answer_in_unit1000])
@pytest.mark.parametrize("which", [0, 1])
def test_processed_boxes_read_in_another_frame_are_caught(fault: Callable, which: int):
    """The peers' silent error: the policy writes pixels of the processed image, the reward reads others.

    500x375 is processed as 504x364 and 333x500 as 336x504: the frames differ by 3 % of a side at most.
    """
    make = collator("qwen2_5_vl")
    records = [fault(record) for record in make([SAMPLES[which]])]
    with pytest.raises(LocusError) as caught:
        check(make, records)
    message, name = str(caught.value), SAMPLES[which].example
    for part in (name.image_path, name.example_id, "frame processed", str(records[0].answer_size), "backbone.frame"):
        assert part in message
    assert "\n" not in message


def test_unit1000_boxes_read_as_processed_are_caught():
    """A backbone that speaks 0-1000 whose answers the collator reads as pixels."""
    make = collator("qwen3_vl")
    records = make(SAMPLES[:1])
    rows, columns = records[0].image_grid_thw[0, 1:].tolist()
    size = frame_size(Frame.PROCESSED, (500, 375), (columns * make.patch_size, rows * make.patch_size))
    faulty = [replace(records[0], answer_frame=Frame.PROCESSED, answer_size=size)]
    with pytest.raises(LocusError, match=r"bowl\.png.*frame unit1000.*read in processed.*backbone\.frame"):
        check(make, faulty)


def test_a_fault_in_one_prompt_of_many_is_caught():
    """A mean over the prompts would hide a frame that is wrong for one image only."""
    make = collator("qwen2_5_vl")
    records = make(SAMPLES)
    records[1] = answer_size_of_the_file(records[1])
    with pytest.raises(LocusError, match=r"cup\.png"):
        check(make, records)


@FAMILY
def test_a_wrong_target_is_caught(family: str):
    """Records whose target's frame is of another size than the one the box was drawn in."""
    make = collator(family)
    (record,) = make(SAMPLES[:1])
    wrong = replace(record, answer_size=(record.answer_size[0] * 1.05, record.answer_size[1]))
    with pytest.raises(LocusError, match=r"bowl\.png"):
        check(make, [wrong])


def test_a_wrong_image_size_in_the_annotations_is_caught_on_the_way():
    """Annotations made on a resized copy: relative boxes stay right, the cue does not, so the dataset refuses it."""

    class Resized:
        def open(self, path: str) -> Image.Image:
            return Image.new("RGB", (640, 480))

    dataset = CueDataset([SAMPLES[0].example], Resized())
    with pytest.raises(LocusError, match=r"bowl\.png.*640x480.*500x375"):
        check(collator("qwen3_vl"), collator("qwen3_vl")([dataset[0]]))


@FAMILY
@pytest.mark.parametrize("lost", list("[],."))
def test_a_tokenizer_that_loses_a_character_is_caught(family: str, lost: str):
    """A perfect answer that the decoded text no longer holds."""
    make = collator(family)

    def lossy(token_ids: torch.Tensor) -> str:
        return make.decode(token_ids).replace(lost, "")

    with pytest.raises(LocusError, match="pre-flight"):
        check(make, make(SAMPLES), decode=lossy)


def test_a_template_that_opens_the_thinking_unseen_is_caught():
    """The oracle's text continues what the record says was opened; a wrong record costs it the format reward."""
    make = collator("qwen3_vl")
    records = [replace(record, opened="<think> so: <think>") for record in make(SAMPLES)]
    with pytest.raises(LocusError, match="pre-flight"):
        check(make, records)


@pytest.fixture(params=["iou", "giou", "iou_threshold", "format_only"])
def reward(request: pytest.FixtureRequest, compose_app: Callable) -> BoxReward:
    """Every reward that conf has."""
    return instantiate(compose_app("train", [f"reward={request.param}"]).reward)


def test_every_reward_is_here(repo: Path):
    """A reward that is added and never meets the pre-flight."""
    assert {file.stem for file in (repo / "conf" / "reward").glob("*.yaml")} == {
        *("iou", "giou", "iou_threshold", "format_only")
    }


@FAMILY
def test_right_frames_pass_with_every_reward(family: str, reward: BoxReward):
    """A reward that its own pre-flight refuses, or that a shifted box costs nothing."""
    report = check(collator(family), collator(family)(SAMPLES), reward=reward)
    assert report.oracle == pytest.approx(1, abs=1e-3)
    assert report.shifted < 0.6 or reward.alpha == 1


def test_wrong_frames_are_caught_with_every_reward(reward: BoxReward):
    """Frames 5 % apart: the boxes overlap by more than half, which a threshold, or a format alone, rewards in full."""
    make = collator("qwen2_5_vl")
    (record,) = make(SAMPLES[2:])
    width, height = record.answer_size
    records = [replace(record, answer_size=(width * 1.05, height))]
    with pytest.raises(LocusError, match=r"pre-flight.*IoU of 0\.[5-9].*backbone\.frame"):
        check(make, records, reward=reward)


@FAMILY
def test_a_reward_that_ignores_the_place_is_caught(family: str):
    """A localisation reward that is 1 for any box: shifted boxes then earn as much as true ones."""
    make = collator(family)
    with pytest.raises(LocusError, match="shifted"):
        check(make, make(SAMPLES), reward=BoxReward(localisation=lambda box, target: 1.0))


def test_a_format_only_reward_passes():
    """With alpha 1 the place earns nothing by intent."""
    report = check(collator("qwen3_vl"), collator("qwen3_vl")(SAMPLES), reward=BoxReward(alpha=1.0))
    assert report.oracle == report.shifted == 1


def test_an_empty_corpus_is_refused():
    """A division by zero, or a run that starts with nothing checked."""
    samples: list[CuePixels] = []
    with pytest.raises(LocusError, match="no example"):
        check(collator("qwen3_vl"), collator("qwen3_vl")(samples))
