"""Rollouts as a part of a page: filtered by step, area bin, reward and kind of failure, drawn by the browser."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from locus.types import Status

TEMPLATE = Path(__file__).parents[2] / "assets" / "report" / "rollouts.html"
LONG_SIDE = 320
"""Pictures are made so small, in pixels: 5,000 rollouts are 625 of them."""
PARSE, TRUNCATED, WRONG, LOOSE, FOUND = "parse", "truncated", "wrong object", "right object, loose", "found"


def failure(status: str, target: Sequence[float], box: Sequence[float] | None, iou: float) -> str:
    """Kind of a rollout: no box, cut off, a box elsewhere, a loose one (IoU below 0.5, about the target), or found.

    A box is about its target when it covers the target's centre or its own centre lies in the target.
    """
    if status == Status.TRUNCATED:
        return TRUNCATED
    if box is None:
        return PARSE
    if iou >= 0.5:
        return FOUND
    return LOOSE if _holds(box, _centre(target)) or _holds(target, _centre(box)) else WRONG


def _centre(box: Sequence[float]) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def _holds(box: Sequence[float], point: tuple[float, float]) -> bool:
    return box[0] <= point[0] < box[2] and box[1] <= point[1] < box[3]


def groups_of(rollouts: pd.DataFrame, open_image: Callable[[str], Image.Image], most: int) -> dict[str, Any]:
    """What the browser shows: whole groups, spread evenly over the steps, at most ``most`` rollouts.

    Returns ``images`` (path -> JPEG as base64, with its scale) and ``groups`` (step, bin, image, target, expression,
    rollouts). A table without expressions, of an older run, is of prompts that show the cue; some tasks have no bins.
    """
    words = {name: rollouts[name].fillna("") if name in rollouts else "" for name in ("bin", "expression")}
    rollouts = rollouts.assign(**words)
    keys = rollouts.groupby(["step", "prompt_id"], sort=True).size()
    fit = max(1, int(most / max(1.0, keys.mean())))
    chosen = keys.index if len(keys) <= fit else keys.index[np.linspace(0, len(keys) - 1, fit).round().astype(int)]
    images: dict[str, dict[str, Any]] = {}
    groups = []
    for (step, _), rows in rollouts.set_index(["step", "prompt_id"]).loc[chosen].groupby(level=[0, 1], sort=True):
        path = rows["image_path"].iloc[0]
        images.setdefault(path, _small(open_image(path)))
        target = list(rows["target"].iloc[0])
        found = [
            {
                "box": None if row.box is None else [round(float(value), 1) for value in row.box],
                "kind": failure(row.status, target, row.box, row.iou),
                "iou": round(row.iou, 3), "reward": round(row.reward, 3), "advantage": round(row.advantage, 2),
                "text": row.text,
            }
            for row in rows.itertuples()
        ]  # fmt: skip
        said = {name: rows[name].iloc[0] for name in words}
        groups.append({"step": int(step), **said, "image": path, "target": target, "rollouts": found})
    return {"images": images, "groups": groups}


def _small(image: Image.Image) -> dict[str, Any]:
    scale = min(1.0, LONG_SIDE / max(image.size))
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    image.convert("RGB").resize(size).save(buffer := io.BytesIO(), "JPEG", quality=85)
    return {"jpeg": base64.b64encode(buffer.getvalue()).decode(), "scale": scale}


def browser_html(shown: dict[str, Any]) -> str:
    """The part of the page: controls, script and data."""
    data = json.dumps(shown, separators=(",", ":")).replace("</", "<\\/")  # a response must not end the script
    return TEMPLATE.read_text(encoding="utf-8").replace("__DATA__", data)
