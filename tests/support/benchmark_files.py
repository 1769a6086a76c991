"""Small benchmark files in their true forms for tests, and what a benchmark makes of responses to them."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from locus.evaluation.benchmark import Benchmark, Item, Verdict
from locus.evaluation.reading.extractors import LOCUS, Extractor
from locus.types import Frame, Response, View

IN_FILE = View(Frame.FILE)


def picture(seed: int = 0, size: tuple[int, int] = (40, 30)) -> bytes:
    """A PNG of its own for each seed."""
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file := io.BytesIO(), "PNG")
    return file.getvalue()


def encoded(seed: int = 0) -> str:
    """A picture as a TSV holds it."""
    return base64.b64encode(picture(seed)).decode()


def hf_image(seed: int = 0) -> dict[str, Any]:
    """A picture as Hugging Face stores it."""
    return {"bytes": picture(seed), "path": None}


def write_tsv(path: Path, rows: list[dict[str, Any]]) -> str:
    """As VLMEvalKit writes it: pandas, tabs, empty cells for what is absent."""
    pd.DataFrame(rows).to_csv(path, sep="\t", index=False)
    return str(path)


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> str:
    """As Hugging Face stores it."""
    pq.write_table(pa.Table.from_pylist(rows), path)
    return str(path)


def verdict_on(
    benchmark: Benchmark,
    item: Item,
    text: str,
    extractor: Extractor = LOCUS,
    finished: bool = True,
    view: View = IN_FILE,
) -> Verdict:
    """What the benchmark makes of a response."""
    return benchmark.judge(item, Response(text, finished), view, extractor)


def answered(benchmark: Benchmark, responses: dict[str, str] | list[str], extractor: Extractor = LOCUS) -> pd.DataFrame:
    """The verdicts' table, as statistics read it: responses by item id, or in order; nothing is said to the rest."""
    items = list(benchmark.items())
    if isinstance(responses, list):
        responses = {item.item_id: response for item, response in zip(items, responses, strict=True)}
    verdicts = [verdict_on(benchmark, item, responses.get(item.item_id, ""), extractor) for item in items]
    return pd.DataFrame([{"correct": verdict.correct, **verdict.columns} for verdict in verdicts])


def scores(benchmark: Benchmark, table: pd.DataFrame) -> dict[str, float]:
    """Every score of a benchmark, by name."""
    weights = np.ones((1, len(table)))
    return {name: float(statistic(table, weights)[0]) for name, statistic in benchmark.statistics().items()}


def told(benchmark: Benchmark) -> list[tuple[str, str]]:
    """Item and picture of each row."""
    return [(item.item_id, item.pictures[0].key) for item in benchmark.items()]
