"""Evaluates a policy on a benchmark: ``python -m locus.evaluate`` (conf/evaluate.yaml)."""

from __future__ import annotations

from locus.run.help import answer_early

if __name__ == "__main__":
    answer_early()  # before the imports below, which take seconds

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
from locus.evaluation.benchmarks.formats import SUFFIXES
from locus.evaluation.evaluator import evaluate, limited
from locus.evaluation.predictions import PredictionFile, fingerprint, read_predictions
from locus.evaluation.scores import (
    add_row,
    comparison,
    describe,
    extractor_version,
    judged,
    read_rows,
    read_scores,
    write_scores,
)
from locus.run.policies import build_evaluator, with_policy
from locus.run.runtime import PACKAGES, entry_point, git_commit, hardware
from locus.run.settings import DecodingSettings
from locus.run.threads import choose_threads
from locus.tasks.answers import THINK_ANSWER

log = logging.getLogger("locus")
WEIGHTS = (".safetensors", ".bin", ".json")
UNSEEN = ("train_vision", "gradient_checkpointing", "recipe")
"""Settings of a backbone that responses do not depend on."""


def settings_of(cfg: DictConfig) -> dict[str, Any]:
    """All that responses depend on, for the manifest."""
    parts: dict[str, Any] = {
        name: OmegaConf.to_container(cfg[name], resolve=True) for name in ("benchmark", "backbone", "pixels")
    }
    backbone = {name: value for name, value in parts["backbone"].items() if name not in UNSEEN}
    path, benchmark = backbone.get("path") or "", parts["benchmark"]
    folder = bool(path) and Path(path).is_dir()
    return {
        "benchmark": benchmark,
        "files": fingerprint(benchmark["path"], SUFFIXES) if benchmark.get("path") else {},
        "backbone": backbone,
        "weights": fingerprint(path, WEIGHTS) if folder else {},
        "pixels": parts["pixels"],
        "sampling": OmegaConf.to_container(cfg.sampling, resolve=True),
        "seed": cfg.seed if cfg.sampling.temperature > 0 else None,
        "instruction": THINK_ANSWER if cfg.think else "",
        "token_budget": cfg.token_budget,
        "limit": cfg.limit,
    }


def predict(cfg: DictConfig, benchmark: Benchmark, folder: Path) -> PredictionFile:
    """Writes the missing predictions; the policy is loaded only if any is."""
    ids = [item.item_id for item in limited(benchmark, cfg.limit)]  # a broken file is found before hours of decoding
    choose_threads(cfg.device, folder / "manifest.json")
    record = {
        "name": benchmark.name,
        "headline": benchmark.headline,
        "extractor_version": extractor_version(),
        "versions": {package: version(package) for package in PACKAGES},
        "commit": git_commit(),
        "hardware": hardware(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    file = PredictionFile(folder, settings_of(cfg), ids, record)
    log.info("%s: %d of %d items are answered", benchmark.name, file.done, len(ids))
    if not file.finished:
        evaluator, pixels = build_evaluator(cfg)
        file.note(processor_pixels=pixels)
        evaluate(evaluator, benchmark, file, cfg.limit)
    return file


def run(cfg: DictConfig, folder: Path) -> tuple[Benchmark, dict[str, Any]]:
    """Predicts and scores one benchmark; returns it with its row of ``scores.csv``."""
    DecodingSettings.of(cfg)  # a wrong number is found before anything is read
    cfg, origin = with_policy(cfg, str(cfg.policy))
    benchmark = instantiate(cfg.benchmark, _convert_="all")
    place = folder / benchmark.name
    file = predict(cfg, benchmark, place)
    found = judged(benchmark, limited(benchmark, cfg.limit), read_predictions(file.path))
    made = write_scores(place, benchmark, found, cfg.resamples, policy=str(cfg.policy))
    log.info("%s", describe(made))
    headline, paper = made["headline"], paper_numbers(benchmark.name, origin)
    other = made["scores"]["vlmevalkit"][headline["name"]]["value"]
    return benchmark, {
        "policy": str(cfg.policy),
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
    }


def compared(benchmark: Benchmark, folder: Path, resamples: int) -> Iterator[dict[str, Any]]:
    """Rows of ``comparisons.csv``: the first policy of ``scores.csv`` against each later one, by extractor.

    ``change``, ``low`` and ``high`` are of the paired bootstrap of the headline score; ``lost`` and ``won`` count the
    items that only the first and only the later policy is right on, ``mcnemar_p`` is their test.
    """
    places = [*folder.glob(f"{benchmark.name}/scores.json"), *folder.glob(f"*/{benchmark.name}/scores.json")]
    found = {made.get("policy"): (made, verdicts) for made, verdicts in (read_scores(place.parent) for place in places)}
    rows = [row for row in read_rows(folder / "scores.csv") if row["benchmark"] == benchmark.name]
    policies = [row["policy"] for row in rows if row["policy"] in found]
    first = policies[0] if policies else ""
    for policy in policies[1:]:
        try:
            if found[first][0]["extractor_version"] != found[policy][0]["extractor_version"]:
                raise LocusError("scored by different extractors; run evaluate again for both")
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
            }


@hydra.main(version_base="1.3", config_path="../conf", config_name="evaluate")
@entry_point
def main(cfg: DictConfig) -> float | None:
    """The command; returns the headline score."""
    folder = Path(cfg.folder)
    benchmark, row = run(cfg, Path(HydraConfig.get().runtime.output_dir))
    folder.mkdir(parents=True, exist_ok=True)  # hydra.run.dir may have put the run elsewhere
    add_row(folder / "scores.csv", row, ("policy", "benchmark"))
    log.info("%s", folder / "scores.csv")
    for pair in compared(benchmark, folder, cfg.resamples):
        add_row(folder / "comparisons.csv", pair, ("benchmark", "before", "after", "extractor"))
    return row["value"]


if __name__ == "__main__":
    main()
