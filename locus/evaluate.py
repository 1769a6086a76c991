"""Evaluates a policy on a benchmark: ``python -m locus.evaluate`` (conf/evaluate.yaml). Entry point."""

from __future__ import annotations

from locus.run.help import answer_early

if __name__ == "__main__":
    answer_early()  # before the imports below, which take seconds

import json
import logging
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from locus.analysis.paper import paper_numbers
from locus.errors import LocusError
from locus.evaluation.benchmark import Benchmark
from locus.evaluation.evaluator import evaluate
from locus.evaluation.items import ItemsPart, ItemsRead
from locus.evaluation.predictions import PredictionFile, fingerprint, read_predictions
from locus.evaluation.scores import (
    add_row,
    comparison,
    describe,
    extractor_version,
    judge_of,
    judged,
    read_rows,
    read_scores,
    replace_rows,
    write_scores,
)
from locus.evaluation.shards import MERGE, Shard, merge
from locus.files.run_files import alone, only_writer
from locus.run.asked import INSTRUCTIONS, AskedPolicy, asked_policy
from locus.run.decoding_settings import DecodingSettings
from locus.run.record import PACKAGES, git_commit, hardware
from locus.run.runtime import entry_point
from locus.run.sweeps import job_of_launch
from locus.run.threads import choose_threads

log = logging.getLogger("locus")
WEIGHTS = (".safetensors", ".bin", ".json")
UNSEEN = {
    "benchmark": ("path", "images", "rows", "judge_model", "max_new_tokens", "single", "groups", "boxes"),
    "backbone": ("train_vision", "gradient_checkpointing", "recipe", "dtype"),
}
"""Settings that responses do not depend on, or that the manifest has in another place: what is asked is in ``items``,
how long a response may be in ``sampling``."""


def settings_of(asked: AskedPolicy, read: ItemsRead) -> dict[str, Any]:
    """All that responses depend on, for the manifest."""
    cfg, served = asked.cfg, asked.server
    parts: dict[str, Any] = {
        name: OmegaConf.to_container(cfg[name], resolve=True) for name in ("benchmark", "backbone", "pixels")
    }
    seen = {
        name: {key: value for key, value in parts[name].items() if key not in unseen} for name, unseen in UNSEEN.items()
    }
    path = seen["backbone"].get("path") or ""
    return {
        "benchmark": seen["benchmark"],
        "items": read.digest,
        "backbone": seen["backbone"],
        "dtype": None if served else parts["backbone"].get("dtype"),
        "weights": fingerprint(path, WEIGHTS) if path and Path(path).is_dir() else {},
        "pixels": parts["pixels"],
        "sampling": OmegaConf.to_container(cfg.sampling, resolve=True),
        "seed": cfg.seed if cfg.sampling.temperature > 0 else None,
        "instruction": INSTRUCTIONS[asked.instruction],
        "token_budget": None if served else cfg.token_budget,
        **({"endpoint": {"model": served.model, "extra": asked.extra}} if served else {}),
    }


def predict(asked: AskedPolicy, part: ItemsPart, settings: dict[str, Any], folder: Path) -> PredictionFile:
    """Writes the missing predictions of these items; the policy is loaded only if any is.

    Raises LocusError where another process writes them at this moment.
    """
    if asked.server is None:
        choose_threads(asked.cfg.device, folder / "manifest.json")
    with only_writer(folder):
        file = PredictionFile(folder, settings, part.ids, record(part.read.benchmark))
        log.info("%s: %d of %d items are answered", part.name, file.done, len(part.ids))
        if not file.finished:
            asker, facts = asked.asker()
            file.note(**facts)
            evaluate(asker, part, file, shown=part.shown)
    return file


