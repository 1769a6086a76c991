"""Boxes: IoU against hand-worked values, torchvision and invariants; frames against each other."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou as torchvision_box_iou
from torchvision.ops import generalized_box_iou

from locus.boxes import (
    area,
    box_giou,
    box_iou,
    convert,
    frame_size,
    giou,
    iou,
    is_valid,
    parse_frame,
    same_frame,
    to_view,
    view_size,
    written_box,
)
from locus.errors import LocusError
from locus.types import Box, Frame, View

SIZES = {
    Frame.FILE: (500.0, 375.0),
    Frame.PROCESSED: (588.0, 448.0),
    Frame.UNIT1000: (1000.0, 1000.0),
    Frame.UNIT: (1.0, 1.0),
}


def random_boxes(count: int, seed: int, side: float = 100.0) -> np.ndarray:
    """[count, 4] xyxy boxes of positive area in a square of this side."""
    corners = np.random.default_rng(seed).uniform(0, side, (count, 2, 2))
    return np.concatenate([corners.min(1), corners.max(1) + 1e-3], axis=1)


@pytest.mark.parametrize("width, height", [(1, 1), (1, 300), (0.25, 0.5), (16, 16), (4032, 3024)])
def test_a_box_has_iou_1_with_itself(width, height):
    """Inclusive-pixel arithmetic: with "+1" on the intersection only, or "-1", a 1 px box scores 0 or 4 on itself."""
    box = np.array([7.0, 5.0, 7.0 + width, 5.0 + height])
    assert iou(box, box) == 1.0


@pytest.mark.parametrize(
    "other, expected",
    [
        ((0, 0, 10, 10), 1.0),
        ((5, 0, 15, 10), 50 / 150),
        ((5, 5, 15, 15), 25 / 175),
        ((2, 2, 4, 4), 4 / 100),  # inside
        ((-10, -10, 20, 20), 100 / 900),  # around
        ((10, 0, 20, 10), 0.0),  # a common side
        ((10, 10, 20, 20), 0.0),  # a common corner
        ((11, 0, 20, 10), 0.0),  # a gap of one: inclusive pixels would touch
        ((9, 9, 10, 10), 1 / 100),
        ((20, 20, 30, 30), 0.0),  # apart on both axes: the product of two negatives is positive
    ],
)
def test_iou_by_hand(other, expected):
    """Half-open boxes: what only touches does not overlap, and no axis is clipped too late."""
    box = np.array([0.0, 0.0, 10.0, 10.0])
    assert iou(box, np.array(other)) == pytest.approx(expected, abs=1e-15)
    assert iou(np.array(other), box) == iou(box, np.array(other))


@pytest.mark.parametrize("degenerate", [(5, 5, 5, 5), (5, 0, 5, 10), (8, 8, 2, 2), (8, 2, 2, 8)])
def test_boxes_of_no_area(degenerate):
    """0/0, or two negative sides that multiply to a positive area."""
    flat, box = np.array(degenerate, dtype=float), np.array([0.0, 0.0, 10.0, 10.0])
    assert area(flat) == 0
    for one, other in itertools.product((flat, box), repeat=2):
        if one is not box or other is not box:
            assert iou(one, other) == 0 and np.isfinite(iou(one, other))
    assert not is_valid(degenerate)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("place", range(4))
def test_numbers_that_are_no_numbers_are_no_box(bad, place):
    """NaN compares false with everything: `x1 >= x2` as the test of a bad box would let it through."""
    xyxy = [0.0, 0.0, 10.0, 10.0]
    assert is_valid(tuple(xyxy))
    xyxy[place] = bad
    assert not is_valid(tuple(xyxy))


def test_agrees_with_torchvision():
    """An independent implementation, over all pairs of 60 x 50 random boxes, broadcast."""
    a, b = random_boxes(60, 0), random_boxes(50, 1)
    ours = iou(a[:, None], b[None])
    assert ours.shape == (60, 50) and (ours > 0).mean() > 0.2  # the comparison is of overlaps, not of zeros
    np.testing.assert_allclose(ours, torchvision_box_iou(torch.tensor(a), torch.tensor(b)).numpy(), atol=1e-12)


def test_symmetric_and_unchanged_by_scaling_each_axis():
    """IoU is the same in every frame: the reward must not depend on where it is computed."""
    a, b = random_boxes(200, 2), random_boxes(200, 3)
    np.testing.assert_array_equal(iou(a, b), iou(b, a))
    scale = np.array([588 / 500, 448 / 375] * 2)
    np.testing.assert_allclose(iou(a * scale, b * scale), iou(a, b), rtol=1e-10, atol=1e-14)


def test_integer_boxes():
    """Integer arrays: 1/2 in integer arithmetic is 0."""
    assert iou(np.array([0, 0, 2, 1]), np.array([0, 0, 1, 1])) == 0.5


@pytest.mark.parametrize(
    "other, expected",
    [
        ((0, 0, 10, 10), 1.0),
        ((5, 5, 15, 15), 25 / 175 - 50 / 225),  # 225 around both, 175 covered
        ((5, 0, 15, 10), 50 / 150),  # nothing around but the boxes
        ((2, 2, 4, 4), 4 / 100),
        ((10, 0, 20, 10), 0.0),  # a common side
        ((10, 10, 20, 20), -200 / 400),
        ((30, 0, 40, 10), -200 / 400),  # 400 around, 200 of it between them
        ((90, 0, 100, 10), -800 / 1000),  # farther: less
    ],
)
def test_giou_by_hand(other, expected):
    """The enclosing box taken for the union, or a miss that earns the same wherever it is."""
    box = np.array([0.0, 0.0, 10.0, 10.0])
    assert giou(box, np.array(other)) == pytest.approx(expected, abs=1e-15)
    assert giou(np.array(other), box) == giou(box, np.array(other))


def test_giou_agrees_with_torchvision():
    """An independent implementation, over all pairs of 60 x 50 random boxes, broadcast."""
    a, b = random_boxes(60, 0), random_boxes(50, 1)
    ours = giou(a[:, None], b[None])
    assert ours.shape == (60, 50) and (ours < 0).mean() > 0.2
    np.testing.assert_allclose(ours, generalized_box_iou(torch.tensor(a), torch.tensor(b)).numpy(), atol=1e-12)


def test_huge_finite_numbers():
    """A policy writes 1e308: areas overflow, and the reward must be a number, without a warning per rollout."""
    huge = Box(-1e308, -1e308, 1e308, 1e308, Frame.FILE, 640, 480)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert box_iou(huge, Box(0, 0, 10, 10, Frame.FILE, 640, 480)) == 0
        assert box_giou(huge, Box(0, 0, 10, 10, Frame.FILE, 640, 480)) == -1


@pytest.mark.parametrize("start, end", itertools.permutations(Frame, 2))
def test_round_trip_between_frames(start, end):
    """Width and height mixed up, or a scale applied in the wrong direction."""
    box = Box(13.25, 40.5, 29.75, 333.0, start, *SIZES[start])
    there = convert(box, end, *SIZES[end])
    assert (there.frame, there.width, there.height) == (end, *SIZES[end])
    back = convert(there, start, *SIZES[start])
    assert back.xyxy == pytest.approx(box.xyxy, rel=1e-14) and back.frame == start
    assert there.area_ratio == pytest.approx(box.area_ratio, rel=1e-14)


def test_conversion_by_hand():
    """x by the ratio of widths, y by the ratio of heights."""
    box = Box(50, 75, 100, 150, Frame.FILE, 500, 375)
    assert convert(box, Frame.UNIT1000, 1000, 1000).xyxy == pytest.approx((100, 200, 200, 400))
    assert convert(box, Frame.PROCESSED, 588, 448).xyxy == pytest.approx((58.8, 89.6, 117.6, 179.2))
    assert box.area_ratio == pytest.approx(50 * 75 / (500 * 375))
    whole = Box(0, 0, 500, 375, Frame.FILE, 500, 375)
    assert convert(whole, Frame.UNIT1000, 1000, 1000).xyxy == (0, 0, 1000, 1000)


def test_an_unmapped_box_loses_reward():
    """The defect that frames prevent: a perfect answer in pixels of a 588x448 picture, read as pixels of the file."""
    target = Box(240, 180, 264, 204, Frame.FILE, 500, 375)  # 0.3 % of the image
    seen = convert(target, Frame.PROCESSED, 588, 448)
    assert box_iou(convert(seen, Frame.FILE, 500, 375), target) == pytest.approx(1)
    assert box_iou(Box(*seen.xyxy, Frame.FILE, 500, 375), target) < 0.02


def test_frame_size():
    """unit1000 is 1000 by 1000 whatever the image."""
    sizes = {frame: frame_size(frame, SIZES[Frame.FILE], SIZES[Frame.PROCESSED]) for frame in Frame}
    assert sizes == SIZES


def test_unknown_frame():
    """A typo in a backbone's configuration names the key and what it may be, not a KeyError from inside the reward."""
    assert [parse_frame(str(frame)) for frame in Frame] == list(Frame)
    for name in ("pixels", "FILE", ""):
        with pytest.raises(LocusError) as caught:
            parse_frame(name)
        message = str(caught.value)
        assert repr(name) in message and "backbone.frame" in message
        assert all(str(frame) in message for frame in Frame)


