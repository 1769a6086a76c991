"""``python -m locus.prepare``: images and boxes -> audited cue corpus (``corpus.parquet``, ``corpus.json``)."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from locus.data.audits import audited_corpus
from locus.data.corpus import Corpus, shortfall
from locus.errors import LocusError


def prepare(cfg: DictConfig, folder: str | Path) -> Corpus:
    """Builds the corpus of a configuration and saves it in ``folder``; raises LocusError for wrong input."""
    missing = missing_keys(OmegaConf.to_container(cfg, resolve=False))
    if missing:
        raise LocusError(f"{', '.join(missing)}: no value; pass {' '.join(f'{key}=...' for key in missing)}")
    corpus = audited_corpus(
        instantiate(cfg.data.source, _convert_="all"),
        instantiate(cfg.crop, _convert_="all"),
        cfg.data.train_examples,
        cfg.data.validation_examples,
        cfg.seed,
        **cfg.audit,
    )
    corpus.save(folder)
    return corpus


def missing_keys(values: Any, path: str = "") -> list[str]:
    """Dotted names of the values that are still ``???``; omegaconf's own fails on interpolations to them."""
    if isinstance(values, dict):
        return [key for name, value in values.items() for key in missing_keys(value, f"{path}.{name}".strip("."))]
    return [path] if values == "???" else []


def describe(corpus: Corpus) -> str:
    """A short table: examples by bin and split, audits, hash."""
    summary = corpus.summary()
    bins = sorted(set().union(*summary["bins"].values()))
    rows = [["", *bins, "all", "images", "asked"]]
    for split, counts in summary["bins"].items():
        numbers = [counts.get(name, 0) for name in bins]
        rows.append([split, *numbers, summary["examples"][split], summary["images"][split], corpus.asked[split]])
    lines = ["".join(f"{cell:>12}" for cell in row) for row in rows]
    for audit, found in corpus.audits.items():
        numbers = ", ".join(f"{name} {value}" for name, value in found.items() if not isinstance(value, list))
        lines.append(f"{audit}: {numbers}")
    return "\n".join([*lines, *filter(None, [shortfall(corpus)]), f"hash: {summary['hash']}"])


@hydra.main(version_base="1.3", config_path="../conf", config_name="prepare")
def main(cfg: DictConfig) -> None:
    start = time.perf_counter()
    folder = HydraConfig.get().runtime.output_dir
    try:
        corpus = prepare(cfg, folder)
    except LocusError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    print(describe(corpus))
    print(f"{folder}: {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
