"""Logged runs as data frames: one run, a folder of runs, or a sweep."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from locus.analysis.claims import CROWDED
from locus.analysis.run_metrics import AFTER, BEFORE, validations
from locus.errors import LocusError
from locus.evaluation.endpoint import ENDPOINT
from locus.files.run_files import BEGUN_WITH, CHOICES
from locus.tasks.cue_search.task import CueSearch

log = logging.getLogger("locus")
PLACES = ("hydra", "resume", "corpus", "name", "planned")
"""Settings of a run that say where it is, not what it does."""
FACTS = ("run", "status", "step", "seed")
"""Columns of `load` that are no settings."""
TASKS = "tasks"
"""Column of `load`, and in ``run.json``: what runs of several tasks were trained on."""
SHARES = "task.shares."
MAX_SECONDS = "trainer.max_seconds"
"""Setting that bounds a run by time."""
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The same in C, where it is built: a dozen times as fast, and a sweep has hundreds of files."""
LESSONS = re.compile(rb"^lessons:", re.MULTILINE)
"""In the configuration of a run of ``locus.pretrain``, which none of ``locus.train`` has."""


def find(path: str | Path) -> list[Path]:
    """Folders of runs at or below ``path``, by name; those of pretraining only where there are no others.

    Raises LocusError where there is none.
    """
    path = Path(path)
    # Hydra and W&B write a config.yaml of their own into a run's folder.
    files = (file.relative_to(path) for file in path.rglob("config.yaml"))
    found = sorted(path / file.parent for file in files if not {".hydra", "wandb"} & {*file.parts})
    if not found:
        raise LocusError(f"{path}: no run below it; give a folder that holds config.yaml and metrics.csv, or one above")
    return [place for place in found if not LESSONS.search((place / "config.yaml").read_bytes())] or found


def label(folder: Path, path: str | Path) -> str:
    """What a run is called: its place below ``path``, or its own name where it is ``path``."""
    return folder.name if folder == Path(path) else str(folder.relative_to(path))


def load(path: str | Path, scores: str | Path | None = None, folders: Sequence[Path] | None = None) -> pd.DataFrame:
    """One row per run: what became of it.

    Args:
        path: a run's folder, or one above several.
        scores: ``scores.csv`` of evaluations of the runs' ``policy/`` folders.
        folders: what `find` said of ``path`` before, where the rows have to be of these.

    Returns:
        Columns ``run`` (see `label`), ``status`` (finished, failed, interrupted, crashed, or unfinished),
        ``step`` (the last logged), ``seed``, ``tasks`` (see `tasks_named`) where runs of one config group ``task``
        had several, every config group of which the runs chose differently, every setting in
        which they differ under its dotted name, the last validation (``val/...``), ``time/<phase>_s`` of the whole run
        and ``memory/peak_gb`` of the process that took its last step, ``score/<benchmark>`` (questions of the run's own
        evaluation, and of ``scores``), and the same of the base under ``base/val/...`` and ``base/score/...``.

    Raises:
        LocusError: no run there, or a file of a run that cannot be read.
    """
    folders = find(path) if folders is None else folders
    own_settings = _settings(folders)
    chosen = [choices(folder) for folder in folders]
    tasks = {folder: tasks_named(record(folder).get(TASKS) or {}) or None for folder in folders}
    groups, names = differing(chosen), differing(own_settings)
    several = len({*tasks.values()} - {None}) > 1 and "task" not in groups
    rows = []
    for folder, own, options in zip(folders, own_settings, chosen, strict=True):
        summary, facts = _json(folder / "summary.json"), record(folder)
        logged = metrics(folder, [folder])
        row = {"run": label(folder, path), "status": summary.pop("status", "unfinished")}
        row |= {"step": int(logged["step"].max()) if len(logged) else 0, "seed": own.get("seed")}
        row |= {TASKS: tasks[folder]} if several else {}
        row |= {name: options.get(name) for name in groups}
        row |= {name: own.get(name) for name in names}
        row |= {name: value for name, value in summary.items() if name.startswith("val/")}
        row |= _base_validation(logged) | _question_scores(folder / "questions.parquet")
        row |= {f"time/{name}_s": seconds for name, seconds in facts.get("seconds_per_phase", {}).items()}
        rows.append(row | {"memory/peak_gb": facts.get("peak_memory_gb")})
    frame = pd.DataFrame(rows)
    return frame if scores is None else frame.join(_scores(Path(scores), folders))


