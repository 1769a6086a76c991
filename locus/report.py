"""Shows runs on one page, with tables: ``python -m locus.report runs=...`` (conf/report.yaml). Entry point."""

from __future__ import annotations

from locus.run.help import answer_early

if __name__ == "__main__":
    answer_early()  # before the imports below, which take seconds

import html
import logging
from collections.abc import Sequence
from pathlib import Path

import hydra
import pandas as pd
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from locus.analysis import ablations, claims_over_seeds
from locus.analysis.ablations import cells
from locus.analysis.claims import STATED
from locus.analysis.pages.page import Section, write_report
from locus.analysis.pages.sweep import (
    ablation_bars,
    attention_by_layer,
    browser_of,
    dynamics,
    frames_of,
    gallery_of,
    iou_histograms,
    means_over_seeds,
    rollouts_of,
    setting_of,
    table_of,
)
from locus.analysis.pages.tasks import task_sections
from locus.analysis.paper import ABLATIONS, ablation_of, against_locus, paper_table
from locus.analysis.published import published_section
from locus.analysis.runs import axes, experiment, find, label, load, metrics, scores_of
from locus.analysis.task_comparison import Comparison, comparisons, several_tasks
from locus.analysis.task_runs import task_runs
from locus.errors import LocusError
from locus.run.runtime import entry_point

log = logging.getLogger("locus")


def sections_of(cfg: DictConfig, folder: Path) -> list[Section]:
    """What the page shows; the tables are written to ``tables/``, the curves to ``figures/``."""
    folders = find(cfg.runs)  # once: a sweep that goes on has more of them later
    runs = load(cfg.runs, cfg.scores, folders)
    found = task_runs(runs, folders)
    compared, alike = comparisons(found), not several_tasks(found)
    opening = compared_sections(compared, runs, folder) if compared else []
    # A sweep of tasks and their mixtures with cue search has cue search alone twice: no seed of its own.
    once = folders if alike else [run.folder for run in found]
    opening += claim_sections(cfg, runs, folders, folder / "tables", once, alike)
    sections = [Section("Runs", f"{len(runs)} below {cfg.runs}; settings in which they differ.", table_of(runs))]
    means = means_over_seeds(runs[[one in once for one in folders]])
    if means is not None:
        sections.append(Section("Means over seeds", "Finished runs; ± is half the 95 % interval of the mean.", means))
    sections += paper_sections(cfg, runs, folders)
    if cfg.scores is not None and (published := published_section(scores_of(cfg.scores))) is not None:
        sections.append(published)
    for section in sections:
        ablations.save(section.table, folder / "tables" / section.title.lower().replace(" ", "_").replace(":", ""))
    run = browsed(cfg, folders)
    sections += figure_sections(cfg, runs, folders, folder / "figures", alike)
    return opening + sections + gallery_sections(run) + rollout_sections(cfg, run)


def compared_sections(compared: Sequence[Comparison], runs: pd.DataFrame, folder: Path) -> list[Section]:
    """What opens the page of runs of several tasks: what each teaches; its numbers go to tables/, its pictures to
    figures/."""
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    sections = []
    for name, section, numbers in task_sections(compared, runs.loc[runs["status"] != "finished", "run"].tolist()):
        if section.table is not None:
            ablations.save(section.table, folder / "tables" / name, numbers)
        for picture in section.pictures:
            picture.save(folder / "figures" / f"{name}.png")
        sections.append(section)
    return sections


def claim_sections(
    cfg: DictConfig, runs: pd.DataFrame, folders: Sequence[Path], folder: Path, kept: Sequence[Path], alike: bool
) -> list[Section]:
    """The claims of every setting over its seeds, and LOCUS against the others; their numbers go to CSV files in the
    folder. Nothing where finished runs have no tables that decide a claim.

    Args:
        cfg: of conf/report.yaml.
        runs: of `runs.load`.
        folders: of its rows.
        folder: of the CSV files.
        kept: of these folders: others are left out.
        alike: all were trained on the same tasks. If not, LOCUS stands against others only where something says it.
    """
    names = setting_of(runs) if axes(runs) else pd.Series("all", index=runs.index)
    done = runs["status"] == "finished"
    found = zip(names, runs["seed"], folders, done, strict=True)
    settings = claims_over_seeds.gathered(
        [(name, seed, run) for name, seed, run, ended in found if ended and run in kept]
    )
    if cfg.locus is not None and cfg.locus not in settings:
        raise LocusError(f"locus={cfg.locus}: no such setting; give one of {' or '.join(settings) or 'finished runs'}")
    judged = claims_over_seeds.judged(settings)
    if not judged:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    claims_over_seeds.numbers(judged).to_csv(folder / "claims.csv", index=False)
    text = (
        "Finished runs: base against trained policy on the same items; 95 % bootstrap in which scenes and seeds are "
        "drawn crossed. claims.csv has the numbers, and those beside the claims."
    )
    stated = [f"{claim.name}: {claim.statement}" for claim in STATED.values()]
    verdicts = claims_over_seeds.verdict_table(judged, settings)
    sections = [
        Section("Claims over seeds", text, verdicts, lines=stated),
        Section("Numbers of the claims", "With their 95 % intervals.", claims_over_seeds.number_table(judged)),
    ]
    locus = cfg.locus or locus_among(cfg.table or experiment(folders), runs[done], names[done], alike)
    if len(settings) > 1 and locus is not None:
        controls = claims_over_seeds.against_controls(settings, locus)
        claims_over_seeds.numbers({name: [claim] for name, claim in controls.items()}).to_csv(
            folder / "locus_minus_control.csv", index=False
        )
        text = (
            f"LOCUS: {locus}. How much more questions in crowded scenes improve with it than with each other setting "
            "(H2's mean change; the same questions and seeds; scenes and seeds crossed)."
        )
        sections.append(Section("LOCUS minus control", text, claims_over_seeds.control_table(controls)))
    seeds = claims_over_seeds.by_seed(settings)
    if len(seeds):
        seeds.to_csv(folder / "claims_by_seed.csv", index=False)
        text = (
            "H2, the mean change of five benchmarks in points: each seed alone, the crossed bootstrap, and the seeds' "
            "random-effects mean (DerSimonian-Laird, Hartung-Knapp interval), which takes the scenes as given."
        )
        sections.append(Section("H2 by seed", text, claims_over_seeds.seed_table(seeds, judged)))
    return sections


