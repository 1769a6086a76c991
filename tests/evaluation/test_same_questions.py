"""Predictions whose ids fit and whose questions are others': refused, or warned of where they are few."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from locus.errors import LocusError
from locus.evaluation.benchmark import Item
from locus.evaluation.benchmarks.refcoco import RefCOCO
from locus.evaluation.benchmarks.vstar import VStar
from locus.evaluation.predictions import Prediction, prompt_digest, read_predictions
from locus.evaluation.same_questions import check_questions
from locus.score import by_item, score_file
from locus.tasks.answers import THINK_ANSWER
from tests.support.benchmark_files import encoded, write_tsv
from tests.support.benchmark_files_other import refer
from tests.support.vstar_six import write_vstar_six

THINGS = ("dog", "green umbrella", "street sign", "left wheel", "cup", "lamp")


@pytest.fixture
def items(tmp_path) -> list[Item]:
    return list(VStar(str(write_vstar_six(tmp_path)), rows=6).items())


def answered(texts: dict[str, str]) -> dict[str, Prediction]:
    return {name: Prediction(name, "A", prompt=prompt_digest(text)) for name, text in texts.items()}


def test_digests_of_what_was_asked(tmp_path, items, caplog):
    """Answers to another benchmark with the ids 0 to 799: a wrong number came out without a word."""
    path = tmp_path / "p.jsonl"
    asked = {item.item_id: item.prompt for item in items}
    for way in ("{}", f"{{}}\n{THINK_ANSWER}"):
        check_questions(path, answered({name: way.format(text) for name, text in asked.items()}), items, "vstar")
    texts = {name: Prediction(name, "A", prompt="Which is it?") for name in asked}  # another engine's own
    check_questions(path, texts, items, "vstar")
    check_questions(path, {"0": Prediction("0", "A"), "x": replace(texts["0"], prompt="0" * 16)}, items, "vstar")
    assert not caplog.messages
    check_questions(path, answered(asked | {"3": "Where?", "4": "Who?"}), items, "vstar")
    (said,) = caplog.messages
    assert said.startswith(f"{path}: 2 of 6 predictions, such as id 3, answer other questions than vstar asks")
    other = answered({name: f"{text} Really?" for name, text in asked.items()})
    with pytest.raises(LocusError, match=r"p\.jsonl: 6 of 6 predictions, such as id 0, answer other questions"):
        check_questions(path, other, items, "vstar")


def table(path: Path, questions: list[str]) -> Path:
    """A file of predictions as VLMEvalKit dumps it."""
    rows = [{"index": n, "question": text, "prediction": "A"} for n, text in enumerate(questions)]
    pd.DataFrame(rows).to_csv(path, sep="\t", index=False, quoting=csv.QUOTE_ALL)
    return path


def test_questions_of_a_table(tmp_path, caplog):
    """The kit's rows of AI2D by their index, in the parquet's order: each answer is put to another question."""
    row = {"image": encoded(), "A": "red", "B": "blue", "answer": "A", "category": "direct_attributes"}
    questions = [f"What is the colour of the {thing}?" for thing in THINGS]
    rows = [row | {"index": n, "question": text} for n, text in enumerate(questions)]
    items = list(VStar(write_tsv(tmp_path / "v.tsv", rows), rows=6).items())

    def check(*questions: str) -> None:
        path = table(tmp_path / "model.tsv", list(questions))
        check_questions(path, by_item(str(path), read_predictions(path), items), items, "vstar")

    check(*questions)
    check(*(f"<image 1>\n{text.upper()}  Hint: look." for text in questions))
    check("What?", "What?", *questions[2:])
    check(*["Which?"] * 6)
    check(questions[1])
    assert not caplog.messages, "nothing tells these from the items' own questions"
    check(*questions[:4], questions[5], questions[4])
    assert len(caplog.messages) == 1 and "2 of 6 predictions, such as id 4," in caplog.messages[0]
    with pytest.raises(LocusError, match="6 of 6 predictions, such as id 0, answer other questions than vstar asks"):
        check(*questions[1:], questions[0])


def test_a_manifest_names_the_benchmark(tmp_path, items):
    """Two benchmarks with the same questions about other pictures: nothing else tells their answers apart."""
    path = tmp_path / "predictions.jsonl"
    manifest = {"name": "hr_bench_8k", "rows": 6, "settings": {}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(LocusError, match=r"predictions\.jsonl: is of hr_bench_8k \(manifest\.json.*, not of vstar"):
        check_questions(path, answered({}), items, "vstar")
    check_questions(path, answered({}), items, "hr_bench_8k")
    check_questions(tmp_path / "mine.jsonl", answered({}), items, "vstar")
    (tmp_path / "manifest.json").write_text(json.dumps({"name": "a run of another engine"}))
    check_questions(path, answered({}), items, "vstar")
    (tmp_path / "manifest.json").write_text("{")
    check_questions(path, answered({}), items, "vstar")


@pytest.mark.parametrize("wrong", ["predictions", "against"])
def test_scoring_compares_them(tmp_path, items, compose_app, wrong):
    """A check that nothing calls, or that only one of two files gets."""
    files = {}
    for name in ("predictions", "against"):
        texts = {item.item_id: item.prompt + ("!" if name == wrong else "") for item in items}
        files[name] = tmp_path / f"{name}.jsonl"
        lines = [{"id": one.id, "response": "A", "prompt": one.prompt} for one in answered(texts).values()]
        files[name].write_text("".join(json.dumps(line) + "\n" for line in lines))
    given = ["benchmark=vstar", f"benchmark.path={tmp_path}/VStarBench.tsv", "benchmark.rows=6"]
    config = compose_app("score", [*given, *(f"{name}={file}" for name, file in files.items())])
    with pytest.raises(LocusError, match=rf"{wrong}\.jsonl: 6 of 6"):
        score_file(config, tmp_path)


def test_policies_of_two_frames_are_compared(tmp_path, compose_app):
    """One writes pixels, the other thousandths: RefCOCO asks them in other words, and both answer its questions."""
    folder, files = refer(tmp_path), {}
    for name, frame in {"predictions": "file", "against": "unit1000"}.items():
        benchmark = RefCOCO(str(folder), "refcoco", frame=frame, splits=("val", "testB"))
        lines = [
            {"id": item.item_id, "response": "[1, 2, 3, 4]", "prompt": prompt_digest(item.prompt), "frame": frame}
            for item in benchmark.items()
        ]
        files[name] = tmp_path / f"{name}.jsonl"
        files[name].write_text("".join(json.dumps(line) + "\n" for line in lines))
    given = ["benchmark=refcoco", f"benchmark.path={folder}", "benchmark.rows=null", "benchmark.splits=[val,testB]"]
    given += ["resamples=10", *(f"{name}={file}" for name, file in files.items())]
    assert score_file(compose_app("score", given), tmp_path)["comparison"]["locus"]["lost"] == 0
