"""The diagnoses: what they measure, against hand-worked values, and their command on the embedded policy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from locus.analysis.diagnoses.context_suppression import ContextSuppression, suppressed
from locus.analysis.diagnoses.cue_search import CueSearchOnEvidence
from locus.analysis.diagnoses.grounding_vs_answers import GroundingVsAnswers, bin_of
from locus.analysis.diagnoses.shared import before_answer, located
from locus.analysis.pictures import MARGIN, TRUE, WIDTH, blend, overlay_picture
from locus.analysis.plots import bars, curves, panels
from locus.analysis.tables import as_text, paired_table
from locus.errors import LocusError
from locus.evaluation.benchmark import Item
from locus.evaluation.benchmarks.scenes import SceneBenchmark, SceneQuestions
from locus.evaluation.benchmarks.vstar import VStar
from locus.evaluation.evaluator import Evaluator
from locus.policy.prompts import PixelLimits, PromptBuilder
from locus.scenes.questions import colour, relation, shape
from locus.scenes.source import SceneSource
from locus.types import Box, Frame, Sampling
from tests.support.benchmark_files_choice import write_vstar
from tests.support.models import backbone, tiny_vlm
from tests.support.runs import command, refused, succeeded, train
from tests.support.scripted import Scripted, written

SOURCE = {"count": 1, "height": 128, "stretch": 1.2, "object_side": (10, 26), "clutter": 0.4}
BINS = {"tiny": (0.0, 0.01), "small": (0.01, 0.05), "medium": (0.05, 0.1), "large": (0.1, 1.01)}


def scenes(*kinds: object, number: int = 6, frame: str = "processed") -> SceneQuestions:
    source = SceneSource(**SOURCE, width=128, objects=(4, 7), seed=5)
    return SceneQuestions("scenes", SceneBenchmark(source, kinds, number), frame)


def test_the_answer_is_what_comes_next():
    """The map of another position: of the thought's first token, or of the answer's second."""
    builder = PromptBuilder(backbone("qwen3_vl").processor(), PixelLimits())
    evaluator = Evaluator(tiny_vlm("qwen3_vl"), builder, Sampling(0.0, 1.0, 4), 4096)
    prompt = builder.build("0", "What colour is the star?", [Image.new("RGB", (64, 64))])
    asked = before_answer(evaluator, prompt, "<think> red </think><answer>blue</answer>")
    assert builder.decode(asked.input_ids[prompt.length :]) == "<think> red </think><answer>"
    assert asked.mm_token_type_ids.sum() == prompt.mm_token_type_ids.sum()
    assert before_answer(evaluator, prompt, "blue") is prompt
    thought = before_answer(evaluator, replace(prompt, opened="<think>"), "<think> red </think>blue")
    assert builder.decode(thought.input_ids[prompt.length :]).strip() == "red </think>"
    assert torch.equal(asked.input_ids[: prompt.length], prompt.input_ids)


def test_suppressed_pictures():
    """Evidence that moves, is scaled, or stays hidden; context that stays visible."""
    for item in located(scenes(relation), None):
        before, after = (np.asarray(one.pictures[0].open()) for one in (item, suppressed(item)))
        seen = np.zeros(before.shape[:2], dtype=bool)
        for box in item.evidence:
            x1, y1, x2, y2 = (int(value) for value in box.xyxy)
            seen[y1:y2, x1:x2] = True
        assert len(item.evidence) == 2 and (after[seen] == before[seen]).all() and not after[~seen].any()


def test_context_suppression_by_hand():
    """A policy that is right on suppressed pictures only: 0 against 1, with the sign of the change that way."""
    benchmark = scenes(colour, shape)
    right = Scripted(lambda item: item.answer if ", only [" in item.pictures[0].key else "none")
    diagnosis = ContextSuppression(benchmark)
    table = diagnosis.section(diagnosis.measure(right).assign(policy="p")).table
    assert table[["measure", "of", "full", "suppressed", "change"]].values.tolist() == [
        ["p", part, 0.0, 1.0, 1.0] for part in ("all", "colour", "shape")
    ]


class ByPicture(SceneQuestions):
    """Items are drawn together by their pictures, as those of V*Bench are."""

    def judge(self, item, response, view, extractor):
        verdict = super().judge(item, response, view, extractor)
        return replace(verdict, columns={**verdict.columns, "picture": item.pictures[0].key})

    def unit(self):
        return ("picture",)


def test_questions_about_one_picture_stay_together_without_their_context():
    """Suppressed pictures taken for pictures of their own: two questions about one count as two, and intervals are too
    narrow."""
    benchmark = ByPicture("scenes", scenes(colour, shape).scenes)
    measured = ContextSuppression(benchmark).measure(Scripted(lambda item: item.answer))
    assert measured.groupby("item")["unit"].nunique().eq(1).all()
    assert measured.groupby("image")["unit"].nunique().tolist() == [measured["unit"].nunique()] * 2
    assert measured["unit"].nunique() < measured["item"].nunique()


def test_grounding_vs_answers_by_hand():
    """Right where it finds the object, wrong elsewhere: bins, means and frames."""
    benchmark, places = scenes(colour), {}
    for number, item in enumerate(located(benchmark, None)):
        places[item.names[0]] = (item, number % 3)

    def says(item: Item) -> str:
        if not item.prompt.startswith("Where"):
            return item.answer if places[item.names[0]][1] == 0 else "none"
        truth, case = places[item.prompt.removeprefix("Where is ").rstrip("?")]
        x1, y1, x2, y2 = truth.evidence[0].xyxy
        boxes = [(x1, y1, x2, y2), (x1, y1, x1 + (x2 - x1) / 4, y2), (0, 0, 1, 1)]
        return written(boxes[case])

    diagnosis = GroundingVsAnswers(benchmark, "processed", "Where is {phrase}?")
    measured = diagnosis.measure(Scripted(says))
    assert measured["bin"].tolist() == ["[0.5, 1]", "(0, 0.5)", "0"] * 2
    assert measured["iou"].tolist() == pytest.approx([1, 0.25, 0] * 2) and measured["correct"].tolist() == [1, 0, 0] * 2
    section = diagnosis.section(measured.assign(policy="p"))
    value = section.table.set_index(["measure", "of"])["value"]
    assert value["p: IoU of the queried object", "colour, right answers"] == pytest.approx(1)
    assert value["p: IoU of the queried object", "colour, wrong answers"] == pytest.approx(0.125)
    assert (value["p: accuracy", "colour, IoU [0.5, 1]"], value["p: accuracy", "colour, IoU 0"]) == (1, 0)
    mute = diagnosis.section(diagnosis.measure(Scripted(lambda item: "over there")).assign(policy="p")).table
    assert mute.set_index(["measure", "of"])["value"]["p: answered with a box", "colour, all"] == 0, (
        "zeros without a reason"
    )
    assert [bin_of(iou) for iou in (0.0, 0.01, 0.499, 0.5)] == ["0", "(0, 0.5)", "(0, 0.5)", "[0.5, 1]"]


def test_cue_search_on_evidence():
    """A crop of another place, another frame, or boxes of the wrong bin."""
    benchmark = scenes(relation)
    diagnosis = CueSearchOnEvidence(benchmark, BINS, "processed")
    seen = {}

    def says(item: Item) -> str:
        full, cue = (one.open() for one in item.pictures)
        box = item.evidence[0]
        assert np.array_equal(np.asarray(full.crop(box.xyxy)), np.asarray(cue)) and item.prompt.startswith("Image 1")
        seen[item.item_id] = box.area_ratio
        return written(box.xyxy)

    measured = diagnosis.measure(Scripted(says))
    assert len(measured) == 12 and measured["iou"].round(9).eq(1).all() and measured["format"].eq(1).all()
    for row in measured.itertuples():
        low, high = BINS[row.bin]
        assert low <= seen[row.item] < high


def test_benchmarks_that_do_not_say_where(tmp_path):
    """An analysis of nothing: one line that names the benchmark."""
    with pytest.raises(LocusError, match="has no item that says where its answer is visible"):
        located(replace_items(scenes(colour), evidence=()), None)
    nameless = replace_items(scenes(colour), names=())
    with pytest.raises(LocusError, match="does not say what lies in its evidence boxes"):
        GroundingVsAnswers(nameless, "processed").measure(Scripted(str))


def replace_items(benchmark: SceneQuestions, **changes: object) -> object:
    class Changed:
        name = benchmark.name

        def items(self) -> Iterator[Item]:
            return (replace(item, **changes) for item in benchmark.items())

    return Changed()


def test_items_are_taken_evenly():
    """A limit that takes the first kind only, or none."""
    items = located(scenes(colour, shape), 4)
    assert [item.groups["kind"] for item in items] == ["colour", "colour", "shape", "shape"]
    assert len(located(scenes(colour), 100)) == 6
    with pytest.raises(LocusError, match="analysis.limit=0"):
        located(scenes(colour), 0)


def test_figures_have_the_intervals_of_tables():
    """Bars and curves that take ten questions about one scene for ten scenes: a quarter of the interval beside them."""
    rows = pd.DataFrame({"policy": "p", "kind": 0, "unit": ["a"] * 10 + ["b"] * 10, "right": [1.0] * 10 + [0.0] * 10})
    (_, (bar,)), (_, (curve,)) = panels(), panels()
    bars(bar, rows, "kind", "right")
    curves(curve, rows, "kind", "right")
    for drawn in (bar.containers[0], curve.containers[0]):
        (line,) = drawn.lines[2][0].get_segments()
        assert line[:, 1].tolist() == [0, 1]  # of two scenes a resample may hold either alone


def test_one_scale_for_all_policies():
    """Each policy on a scale of its own: the weaker one would look as sure; and no box drawn."""
    sharp, flat = np.zeros((4, 4)), np.ones((4, 4))
    sharp[0, 0] = 1
    sheet = overlay_picture(
        Image.new("RGB", (64, 64)), {"a": sharp, "b": flat}, [Box(32, 32, 64, 64, Frame.FILE, 64, 64)], "?"
    )
    left, right = (np.asarray(sheet.crop((x, 48, x + WIDTH, 48 + WIDTH))) for x in (MARGIN, 2 * MARGIN + WIDTH))
    assert left[:60, :60].max() > 150 and right[:60, :60].max() < left[:60, :60].max() / 2
    assert all((shown == TRUE).all(-1).sum() > 200 for shown in (left, right))


def test_overlay_shows_where():
    """A map turned or flipped: the strongest cell's place is the brightest of the picture."""
    strength = np.zeros((4, 6))
    strength[1, 4] = 1
    shown = np.asarray(blend(Image.new("RGB", (60, 40)), strength)).sum(-1)
    y, x = np.unravel_index(shown.argmax(), shown.shape)
    assert 40 <= x < 50 and 10 <= y < 20 and shown[30:, :30].max() == 0


