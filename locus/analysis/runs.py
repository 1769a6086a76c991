"""Logged runs as data frames: one run, a folder of runs, or a sweep."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from locus.errors import LocusError

PLACES = ("hydra", "resume", "corpus", "name")
"""Settings of a run that say where it is, not what it does."""


def find(path: str | Path) -> list[Path]:
    """Folders of runs at or below ``path``, by name. Raises LocusError where there is none."""
    path = Path(path)
    found = sorted(file.parent for file in path.rglob("config.yaml") if file.parent.name != ".hydra")
    if not found:
        raise LocusError(f"{path}: no run below it; give a folder that holds config.yaml and metrics.csv, or one above")
    return found


def label(folder: Path, path: str | Path) -> str:
    """What a run is called: its place below ``path``, or its own name where it is ``path``."""
    return folder.name if folder == Path(path) else str(folder.relative_to(path))


def load(path: str | Path, scores: str | Path | None = None) -> pd.DataFrame:
    """One row a run: what became of it.

    Args:
        path: a run's folder, or one above several.
        scores: ``scores.csv`` of evaluations of the runs' ``policy/`` folders.

    Returns:
        Columns ``run`` (see `label`), ``status`` (finished, failed, interrupted, crashed, or unfinished),
        ``step`` (the last logged), ``seed``, every setting in which the runs differ under its dotted name, the last
        validation (``val/...``), ``time/<phase>_s`` and ``memory/peak_gb`` of the whole run, and ``score/<benchmark>``.

    Raises:
        LocusError: no run there, or a file of a run that cannot be read.
    """
    folders = find(path)
    settings = [flat(_yaml(folder / "config.yaml")) for folder in folders]
    rows = []
    for folder, own in zip(folders, settings, strict=True):
        summary, record = _json(folder / "summary.json"), _json(folder / "run.json")
        logged = metrics(folder)
        row = {"run": label(folder, path), "status": summary.pop("status", "unfinished")}
        row |= {"step": int(logged["step"].max()) if len(logged) else 0, "seed": own.get("seed")}
        row |= {name: own.get(name) for name in differing(settings)}
        row |= {name: value for name, value in summary.items() if name.startswith("val/")}
        row |= {f"time/{name}_s": seconds for name, seconds in record.get("seconds_per_phase", {}).items()}
        rows.append(row | {"memory/peak_gb": record.get("peak_memory_gb")})
    frame = pd.DataFrame(rows)
    return frame if scores is None else frame.join(_scores(Path(scores), folders))


def metrics(path: str | Path) -> pd.DataFrame:
    """``metrics.csv`` of every run at or below ``path``, one row a logged step; column ``run`` tells them apart."""
    frames = []
    for folder in find(path):
        file = folder / "metrics.csv"
        if not file.exists():
            continue
        try:
            frames.append(pd.read_csv(file).assign(run=label(folder, path)))
        except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
            raise LocusError(f"{file}: no table of metrics ({error}); leave the run out, or run it again") from error
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


def _scores(file: Path, folders: Sequence[Path]) -> pd.DataFrame:
    """[runs] headline scores by benchmark, of each run's policy."""
    table = pd.read_csv(file)
    places = {str((folder / "policy").resolve()): index for index, folder in enumerate(folders)}
    table["place"] = [places.get(str(Path(policy).resolve())) for policy in table["policy"]]
    known = table.dropna(subset="place")
    return known.pivot(index="place", columns="benchmark", values="value").add_prefix("score/")


def _yaml(file: Path) -> dict[str, Any]:
    try:
        return yaml.safe_load(file.read_text()) or {}
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