def axes(frame: pd.DataFrame) -> list[str]:
    """Columns of `load` in which its runs differ, seeds aside: config groups, then settings that no group explains."""
    plain = [name for name in frame if "/" not in name and name not in FACTS]
    groups = [name for name in plain if "." not in name]

    def explained(name: str) -> bool:
        if TASKS in plain and name.startswith("task."):  # of a run that ended before it said so, nothing is known
            told = frame.dropna(subset=TASKS).groupby(TASKS)[name].nunique(dropna=False)
            return name.startswith(SHARES) or told.max() == 1
        options = [group for group in plain if name.startswith(f"{group}.")]
        return bool(options) and frame.groupby(options, dropna=False)[name].nunique(dropna=False).max() == 1

    return groups + [name for name in plain if "." in name and not explained(name)]


def telling(frame: pd.DataFrame, settings: Sequence[str]) -> list[str]:
    """These settings, or the experiment alone where it says all."""
    if "experiment" in settings:
        names = frame[list(settings)].astype(str)
        if len(names.drop_duplicates()) == names["experiment"].nunique():
            return ["experiment"]
    return list(settings)


def tasks_named(shares: Mapping[str, float]) -> str:
    """``rotation``, or ``cue_search + rotation``; with the shares of the tasks where these are not alike."""
    names = sorted((name for name, share in shares.items() if share), key=cue_search_first)
    if len({round(shares[name], 3) for name in names}) < 2:
        return " + ".join(names)
    return " + ".join(f"{shares[name]:.2g} {name}" for name in names)


def cue_search_first(name: str) -> tuple[bool, str]:
    """To sort tasks by."""
    return name != CueSearch.name, name


def settings(folder: Path) -> dict[str, Any]:
    """A run's configuration under dotted names."""
    return flat(_yaml(folder / "config.yaml"))


def record(folder: Path) -> dict[str, Any]:
    """``run.json``; empty where a run has not come so far."""
    return _json(folder / "run.json")


def experiment(folders: Sequence[Path]) -> str | None:
    """The ``experiment=`` that these runs have in common; None where they have none."""
    names = {choices(folder).get("experiment") for folder in folders}
    return names.pop() if len(names) == 1 else None


def choices(folder: Path) -> dict[str, str]:
    """Config group (``trainer/order`` as ``trainer.order``) -> option; empty where there is no record of them."""
    found = choices_begun_with(folder)
    plain = (name for name in found if "@" not in name and not name.startswith("hydra/"))
    return {name.replace("/", "."): found[name] for name in plain}


def choices_begun_with(folder: Path) -> dict[str, str]:
    """Every config group -> option, as Hydra names them; of a run from before they were kept, Hydra's last record."""
    if (folder / CHOICES).exists():
        return _yaml(folder / CHOICES)
    file = folder / ".hydra" / "hydra.yaml"
    return _yaml(file).get("hydra", {}).get("runtime", {}).get("choices", {}) if file.exists() else {}


def metrics(path: str | Path, folders: Sequence[Path] | None = None) -> pd.DataFrame:
    """``metrics.csv`` of every run at or below ``path``, one row per logged step; column ``run`` names it.

    folders: as of `load`.
    """
    frames = []
    for folder in find(path) if folders is None else folders:
        file = folder / "metrics.csv"
        if not file.exists():
            continue
        try:
            frames.append(pd.read_csv(file).assign(run=label(folder, path)))
        except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
            raise LocusError(f"{file}: not a table of metrics ({error}); leave the run out, or run it again") from error
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame({"step": [], "run": []})


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings under dotted names; lists as text."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = str(value) if isinstance(value, list) else value
    return found