def test_paired_table_by_hand():
    """Items paired by order and not by name; a part of other items; an interval of one policy around 0."""
    rows = [("p", "a", 0, "x"), ("p", "b", 1, "y"), ("q", "b", 0, "y"), ("q", "a", 1, "x")]
    measured = pd.DataFrame(rows, columns=["policy", "item", "score", "kind"])
    table = paired_table(measured, {"accuracy": "score"}, "kind").set_index("of")
    assert table["change"].tolist() == [0, 1, -1] and table["items"].tolist() == [2, 1, 1]
    assert "+1.000" in as_text(table.reset_index())
    together = paired_table(measured.assign(unit="one"), {"accuracy": "score"}).iloc[0]
    assert together["low"] == together["high"] == 0, "one unit leaves nothing to draw"
    alone = paired_table(measured[measured["policy"] == "p"], {"accuracy": "score"}).iloc[0]
    assert (alone["p"], alone["low"], alone["high"]) == (0.5, 0, 1)


# --- The command ------------------------------------------------------------------------------------------------
FAMILIES = ("crowded", "sparse", "large")
ANALYSES = {
    "questions": [f"analysis.families.{name}.questions=4" for name in FAMILIES],
    "attention": ["analysis.limit=3"],  # fewer than are drawn by default
    "context_suppression": ["analysis.limit=4"],
    "grounding_vs_answers": ["analysis.limit=4"],
    "cue_search": ["analysis.limit=4"],
    "crowding": ["analysis.questions=2"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ANALYSES)
def test_command(tmp_path, name):
    """Each analysis on the embedded policy and one of random weights, side by side."""
    policies = "policies=[tiny,tiny_random]"
    out = f"hydra.run.dir={tmp_path}"
    ended = succeeded(command("analyze", f"analysis={name}", "backbone=tiny_random", policies, out, *ANALYSES[name]))
    measured = pd.read_parquet(tmp_path / f"{name}.parquet")
    assert measured["policy"].unique().tolist() == ["tiny", "tiny_random"]
    table = pd.read_csv(tmp_path / "table.csv")
    assert len(table) and table["items"].gt(0).all()
    assert (tmp_path / "report.html").read_text().count("data:image/png") == len(list(tmp_path.glob("figures/*.png")))
    assert "report:" in ended.stdout


@pytest.mark.slow
def test_command_on_vstar_files(tmp_path):
    """The paper's own benchmark in its official form: boxes, names and pictures of its folder."""
    folder = write_vstar(tmp_path / "vstar")
    assert next(VStar(folder, rows=2).items()).names == ("dog",)
    for name in ("attention", "context_suppression", "grounding_vs_answers", "cue_search"):
        files = "benchmark=vstar", f"benchmark.path={folder}", "benchmark.rows=2", "sampling.max_new_tokens=24"
        succeeded(command("analyze", f"analysis={name}", *files, f"hydra.run.dir={tmp_path / name}"))
        assert len(pd.read_parquet(tmp_path / name / f"{name}.parquet")) >= 2


def test_wrong_input(tmp_path):
    """Each with one line that says what is wrong."""
    out = f"hydra.run.dir={tmp_path}"
    refused(command("analyze", "policies=[]", out), "give one or more")
    refused(command("analyze", "policies=[tiny,tiny]", out), "each once")
    refused(command("analyze", "benchmark=scenes_counting", "policies=[some/model]", out), "in which frame")
    refused(command("analyze", "analysis=crowding", "analysis.objects=[4,2]", out), "objects=[4, 2]: give ascending")
    refused(command("analyze", "policies=[tiny,outputs/train/none/policy]", out), "none/policy")
    refused(command("analyze", "analysis.limit=0", out), "analysis.limit=0")
    refused(command("analyze", "token_budget=0", out), "token_budget=0")


@pytest.mark.slow
def test_attention_during_training(tmp_path):
    """The training callback: a number at every validation, per layer too, and the same batch each time."""
    train(tmp_path, "callbacks=attention", "callbacks.attention.limit=4", "trainer.steps=2")
    rows = pd.read_csv(tmp_path / "metrics.csv")
    assert rows.loc[rows["val/attention_in_box"].notna(), "step"].tolist() == [0, 2]
    assert rows["val/attention_in_box"].nunique() == 2, "the policy is another after two steps, the questions are not"
    assert {"val/peak_in_box", "val/attention_in_box/layer_0", "val/attention_in_box/layer_1"} <= set(rows)
