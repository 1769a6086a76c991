"""MathVision: choices that are tags, free answers, and two forms of file."""

from __future__ import annotations

from locus.evaluation.benchmarks.mathvision import MathVision
from locus.evaluation.reading.extractors import VLMEVALKIT
from tests.support.benchmark_files import answered, encoded, hf_image, scores, verdict_on, write_parquet, write_tsv
from tests.support.benchmark_files_other import mathvision_rows


def test_mathvision(tmp_path):
    """Picture tags that meet the model's own, options that are only letters printed, values refused for letters."""
    path = write_tsv(tmp_path / "M.tsv", mathvision_rows())
    bench = MathVision(path, rows=3)
    first, second, third = bench.items()
    assert first.prompt.endswith("\nHow much?\n(A) $\\frac{1}{2}$\n(B) 2\n(C) 15\n(D) 4\n(E) 5")
    assert second.prompt.endswith("\nWhich?") and second.options["C"] == "C" and third.options == {}
    said = {"1": r"It is \boxed{0.5}", "2": r"\boxed{C}", "3": r"\boxed{60\text{ cm}}"}
    score = scores(bench, answered(bench, said))
    assert score["accuracy_rule"] == score["accuracy_choice_rule"] == score["accuracy_free_rule"] == 100
    assert verdict_on(bench, third, "The answer is 60.", VLMEVALKIT).correct == 0
    assert verdict_on(bench, third, "60", VLMEVALKIT).correct == 1
    assert verdict_on(bench, third, r"\boxed{61}").correct == 0


def test_mathvision_choices_that_are_tags(tmp_path):
    """Five official rows have nothing but picture tags for choices: in the prompt they meet the model's own token."""
    choices = str([f"<image{number}>" for number in range(2, 7)])
    row = {"index": 1, "question": "Which graph?\n\n<image1>", "choices": choices, "answer": "B", "image": encoded()}
    (item,) = MathVision(write_tsv(tmp_path / "M.tsv", [row]), rows=1).items()
    assert "<image" not in item.prompt and "(A)" not in item.prompt and list(item.options.values()) == list("ABCDE")


def test_mathvision_parquet(tmp_path):
    """The column ``image`` is a path there, and the picture is in another."""
    row = {
        "id": "7",
        "question": "Q",
        "options": [],
        "image": "images/7.jpg",
        "decoded_image": hf_image(),
        "answer": "1.50",
    }
    row |= {"level": 2, "subject": "algebra", "solution": None}
    bench = MathVision(write_parquet(tmp_path / "m.parquet", [row]), rows=1)
    (item,) = bench.items()
    assert item.item_id == "7" and item.groups["level"] == "2" and item.pictures[0].open().size == (40, 30)
    assert verdict_on(bench, item, r"\boxed{3/2}").correct == 1