def _settings(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """Each run's settings under dotted names, without those that are copies of others wherever they are."""
    found, own = [], set()
    for folder in folders:
        begun = flat(_yaml(folder / BEGUN_WITH)) if (folder / BEGUN_WITH).exists() else {}
        copies = tuple(f"{name}." for name, value in begun.items() if str(value).startswith("${"))
        found.append(_of_trained_parts(settings(folder)))
        own |= {name for name in found[-1] if not f"{name}.".startswith(copies)}
    return [{name: value for name, value in one.items() if name in own} for one in found]


def _of_trained_parts(own: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without those of a mixture's parts that have no share: whatever they are, nothing is trained on them."""
    shares = {name: share for name, share in own.items() if name.startswith(SHARES)}
    idle = tuple(f"task.parts.{name.removeprefix(SHARES)}." for name, share in shares.items() if share == 0)
    return {name: value for name, value in own.items() if not name.startswith(idle)}


def differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names whose values are not the same in all, ``seed`` and places left out."""
    names = dict.fromkeys(name for own in settings for name in own)
    return [
        name
        for name in names
        if name.split(".")[0] not in (*PLACES, "seed")
        and not name.endswith(".seed")
        and len({str(own.get(name)) for own in settings}) > 1
    ]


def _base_validation(logged: pd.DataFrame) -> dict[str, float]:
    """The validation before step 1, under ``base/``."""
    first = validations(logged)
    first = first[first["step"] == 0]
    if not len(first):
        return {}
    return {f"base/{name}": float(first[name].iloc[0]) for name in logged if name.startswith("val/")}


def _question_scores(file: Path) -> dict[str, float]:
    """Accuracy by benchmark of the run's policy, and of its base under ``base/``; of families of scenes other than the
    crowded one as ``<family>: <benchmark>``."""
    if not file.exists():
        return {}
    rows = pd.read_parquet(file)
    if "family" in rows:
        named = rows["family"] + ": " + rows["benchmark"]
        rows["benchmark"] = rows["benchmark"].where(rows["family"] == CROWDED, named)
    means = rows.groupby(["policy", "benchmark"], sort=False)["score"].mean()
    prefixes = {BEFORE: "base/score/", AFTER: "score/"}
    return {prefixes[policy] + benchmark: float(value) for (policy, benchmark), value in means.items()}


def scores_of(file: str | Path) -> pd.DataFrame:
    """``scores.csv`` of evaluations; raises LocusError for a file that is none."""
    try:
        table = pd.read_csv(file)
    except (OSError, ValueError) as error:  # pandas' are among them
        raise LocusError(f"scores={file}: cannot be read ({error}); give a scores.csv of locus.evaluate") from error
    lacks = [name for name in ("policy", "benchmark", "value") if name not in table]
    if lacks:
        raise LocusError(f"scores={file}: no column {', '.join(lacks)}; give a scores.csv of locus.evaluate")
    return table


def _scores(file: Path, folders: Sequence[Path]) -> pd.DataFrame:
    """[runs] headline scores by benchmark, of each run's policy."""
    table = scores_of(file)
    places = {str((folder / "policy").resolve()): index for index, folder in enumerate(folders)}
    policies = [str(policy).removeprefix(f"{ENDPOINT}:") for policy in table["policy"]]
    table["place"] = [places.get(str(Path(policy).resolve())) for policy in policies]
    known = table.dropna(subset="place").drop_duplicates(["place", "benchmark"], keep="last")  # also asked in process
    if known.empty and len(table):
        text = "scores=%s: no policy of these runs is among its own, such as %s; give runs= the folder that they lie in"
        log.warning(text, file, table["policy"].iloc[0])
    return known.pivot(index="place", columns="benchmark", values="value").add_prefix("score/")


def _yaml(file: Path) -> dict[str, Any]:
    try:
        return yaml.load(file.read_text(), LOADER) or {}
    except (OSError, yaml.YAMLError) as error:
        raise LocusError(f"{file}: no configuration ({error}); leave the run out, or run it again") from error


def _json(file: Path) -> dict[str, Any]:
    """Empty where a run has not come so far."""
    if not file.exists():
        return {}
    try:
        return json.loads(file.read_text())
    except ValueError as error:
        raise LocusError(f"{file}: broken ({error}); leave the run out, or run it again") from error
