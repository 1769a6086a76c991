"""Runs -> tables, figures and one page: ``python -m locus.report runs=...`` (conf/report.yaml). Wires."""

from __future__ import annotations

import logging
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from locus.analysis import ablations
from locus.analysis.report import Section, write_report
from locus.analysis.runs import find, label, load, metrics
from locus.analysis.runs_report import ablation_of, browser_of, dynamics, frames_of, rollouts_of, table_of
from locus.errors import LocusError
from locus.runtime import entry_point

log = logging.getLogger("locus")


def sections_of(cfg: DictConfig, folder: Path) -> list[Section]:
    """What the page shows; the tables are written to ``tables/``, the curves to ``figures/``."""
    runs = load(cfg.runs, cfg.scores)
    sections = [Section("Runs", f"{len(runs)} below {cfg.runs}; settings in which they differ.", table_of(runs))]
    means = ablation_of(runs)
    if means is not None:
        sections.append(Section("Means over seeds", "Finished runs; ± is half the 95 % interval of the mean.", means))
    for section in sections:
        ablations.save(section.table, folder / "tables" / section.title.lower().replace(" ", "_"))
    curves = dynamics(metrics(cfg.runs))
    (folder / "figures").mkdir(exist_ok=True)
    curves.save(folder / "figures" / "dynamics.png")
    sections.append(Section("Training", "Over steps.", pictures=[curves]))
    return sections + rollout_sections(cfg, browsed(cfg))


def browsed(cfg: DictConfig) -> Path:
    """The run whose rollouts can be looked through; raises LocusError for one that is not there."""
    found = find(cfg.runs)
    names = [label(run, cfg.runs) for run in found]
    if cfg.browse is None:
        return found[0]
    if cfg.browse not in names:
        raise LocusError(f"browse={cfg.browse}: no such run below {cfg.runs}; give one of {', '.join(names)}")
    return found[names.index(cfg.browse)]


def rollout_sections(cfg: DictConfig, run: Path) -> list[Section]:
    """Frame check and rollout browser of one run; nothing where it has no rollouts, as with method=sft."""
    if not (run / "rollouts.parquet").exists() or (rollouts := rollouts_of(run)).empty:
        return []
    text = (
        "Corners that the policy wrote against true corners, over the last tenth of the steps: scale 1 and offset 0 "
        "mean that boxes are read in the frame they are written in."
    )
    source = instantiate(OmegaConf.load(run / "config.yaml").data.source, _convert_="all")
    try:
        browser = browser_of(rollouts, source.open, cfg.rollouts)
    except (LocusError, OSError) as error:
        browser = f"<p>Left out, for the images cannot be read: {error}</p>"
    return [
        Section(f"Frame of the boxes: {run.name}", text, frames_of(rollouts)),
        Section(f"Rollouts: {run.name}", "Green: true box; its crop beside. Orange: rollouts.", markup=browser),
    ]


@hydra.main(version_base="1.3", config_path="../conf", config_name="report")
@entry_point
def main(cfg: DictConfig) -> None:
    """The command."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    sections = sections_of(cfg, folder)
    write_report(folder / "report.html", f"locus: {cfg.runs}", "", sections)
    for section in sections[:2]:
        if section.table is not None:
            log.info("%s\n%s", section.title, section.table.to_string(index=False))
    log.info("report: %s", folder / "report.html")


if __name__ == "__main__":
    main()