@pytest.mark.parametrize("frame, width, height", [(Frame.PROCESSED, 500, 375), (Frame.FILE, 375, 500)])
def test_boxes_of_different_frames_are_not_compared(frame, width, height):
    """Numbers of two frames give an IoU that looks plausible; another size of the same frame is another frame."""
    here, there = Box(0, 0, 9, 9, Frame.FILE, 500, 375), Box(0, 0, 9, 9, frame, width, height)
    for check in (same_frame, box_iou, box_giou):
        with pytest.raises(LocusError, match="different frames") as caught:
            check(here, there)
        assert "500x375" in str(caught.value) and f"{frame} {width}x{height}" in str(caught.value)


# --- What a policy writes -------------------------------------------------------------------------------------
SEEN = (588.0, 448.0)
"""A file of 500x375 as processed."""


@pytest.mark.parametrize(
    ("view", "size", "numbers", "box"),
    [
        (View(Frame.FILE, SEEN), (500, 375), (10, 20, 250, 375), (10, 20, 250, 375)),
        (View(Frame.PROCESSED, SEEN), SEEN, (0, 56, 294, 448), (0, 46.875, 250, 375)),  # 56 of 448 is an eighth
        (View(Frame.UNIT1000, SEEN), (1000, 1000), (100, 200, 500, 1000), (50, 75, 250, 375)),
        (View(Frame.UNIT1000), (1000, 1000), (100, 200, 500, 1000), (50, 75, 250, 375)),
        (View(Frame.PROCESSED, (1176, 896)), (1176, 896), (0, 112, 588, 896), (0, 46.875, 250, 375)),
    ],
)
def test_written_boxes_by_hand(view, size, numbers, box):
    """Numbers read in another frame than they were written in, sides exchanged, or the way back another one."""
    assert view_size(view, 500, 375) == size
    found = written_box(numbers, view, 500, 375)
    assert (found.frame, found.width, found.height) == (Frame.FILE, 500, 375)
    assert found.xyxy == pytest.approx(box)
    back = to_view(found, view)
    assert (back.frame, back.width, back.height) == (view.frame, *size) and back.xyxy == pytest.approx(numbers)


def test_numbers_are_not_mended():
    """Corners clipped or exchanged: what a policy wrote outside the image would overlap the target by more."""
    found = written_box((-100, 0, 1500, 500), View(Frame.UNIT1000), 200, 100)
    assert found.xyxy == pytest.approx((-20, 0, 300, 50))
    assert written_box((30, 40, 10, 20), View(Frame.FILE), 200, 100).xyxy == (30, 40, 10, 20)


def test_a_processed_frame_of_unknown_size_is_refused():
    """A size that is guessed, as the file's, say: the box is then a few per cent off, silently."""
    view = View(Frame.PROCESSED)
    for call in (
        lambda: view_size(view, 500, 375),
        lambda: written_box((1, 2, 3, 4), view, 500, 375),
        lambda: to_view(Box(1, 2, 3, 4, Frame.FILE, 500, 375), view),
    ):
        with pytest.raises(LocusError, match=r"processed frame, whose size .*backbone\.frame=file"):
            call()
