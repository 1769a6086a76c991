"""Tables of a run folder in their true form, from which claims are judged; and whole folders of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from PIL import Image

from locus.analysis.claims import BENCHMARKS
from locus.analysis.run_metrics import AFTER, BEFORE

POLICIES = (BEFORE, AFTER)


def changes(policy: str, before: list[float], after: list[float]) -> list[float]:
    """The policy's values."""
    return before if policy == BEFORE else after


def questions(gains: Mapping[str, float], scenes: int = 40, seed: int = 0) -> pd.DataFrame:
    """Five benchmarks of each family, one question each about every scene: the base is right on half of them, the
    trained policy on a share that is larger by the family's gain."""
    rng = np.random.default_rng(seed)
    rows = []
    for family, gain in gains.items():
        hard = np.random.default_rng(7).random((len(BENCHMARKS), scenes))  # the items are the same for every seed
        noise = rng.normal(0, 0.05, hard.shape)
        for policy in POLICIES:
            right = hard < 0.5 if policy == BEFORE else hard + noise < 0.5 + gain
            for benchmark, verdicts in zip(BENCHMARKS, right, strict=True):
                for scene, verdict in enumerate(verdicts):
                    row = {"item": f"{family} {benchmark}-{scene}", "unit": f"{family} {scene}", "family": family}
                    row |= {"benchmark": benchmark, "kind": "colour", "question": "What colour?"}
                    row |= {"response": "<think>red star</think><answer>red</answer>", "score": float(verdict)}
                    rows.append(row | {"policy": policy})
    return pd.DataFrame(rows)


def attention(gain: float, items: int = 40, seed: int = 0) -> pd.DataFrame:
    """Four layers; the gain is in the later two, twice as large."""
    noise = np.random.default_rng(seed).normal(0, 0.02, items)
    frames = []
    for policy in POLICIES:
        more = (policy == AFTER) * (gain + noise)
        layers = {f"layer {number}": 0.1 + 2 * more * (number > 1) for number in range(4)}
        frame = pd.DataFrame({"item": [f"a-{n}" for n in range(items)], "unit": [str(n) for n in range(items)]})
        mean = np.mean(list(layers.values()), axis=0)
        frames.append(frame.assign(kind="colour", correct=1.0, area=0.05, attention_in_box=mean, **layers))
        peaks = {f"peak, layer {number}": 0.5 for number in range(4)}
        frames[-1] = frames[-1].assign(peak_in_box=0.5, policy=policy, map=[[0.0] * 4] * items, rows=2, **peaks)
    return pd.concat(frames, ignore_index=True)


def grounding(gained: int, lost: int, kept: int) -> pd.DataFrame:
    """Found and answered go together, but for every second item that is kept, whose answer turns right."""
    before = [False] * gained + [True] * lost + [True] * kept
    after = [True] * gained + [False] * lost + [True] * kept
    frames = []
    for policy in POLICIES:
        found = changes(policy, before, after)
        right = [float(one) for one in found[: gained + lost]]
        right += [float(policy == AFTER or number % 4 > 0) for number in range(kept)]
        frame = pd.DataFrame({"item": [f"g-{n}" for n in range(len(found))]}).assign(found=found, correct=right)
        frames.append(frame.assign(unit=frame["item"], kind="colour", policy=policy, boxed=1.0, bin="0", iou=0.5))
    return pd.concat(frames, ignore_index=True)


def crowding(gains: list[float], scenes: int = 40, seed: int = 0) -> pd.DataFrame:
    """Questions at as many levels as there are gains of the trained policy; the base gets worse by level."""
    rows, rng = [], np.random.default_rng(seed)
    for scene, hard in enumerate(np.random.default_rng(3).random(scenes)):
        for level, gain in enumerate(gains):
            noise = rng.normal(0, 0.05)
            for policy in POLICIES:
                right = float(hard + (noise if policy == AFTER else 0) < 0.8 - 0.2 * level + gain * (policy == AFTER))
                for image in ("full", "suppressed") if level == len(gains) - 1 else ("full",):
                    row = {"item": f"q-{scene}/{level}/{image}", "unit": str(scene), "question": f"q-{scene}"}
                    row |= {"kind": "colour", "objects": 2 + 6 * level if image == "full" else 1}
                    row |= {"image": image, "level": level}
                    row |= {"correct": right if image == "full" else 1.0, "response": "red"}
                    rows.append(row | {"policy": policy})
    return pd.DataFrame(rows)


def validation(before: float, after: float, images: int = 30, seed: int = 0) -> pd.DataFrame:
    """Two examples an image; each IoU is the mean given, but for noise."""
    rng, rows = np.random.default_rng(seed), []
    for step, iou in ((0, before), (40, after)):
        for example in range(2 * images):
            row = {"step": step, "example_id": f"e-{example}", "image_id": f"i-{example // 2}", "bin": "tiny"}
            row |= {"iou": float(np.clip(iou + rng.normal(0, 0.05), 0, 1)), "format": 1.0, "reward": iou}
            row |= {"target": [8.0, 8.0, 40.0, 40.0], "box": [8.0, 8.0, 40.0, 30.0 + 10 * iou]}
            thought = "red star, dotted" if step else "star"
            rows.append(row | {"text": f"<think>{thought}</think><answer>[8, 8, 40, 40]</answer>", "status": "ok"})
    return pd.DataFrame(rows)


def tables(effect: float = 1.0, seed: int = 0) -> dict[str, pd.DataFrame]:
    """All of a run's; with an effect of 1 every claim holds, with 0 nothing has changed but by chance."""
    return {
        "validation": validation(0.2, 0.2 + 0.4 * effect, seed=seed),
        "questions": questions({"crowded": 0.1 * effect, "sparse": 0.1 * effect, "large": 0.1 * effect}, seed=seed),
        "attention": attention(0.2 * effect, seed=seed),
        "grounding_vs_answers": grounding(20 if effect else 0, 12 if effect else 0, 40),
        "crowding": crowding([0.05 * effect, 0.1 * effect, 0.35 * effect], seed=seed),
    }


def run_folder(
    folder: Path, setting: Mapping[str, object], seed: int, effect: float, experiment: str | None = None
) -> Path:
    """A finished run with these tables, of a sweep over experiments where one is given."""
    folder.mkdir(parents=True)
    if experiment is not None:
        (folder / ".hydra").mkdir()
        record = {"hydra": {"runtime": {"choices": {"experiment": experiment, "crop": experiment.split("/")[-1]}}}}
        (folder / ".hydra" / "hydra.yaml").write_text(yaml.safe_dump(record))
    (folder / "config.yaml").write_text(yaml.safe_dump({"seed": seed, "name": "train", **setting}))
    (folder / "metrics.csv").write_text(f"step,train/iou,val/mean_iou\n0,,0.2\n40,0.5,{0.2 + 0.4 * effect}\n")
    (folder / "summary.json").write_text(json.dumps({"status": "finished", "val/mean_iou": 0.2 + 0.4 * effect}))
    for name, table in tables(effect, seed).items():
        table.to_parquet(folder / f"{name}.parquet", index=False)
    (folder / "figures").mkdir()
    Image.new("RGB", (64, 48), "white").save(folder / "figures" / "curve.png")
    return folder
