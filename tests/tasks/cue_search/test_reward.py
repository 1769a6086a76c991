"""(1 - alpha) * IoU + alpha * format by hand, its parts, and the frame in which boxes are compared."""

from __future__ import annotations

import pytest
import torch

from locus.boxes import convert, frame_size
from locus.errors import LocusError
from locus.tasks import rollouts
from locus.tasks.answers import after_opened, box_text, completion_text
from locus.tasks.cue_search.reward import BoxReward, IouThreshold, giou_reward
from locus.types import Box, Completion, CueExample, Frame, Grade, ParsedAnswer, Prompt, Response, Sample, Status, View
from tests.support.models import cue_task

TARGET = (100.0, 100.0, 200.0, 200.0)
FILE, SEEN = (500, 375), (588.0, 448.0)
OPENED = "<think>\n"


def seen(frame: Frame) -> View:
    """How a policy that answers in ``frame`` sees a 500x375 image that is processed at 588x448."""
    return View(frame, SEEN)


def graded(text: str, frame: Frame = Frame.FILE, opened: str = "", finished: bool = True, **reward: object) -> Grade:
    """A completion's grade by cue search; ``reward`` are settings of `BoxReward`."""
    example = CueExample("e-1", "e", "e.jpg", *FILE, TARGET, 10_000 / 187_500, "medium")
    task = cue_task([example], reward=BoxReward(**reward))
    return task.grade(example, Response(opened + text, finished), seen(frame))


def localisation(grade: Grade, alpha: float = 0.1) -> float:
    """What the localisation reward was, from the total."""
    return (grade.total - alpha * grade.parts["format"]) / (1 - alpha)


