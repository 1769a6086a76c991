"""Folders of runs of a sweep of tasks in their true form, with an effect that is known."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from locus.analysis.claims import BENCHMARKS
from locus.analysis.run_metrics import AFTER, BEFORE

TASKS = ("cue_search", "jigsaw", "questions", "rotation")
CHANCE = {"cue_search": np.nan, "jigsaw": 0.04, "questions": 0.3, "rotation": 0.25}


def proxies(gains: Mapping[str, float], images: int = 40, seed: int = 0) -> pd.DataFrame:
    """An example of each task about every image: the base is right on 40 % of each, the trained policy on more by the
    task's gain."""
    rng, rows = np.random.default_rng(seed), []
    for task in TASKS:
        hard = np.random.default_rng(len(task)).random(images)
        noise = rng.normal(0, 0.05, images)
        for policy in (BEFORE, AFTER):
            right = hard < 0.4 if policy == BEFORE else hard + noise < 0.4 + gains.get(task, 0.0)
            for image, one in enumerate(right):
                row = {"policy": policy, "task": task, "item": f"{task}-{image}", "unit": f"scene://{image}"}
                rows.append(row | {"score": float(one), "chance": CHANCE[task], "response": "<answer>A</answer>"})
    return pd.DataFrame(rows)


def questions(gain: float, scenes: int, seed: int = 0) -> pd.DataFrame:
    """Five benchmarks of crowded and of sparse scenes, and attributes of large objects; crowded ones gain."""
    rng, rows = np.random.default_rng([9, seed]), []
    for family, benchmarks in (("crowded", BENCHMARKS), ("sparse", BENCHMARKS), ("large", BENCHMARKS[:1])):
        for benchmark in benchmarks:
            hard = np.random.default_rng([7, len(family), len(benchmark)]).random(scenes)
            noise = rng.normal(0, 0.03, scenes)
            for policy in (BEFORE, AFTER):
                more = gain if family == "crowded" else 0.0
                right = hard < 0.5 if policy == BEFORE else hard + noise < 0.5 + more
                for scene, one in enumerate(right):
                    row = {"item": f"{family}/{benchmark}-{scene}", "unit": f"{family}://{scene}", "family": family}
                    rows.append(row | {"benchmark": benchmark, "policy": policy, "score": float(one)})
    return pd.DataFrame(rows)


def run(
    folder: Path,
    tasks: Mapping[str, float],
    seed: int,
    tables: Mapping[str, pd.DataFrame],
    seconds: float | None = None,
    status: str = "finished",
    **settings: object,
) -> Path:
    """A run folder: 10 steps of 8 completions with 12 tokens each, 3 s a step."""
    folder.mkdir(parents=True)
    parts = {"main": {"_target_": [*tasks][-1]}, "other": {"_target_": "cue_search"}}
    shares = {"main": 1, "other": int(len(tasks) > 1)}
    trainer = {"steps": 10, "max_seconds": seconds}
    config = {"seed": seed, "task": {"_target_": "Mixture", "parts": parts, "shares": shares}, "trainer": trainer}
    (folder / "config.yaml").write_text(yaml.safe_dump(config | settings))
    record: dict[str, object] = {
        "tasks": dict(tasks),
        "completions_per_step": 8,
        "seconds_per_phase": {"rollout": 20.0, "update": 9.0},
    }
    record["trained"] = {"steps": 10, "seconds": 30.0}
    (folder / "run.json").write_text(json.dumps(record))
    lines = [f"{step},0.5,12.0,{'0.4' if step in (0, 10) else ''}" for step in range(11)]
    names = "step,train/reward,train/completion_length,val/accuracy"
    (folder / "metrics.csv").write_text("\n".join([names, *lines]) + "\n")
    (folder / "summary.json").write_text(json.dumps({"status": status, "val/accuracy": 0.4}))
    for name, table in tables.items():
        table.to_parquet(folder / f"{name}.parquet", index=False)
    return folder
