"""Diagnoses policies: ``python -m locus.analyze analysis=...`` (conf/analyze.yaml). Entry point."""

from __future__ import annotations

from locus.run.help import answer_early

if __name__ == "__main__":
    answer_early()  # before the imports below, which take seconds

import logging
from pathlib import Path

import hydra
import pandas as pd
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig

from locus.analysis.diagnoses.shared import measure as measured_by
from locus.analysis.pages.page import Section, write_report
from locus.analysis.tables import as_text
from locus.errors import LocusError
from locus.run.decoding_settings import DecodingSettings
from locus.run.policies import build_evaluator, with_policy
from locus.run.runtime import entry_point
from locus.run.threads import choose_threads

log = logging.getLogger("locus")


def labels(policies: list[str]) -> list[str]:
    """A short name of each: of a run's ``policy/`` the run, else the last part; whole if two would be alike."""
    paths = [Path(policy) for policy in policies]
    short = [path.parent.name if path.name == "policy" else path.name for path in paths]
    return short if len(set(short)) == len(short) else policies


def resolved(cfg: DictConfig) -> dict[str, DictConfig]:
    """Label -> configuration of each policy; raises LocusError for what would fail after hours of decoding."""
    policies = [cfg.policies] if isinstance(cfg.policies, str) else [str(policy) for policy in cfg.policies]
    if not policies or len(set(policies)) < len(policies):
        raise LocusError(f"policies={policies}: give one or more, each once")
    found = {}
    for name, policy in zip(labels(policies), policies, strict=True):
        one, _ = with_policy(cfg, policy)
        path = one.backbone.get("path")
        if path is not None and len(Path(path).parts) > 2 and not Path(path).is_dir():  # a hub id has two parts
            raise LocusError(f"policy {path}: no such folder; give the policy/ folder of a run")
        found[name] = one
    return found


def measure(cfg: DictConfig, folder: Path) -> Section:
    """Measures one policy after the other, one at a time in memory; ``<analysis>.parquet`` grows with each."""
    DecodingSettings.of(cfg)  # a wrong number is found before anything is read
    choose_threads(cfg.device)
    frames: list[pd.DataFrame] = []
    for name, one in resolved(cfg).items():
        diagnosis = instantiate(one.analysis, _convert_="all")
        evaluator, _ = build_evaluator(one)
        frames.append(measured_by(diagnosis, evaluator, name))
        del evaluator  # before the next one is loaded
        measured = pd.concat(frames, ignore_index=True)
        measured.to_parquet(folder / f"{diagnosis.name}.parquet", index=False)
    return diagnosis.section(measured)


def write(section: Section, folder: Path) -> None:
    """``table.csv``, ``figures/`` and ``report.html``."""
    if section.table is not None:
        section.table.to_csv(folder / "table.csv", index=False)
    (folder / "figures").mkdir(exist_ok=True)
    for number, picture in enumerate(section.pictures):
        picture.save(folder / "figures" / f"{number:02d}.png")
    write_report(folder / "report.html", f"locus: {section.title}", "", [section])


@hydra.main(version_base="1.3", config_path="../conf", config_name="analyze")
@entry_point
def main(cfg: DictConfig) -> None:
    """The command."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    section = measure(cfg, folder)
    write(section, folder)
    log.info("%s\n%s", section.title, as_text(section.table))
    log.info("report: %s", folder / "report.html")


if __name__ == "__main__":
    main()