def locus_among(table: str | None, runs: pd.DataFrame, names: pd.Series, alike: bool) -> str | None:
    """The setting that is LOCUS: of the paper's table of this name, where the runs repeat it, else the experiment
    ``…/locus``, else the first of runs that are alike in their tasks."""
    ablation = ablation_of(runs, table)
    if ablation is not None:
        ours = runs[ablation.group] == ablation.locus
    else:
        chosen = runs["experiment"].astype(str) if "experiment" in runs else names
        ours = chosen.str.split("/").str[-1] == "locus"
    if not ours.any() and not alike:
        return None
    return str((names[ours] if ours.any() else names).iloc[0])


def paper_sections(cfg: DictConfig, runs: pd.DataFrame, folders: Sequence[Path]) -> list[Section]:
    """The runs as the table of the paper that they repeat; raises LocusError for one that they are not of."""
    name = cfg.table or experiment(folders)
    ablation = ablation_of(runs, name)
    if ablation is None:
        if cfg.table is not None:
            groups = ", ".join(f"{table} ({one.group}=)" for table, one in ABLATIONS.items())
            raise LocusError(f"table={cfg.table}: give one whose config group differs among finished runs, of {groups}")
        return []
    text = (
        "Ours: means over seeds ± half their 95 % interval, after training: held-out cue search, then questions "
        "without a cue. The paper's columns: Qwen2.5-VL-7B, in percent."
    )
    sections = [Section(f"{ablation.title}: {name}", text, cells(paper_table(runs, ablation), axes(runs)))]
    less = against_locus(runs, ablation)
    if len(less):
        text = "Mean over seeds of the difference within a seed, ± half its 95 % interval: above 0 LOCUS is better."
        sections.append(Section(f"{ablation.title}: LOCUS less the others", text, cells(less, axes(runs))))
    return sections


def figure_sections(
    cfg: DictConfig, runs: pd.DataFrame, folders: Sequence[Path], folder: Path, alike: bool = True
) -> list[Section]:
    """The pictures that the runs have the data for; each is saved in ``figures/``, too.

    alike: all are validated on one task, so that their validations can stand beside each other.
    """
    settings = setting_of(runs)
    logged, of_runs = metrics(cfg.runs, folders), list(zip(settings, folders, strict=True))
    drawn = {"Training": (dynamics(logged, dict(zip(runs["run"], settings, strict=True))), "Over steps.")}
    if alike:
        drawn |= {
            "Settings": (ablation_bars(runs), "Last validation, with 95 % intervals over seeds."),
            "IoU": (iou_histograms(of_runs), "Of the last validation's examples."),
            "Attention in box": (attention_by_layer(of_runs), "By layer; dotted: the boxes' own area."),
        }
    folder.mkdir(exist_ok=True)
    shown = {title: (picture, text) for title, (picture, text) in drawn.items() if picture is not None}
    for title, (picture, _) in shown.items():
        picture.save(folder / f"{title.lower().replace(' ', '_')}.png")
    return [Section(title, text, pictures=[picture]) for title, (picture, text) in shown.items()]


def browsed(cfg: DictConfig, folders: Sequence[Path]) -> Path:
    """The run whose rollouts can be looked through; raises LocusError for one that is not there."""
    names = [label(run, cfg.runs) for run in folders]
    if cfg.browse is None:
        return folders[0]
    if cfg.browse not in names:
        raise LocusError(f"browse={cfg.browse}: no such run below {cfg.runs}; give one of {', '.join(names)}")
    return folders[names.index(cfg.browse)]


def gallery_sections(run: Path) -> list[Section]:
    """The pictures of a run's last validation, where it drew any."""
    steps = sorted((run / "validation").glob("step-*"))
    if not steps:
        return []
    text = "Of the last validation: the image with the true box and the predicted one, and the cue."
    return [Section(f"Gallery: {run.name}", text, pictures=gallery_of(steps[-1]))]


def rollout_sections(cfg: DictConfig, run: Path) -> list[Section]:
    """Frame check and rollout browser of one run; nothing where it has no rollouts, as with algorithm=sft."""
    if not (run / "rollouts.parquet").exists() or (rollouts := rollouts_of(run)).empty:
        return []
    text = (
        "Corners that the policy wrote against true corners, over the last tenth of the steps: scale 1 and offset 0 "
        "mean that boxes are read in the frame they are written in."
    )
    try:
        source = instantiate(OmegaConf.load(run / "config.yaml").data.source, _convert_="all")
        browser = browser_of(rollouts, source.open, cfg.rollouts)
    except (LocusError, OSError, InstantiationException) as error:
        browser = f"<p>Left out, for the images cannot be read: {html.escape(str(error))}</p>"
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
    for section in sections:
        if section.table is not None:
            log.info("%s\n%s", section.title, section.table.to_string(index=False))
    log.info("report: %s", folder / "report.html")


if __name__ == "__main__":
    main()
