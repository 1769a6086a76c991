"""Scores predictions without a model: ``python -m locus.score`` (conf/score.yaml). Entry point."""

from __future__ import annotations

from locus.run.help import answer_early

if __name__ == "__main__":
    answer_early()  # before the imports below, which take seconds

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig

from locus.errors import LocusError, whole
from locus.evaluation.benchmark import Item
from locus.evaluation.items import ItemsRead
from locus.evaluation.prediction_tables import TABLES, placed
from locus.evaluation.predictions import Prediction, read_predictions
from locus.evaluation.same_questions import check_questions
from locus.evaluation.scores import comparison, describe, judged, write_scores
from locus.run.runtime import entry_point


def spoken_frame(given: str | None, predictions: Iterable[Prediction], path: str) -> str | None:
    """The frame that boxes are written in: the predictions' own; raises LocusError when another is given."""
    found = {prediction.frame for prediction in predictions if prediction.frame is not None}
    if len(found) > 1:
        raise LocusError(f"{path}: holds boxes in {' and '.join(sorted(found))}: give predictions of one policy")
    frame = next(iter(found), given)
    if given is not None and frame != given:
        raise LocusError(f"{path}: boxes are in {frame}, not in backbone.frame={given}: leave backbone.frame out")
    return frame


def by_item(
    path: str, predictions: dict[str, Prediction], items: Sequence[Item], limit: int | None = None
) -> dict[str, Prediction]:
    """The predictions by item id: a table's are by the index of its rows; with a limit only those of these items."""
    if Path(path).suffix in TABLES:
        predictions = placed(Path(path), predictions, (item.item_id for item in items))
    asked = {item.item_id for item in items}
    kept = {item_id: one for item_id, one in predictions.items() if item_id in asked} if limit is not None else {}
    return kept or predictions  # none at all is an error


def score_file(cfg: DictConfig, folder: Path) -> dict[str, Any]:
    """Scores the configuration's predictions into the folder; returns what ``scores.json`` holds."""
    whole("resamples", cfg.resamples)
    if cfg.limit is not None:
        whole("limit", cfg.limit)
    predictions = read_predictions(Path(cfg.predictions))
    others = read_predictions(Path(cfg.against)) if cfg.against is not None else None
    given = cfg.backbone.frame
    cfg.backbone.frame = spoken_frame(given, predictions.values(), cfg.predictions)
    benchmark = instantiate(cfg.benchmark, _convert_="all")
    items = ItemsRead(benchmark, cfg.limit, kept=0).items
    predictions = by_item(cfg.predictions, predictions, items, cfg.limit)
    check_questions(Path(cfg.predictions), predictions, items, benchmark.name)
    found = judged(benchmark, items, predictions)
    facts: dict[str, Any] = {"predictions": str(cfg.predictions)}
    if others is not None:
        cfg.backbone.frame = spoken_frame(given, others.values(), cfg.against)
        rival = instantiate(cfg.benchmark, _convert_="all")
        if getattr(rival, "frame", None) != getattr(benchmark, "frame", None):  # which the prompts name
            items = ItemsRead(rival, cfg.limit, kept=0).items
        others = by_item(cfg.against, others, items, cfg.limit)
        check_questions(Path(cfg.against), others, items, benchmark.name)
        other = judged(rival, items, others)
        facts |= {"against": str(cfg.against), "comparison": comparison(benchmark, other, found, cfg.resamples)}
    return write_scores(folder, benchmark, found, cfg.resamples, **facts)


@hydra.main(version_base="1.3", config_path="../conf", config_name="score")
@entry_point
def main(cfg: DictConfig) -> None:
    """The command."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    made = score_file(cfg, folder)
    print(describe(made))
    if "comparison" in made:
        print(json.dumps(made["comparison"], indent=2))
    print(folder)


if __name__ == "__main__":
    main()
