"""Writes a benchmark's prompts for another engine: ``python -m locus.prompts`` (conf/prompts.yaml). Entry point."""

from __future__ import annotations

from locus.run.help import answer_early

if __name__ == "__main__":
    answer_early()  # before the imports below, which take seconds

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig

from locus.errors import LocusError, whole
from locus.evaluation.benchmark import Item, Picture
from locus.evaluation.evaluator import limited
from locus.files.run_files import write_lines
from locus.run.runtime import entry_point
from locus.tasks.answers import THINK_ANSWER


def lines(items: Iterable[Item], folder: Path, instruction: str) -> Iterator[dict[str, Any]]:
    """A line per item: ``id``, ``messages`` as OpenAI-compatible APIs take them, and the ``pictures`` in ``folder``.

    The pictures are written as the lines are taken, equal ones once; messages name them by ``file://`` addresses.
    """
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    for item in items:
        paths = [_write(picture, folder / "pictures") for picture in item.pictures]
        content: list[dict[str, Any]] = [
            {"type": "image_url", "image_url": {"url": path.resolve().as_uri()}} for path in paths
        ]
        content.append({"type": "text", "text": item.asked(instruction)})
        messages = [{"role": "user", "content": content}]
        pictures = [path.relative_to(folder).as_posix() for path in paths]
        yield {"id": item.item_id, "messages": messages, "pictures": pictures}


def _write(picture: Picture, folder: Path) -> Path:
    kind, data = picture.file()
    path = folder / f"{hashlib.blake2b(data, digest_size=16).hexdigest()}.{kind.lower()}"
    if not path.exists() or path.stat().st_size != len(data):  # a disk was full
        path.write_bytes(data)
    return path


def export(cfg: DictConfig, folder: Path) -> Path:
    """Writes the configuration's benchmark below the folder; returns the file of its prompts."""
    if not isinstance(cfg.think, bool):
        raise LocusError(f"think={cfg.think}: give true or false")
    if cfg.limit is not None:
        whole("limit", cfg.limit)
    if "frame" in cfg.benchmark and cfg.benchmark.frame is None:
        raise LocusError(
            "the benchmark asks for boxes: say how the policy writes them, such as backbone.frame=unit1000"
        )
    benchmark = instantiate(cfg.benchmark, _convert_="all")
    file = folder / benchmark.name / "prompts.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_lines(file, lines(limited(benchmark, cfg.limit), file.parent, THINK_ANSWER if cfg.think else ""))
    return file


@hydra.main(version_base="1.3", config_path="../conf", config_name="prompts")
@entry_point
def main(cfg: DictConfig) -> None:
    """The command."""
    print(export(cfg, Path(HydraConfig.get().runtime.output_dir)))


if __name__ == "__main__":
    main()
