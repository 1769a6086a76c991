"""Small files of the other benchmarks in their true forms, with the traps of each form."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from locus.evaluation.benchmarks.mathverse import VERSIONS
from locus.evaluation.benchmarks.ocrbench import HANDWRITTEN_MATHS
from locus.evaluation.benchmarks.wemath import ROLES
from tests.support.benchmark_files import encoded, hf_image, picture, write_parquet, write_tsv


def pope_rows() -> list[dict[str, Any]]:
    """Two photos; the first question is one of all settings."""
    one, two = encoded(1), encoded(2)
    question = "Is there a {} in the image?"
    return [
        {"index": 0, "image": one, "question": question.format("cat"), "answer": "Yes",
         "category": "random,popular,adversarial"},
        {"index": 1, "image": "0", "question": question.format("dog"), "answer": "No", "category": "random"},
        {"index": 2, "image": two, "question": question.format("cup"), "answer": "No",
         "category": "popular,adversarial"},
    ]  # fmt: skip


def write_pope(folder: Path) -> str:
    """The official folder: JSON lines under the name .json, ids that begin anew, COCO's pictures in a folder."""
    (folder / "val2014").mkdir(parents=True, exist_ok=True)
    (folder / "val2014" / "a.jpg").write_bytes(picture())
    line = {"question_id": 1, "image": "a.jpg", "text": "Is there a cat in the image?", "label": "yes"}
    for setting in ("random", "adversarial"):
        lines = json.dumps(line) + "\n" + json.dumps(line | {"question_id": 2})
        (folder / f"coco_pope_{setting}.json").write_text(lines)
    return str(folder)


def hallusion_rows() -> list[dict[str, Any]]:
    """ "ocr" in both categories with the same set, figure and question: the trap of the group key."""
    answers = {"VD_ocr_1_0_0_0": "Yes", "VD_ocr_1_0_1_0": "No", "VD_ocr_1_0_1_1": "No", "VS_ocr_1_0_1_0": "No"}
    return [
        {"index": index, "image": encoded(), "question": "Is it so?", "answer": answer, "category": index[:2],
         "l2-category": index[:6]}
        for index, answer in answers.items()
    ]  # fmt: skip


def write_hallusionbench(folder: Path) -> str:
    """The official file: a question with a figure, one without, and another JSON beside them."""
    row = {"category": "VS", "subcategory": "chart", "set_id": "0", "figure_id": "1", "question_id": "0"}
    row |= {"question": "Is it?", "gt_answer": "1", "gt_answer_details": "Yes", "filename": "./hallusion_bench/a.png"}
    rows = [row | {"visual_input": "1"}, row | {"visual_input": "0", "figure_id": "0", "filename": None}]
    (folder / "HallusionBench.json").write_text(json.dumps(rows))
    (folder / "HallusionBench_result_sample.json").write_text("[]")
    (folder / "hallusion_bench").mkdir(exist_ok=True)
    (folder / "hallusion_bench" / "a.png").write_bytes(picture())
    return str(folder / "HallusionBench.json")


def ocrbench_rows() -> list[dict[str, Any]]:
    """Several accepted texts, a formula, a number, a quoted apostrophe."""
    rows = [
        {"index": 1, "answer": "['CENTRE', 'Centre Ville']", "category": "Regular Text Recognition"},
        {"index": 2, "answer": r"['x ^ { 2 } + A']", "category": HANDWRITTEN_MATHS},
        {"index": 3, "answer": "['10']", "category": "Key Information Extraction"},
        {"index": 4, "answer": '["it\'s"]', "category": "Doc-oriented VQA"},
    ]
    return [row | {"image": encoded(), "question": "Read."} for row in rows]


BABY = {"type": "Visual Tracking", "subtype": "Maze", "question": "Which?", "coT": "", "status": ""}


def baby_rows() -> list[dict[str, Any]]:
    """Without pictures: a choice whose right one is number 0, and a blank."""
    return [
        BABY | {"taskId": 1, "ansType": "choice", "options": ["red", "blue"], "choiceAns": 0, "blankAns": None},
        BABY | {"taskId": 2, "ansType": "blank", "options": [], "choiceAns": None, "blankAns": "(4,7)"},
    ]


