"""A run around the algorithm: its folder, record, loggers, and the one place where errors become words."""

from __future__ import annotations

import contextlib
import copy
import errno
import functools
import logging
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import InstantiationException
from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException
from omegaconf import DictConfig, OmegaConf

from locus.analysis.runs import choices_begun_with
from locus.errors import LocusError
from locus.files.checkpoints import checkpoints, latest_checkpoint
from locus.files.progress import INTERVAL, set_interval
from locus.files.run_files import BEGUN_WITH, CHOICES, only_writer, write_json, write_text
from locus.run.sweeps import in_sweep, record_failure, resume_point

log = logging.getLogger("locus")
ASSETS = Path(__file__).parents[1] / "assets"
OmegaConf.register_new_resolver("asset", lambda name: str(ASSETS / name), replace=True)
OmegaConf.register_new_resolver("brief", lambda text: text.replace("/", "_")[:200], replace=True)
_opened_runs: set[Path] = set()
"""Folders whose runs are this call's by now, and whose end it records."""
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class RunFolder:
    """Where a run writes, and from where it goes on."""

    path: Path
    checkpoint: Path | None = None
    last_step: int = 0
    """Finished steps of the checkpoint; 0 for a new run."""
    begun_with: str = ""
    """The run's configuration with its interpolations, of which instantiating parts of it resolves some in place."""
    resolved: str = ""
    """The same without them."""


@contextlib.contextmanager
def open_run(cfg: DictConfig) -> Iterator[tuple[DictConfig, RunFolder]]:
    """The run's folder and configuration; with ``resume=`` those of the earlier run, with this call's dotted overrides.

    A job of a sweep whose folder holds a run of an earlier launch resumes it.
    With ``resume=`` they stay as they are until `keep_configuration`, for what is overridden may yet be refused.
    Raises LocusError when there is nothing whole to resume from, more than dotted keys is overridden on resume, or
    another process has it open.
    """
    path, resumes = run_folder(cfg), not OmegaConf.is_missing(cfg, "resume")
    if resumes and not (path / "config.yaml").is_file():
        _remove_new_folder(path)
        raise LocusError(f"resume={path}: no folder of a run; give one that holds config.yaml and checkpoints")
    with only_writer(path):
        cfg, folder = _opened(cfg, path)
        set_interval(OmegaConf.select(cfg, "progress.every", default=INTERVAL))
        resolved = cfg.copy()
        OmegaConf.resolve(resolved)
        folder = replace(folder, begun_with=OmegaConf.to_yaml(cfg), resolved=OmegaConf.to_yaml(resolved))
        if not resumes:
            write_text(path / CHOICES, OmegaConf.to_yaml(HydraConfig.get().runtime.choices))
            keep_configuration(folder)
        yield cfg, folder


def keep_configuration(folder: RunFolder) -> None:
    """From here on it is the run's, also where it is resumed, and an earlier end of the run is none."""
    write_text(folder.path / BEGUN_WITH, folder.begun_with)
    write_text(folder.path / "config.yaml", folder.resolved)
    (folder.path / "summary.json").unlink(missing_ok=True)
    _opened_runs.add(folder.path)


def _opened(cfg: DictConfig, path: Path) -> tuple[DictConfig, RunFolder]:
    if not OmegaConf.is_missing(cfg, "resume"):
        folder = RunFolder(path, *latest_checkpoint(path))
        changes = [text for text in HydraConfig.get().overrides.task if not text.startswith("resume=")]
        return _resumed(path, changes, {str(key) for key in cfg}), folder
    held = [name for name in ("checkpoints", "metrics.csv", "policy") if (path / name).exists()]
    if in_sweep() and (path / BEGUN_WITH).exists():
        folder = RunFolder(path, *resume_point(path, cfg))
    elif held:
        raise LocusError(f"{path} already holds a run ({', '.join(held)}): resume={path}, or give another folder")
    else:
        folder = RunFolder(path)
    return cfg, folder


def _remove_new_folder(resumed: Path) -> None:
    """Removes what Hydra has made by now for this very call below a mistyped ``resume=``."""
    shutil.rmtree(HydraConfig.get().runtime.output_dir, ignore_errors=True)
    with contextlib.suppress(OSError):  # it holds something else
        resumed.rmdir()


def _resumed(folder: Path, changes: list[str], sections: set[str]) -> DictConfig:
    """The configuration of an earlier run with dotted overrides.

    ``sections`` are the keys that it must have; without one it is of another version.
    """
    path = folder / BEGUN_WITH
    try:
        # The run's own groups open their keys.
        same = {f"{group}={choice}" for group, choice in choices_begun_with(folder).items()}
        changes = [text for text in changes if text not in same]
        keys = [one.key_or_group for one in OverridesParser.create().parse_overrides(changes)]
        named = list(zip(changes, keys, strict=True))
        whole = [text for text, key in named if "." not in key or text[0] in "+~"]
        if whole:
            refused = f"{' '.join(whole)} would change the run; only dotted keys may be overridden"
            raise LocusError(f"resume={folder}: {refused}")
        earlier = OmegaConf.load(path)
        if not earlier:
            raise ValueError("it is empty")
        if lacks := sorted(sections - {str(key) for key in earlier}):
            raise ValueError(f"another version of locus wrote it: it has no {', '.join(lacks)}")
        if foreign := [text for text, key in named if not _has(earlier, key)]:
            raise LocusError(f"resume={folder}: the run has no {' '.join(foreign)}: its keys stand in its config.yaml")
        cfg: Any = overridden(earlier, changes)
    except LocusError:
        raise
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise LocusError(f"resume={folder}: {path} cannot be read ({error}); start the run anew") from error
    return cfg


