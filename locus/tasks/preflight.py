"""Pre-flight: true boxes through the real dataset, processor, template, parser and reward, before step 1.

It finds a silent error: boxes in one frame, rewards in another. An oracle that writes the target box must earn 1, and
one that writes it shifted must earn less.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from locus.boxes import convert, frame_size
from locus.errors import LocusError
from locus.tasks.cue_search.prompts import answer_text
from locus.tasks.cue_search.reward import BoxReward, judge
from locus.types import Box, Completion, Frame, PromptRecord, Reward

TEXT_DIGITS = 3
TOLERANCE = 1e-2
"""Three decimals move a corner by at most 0.0005 units, or 0.002 px of a 4,000 px image: far below this on 16 px."""


@dataclass(frozen=True)
class PreflightReport:
    """Mean rewards over the prompts checked."""

    oracle: float
    """True boxes with three decimals."""
    integers: float
    """True boxes rounded to integers: the most that a policy which writes integers can earn."""
    shifted: float
    """True boxes moved by half their size."""
    prompts: int


def preflight(
    prompts: Sequence[PromptRecord],
    encode: Callable[[str], list[int]],
    decode: Callable[[torch.Tensor], str],
    reward: BoxReward,
    frame: Frame,
    patch_size: int,
) -> PreflightReport:
    """Checks these prompts; raises LocusError unless every oracle earns 1 and every shifted oracle earns less.

    The oracle's plain IoU must be 1, too: a threshold or a format alone also rewards boxes of another frame.

    Args:
        prompts: as the datamodule makes them.
        encode, decode: the tokenizer's, as the rollouts use them.
        reward: the run's.
        frame: the one the policy speaks. The oracle writes in it, sized by each prompt's own grid and ``patch_size``,
            not by what the prompt says of itself: that is what is checked.
    """

    def earned(prompt: PromptRecord, box: Box, digits: int) -> Reward:
        text = answer_text(box, "", digits, prompt.opened)
        token_ids = torch.tensor(encode(text))
        completion = Completion(token_ids, torch.zeros(len(token_ids)), finished=True)
        return judge(completion, decode(token_ids), prompt, reward).reward

    oracles, integers, shifted = [], [], []
    for prompt in prompts:
        rows, columns = prompt.image_grid_thw[0, 1:].tolist()
        target = prompt.target
        size = frame_size(frame, (target.width, target.height), (columns * patch_size, rows * patch_size))
        true = convert(target, frame, *size)
        dx, dy = (true.x2 - true.x1) / 2, (true.y2 - true.y1) / 2
        moved = Box(true.x1 + dx, true.y1 + dy, true.x2 + dx, true.y2 + dy, true.frame, true.width, true.height)
        oracle, rounded, elsewhere = (
            earned(prompt, box, digits) for box, digits in ((true, TEXT_DIGITS), (true, 0), (moved, TEXT_DIGITS))
        )
        oracles.append(oracle.total)
        integers.append(rounded.total)
        shifted.append(elsewhere.total)
        if min(oracle.total, oracle.iou) < 1 - TOLERANCE:
            raise LocusError(
                f"pre-flight: on {prompt.example.image_path} (example {prompt.prompt_id}) the true box {target.xyxy} "
                f"earns {oracle.total:.3f} at an IoU of {oracle.iou:.3f}, written in frame {frame} of size {size} "
                f"and read in {prompt.answer_frame} of {prompt.answer_size}: the policy's frame is not the "
                "one the reward reads; check backbone.frame and the annotations' image size"
            )
        if reward.alpha < 1 and elsewhere.total >= oracle.total:
            raise LocusError(
                f"pre-flight: on {prompt.example.image_path} (example {prompt.prompt_id}) a box shifted by half its "
                f"sides, at an IoU of {elsewhere.iou:.3f}, earns {elsewhere.total:.3f}, as much as the true one: the "
                "reward does not tell places apart; choose another, or a higher threshold"
            )
    count = len(prompts)
    if count == 0:
        raise LocusError("pre-flight: the corpus has no example to check: choose other data or crops")
    return PreflightReport(sum(oracles) / count, sum(integers) / count, sum(shifted) / count, count)