def record(benchmark: Benchmark) -> dict[str, Any]:
    """What a manifest says beside the settings."""
    return {
        "name": benchmark.name,
        "headline": benchmark.headline,
        "extractor_version": extractor_version(),
        "versions": {package: version(package) for package in PACKAGES},
        "commit": git_commit(),
        "hardware": hardware(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def run(cfg: DictConfig, folder: Path) -> tuple[Benchmark, dict[str, Any]] | None:
    """Predicts and scores one benchmark; returns it with its row of ``scores.csv``, or None for a shard alone."""
    DecodingSettings.of(cfg)  # a wrong number is found before anything is read
    shard = None if cfg.shard in (None, MERGE) else Shard.parse(cfg.shard)
    asked = asked_policy(cfg)
    benchmark = instantiate(asked.cfg.benchmark, _convert_="all")
    place = folder / benchmark.name
    read = ItemsRead(benchmark, cfg.limit)
    asked = asked.for_items(read.items)
    settings, whole = settings_of(asked, read), read.part(0, len(read.items))
    if shard is not None:
        predict(asked, read.part(*shard.bounds(len(read.items))), settings, place / shard.folder)
        log.info(
            "shard %s is answered; once all are, shard=%s with folder=%s scores them", cfg.shard, MERGE, cfg.folder
        )
        return None
    file = merge(place, settings, whole.ids) if cfg.shard == MERGE else predict(asked, whole, settings, place)
    return benchmark, scored(asked, read, file)


def scored(asked: AskedPolicy, read: ItemsRead, file: PredictionFile) -> dict[str, Any]:
    """Scores the predictions beside them; returns the row of ``scores.csv``."""
    benchmark, facts = read.benchmark, {"policy": asked.name, "instruction": asked.instruction}
    found = judged(benchmark, read.items, read_predictions(file.path))
    made = write_scores(file.folder, benchmark, found, asked.cfg.resamples, **facts)
    log.info("%s", describe(made))
    headline, paper = made["headline"], paper_numbers(benchmark.name, asked.origin)
    other = made["scores"]["vlmevalkit"][headline["name"]]["value"]
    return {
        "policy": asked.name,
        "benchmark": benchmark.name,
        "score": headline["name"],
        **{name: headline[name] for name in ("value", "low", "high")},
        "value_vlmevalkit": other,
        "n": made["n"],
        "n_unparsed": made["n_unparsed"]["locus"],
        "n_truncated": made["n_truncated"],
        "n_missing": made["n_missing"],
        "paper_base": paper[0] if paper else None,
        "paper_locus": paper[1] if paper else None,
        "instruction": asked.instruction,
        "job": job_of_launch(),
    }


def both_asked(before: dict[str, Any], after: dict[str, Any]) -> str:
    """The instruction of two policies' ``scores.json``, for ``comparisons.csv``; warns where there are two."""
    ways = [str(made.get("instruction", "unknown")) for made in (before, after)]
    if ways[0] == ways[1]:
        return ways[0]
    names = before.get("policy"), after.get("policy")
    log.warning(
        "%s and %s were asked differently (instruction %s and %s): what changes is of prompt and training together; "
        "think=true or think=false asks both alike",
        *names,
        *ways,
    )
    return " -> ".join(ways)


def alike(benchmark: Benchmark, before: dict[str, Any], after: dict[str, Any]) -> None:
    """Raises LocusError where two policies' ``scores.json`` were not made in the same way."""
    if before["extractor_version"] != after["extractor_version"]:
        raise LocusError("scored by different extractors; run evaluate again for both")
    judges = {before.get("judge_model"), after.get("judge_model"), judge_of(benchmark)}
    if len(judges) > 1:
        said = " and ".join(sorted(f"by {judge}" if judge else "without a judge" for judge in judges))
        raise LocusError(f"scored {said}; run evaluate again for both with the same benchmark.judge_model")


def compared(benchmark: Benchmark, folder: Path, resamples: int) -> Iterator[dict[str, Any]]:
    """Rows of ``comparisons.csv``: the first policy of ``scores.csv`` against each later one, by extractor.

    ``change``, ``low`` and ``high`` are of the paired bootstrap of the headline score; ``lost`` and ``won`` count the
    items that only the first and only the later policy is right on, ``mcnemar_p`` is their test. ``instruction`` is
    that of both, or "none -> think" where they were asked differently.
    """
    places = [*folder.glob(f"{benchmark.name}/scores.json"), *folder.glob(f"*/{benchmark.name}/scores.json")]
    rows = [row for row in read_rows(folder / "scores.csv") if row["benchmark"] == benchmark.name]
    named = {row["policy"] for row in rows}  # others beside this one have not ended
    found = {policy: read_scores(place.parent) for place in places if (policy := _policy_of(place)) in named}
    policies = [row["policy"] for row in rows if row["policy"] in found]
    first = policies[0] if policies else ""
    for policy in policies[1:]:
        try:
            alike(benchmark, found[first][0], found[policy][0])
            instruction = both_asked(found[first][0], found[policy][0])
            by_extractor = comparison(benchmark, found[first][1], found[policy][1], resamples)
        except LocusError as error:  # the scores themselves stand
            log.warning("%s and %s are not compared: %s", first, policy, error)
            continue
        for extractor, made in by_extractor.items():
            change = made["changes"][benchmark.headline]
            yield {
                "benchmark": benchmark.name,
                "before": first,
                "after": policy,
                "extractor": extractor,
                "score": benchmark.headline,
                "change": change["value"],
                **{name: change[name] for name in ("low", "high", "n")},
                **{name: made[name] for name in ("lost", "won", "mcnemar_p")},
                "instruction": instruction,
            }


def note(folder: Path, benchmark: Benchmark, row: dict[str, Any], resamples: int) -> None:
    """Writes a row of ``scores.csv``, and the rows of ``comparisons.csv`` of its benchmark anew."""
    with alone(folder / "scores.csv"):  # jobs of a sweep may end beside each other
        add_row(folder / "scores.csv", row, ("policy", "benchmark"))
        pairs = list(compared(benchmark, folder, resamples))
        replace_rows(folder / "comparisons.csv", pairs, {"benchmark": benchmark.name})


def _policy_of(place: Path) -> str | None:
    """Whose ``scores.json`` it is; None for one that tells nothing."""
    try:
        name: str = json.loads(place.read_text(encoding="utf-8"))["policy"]
        return name
    except (OSError, ValueError, KeyError, TypeError):
        return None


@hydra.main(version_base="1.3", config_path="../conf", config_name="evaluate")
@entry_point
def main(cfg: DictConfig) -> float | None:
    """The command; returns the headline score, of a shard alone none."""
    folder = Path(cfg.folder)
    ended = run(cfg, Path(HydraConfig.get().runtime.output_dir))
    if ended is None:
        return None
    benchmark, row = ended
    folder.mkdir(parents=True, exist_ok=True)  # hydra.run.dir may have put the run elsewhere
    note(folder, benchmark, row, cfg.resamples)
    log.info("%s", folder / "scores.csv")
    return row["value"]


if __name__ == "__main__":
    main()
