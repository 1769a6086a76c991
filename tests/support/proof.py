"""Did a change leave the results alone? Short seeded runs, and what they leave, bit for bit, without what time decides.

    python -m tests.support.proof outputs/proof/before      runs every job and writes results.json
    python -m tests.support.proof outputs/proof/after outputs/proof/before      and compares with an earlier folder

Run it on one machine with the same number of threads: sums differ in the last bit between kinds of processor.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq

TRAIN = (
    *("logger=csv", "data.source.count=256", "data.train_examples=64", "data.validation_examples=16"),
    *("trainer.steps=3", "trainer.prompts_per_step=4", "trainer.validate_every=2", "algorithm.group_size=4"),
)
SFT = TRAIN[:-1]
JOBS: dict[str, tuple[str, ...]] = {
    "grpo": ("train", *TRAIN, "diagnoses=none"),
    "refill": ("train", *TRAIN, "diagnoses=none", "algorithm=grpo_refill", "reward=giou", "trainer/order=balanced"),
    "off_policy": (
        "train",
        *TRAIN,
        "diagnoses=none",
        "algorithm=easyr1",
        "algorithm.loss.kl_estimator=k2",
        "crop=hard_negatives",
    ),
    "sft": ("train", *SFT, "diagnoses=none", "algorithm=sft", "rationales=templates"),
    "sft_mixture": ("train", *SFT, "diagnoses=none", "algorithm=sft", "task=mixture"),
    "lora": ("train", *TRAIN, "diagnoses=none", "weights=lora", "optimizer.make.lr=1e-3"),
    "mixture": ("train", *TRAIN, "diagnoses=none", "task=mixture", "algorithm.refill=1"),
    "text_cue": ("train", *TRAIN, "diagnoses=none", "cue=text"),
    "qwen2_5_vl": (
        "train",
        *TRAIN,
        "diagnoses=none",
        "backbone=tiny_qwen2_5_vl",
        "trainer.steps=1",
        "data.validation_examples=4",
        "rollout.sampling.max_new_tokens=8",
        "trainer.logprobs=separate",
    ),
    "diagnoses": (
        "train",
        *TRAIN,
        "trainer.steps=1",
        *(f"diagnoses.questions.families.{family}.questions=6" for family in ("crowded", "sparse", "large")),
        "diagnoses.attention.benchmark.scenes.questions=4",
        "diagnoses.grounding_vs_answers.benchmark.scenes.questions=4",
        "diagnoses.crowding.questions=2",
    ),
    "prepare": (
        "prepare",
        "data.source.count=256",
        "data.train_examples=64",
        "data.validation_examples=16",
        "rationales=templates",
    ),
    "scenes": ("evaluate", "-m", "benchmark=glob(scenes_*)", "limit=24"),
    "cue_search": ("evaluate", "benchmark=cue_search", "limit=24", "think=true"),
    "files": (
        *("evaluate", "-m", "benchmark=glob(*,exclude=[scenes_*,cue_search])", "limit=6", "benchmark.rows=null"),
        "sampling.max_new_tokens=16",
    ),
}
"""Name -> entry point and overrides."""
TIMED = ("time/", "memory/")


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def rows_of(path: Path) -> str:
    """A table's content as text: every value to its last bit, without columns of time and memory."""
    if path.suffix == ".csv":
        rows = list(csv.DictReader(path.open(newline="")))
        return json.dumps([{k: v for k, v in row.items() if not k.startswith(TIMED)} for row in rows])
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        return json.dumps([str(table.schema.remove_metadata()), table.to_pylist()], default=str)
    return path.read_text()


def results(folder: Path) -> dict[str, str]:
    """File -> digest, of all tables and predictions below a run's folder."""
    kept = {}
    for path in sorted(folder.rglob("*")):
        wanted = path.suffix in (".csv", ".parquet", ".jsonl")
        if wanted and "checkpoints" not in path.parts and (path.is_file() or path.suffix == ".parquet"):
            kept[path.relative_to(folder).as_posix()] = digest(rows_of(path).replace(str(folder.parent), ""))
    return kept


def run(name: str, folder: Path, samples: Path) -> dict[str, str]:
    """Runs one job in a process of its own; raises CalledProcessError when it fails."""
    entry, *overrides = JOBS[name]
    place = folder / name
    where = [f"folder={place}", f"benchmarks={samples}"] if entry == "evaluate" else [f"hydra.run.dir={place}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", f"locus.{entry}", *overrides, *where]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stdout[-2000:], done.stderr[-4000:])
        done.check_returncode()
    return results(place)


def main(folder: Path, earlier: Path | None, names: list[str]) -> int:
    samples = folder / "samples"
    subprocess.run([sys.executable, "-m", "locus.samples", str(samples)], check=True)
    record = folder / "results.json"
    made = json.loads(record.read_text()) if record.exists() else {}
    before = json.loads((earlier / "results.json").read_text()) if earlier else {}
    different = 0
    for name in names:
        made[name] = run(name, folder, samples)
        record.write_text(json.dumps(made, indent=1))
        old = before.get(name, {}) if earlier else made[name]
        changed = sorted(file for file in made[name] | old if made[name].get(file) != old.get(file))
        different += len(changed)
        print(f"{name}: {len(made[name])} files", "differ: " + ", ".join(changed) if changed else "", flush=True)
    return int(different > 0)


if __name__ == "__main__":
    ARGUMENTS = sys.argv[1:]
    PICKED = [name for name in ARGUMENTS if name in JOBS]
    FOLDERS = [Path(name).resolve() for name in ARGUMENTS if name not in JOBS]
    sys.exit(main(FOLDERS[0], FOLDERS[1] if len(FOLDERS) > 1 else None, PICKED or list(JOBS)))
