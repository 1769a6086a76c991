"""(1 - alpha) * IoU + alpha * format by hand, its parts, and the frame in which boxes are compared."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from locus.boxes import convert, frame_size
from locus.errors import LocusError
from locus.grpo.rewards import BoxReward, file_box, judge
from locus.prompts import answer_text
from locus.types import Box, Completion, CueExample, Frame, ParsedAnswer, PromptRecord, Rollout, Status

TARGET = (100.0, 100.0, 200.0, 200.0)
FILE, SEEN = (500, 375), (588.0, 448.0)
OPENED = "<think>\n"


def prompt(frame: Frame, opened: str = "") -> PromptRecord:
    """A prompt whose policy answers in ``frame``, about a 500x375 image that is processed at 588x448."""
    example = CueExample("e-1", "e", "e.jpg", *FILE, TARGET, 10_000 / 187_500, "medium")
    ids, size = torch.arange(5), frame_size(frame, FILE, SEEN)
    return PromptRecord(
        example, ids, torch.zeros(5), torch.zeros(0), torch.zeros(0, 3), example.target, frame, size, opened
    )


def judged(
    text: str, frame: Frame = Frame.FILE, opened: str = "", alpha: float = 0.1, finished: bool = True
) -> Rollout:
    """A text as the only rollout."""
    completion = Completion(torch.arange(3), torch.zeros(3), finished)
    return judge(completion, text, prompt(frame, opened), BoxReward(alpha))


def parts(rollout: Rollout) -> tuple[float, ...]:
    """total, localisation, format, iou."""
    reward = rollout.reward
    return reward.total, reward.localisation, reward.format, reward.iou


FORMED = "<think>t</think><answer>{}</answer>"


@pytest.mark.parametrize(
    "text, expected",
    [
        (FORMED.format("[100, 100, 200, 200]"), (1.0, 1.0, 1.0, 1.0)),
        (FORMED.format("[150, 100, 250, 200]"), (0.9 / 3 + 0.1, 1 / 3, 1.0, 1 / 3)),
        (FORMED.format("[100, 100, 200, 150]"), (0.9 * 0.5 + 0.1, 0.5, 1.0, 0.5)),
        (FORMED.format("[300, 300, 400, 350]"), (0.1, 0.0, 1.0, 0.0)),  # a well-formed miss
        ("<answer>[100, 100, 200, 200]</answer>", (0.9, 1.0, 0.0, 1.0)),  # found, but no thought
        ("<answer>[150, 100, 250, 200]</answer>", (0.3, 1 / 3, 0.0, 1 / 3)),
        (FORMED.format("[200, 200, 100, 100]"), (0.0, 0.0, 0.0, 0.0)),  # structure around no valid box
        (FORMED.format("nowhere"), (0.0, 0.0, 0.0, 0.0)),
        ("[100, 100, 200, 200]", (0.0, 0.0, 0.0, 0.0)),
        ("", (0.0, 0.0, 0.0, 0.0)),
    ],
)
def test_by_hand(text, expected):
    """alpha on the wrong part; format credit for an answer that is no box; a miss that is better than no answer."""
    assert parts(judged(text)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("alpha, total", [(0.0, 1 / 3), (0.1, 0.4), (0.5, 2 / 3), (1.0, 1.0)])
def test_alpha_weighs_the_format(alpha, total):
    """A third of IoU and full format."""
    reward = judged(FORMED.format("[150, 100, 250, 200]"), alpha=alpha).reward
    assert reward.total == pytest.approx(total) and reward.iou == reward.localisation == pytest.approx(1 / 3)


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan"), float("inf")])
def test_alpha_out_of_range(alpha):
    """A weight outside [0, 1] turns one part into a penalty; NaN fails every comparison and must not pass."""
    with pytest.raises(LocusError, match=r"reward\.alpha"):
        BoxReward(alpha)


def test_localisation_is_exchangeable_and_iou_stays():
    """With a shaped localisation reward, the logged IoU must still be IoU."""
    reward = BoxReward(0.2, localisation=lambda box, target: 0.75)
    target = Box(*TARGET, Frame.FILE, *FILE)
    box = Box(150, 100, 250, 200, Frame.FILE, *FILE)
    result = reward(ParsedAnswer(Status.OK, box.xyxy, True), box, target)
    assert (result.total, result.localisation) == pytest.approx((0.8 * 0.75 + 0.2, 0.75))
    assert result.iou == pytest.approx(1 / 3)
    assert reward(ParsedAnswer(Status.NO_BOX, None, False), None, target).localisation == 0.0  # never called with None


@pytest.mark.parametrize("opened", ["", OPENED])
@pytest.mark.parametrize("frame", Frame)
def test_a_perfect_answer_earns_1_in_every_frame(frame, opened):
    """The silent loss of peers: the box is right in the frame the policy speaks, the reward reads another."""
    record = prompt(frame, opened)
    true = convert(record.target, frame, *record.answer_size)
    rollout = judged(answer_text(true, "t", 6, opened), frame, opened)
    assert parts(rollout) == pytest.approx((1, 1, 1, 1), abs=1e-6)
    assert rollout.box.frame is Frame.FILE and rollout.box.xyxy == pytest.approx(TARGET, abs=1e-5)
    assert rollout.answer.xyxy == pytest.approx(true.xyxy, abs=1e-6)  # kept as written
    wrong = Frame.UNIT1000 if frame is not Frame.UNIT1000 else Frame.FILE
    assert judged(answer_text(true, "t", 6, opened), wrong, opened).reward.iou < 0.7


def test_file_box_by_hand():
    """[588, 448] of a processed image is its lower right corner on disk; another size of the grid moves the box."""
    answer = ParsedAnswer(Status.OK, (0.0, 0.0, 294.0, 448.0), True)
    assert file_box(answer, prompt(Frame.PROCESSED)).xyxy == pytest.approx((0, 0, 250, 375))
    assert file_box(answer, prompt(Frame.FILE)).xyxy == (0, 0, 294, 448)
    larger = replace(prompt(Frame.PROCESSED), answer_size=(1176.0, 896.0))
    assert file_box(answer, larger).xyxy == pytest.approx((0, 0, 125, 187.5))
    assert file_box(ParsedAnswer(Status.NO_BOX, None, False), prompt(Frame.FILE)) is None


def test_judge_keeps_all_there_is_to_log():
    """Text, status and box of a rollout are what rollouts.parquet shows; a truncated one is told apart."""
    completion = Completion(torch.arange(3), torch.zeros(3), finished=False)
    rollout = judge(completion, "<think>I see", prompt(Frame.FILE), BoxReward())
    assert (rollout.text, rollout.answer.status, rollout.box) == ("<think>I see", Status.TRUNCATED, None)
    assert parts(rollout) == (0, 0, 0, 0) and rollout.completion is completion


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # that there are none is tests/test_boxes.py's
@pytest.mark.parametrize("frame", Frame)
@pytest.mark.parametrize("number", ["1e308", "1e300", "9" * 300])
def test_huge_numbers_earn_nothing(number, frame):
    """Finite as written, infinite once scaled or multiplied: a NaN reward would poison its whole group."""
    for box in (f"[-{number}, -{number}, {number}, {number}]", f"[0, 0, {number}, 1]", f"[{number}, 0, 1.5e308, 5]"):
        reward = judged(FORMED.format(box), frame).reward
        assert reward.iou == pytest.approx(0, abs=1e-9) and reward.total in (0.0, pytest.approx(0.1))