def parts(grade: Grade) -> tuple[float, ...]:
    """total, localisation, format, iou."""
    assert grade.parts["nonzero_iou"] == (grade.parts["iou"] > 0)
    return grade.total, localisation(grade), grade.parts["format"], grade.parts["iou"]


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
    """alpha on the wrong part; format credit for an answer that is not a box; a miss that is better than no answer."""
    assert parts(graded(text)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("alpha, total", [(0.0, 1 / 3), (0.1, 0.4), (0.5, 2 / 3), (1.0, 1.0)])
def test_alpha_weighs_the_format(alpha, total):
    """A third of IoU and full format."""
    grade = graded(FORMED.format("[150, 100, 250, 200]"), alpha=alpha)
    assert grade.total == pytest.approx(total) and grade.parts["iou"] == pytest.approx(1 / 3)


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
    assert result.total == pytest.approx(0.8 * 0.75 + 0.2)
    assert result.parts["iou"] == pytest.approx(1 / 3)
    assert reward(ParsedAnswer(Status.NO_BOX, None, False), None, target).total == 0.0  # never called with None


@pytest.mark.parametrize(
    "written, earned, overlap",
    [
        ("[100, 100, 200, 200]", 1.0, 1.0),
        ("[150, 150, 250, 250]", (1 + 1 / 7 - 2 / 9) / 2, 1 / 7),  # 22,500 px around both, 17,500 covered
        ("[200, 100, 300, 200]", 0.5, 0.0),  # a common side
        ("[300, 100, 400, 200]", (1 - 1 / 3) / 2, 0.0),  # a gap as wide as the target
        ("[400, 100, 500, 200]", (1 - 1 / 2) / 2, 0.0),  # twice as wide: less
    ],
)
def test_giou_by_hand(written, earned, overlap):
    """A miss that earns nothing for nearness, a reward outside [0, 1], or an IoU column that holds GIoU."""
    grade = graded(FORMED.format(written), localisation=giou_reward)
    assert (grade.total, grade.parts["iou"]) == pytest.approx((0.9 * earned + 0.1, overlap), abs=1e-12)


@pytest.mark.parametrize(
    "threshold, written, earned",
    [
        (0.5, "[100, 100, 200, 150]", 1.0),  # IoU 0.5: the threshold itself counts
        (0.51, "[100, 100, 200, 150]", 0.0),
        (0.5, "[150, 100, 250, 200]", 0.0),  # IoU 1/3
        (0.3, "[150, 100, 250, 200]", 1.0),
        (1.0, "[100, 100, 200, 200]", 1.0),
    ],
)
def test_iou_threshold_by_hand(threshold, written, earned):
    """A threshold that is exclusive, or that lets IoU through."""
    grade = graded(FORMED.format(written), localisation=IouThreshold(threshold))
    assert grade.total == pytest.approx(0.9 * earned + 0.1)


@pytest.mark.parametrize("threshold", [0.0, -0.5, 1.01, float("nan")])
def test_threshold_out_of_range(threshold):
    """At 0 every box earns all, above 1 none can."""
    with pytest.raises(LocusError, match=r"reward\.localisation\.threshold"):
        IouThreshold(threshold)


@pytest.mark.parametrize("opened", ["", OPENED])
@pytest.mark.parametrize("frame", Frame)
def test_a_perfect_answer_earns_1_in_every_frame(frame, opened):
    """The silent loss of peers: the box is right in the frame the policy speaks, the reward reads another."""
    true = convert(Box(*TARGET, Frame.FILE, *FILE), frame, *frame_size(frame, FILE, SEEN))
    text = after_opened(completion_text(box_text(true, 6), "t"), opened)
    grade = graded(text, frame, opened)
    assert parts(grade) == pytest.approx((1, 1, 1, 1), abs=1e-6) and grade.status is Status.OK
    assert grade.columns["box"] == pytest.approx(TARGET, abs=1e-5)
    assert grade.columns["written"] == pytest.approx(true.xyxy, abs=1e-6)  # kept as written
    wrong = Frame.UNIT1000 if frame is not Frame.UNIT1000 else Frame.FILE
    assert graded(text, wrong, opened).parts["iou"] < 0.7


def test_the_box_by_hand():
    """[588, 448] of a processed image is its lower right corner on disk; another size of the grid moves the box."""
    text, example = FORMED.format("[0, 0, 294, 448]"), CueExample("e-1", "e", "e.jpg", *FILE, TARGET, 0.05, "medium")
    assert graded(text, Frame.PROCESSED).columns["box"] == pytest.approx([0, 0, 250, 375])
    assert graded(text, Frame.FILE).columns["box"] == [0, 0, 294, 448]
    larger = cue_task([example]).grade(example, Response(text), View(Frame.PROCESSED, (1176.0, 896.0)))
    assert larger.columns["box"] == pytest.approx([0, 0, 125, 187.5])
    assert graded(FORMED.format("nowhere")).columns == {"box": None, "written": None}


def test_a_rollout_keeps_all_there_is_to_log():
    """Text, status and box of a rollout are what rollouts.parquet shows; a truncated one is distinguished."""
    completion = Completion(torch.arange(3), torch.zeros(3), finished=False)
    example = CueExample("e-1", "e", "e.jpg", *FILE, TARGET, 0.05, "medium")
    prompt = Prompt("e-1", torch.arange(5), torch.zeros(5), torch.zeros(0), torch.zeros(0, 3), SEEN, "<think>")
    rollout = rollouts.graded(cue_task([example]), Sample(example, prompt, seen(Frame.FILE)), completion, "I see")
    grade = rollout.grade
    assert (rollout.text, grade.status, grade.columns["box"]) == ("I see", Status.TRUNCATED, None)
    assert parts(grade) == (0, 0, 0, 0) and rollout.completion is completion
    boxed = "t</think><answer>[100, 100, 200, 200]</answer>"
    assert rollouts.graded(
        cue_task([example]), Sample(example, prompt, seen(Frame.FILE)), completion, boxed
    ).grade.total == pytest.approx(1)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # that there are none is tests/test_boxes.py's
@pytest.mark.parametrize("frame", Frame)
@pytest.mark.parametrize("number", ["1e308", "1e300", "9" * 300])
def test_huge_numbers_earn_nothing(number, frame):
    """Finite as written, infinite once scaled or multiplied: a NaN reward would poison its whole group."""
    for box in (f"[-{number}, -{number}, {number}, {number}]", f"[0, 0, {number}, 1]", f"[{number}, 0, 1.5e308, 5]"):
        grade = graded(FORMED.format(box), frame)
        assert grade.parts["iou"] == pytest.approx(0, abs=1e-9) and grade.total in (0.0, pytest.approx(0.1))
        near = graded(FORMED.format(box), frame, alpha=0.0, localisation=giou_reward)
        assert 0 <= near.total <= 0.5 + 1e-9  # half for what lies around the target, however large