def write_babyvision(folder: Path) -> str:
    """The official folder: JSON lines, pictures in images/."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "images" / "1.png").write_bytes(picture())
    lines = [json.dumps(row | {"image": "1.png"}) for row in baby_rows()]
    (folder / "meta_data.jsonl").write_text("\n".join(lines) + "\n")
    return str(folder)


def mathvision_rows() -> list[dict[str, Any]]:
    """Picture tags, choices that are values, choices that are only their letters, and none."""
    values, letters = r"['$\\frac{1}{2}$', '2', '15', '4', '5']", "['A', 'B', 'C', 'D', 'E']"
    rows = [
        {"index": 1, "question": "<image1> How much? <image2>", "choices": values, "answer": "A"},
        {"index": 2, "question": "Which?\n<image1>", "choices": letters, "answer": "C"},
        {"index": 3, "question": "How long?", "choices": "[]", "answer": "60"},
    ]
    return [row | {"image": encoded(), "category": "algebra"} for row in rows]


def mathverse_rows() -> list[dict[str, Any]]:
    """One problem with choices and one without, in every version."""
    rows = []
    for problem, (kind, answer) in enumerate([("multi-choice", "B"), ("free-form", "30°")], 1):
        for version in (*VERSIONS, "Text Only"):
            asked = "" if version == "Vision Only" else "Find the angle."
            choices = "\nChoices:\nA:60°\nB:30°" if kind == "multi-choice" else ""
            rows.append({
                "sample_index": str(len(rows) + 1), "problem_index": str(problem), "problem_version": version,
                "question": asked, "answer": answer, "question_type": kind, "query_wo": "Answer: " + asked,
                "query_cot": "Reason first. " + asked, "question_for_eval": "Find the angle." + choices,
                "image": None if version == "Text Only" else hf_image(),
            })  # fmt: skip
    return rows


def wemath_rows() -> list[dict[str, Any]]:
    """Five groups of two steps and one of three; IDs look like roles."""
    rows = []
    for number in range(5):
        rows += [{"ID": f"2steps_{number}", "key": role} for role, steps in ROLES.items() if steps == 2]
    rows += [{"ID": "3steps_0", "key": role} for role, steps in ROLES.items() if steps == 3]
    option = "A. 3; B. (1; 2);C. 5; D. 6; E. No correct answer"
    return [row | {"question": "Q?", "option": option, "answer": "B", "image_path": hf_image()} for row in rows]


def write_logicvista(folder: Path) -> str:
    """The official folder: an object of rows, one with several right letters and one without question and answer."""
    rows = {
        "v1_0": {"imagename": "a.png", "question": "Which?", "answer": "B, D", "skill": ["inductive"]},
        "v1_1": {"imagename": "a.png", "question": "Which?", "answer": "A", "skill": ["spatial"]},
        "v1_2": {"imagename": "a.png", "question": "How many?", "answer": "3", "skill": ["numerical"]},
        "v1_382": {"imagename": "a.png", "question": "", "answer": "", "skill": ["mechanical"]},
    }
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "images" / "a.png").write_bytes(picture())
    (folder / "dataset.json").write_text(json.dumps(rows))
    return str(folder)


GOLD = (64.0, 48.0, 320.0, 240.0)
"""In a 640 x 480 picture: a tenth to a half of either side."""


XYWH = [64.0, 48.0, 256.0, 192.0]


def jpeg() -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (640, 480)).save(data, "JPEG")
    return data.getvalue()


def refer(folder: Path, splits: Sequence[str] = ("val", "train", "testB")) -> Path:
    """Form (a): a reference of each split, of two sentences."""
    images = [{"id": 7, "file_name": "a.jpg", "width": 640, "height": 480}]
    annotations = [{"id": 70, "image_id": 7, "bbox": XYWH, "category_id": 1}]
    (folder / "instances.json").write_text(json.dumps({"images": images, "annotations": annotations, "categories": []}))
    sentences = [{"sent_id": 1, "sent": "left cat"}, {"sent_id": 2, "sent": "a cat"}]
    ref = {"image_id": 7, "ann_id": 70, "sentences": sentences}
    refs = [ref | {"ref_id": number, "split": split} for number, split in enumerate(splits, 1)]
    (folder / "refs(unc).json").write_text(json.dumps(refs))
    (folder / "a.jpg").write_bytes(jpeg())
    return folder


def jxu124(folder: Path) -> str:
    """Form (b): ``bbox`` is xyxy, the annotation beside it xywh; ``test`` is testA where there is one."""
    sentences = [{"raw": "Left cat", "sent": "left cat"}]
    row = {"ref_id": 5, "sentences": sentences, "bbox": list(GOLD), "file_name": "x_5.jpg"}
    row |= {"raw_anns": json.dumps({"bbox": XYWH, "area": 1.0}), "image_path": "coco/train2014/a.jpg"}
    (folder / "a.jpg").write_bytes(jpeg())
    rows = [row | {"split": "test"}, row | {"split": "train"}, row | {"split": "validation"}]
    return write_parquet(folder / "r.parquet", rows)


ASKED = {"RefCOCO test-A": "left cat", "RefCOCO+ test-A": "plus cat", "RefCOCOg val": "g cat"}
"""Categories of form (d), one of each benchmark, and their sentences."""


def vlmevalkit(path: Path, asked: Mapping[str, str] = ASKED) -> str:
    """Form (d): all benchmarks in one file, prompts ready made, boxes in shares of the sides."""
    question = "Please provide the bounding box coordinate of the region this sentence describes: <ref>{}</ref>"
    row = {"image": "0", "answer": "[0.1, 0.1, 0.5, 0.5]"}
    rows = [
        row | {"index": index, "question": question.format(sentence), "category": category}
        for index, (category, sentence) in enumerate(asked.items())
    ]
    rows[0]["image"] = base64.b64encode(jpeg()).decode()
    return write_tsv(path, rows)
