"""A V*Bench of six questions, and predictions for it."""

from __future__ import annotations

import json
from pathlib import Path

from locus.evaluation.predictions import Prediction
from tests.support.benchmark_files import encoded, write_tsv

ANSWERS = "ABABAB"


def write_vstar_six(folder: Path) -> Path:
    """Six questions as VLMEvalKit's TSV; two pictures, three questions each."""
    rows = [
        {"index": number, "image": encoded(number // 3), "question": f"Which is it, {number}?", "A": "red", "B": "blue"}
        | {"answer": answer, "category": "direct_attributes" if number < 4 else "relative_position"}
        for number, answer in enumerate(ANSWERS)
    ]
    return Path(write_tsv(folder / "VStarBench.tsv", rows))


def write(path: Path, responses: dict[str, str], **facts: object) -> Path:
    lines = [json.dumps({"id": name, "response": text, **facts}) for name, text in responses.items()]
    path.write_text("\n".join(lines) + "\n")
    return path


def said(letters: str) -> dict[str, Prediction]:
    return {str(number): Prediction(str(number), letter) for number, letter in enumerate(letters)}
