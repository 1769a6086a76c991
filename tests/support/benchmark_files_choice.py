"""Small files of the multiple-choice benchmarks in their true forms, with the traps of each form."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.benchmark_files import encoded, hf_image, picture, write_parquet, write_tsv

SELECT = "Please select the correct answer from the options above. \n"
"""What VLMEvalKit's prompts end with."""


def vek(index: int | str = 0, **more: Any) -> dict[str, Any]:
    """A row of a VLMEvalKit TSV."""
    row = {"index": index, "image": encoded(), "question": "Which?", "A": "red", "B": "blue", "C": "", "D": ""}
    return {**row, "answer": "B", **more}


def ai2d_rows() -> list[dict[str, Any]]:
    """Of the parquet: answers by index, options that are letters."""
    row = {"question": "Which?", "options": ["C", "A", "None", "B"]}
    return [{**row, "answer": answer, "image": hf_image(number)} for number, answer in enumerate("03")]


def mmstar_rows() -> list[dict[str, Any]]:
    """Of the parquet: options in the question, with commas, colons and a "None"; some cannot be distinguished."""
    listed = "What is it?\nOptions: A: A cat, asleep., B: 3, 4 and 5, C: None, D: note: a dog"
    more = {"category": "math", "l2_category": "geometry", "meta_info": {"source": "x"}}
    asked = ((listed, "C"), ("Left or right?", "B"))
    rows = [{"index": 4 + n, "question": text, "image": picture(n), "answer": a} for n, (text, a) in enumerate(asked)]
    return [row | more for row in rows]


VSTAR_TEXT = (
    "What colour is the dog?\n(A) red (dark)\n(B) blue\n"
    "Answer with the option's letter from the given choices directly."
)


def write_vstar(folder: Path, bbox: Any = ((4, 5, 10, 6),)) -> str:
    """The official folder with one question of each category; the first option of its JSON files is always right."""
    lines = []
    for number, (category, label) in enumerate((("direct_attributes", "B"), ("relative_position", "A"))):
        (folder / category).mkdir(parents=True, exist_ok=True)
        (folder / category / "sa_1.jpg").write_bytes(picture(number))
        beside = {"target_object": ["dog"], "bbox": bbox, "question": "?", "options": ["blue", "red (dark)"]}
        (folder / category / "sa_1.json").write_text(json.dumps(beside))
        image = f"{category}/sa_1.jpg"
        row = {"question_id": number, "image": image, "text": VSTAR_TEXT, "category": category, "label": label}
        lines.append(json.dumps(row))
    (folder / "test_questions.jsonl").write_text("\n".join(lines) + "\n")
    return str(folder)


def hr_rows() -> list[dict[str, Any]]:
    """Two questions about two pictures, in the same words, each in four rotations: cycle by cycle as in the file."""
    colours, rows = ["red", "blue", "None", "green"], []
    for cycle in range(4):
        turned = dict(zip("ABCD", colours[cycle:] + colours[:cycle], strict=True))
        for seed, category in enumerate(("single", "cross")):
            row = {"index": len(rows), "question": "Which colour?", "answer": "ABCD"[-cycle], "category": category}
            rows.append({**row, **turned, "cycle_category": str(cycle), "image": encoded(seed)})
    return rows


def cv_row(idx: int, source: str, task: str, choices: list[str], answer: str, **more: Any) -> dict[str, Any]:
    """A row of the official parquet."""
    listed = "\n".join(f"({letter}) {choice}" for letter, choice in zip("ABCDEF", choices, strict=False))
    prompt = f"How many? Select from the following choices.\n{listed}"
    row = {"idx": idx, "type": "3D" if source == "Omni3D" else "2D", "task": task, "image": hf_image(idx)}
    row |= {"question": "How many?", "choices": choices, "answer": answer, "prompt": prompt, "source": source}
    return {**row, "bbox": None, **more}


def write_cv(folder: Path, bbox: Any = ((1, 2, 11, 22), (5, 5, 40.5, 30.5))) -> str:
    folder.mkdir(exist_ok=True)
    many = ["0", "1", "2", "3", "4", "None"]
    two = [
        cv_row(0, "ADE20K", "Count", many, "(F)"),
        cv_row(1, "ADE20K", "Relation", ["above", "below"], "(A)"),
        cv_row(2, "COCO", "Count", many[:4], "(B)"),
    ]
    three = [
        cv_row(0, "Omni3D", "Depth", ["lamp", "sofa"], "(A)", bbox=bbox),
        cv_row(1, "Omni3D", "Distance", ["lamp", "sofa"], "(A)"),
    ]
    write_parquet(folder / "test_2d.parquet", two)
    write_parquet(folder / "test_3d.parquet", three)
    return str(folder)


CHOICES = ["(A) red", "(B) blue", "(C) NA", "(D) 4", "(E) The image does not show it"]


def write_mme(folder: Path, kind: str, numbers: Sequence[int] = (3,)) -> str:
    """Questions of these numbers in any of the three formats."""
    if kind == "json":
        return _official_mme(folder, numbers)
    whole = {"question": "Which?", "answer": "B", "category": "Perception/Remote Sensing"}
    rows = [{"index": number, **whole, "l2-category": "Color/Attribute_x"} for number in numbers]
    if kind == "parquet":
        more = {"bytes": encoded(), "multi-choice options": CHOICES}
        return write_parquet(folder / "a.parquet", [row | more for row in rows])
    text = "The choices are listed below:\n" + "\n".join(CHOICES)
    more = {"image": encoded(), "multi-choice options": text, **{choice[1]: choice[4:] for choice in CHOICES}}
    return write_tsv(folder / "a.tsv", [row | more for row in rows])


def _official_mme(folder: Path, numbers: Sequence[int]) -> str:
    (folder / "imgs").mkdir(exist_ok=True)
    (folder / "imgs" / "1.png").write_bytes(picture())
    row = {"Image": "1.png", "Text": "Which?", "Question Type": "Multiple Choice"}
    row |= {"Answer choices": CHOICES, "Ground truth": "B", "Category": "Color/Attribute_x"}
    row |= {"Subtask": "Remote Sensing", "Task": "Perception"}
    (folder / "a.json").write_text(json.dumps([{"Question_id": number, **row} for number in numbers]))
    return str(folder / "a.json")


LETTER = "Please answer directly with only the letter of the correct option and nothing else."


SHORT = "Please answer directly with a single word or number."


def write_realworldqa(folder: Path) -> str:
    asked = [
        (f"Which way?\n\nA. Left\nB. None\nC. Ahead\n{LETTER}", "B"),
        (f"How many cars? {SHORT}", "3"),
        (f"Is it wet? {SHORT}", "Yes"),
    ]
    rows = [{"image": hf_image(n), "question": text, "answer": answer} for n, (text, answer) in enumerate(asked)]
    return write_parquet(folder / "a.parquet", rows)