def overridden(cfg: Any, changes: list[str]) -> Any:
    """The configuration with dotted overrides of keys that it has, read as on a command line: Hydra's are no YAML."""
    cfg = copy.deepcopy(cfg)
    for one in OverridesParser.create().parse_overrides(changes):
        OmegaConf.update(cfg, one.key_or_group, one.value(), merge=True)
    return cfg


def _has(cfg: Any, key: str) -> bool:
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(cfg, parent) if parent else cfg
    return OmegaConf.is_list(node) or (OmegaConf.is_dict(node) and name in node.keys())  # noqa: SIM118  # a null, too


def missing_keys(values: Any, path: str = "") -> list[str]:
    """Dotted names of the values that are still ``???``; omegaconf's own fails on interpolations to them."""
    if isinstance(values, dict):
        return [key for name, value in values.items() for key in missing_keys(value, f"{path}.{name}".strip("."))]
    return [path] if values == "???" else []


def entry_point(main: Callable[[DictConfig], Any]) -> Callable[[DictConfig], Any]:
    """Turns a user's wrong input into one line and exit status 2; a full disk and an interrupt, too.

    Any other error is a defect and keeps its traceback. What happened is written to ``summary.json``.
    In a sweep neither ends the process: the job has no result, the others go on, and `sweeps.FailedJobs` tells.
    """

    @functools.wraps(main)
    def guarded(cfg: DictConfig) -> Any:
        missing = [key for key in missing_keys(OmegaConf.to_container(cfg, resolve=False)) if key != "resume"]
        try:
            if missing:
                raise LocusError(f"no value for {', '.join(missing)}: pass {' '.join(f'{key}=...' for key in missing)}")
            set_interval(OmegaConf.select(cfg, "progress.every", default=INTERVAL))
            _opened_runs.clear()
            return main(cfg)
        except (KeyboardInterrupt, SystemExit) as error:
            # Lightning answers an interrupt by tidying up and leaving with status 1.
            terminated = isinstance(error, SIGTERMException)
            stopped = terminated or isinstance(error.__context__, KeyboardInterrupt)
            if isinstance(error, SystemExit) and not stopped:
                raise
            folder = run_folder(cfg)
            begun = checkpoints(folder)
            remedy = f"resume with resume={folder}" if begun else "before the first checkpoint: start the run anew"
            if "folder" in cfg and any(folder.rglob("predictions.jsonl")):
                remedy = f"resume with the same command and folder={cfg.folder}"
            _give_up(cfg, "interrupted", f"interrupted; {remedy}", 143 if terminated else 130)
        except Exception as error:
            message = in_words(error)
            if in_sweep():
                return _lose_job(cfg, message, error)
            if message is None:
                _record_end(cfg, "crashed", f"{type(error).__name__}: {error}")
                raise
            _give_up(cfg, "failed", message, 2)

    return guarded


def in_words(error: BaseException) -> str | None:
    """What a user can fix, in one line; None for a defect of the program."""
    causes = [error]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    for cause in causes:
        if isinstance(cause, LocusError):
            return str(cause)
        if getattr(cause, "errno", None) in NO_SPACE or "No space left on device" in str(cause):
            return f"no space left on the disk ({cause}): free some, then resume"
    settings = (cause for cause in causes if isinstance(cause, (InstantiationException, MisconfigurationException)))
    return next(map(str, settings), None)


def _record_end(cfg: DictConfig, status: str, message: str) -> None:
    """Writes ``summary.json``, unless the folder is not this call's: it was refused, for it holds another's run."""
    folder = run_folder(cfg)
    if folder in _opened_runs and not (folder / "summary.json").exists():
        with contextlib.suppress(OSError, LocusError), only_writer(folder):  # the disk may be what is full
            write_json(folder / "summary.json", {"status": status, "message": message})


def _give_up(cfg: DictConfig, status: str, message: str, code: int) -> NoReturn:
    _record_end(cfg, status, message)
    print(f"locus: {' '.join(message.split())}", file=sys.stderr, flush=True)
    sys.exit(code)


def _lose_job(cfg: DictConfig, message: str | None, error: Exception) -> None:
    """What `_give_up` is to a single run, in a sweep; a sweeper that searches takes None for a failed trial."""
    status, line = ("crashed", f"{type(error).__name__}: {error}") if message is None else ("failed", message)
    _record_end(cfg, status, line)
    record_failure(line)
    log.error("%s: %s: %s", run_folder(cfg), status, line, exc_info=error if message is None else None)


def run_folder(cfg: DictConfig) -> Path:
    """The folder of this run: the resumed one, or Hydra's."""
    if "resume" in cfg and not OmegaConf.is_missing(cfg, "resume"):
        return Path(cfg.resume)
    return Path(HydraConfig.get().runtime.output_dir)


def quiet_lightning() -> None:
    """Keeps Lightning's advertisements and notes on what locus does on purpose out of the terminal."""
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    for message in (
        "isinstance.treespec, LeafSpec",
        "The '.*_dataloader' does not have many workers",
        "Found .* module.s. in eval mode",  # the reference, and the policy while it samples
        "You're resuming from a checkpoint that ended",  # the sampler starts at the right step
        "It is recommended to use `self.log",  # every rank logs the same mean over all
    ):
        warnings.filterwarnings("ignore", f".*{message}")
