"""Draws and audits a corpus of crops: ``python -m locus.prepare`` (conf/prepare.yaml). Entry point.

It writes ``corpus.parquet`` and ``corpus.json``, and
- with ``rationales=``, rationales of the training examples (``targets.jsonl``);
- with ``cue=text_endpoint``, expressions of all examples, for ``cue=text_file`` (``expressions.jsonl``);
- with ``leak.against=``, the training images that are also in benchmarks (``leaks.jsonl``);
  ``leak.exclude=true`` leaves them out.
"""

from __future__ import annotations

from locus.run.help import answer_early

if __name__ == "__main__":
    answer_early()  # before the imports below, which take seconds

import time
from collections.abc import Collection
from dataclasses import asdict, replace
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import MissingConfigException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from locus.errors import LocusError
from locus.evaluation.benchmarks.file_benchmark import FileBenchmark
from locus.evaluation.leaks import Leak, LeakCheck, find_leaks, leak_summary
from locus.files.run_files import write_lines
from locus.run.runtime import entry_point
from locus.run.settings import check_seed
from locus.tasks.cue_search.audits import audited_corpus
from locus.tasks.cue_search.corpus import Corpus, shortfall
from locus.tasks.cue_search.rationales import write_rationales
from locus.tasks.cue_search.teacher import TeacherExpressions, write_expressions
from locus.types import ImageTable


def prepare(cfg: DictConfig, folder: str | Path) -> Corpus:
    """Builds the corpus of a configuration and saves it in ``folder``, then the rationales and expressions.

    Raises LocusError for wrong input.
    """
    check_seed(cfg.seed)
    rationales = instantiate(cfg.rationales, _convert_="all")
    teacher = instantiate(cfg.cue, _convert_="all")
    if not isinstance(teacher, TeacherExpressions | None):
        raise LocusError(
            "cue: locus.prepare knows cue=text_endpoint alone, which writes expressions; give others to locus.train"
        )
    source = instantiate(cfg.data.source, _convert_="all")
    check = instantiate(cfg.leak, _convert_="all")
    images = check.images or {}
    benchmarks = [file_benchmark(name, cfg.benchmarks, images.get(name, "")) for name in check.against]
    leaks: list[Leak] = []

    def leave_out(table: ImageTable) -> Collection[str]:
        leaks.extend(find_leaks(table, source, benchmarks, check))
        return left_out(leaks, table, check)

    corpus = audited_corpus(
        source,
        instantiate(cfg.crop, _convert_="all"),
        cfg.data.train_examples,
        cfg.data.validation_examples,
        cfg.seed,
        validation_strategy=instantiate(cfg.validation_crop, _convert_="all"),
        audit=instantiate(cfg.audit),
        leave_out=leave_out if benchmarks else None,
    )
    if benchmarks:
        corpus = replace(corpus, audits=corpus.audits | {"leaks": leak_summary(leaks, corpus, check)})
    corpus.save(folder)
    if benchmarks:
        write_lines(Path(folder) / "leaks.jsonl", [asdict(leak) for leak in leaks])
    write_rationales(rationales, corpus.train, folder)
    if teacher:
        write_expressions(teacher, [*corpus.train, *corpus.validation], folder)
    return corpus


def file_benchmark(name: str, benchmarks: str, images: str) -> FileBenchmark:
    """A benchmark of conf/benchmark by its name; raises LocusError for one that is not read from files."""
    try:
        chosen = hydra.compose("evaluate", [f"benchmark={name}", f"benchmarks={benchmarks}"])
    except MissingConfigException:
        raise LocusError(
            f"leak.against: conf/benchmark has no {name}; give names from there, such as refcoco"
        ) from None
    if images:
        OmegaConf.update(chosen, "benchmark.images", images, force_add=True)
    benchmark = instantiate(chosen.benchmark, _convert_="all")
    if not isinstance(benchmark, FileBenchmark):
        raise LocusError(f"leak.against: {name} is generated, so no training image stands in it; leave it out")
    return benchmark


def left_out(leaks: list[Leak], table: ImageTable, check: LeakCheck) -> Collection[str]:
    """Ids of the images that the corpus goes without; raises LocusError where that is all of them."""
    found = {leak.image_id for leak in leaks} if check.exclude else set()
    if found and len(found) == len(table.image_id):
        raise LocusError(
            f"all {len(found)} images stand in {', '.join(check.against)}: give other images, or leak.exclude=false"
        )
    return found


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
        told = ", ".join(f"{name} {value}" for name, value in found.items() if not isinstance(value, list))
        lines.append(f"{audit}: {told}")
    return "\n".join([*lines, *filter(None, [shortfall(corpus)]), f"hash: {summary['hash']}"])


@hydra.main(version_base="1.3", config_path="../conf", config_name="prepare")
@entry_point
def main(cfg: DictConfig) -> None:
    """The command: writes the corpus to the run folder and prints its table."""
    start = time.perf_counter()
    folder = HydraConfig.get().runtime.output_dir
    print(describe(prepare(cfg, folder)))
    print(f"{folder}: {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
