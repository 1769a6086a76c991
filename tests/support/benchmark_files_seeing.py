"""Small files of the benchmarks of pairs, places, views and rotations in their true forms, with the traps of each."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from tests.support.benchmark_files import write_parquet
from tests.support.benchmark_files_choice import vek


def picture(seed: int = 0) -> bytes:
    """A PNG of one colour, of its own for each seed: several pictures a question would else be most of the samples."""
    Image.new("RGB", (40, 30), (seed % 256, 37 * seed % 256, 90)).save(file := io.BytesIO(), "PNG")
    return file.getvalue()


def encoded(seed: int = 0) -> str:
    """The picture as a TSV holds it."""
    return base64.b64encode(picture(seed)).decode()


def hf_image(seed: int = 0) -> dict[str, Any]:
    """The picture as Hugging Face stores it."""
    return {"bytes": picture(seed), "path": None}


def write_mmvp(folder: Path) -> str:
    """The official folder: CSV with the misspelt column, quoted commas, answers in small letters; two pairs."""
    (folder / "MMVP Images").mkdir(parents=True, exist_ok=True)
    rows = [
        ("Is it open, or closed?", "(a) Open (b) Closed"),
        ("Which way does it face (the dog)?", "(a) Left (b) Up (left)"),
    ]
    lines = ["lndex,Question,Options,Correct Answer"]
    for number in range(1, 5):
        question, options = rows[(number - 1) // 2]
        lines.append(f'{number},"{question}",{options},({"ab"[number % 2]})')
        (folder / "MMVP Images" / f"{number}.jpg").write_bytes(picture(number))
    (folder / "Questions.csv").write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
    return str(folder)


def blink_row(task: str, number: int, split: str = "val", pictures: int = 2) -> dict[str, Any]:
    """Of the parquet: up to four pictures, options in the prompt too; test rows hide their answers."""
    choices = ["the second image", "the third image"]
    prompt = "Which fits?\nSelect from the following choices.\n(A) the second image\n(B) the third image\n"
    shown = {f"image_{n}": hf_image(10 * number + n) if n <= pictures else None for n in range(1, 5)}
    return {
        "idx": f"{split}_{task}_{number}", "sub_task": task, "question": "Which fits?", **shown, "choices": choices,
        "answer": "(B)" if split == "val" else "hidden", "prompt": prompt, "explanation": "",
    }  # fmt: skip


def write_blink(folder: Path) -> str:
    """The official folder: one of its folders has two questions and another one."""
    for task, count, pictures in (("Jigsaw", 2, 3), ("Relative_Depth", 1, 1)):
        (folder / task).mkdir(parents=True, exist_ok=True)
        for split in ("val", "test"):
            rows = [blink_row(task, number, split, pictures) for number in range(1, count + 1)]
            write_parquet(folder / task / f"{split}-00000-of-00001.parquet", rows)
    return str(folder)


def blink_tsv_rows() -> list[dict[str, Any]]:
    """VLMEvalKit's: several pictures are a list in the cell."""
    several = str([encoded(1), encoded(2)])
    return [vek(0, image=several, category="Jigsaw"), vek(1, image=encoded(3), category="Relative_Depth")]


def write_seed_bench(folder: Path) -> str:
    """The official JSON: an object with the questions in it, names of pictures without an ending, a film."""
    (folder / "SEED-Bench-image").mkdir(parents=True, exist_ok=True)
    (folder / "SEED-Bench-image" / "1454426_2591111986").write_bytes(picture())
    whole = {"choice_a": "One", "choice_b": "Two", "choice_c": "None", "choice_d": "4", "question": "How many?"}
    rows = [
        whole | {"answer": "A", "data_id": "1454426_2591111986", "data_type": "image", "question_type_id": 5},
        whole | {"answer": "C", "data_id": "1454426_2591111986", "data_type": "image", "question_type_id": 3},
        whole | {"answer": "B", "data_id": "1.webm", "data_type": "video", "question_type_id": 10},
    ]
    questions = [row | {"question_id": f"10{number}"} for number, row in enumerate(rows)]
    (folder / "SEED-Bench.json").write_text(json.dumps({"questions": questions, "question_type": {"Counting": 5}}))
    return str(folder)


def mmbench_rows() -> list[dict[str, Any]]:
    """Two questions of two and three options in all rotations; rotated rows refer to the picture of the first."""
    rows = []
    for index, options, ability in (
        (7, ["cat", "dog"], "coarse_perception"),
        (8, ["1", "2", "None"], "logic_reasoning"),
    ):
        for turn in range(len(options)):
            turned = dict(zip("ABC", options[turn:] + options[:turn], strict=False))
            image = encoded(index) if turn == 0 else str(index)
            rows.append({
                "index": index + 1_000_000 * turn, "question": "Which?", "hint": "Look." if index == 8 else "",
                "A": "", "B": "", "C": "", "D": "", **turned, "answer": "ABC"[-turn % len(options)],
                "category": "x", "image": image, "source": "s", "l2-category": ability, "comment": "", "split": "dev",
            })  # fmt: skip
    return rows


def vsr_rows() -> list[Mapping[str, Any]]:
    """Of the official file; two sentences are about one photo."""
    said = [("The cat is behind the suitcase.", 1, "behind"), ("The dog faces the cat.", 0, "facing"),
            ("The cup is among the plates.", 0, "among")]  # fmt: skip
    names = ["000000000001.jpg", "000000000001.jpg", "000000000002.jpg"]
    return [
        {"image": name, "image_link": f"http://images.cocodataset.org/train2017/{name}", "caption": caption,
         "label": label, "relation": relation, "annotator_id": 1, "vote_true_validator_id": "[]"}
        for name, (caption, label, relation) in zip(names, said, strict=True)
    ]  # fmt: skip


def write_vsr(folder: Path) -> str:
    """The official folder: three splits beside each other, pictures as COCO has them."""
    (folder / "train2017").mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row) for row in vsr_rows()]
    for split in ("dev", "test"):
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    for number in (1, 2):
        (folder / "train2017" / f"{number:012}.jpg").write_bytes(picture(number))
    return str(folder)


def treebench_rows() -> list[dict[str, Any]]:
    """Pictures of 40 x 30 with one target and with two."""
    more = {"multi-choice options": "A. red\nB. blue"}
    return [
        vek(0, image=encoded(), category="Perception/OCR", target_instances="[[0, 0, 20, 20]]", **more),
        vek(
            1,
            image=encoded(1),
            category="Reasoning/Ordering",
            target_instances="[[0, 0, 10, 10], [20, 10, 40, 30]]",
            **more,
        ),
    ]


def zoombench_rows() -> list[dict[str, Any]]:
    """A choice, and an open question whose answer could be taken for a letter's."""
    choice = "How many lamps? Select from the following choices.\n(A) 0\n(B) 2\n(C) 1"
    rows = [(choice, "(C)", "mcq"), ("Which letter is on the door?", "B", "oq")]
    return [
        {"id": f"z{n}", "query": query, "response": response, "question_type": kind,
         "image": hf_image(n), "crop_image": hf_image(10 + n), "bbox": [1, 1, 9, 9]}
        for n, (query, response, kind) in enumerate(rows)
    ]  # fmt: skip
