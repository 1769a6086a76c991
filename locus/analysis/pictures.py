"""Pictures of single examples: the image with its boxes, and the cue beside it."""

from __future__ import annotations

from PIL import Image, ImageDraw

from locus.types import Box, CuePixels, RolloutGroup

TRUE, PREDICTED, INK = (0, 158, 115), (213, 94, 0), (32, 32, 32)  # told apart by colour-blind eyes, too
SHORT_SIDE, CUE_WIDTH, MARGIN = 448, 192, 12


def rollout_picture(pixels: CuePixels, group: RolloutGroup) -> Image.Image:
    """The full image with the true box and the rollouts' boxes, the cue, and the best reward in words."""
    scale = SHORT_SIDE / min(pixels.image.size)
    image = pixels.image.resize((round(pixels.image.width * scale), round(pixels.image.height * scale)))
    draw = ImageDraw.Draw(image)
    _outline(draw, group.prompt.target, scale, TRUE)
    for rollout in group.rollouts:
        if rollout.box is not None:
            _outline(draw, rollout.box, scale, PREDICTED)

    sheet = Image.new("RGB", (image.width + CUE_WIDTH + 3 * MARGIN, image.height + 2 * MARGIN), "white")
    sheet.paste(image, (MARGIN, MARGIN))
    left = image.width + 2 * MARGIN
    ratio = min(CUE_WIDTH / pixels.cue.width, image.height / 2 / pixels.cue.height)
    cue = pixels.cue.resize((max(1, round(pixels.cue.width * ratio)), max(1, round(pixels.cue.height * ratio))))
    sheet.paste(cue, (left, MARGIN))
    best = max(group.rollouts, key=lambda rollout: rollout.reward.total)
    words = [
        (f"cue: {pixels.example.bin}, {100 * pixels.example.area_ratio:.2f} % of the image", INK),
        ("true box", TRUE),
        ("predicted box" if best.box is not None else f"no box: {best.answer.status}", PREDICTED),
        (f"IoU {best.reward.iou:.2f}  reward {best.reward.total:.2f}", INK),
    ]
    writer = ImageDraw.Draw(sheet)
    for row, (text, colour) in enumerate(words):
        writer.text((left, MARGIN + cue.height + 10 + 18 * row), text, fill=colour, font_size=13)
    return sheet


def _outline(draw: ImageDraw.ImageDraw, box: Box, scale: float, colour: tuple[int, int, int]) -> None:
    """Draws a box just outside its region, cut to the picture; a tiny object stays visible inside."""
    width, height = draw.im.size
    x1, y1 = max(0.0, box.x1 * scale - 2), max(0.0, box.y1 * scale - 2)
    x2, y2 = min(width - 1.0, box.x2 * scale + 1), min(height - 1.0, box.y2 * scale + 1)
    if x2 > x1 and y2 > y1:
        draw.rectangle((x1, y1, x2, y2), outline=colour, width=2)
