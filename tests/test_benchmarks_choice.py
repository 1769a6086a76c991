"""Multiple-choice benchmarks: files in their true formats, with their known traps, against hand-worked items and
scores."""

from __future__ import annotations

import base64
import struct
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from benchmark_files import answered, encoded, hf_image, picture, scores, write_parquet, write_tsv
from benchmark_files_choice import (
    SHORT,
    VSTAR_TEXT,
    ai2d_rows,
    cv_row,
    hr_rows,
    mmstar_rows,
    vek,
    write_cv,
    write_mme,
    write_realworldqa,
    write_vstar,
)

from locus.errors import LocusError
from locus.evaluation.benchmark import Item, Picture, Reading
from locus.evaluation.benchmarks.ai2d import AI2D
from locus.evaluation.benchmarks.choice import mean_over, vlmevalkit_prompt
from locus.evaluation.benchmarks.cv_bench import CVBench
from locus.evaluation.benchmarks.hr_bench import HRBench
from locus.evaluation.benchmarks.mme_realworld import MMERealWorld
from locus.evaluation.benchmarks.mmstar import MMStar, split_options
from locus.evaluation.benchmarks.readers import picture_size, read_rows
from locus.evaluation.benchmarks.realworldqa import RealWorldQA
from locus.evaluation.benchmarks.shared import by_column
from locus.evaluation.benchmarks.vstar import VStar
from locus.evaluation.statistics import difference, mean_of, score

SELECT = "Please select the correct answer from the options above. \n"


# --- Reading --------------------------------------------------------------------------------------------------
def test_tsv_keeps_the_words_none_and_na(tmp_path):
    """pandas takes an option "None" for an empty cell, and the right answer is no longer on offer."""
    path = write_tsv(tmp_path / "a.tsv", [vek(A="None", B="NA", C="null", D="")])
    (row,) = read_rows(Path(path), ["question"])
    assert row.options() == {"A": "None", "B": "NA", "C": "null"}


def test_tsv_cells_may_be_larger_than_the_csv_module_allows(tmp_path):
    """The module's limit of 131,072 characters stops at the first large picture."""
    big = base64.b64encode(picture(size=(300, 300))).decode()
    assert len(big) > 131_072
    (row,) = read_rows(Path(write_tsv(tmp_path / "a.tsv", [vek(image=big)])), ["image"])
    assert row.pictures("image")[0].open().size == (300, 300)


def test_tsv_pictures_by_index_are_dereferenced(tmp_path):
    """The number of a row decoded as a picture; here one refers back, one forward, and quoted lines lie between."""
    rows = [
        vek("0", image="7"),
        vek("3", question='two\nlines, "quoted", é\tand a tab'),
        vek("7", image=encoded(1)),
        vek("8", image="3"),
    ]
    found = list(read_rows(Path(write_tsv(tmp_path / "a.tsv", rows)), ["image"]))
    keys = [row.pictures("image")[0].key for row in found]
    assert keys[0] == keys[2] != keys[1] == keys[3]
    assert found[0].pictures("image")[0].source == picture(1)
    assert found[1].text("question") == 'two\nlines, "quoted", é\tand a tab'


@pytest.mark.parametrize("image", ["99", "2"])
def test_tsv_reference_to_nothing(tmp_path, image):
    """A reference to a missing row, or to one that is itself a reference, shown as a broken picture later."""
    path = write_tsv(tmp_path / "a.tsv", [vek(1, image=image), vek(2, image="1")])
    row = next(read_rows(Path(path), ["image"]))
    with pytest.raises(LocusError, match=rf"a\.tsv, row 1: .*row index {image}"):
        row.pictures("image")


def test_several_pictures_and_paths(tmp_path):
    """A list of pictures decoded as one, and paths taken from the working folder."""
    (tmp_path / "pictures").mkdir()
    for name in ("1.png", "2.png"):
        (tmp_path / "pictures" / name).write_bytes(picture())
    listed = write_tsv(tmp_path / "a.tsv", [vek(image=str([encoded(0), encoded(1)]))])
    (row,) = read_rows(Path(listed), ["image"])
    assert [one.source for one in row.pictures("image")] == [picture(0), picture(1)]
    named = vek(image_path="['1.png', '2.png']")
    del named["image"]
    path = write_tsv(tmp_path / "b.tsv", [named])
    (row,) = read_rows(Path(path), [("image", "image_path")], str(tmp_path / "pictures"))
    assert [one.source.name for one in row.pictures("image", "image_path")] == ["1.png", "2.png"]
    (row,) = read_rows(Path(path), [("image", "image_path")])
    with pytest.raises(LocusError, match=r"row 1: picture .*1\.png does not exist; pass images="):
        row.pictures("image", "image_path")


def test_endings_in_either_case(tmp_path):
    """HallusionBench names 0_1.png where its archive has 0_1.PNG, and V* has pictures named .JPG."""
    (tmp_path / "0_1.PNG").write_bytes(picture())
    named = vek(image_path="0_1.png")
    del named["image"]
    (row,) = read_rows(Path(write_tsv(tmp_path / "a.tsv", [named])), ["image_path"])
    assert row.pictures("image_path")[0].open().size == (40, 30)


@pytest.mark.parametrize("image", [hf_image(3), picture(3), encoded(3), "data:image/png;base64," + encoded(3)])
def test_parquet_pictures(tmp_path, image):
    """Each way in which a parquet file holds a picture gives the same picture, under the same key."""
    (row,) = read_rows(Path(write_parquet(tmp_path / "a.parquet", [{"image": image}])), ["image"])
    (found,) = row.pictures("image")
    assert found.source == picture(3) and found.open().size == (40, 30)


def test_shards_of_a_folder_are_one_file(tmp_path):
    """Shards read in the order of the file system, or rows numbered from 0 in each."""
    for shard in (2, 0, 1):
        write_parquet(tmp_path / f"test-{shard}.parquet", [{"n": 2 * shard}, {"n": 2 * shard + 1}])
    for path in (tmp_path, tmp_path / "test-*.parquet"):
        rows = list(read_rows(path, ["n"]))
        assert [row.cells["n"] for row in rows] == [row.position for row in rows] == list(range(6))


@pytest.mark.parametrize("image", [encoded()[:-7], "*" + encoded()[:-1]])
def test_broken_base64_names_the_row(tmp_path, image):
    """A cut or spoilt cell that becomes a grey picture, or a traceback without the row."""
    rows = [vek(0), vek(1, image=image)]
    benchmark = VStar(write_tsv(tmp_path / "a.tsv", [{**row, "category": "direct_attributes"} for row in rows]))
    with pytest.raises(LocusError, match=r"a\.tsv, row 2: the picture's base64 is broken"):
        list(benchmark.items())


def test_large_pictures_are_no_decompression_bomb():
    """Satellite pictures of 200 million pixels refused by Pillow's guard in the middle of a run."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 20_000, 10_000, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    data += struct.pack(">I", 0) + b"IDAT"
    assert picture_size(Picture("large", data)) == (20_000, 10_000)
    with pytest.raises(LocusError, match="picture broken cannot be decoded"):
        picture_size(Picture("broken", data[:20]))


def test_broken_files_are_one_error(tmp_path):
    """Tracebacks out of pyarrow, csv or json in place of the file's name and the mend."""
    whole = Path(write_parquet(tmp_path / "cut.parquet", [{"image": encoded()}])).read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[:-40])
    (tmp_path / "cut.tsv").write_text("index\tquestion\tanswer\n0\twhat?\n")
    (tmp_path / "cut.jsonl").write_text('{"n": 1}\n{"n": \n')
    (tmp_path / "list.jsonl").write_text("[1]\n")
    (tmp_path / "cut.json").write_text('[{"n": 1}')
    (tmp_path / "map.json").write_text('{"n": 1}')
    (tmp_path / "bytes.tsv").write_bytes(b"index\n\xff\xfe\n")
    for name in ("cut.parquet", "cut.tsv", "cut.jsonl", "list.jsonl", "cut.json", "map.json", "bytes.tsv"):
        with pytest.raises(LocusError, match=name):
            list(read_rows(tmp_path / name, []))
    (tmp_path / "empty").mkdir()
    for name in ("nowhere.tsv", "empty", "a*.tsv"):
        with pytest.raises(LocusError, match=r"no such file.*benchmark\.path=.*benchmarks="):
            list(read_rows(tmp_path / name, []))


def test_missing_columns_are_one_error(tmp_path):
    """A KeyError in the middle of a run for the file of another benchmark."""
    path = write_parquet(tmp_path / "a.parquet", [{"text": "x", "image": encoded()}])
    with pytest.raises(LocusError, match=r"has no column cycle or fold, answer \(it has text, image\)"):
        list(read_rows(Path(path), ["text", ("cycle", "fold"), "answer"]))


# --- What all choice benchmarks share -------------------------------------------------------------------------
def test_a_wrong_number_of_rows_is_an_error(tmp_path):
    """A file cut between two rows scores like a whole one."""
    path = write_tsv(tmp_path / "a.tsv", [vek(n) for n in range(3)])
    with pytest.raises(LocusError, match=r"ai2d has 3088 items, found 3.*rows=null"):
        list(AI2D(path).items())
    assert len(list(AI2D(path, rows=3).items())) == len(list(AI2D(path, rows=None).items())) == 3


def test_ids_that_come_again_are_told_apart(tmp_path):
    """Two rows of one id: the second response overwrites the first, and a row is missing from the score."""
    path = write_tsv(tmp_path / "a.tsv", [vek(5), vek(6), vek(5)])
    assert [item.item_id for item in AI2D(path, rows=3).items()] == ["5", "6", "5#2"]


@pytest.mark.parametrize(("answer", "says"), [("", "answer is empty"), ("blue", "'blue' is no letter")])
def test_an_answer_that_is_no_letter(tmp_path, answer, says):
    """An empty truth that no response can match, scored as wrong without a word."""
    with pytest.raises(LocusError, match=rf"row 1: .*{says}"):
        list(AI2D(write_tsv(tmp_path / "a.tsv", [vek(answer=answer)])).items())


def test_vlmevalkit_prompt_is_the_published_text():
    """A space or line less than the default prompt moves scores by points."""
    options = {"A": "red", "B": "None"}
    text = vlmevalkit_prompt("Which?", options, "Look.")
    assert text == f"Hint: Look.\nQuestion: Which?\nOptions:\nA. red\nB. None\n{SELECT}"
    assert vlmevalkit_prompt("Which?", {}) == "Question: Which?\n"


def test_judging(tmp_path):
    """A cut or an empty response scored as right, the two extractors mixed up, or an unknown one taken for either."""
    benchmark = AI2D(write_tsv(tmp_path / "a.tsv", [vek(D="green")]), rows=1)
    (item,) = benchmark.items()
    right = benchmark.judge(item, "<answer>B</answer>", True, "locus")
    assert (right.item_id, right.correct, right.extracted.answer) == ("0", 1.0, "B")
    assert benchmark.judge(item, "<answer>B</answer>", True, "vlmevalkit").correct == 0, "it does not know the tags"
    assert benchmark.judge(item, "B.", True, "vlmevalkit").correct == 1
    cut = benchmark.judge(item, "Let me compare the red one", False, "locus")
    assert cut.correct == 0 and cut.extracted.reading == Reading.TRUNCATED
    assert benchmark.judge(item, "", True, "locus").correct == 0
    assert benchmark.judge(item, "The answer is C", True, "locus").correct == 0, "there is no C"
    with pytest.raises(LocusError, match="unknown extractor 'gpt'"):
        benchmark.judge(item, "B", True, "gpt")


def test_an_answer_outside_the_options_is_marked(tmp_path):
    """A row that nobody can get right, unseen in the table."""
    benchmark = AI2D(write_tsv(tmp_path / "a.tsv", [vek(0), vek(1, answer="D")]), rows=2)
    assert answered(benchmark, ["B", "B"])["answerable"].tolist() == [1, 0]


def test_interval_of_an_accuracy_is_the_binomial_one():
    """An interval of percentiles of the wrong tail, or of the rows in place of their mean: 60 of 191, by hand."""
    rows = pd.DataFrame({"correct": [1.0] * 60 + [0.0] * 131, "picture": range(191)})
    found = score(rows, VStar("none").statistics()["accuracy"], VStar("none").unit(), resamples=4000)
    share = 60 / 191
    half = 196 * (share * (1 - share) / 191) ** 0.5
    assert found.value == pytest.approx(100 * share) and found.n == 191
    assert (found.low, found.high) == pytest.approx((100 * share - half, 100 * share + half), abs=0.8)


def test_questions_about_one_picture_are_drawn_together(tmp_path):
    """AI2D asks three questions about a diagram: taken for independent, they make the interval too narrow."""
    rows = [vek(n, image=encoded(n // 3)) for n in range(6)]
    benchmark = AI2D(write_tsv(tmp_path / "a.tsv", rows), rows=6)
    table = answered(benchmark, ["B"] * 3 + ["A"] * 3)
    found = score(table, benchmark.statistics()["accuracy"], benchmark.unit())
    assert (found.value, found.low, found.high) == (50, 0, 100), "two pictures: a resample is one, the other, or both"


def test_a_score_says_how_many_rows_it_stands_on():
    """The 76 relations of V* published with the count of all 191 rows."""
    rows = pd.DataFrame({"correct": 1.0, "category": ["direct_attributes"] * 5 + ["relative_position"] * 2})
    rows = rows.assign(cycle=list("0011223"), source="COCO", other=1.0)
    named = VStar("none").statistics()
    assert [score(rows, statistic, (), 8).n for statistic in named.values()] == [7, 5, 2]
    assert score(rows, mean_over("cycle", category="relative_position"), (), 8).n == 2
    assert score(rows, mean_of(*list(named.values())[1:]), (), 8).n == 7
    assert score(rows, by_column("other", named["direct_attributes"]), (), 8).n == 5
    assert difference(rows, rows, named["relative_position"], (), 8).n == 2


# --- V*Bench --------------------------------------------------------------------------------------------------
def test_vstar_official_folder(tmp_path):
    """Gold always at A (the pictures' own JSON files), a re-parsed question, or xywh boxes taken for xyxy."""
    first, second = VStar(write_vstar(tmp_path), rows=2).items()
    assert (first.answer, second.answer) == ("B", "A")
    assert first.prompt == VSTAR_TEXT and first.options == {"A": "red (dark)", "B": "blue"}
    assert [box.xyxy for box in first.evidence] == [(4, 5, 14, 11)]
    assert (first.evidence[0].width, first.evidence[0].height) == (40, 30)
    assert first.pictures[0].open().size == (40, 30)


def test_vstar_box_file_is_needed(tmp_path):
    """An attention analysis that quietly loses the pictures whose boxes are missing or broken."""
    write_vstar(tmp_path / "a", bbox=[[1, 2, 3]])
    with pytest.raises(LocusError, match=r"sa_1\.json: no boxes can be read"):
        list(VStar(str(tmp_path / "a")).items())
    write_vstar(tmp_path / "outside", bbox=[[50, 5, 10, 6]])
    with pytest.raises(LocusError, match=r"sa_1\.json: .* are not all in 40 x 30 pixels"):
        list(VStar(str(tmp_path / "outside")).items())
    write_vstar(tmp_path / "b")
    (tmp_path / "b" / "direct_attributes" / "sa_1.json").unlink()
    with pytest.raises(LocusError, match=r"sa_1\.json: no boxes can be read"):
        list(VStar(str(tmp_path / "b")).items())


def test_vstar_other_files_and_scores(tmp_path):
    """The mean of the two categories given for the accuracy: they have 115 and 76 rows."""
    rows = [
        {"image": hf_image(n), "text": VSTAR_TEXT, "label": "B", "category": category, "question_id": str(n)}
        for n, category in enumerate(["direct_attributes"] * 3 + ["relative_position"])
    ]
    benchmark = VStar(write_parquet(tmp_path / "a.parquet", rows), rows=4)
    assert next(benchmark.items()).prompt == VSTAR_TEXT and next(benchmark.items()).evidence == ()
    found = scores(benchmark, answered(benchmark, ["B", "A", "A", "B"]))
    assert found == pytest.approx({"accuracy": 50, "direct_attributes": 100 / 3, "relative_position": 100})
    (item,) = VStar(write_tsv(tmp_path / "a.tsv", [vek(category="relative_position")]), rows=1).items()
    assert item.prompt == f"Question: Which?\nOptions:\nA. red\nB. blue\n{SELECT}"


# --- HR-Bench -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("write", [write_parquet, write_tsv])
def test_hr_bench(tmp_path, write):
    """An all-rotations-right rule in place of the mean over cycles, or rotations resampled as questions."""
    suffix = {write_parquet: "parquet", write_tsv: "tsv"}[write]
    benchmark = HRBench(write(tmp_path / f"hr.{suffix}", hr_rows()), "hr_bench_4k", rows=8)
    items = list(benchmark.items())
    assert [item.options[str(item.answer)] for item in items] == ["red"] * 8
    assert items[0].options == {"A": "red", "B": "blue", "C": "None", "D": "green"}
    assert items[0].prompt == f"Question: Which colour?\nOptions:\nA. red\nB. blue\nC. None\nD. green\n{SELECT}"
    assert len({item.groups["question"] for item in items}) == 2
    # "single" is right in all cycles, "cross" in the first only.
    right = [n < 2 or item.groups["category"] == "single" for n, item in enumerate(items)]
    rows = answered(benchmark, [str(i.answer) if r else wrong(i) for i, r in zip(items, right, strict=True)])
    found = scores(benchmark, rows)
    assert found == pytest.approx({"overall": 62.5, "fsp": 100, "fcp": 25, "all_cycles_right": 50})
    interval = score(rows, benchmark.statistics()["overall"], benchmark.unit())
    assert (interval.low, interval.high) == (25, 100), "two questions: a resample is one, the other, or both"


def wrong(item: Item) -> str:
    """An option that is not the answer."""
    return next(letter for letter in item.options if letter != item.answer)


def test_mean_over_weighs_cycles_and_not_rows():
    """Cycles of unequal size (a partial run) averaged by rows: 1 of 1 and 0 of 3 are 50 %, not 25 %."""
    rows = pd.DataFrame({"correct": [1.0, 0.0, 0.0, 0.0], "cycle": list("0111"), "kind": list("aaab")})
    assert mean_over("cycle")(rows, np.ones((1, 4))).tolist() == [50]
    assert mean_over("cycle", kind="b")(rows, np.ones((1, 4))).tolist() == [0]
    assert np.isnan(mean_over("cycle", kind="c")(rows, np.ones((2, 4)))).all()


# --- CV-Bench -------------------------------------------------------------------------------------------------
def test_cv_bench_items(tmp_path):
    """A sixth option cut off, the instruction printed twice, ids that both files use, boxes in another layout."""
    items = list(CVBench(write_cv(tmp_path), rows=5).items())
    assert [item.item_id for item in items] == ["2D-0", "2D-1", "2D-2", "3D-0", "3D-1"]
    assert items[0].answer == "F" and items[0].options["F"] == "None"
    assert items[1].prompt == "How many? Select from the following choices.\n(A) above\n(B) below"
    assert [box.xyxy for box in items[3].evidence] == [(1, 2, 11, 22), (5, 5, 40, 30)]
    assert items[0].evidence == items[4].evidence == ()


def test_cv_bench_boxes_of_another_layout_are_refused(tmp_path):
    """Width and height taken for a corner: every box would be wrong, and the attention in it."""
    path = write_cv(tmp_path, bbox=[[20, 10, 10, 20]])
    with pytest.raises(LocusError, match=r"test_3d\.parquet, row 1: bbox .* no xyxy box in 40 x 30 .*boxes=xywh"):
        list(CVBench(path).items())
    assert list(CVBench(path, rows=5, boxes="xywh").items())[3].evidence[0].xyxy == (20, 10, 30, 30)
    assert list(CVBench(path, rows=5, boxes="none").items())[3].evidence == ()
    with pytest.raises(LocusError, match="boxes=yxyx"):
        CVBench(path, boxes="yxyx")
    broken = write_cv(tmp_path / "broken", bbox=[[20, 10, 30]])
    with pytest.raises(LocusError, match=r"row 1: bbox .* is no four numbers.*boxes=none"):
        list(CVBench(broken).items())


def test_cv_bench_sources_of_other_names_are_refused(tmp_path):
    """Rows of a source that the formula does not know fall out of the headline, and nothing says so."""
    row = cv_row(0, "ADE20k", "Count", ["0", "1"], "(A)")
    with pytest.raises(LocusError, match=r"row 1: source 'ADE20k' is none of ADE20K, COCO, Omni3D"):
        list(CVBench(write_parquet(tmp_path / "test_2d.parquet", [row])).items())


def test_cv_bench_scores(tmp_path):
    """One of the three numbers that are called CV-Bench given for another; worked by hand."""
    benchmark = CVBench(write_cv(tmp_path), rows=5)
    found = scores(benchmark, answered(benchmark, ["F", "B", "B", "A", "B"]))
    # ADE20K 1/2, COCO 1/1 -> 2D 75; Omni3D 1/2 -> 3D 50.
    expected = {"formula": 62.5, "2d": 75, "3d": 50, "flat": 60, "task_mean": 50}
    assert found == pytest.approx({**expected, "count": 100, "relation": 0, "depth": 100, "distance": 0})


def test_cv_bench_tsv(tmp_path):
    """VLMEvalKit's files name the columns otherwise; their letters are columns."""
    for side, source, task in (("2D", "COCO", "Count"), ("3D", "Omni3D", "Depth")):
        more = {"prompt": "How many?\n(A) red\n(B) blue", "split": side, "source": source, "task": task}
        write_tsv(tmp_path / f"CV-Bench-{side}.tsv", [vek(answer="(B)", **more)])
    two, three = CVBench(str(tmp_path), rows=2).items()
    assert (two.item_id, three.item_id, three.groups["source"]) == ("2D-0", "3D-0", "Omni3D")
    assert two.prompt == "How many?\n(A) red\n(B) blue" and two.options == {"A": "red", "B": "blue"}


# --- MME-RealWorld --------------------------------------------------------------------------------------------
MME_PROMPT = (
    "Which? The choices are listed below:\n(A) red\n(B) blue\n(C) NA\n(D) 4\n(E) The image does not show it\n"
    "Select the best answer to the above multiple-choice question based on the image. Respond with only the letter "
    "(A, B, C, D, or E) of the correct option. \nThe best answer is:"
)


@pytest.mark.parametrize("kind", ["json", "tsv", "parquet"])
def test_mme_realworld_items(tmp_path, kind):
    """The same question put in other words, or counted to another sub-task, for the file that it comes from."""
    images = str(tmp_path / "imgs") if kind == "json" else ""
    (item,) = MMERealWorld(write_mme(tmp_path, kind), "mme_realworld", 1, images).items()
    assert item.prompt == MME_PROMPT and item.answer == "B" and item.item_id == "3"
    assert list(item.options) == list("ABCDE") and item.options["C"] == "NA"
    assert item.pictures[0].open().size == (40, 30)
    whole = "Perception/Remote Sensing"
    groups = {"task": "Perception", "domain": "Remote Sensing", "task_domain": whole}
    assert item.groups == {**groups, "subtask": f"{whole}/color/attribute"}


def test_mme_realworld_official_extractor_is_a_column_of_its_own(tmp_path):
    """The official rule reads an A in "Answer: B"; mixed with ours, scores of neither remain."""
    benchmark = MMERealWorld(write_mme(tmp_path, "parquet"), "mme_realworld", 1)
    (item,) = benchmark.items()
    for response, ours, official in (("Answer: B", 1, 0), ("B", 1, 1), ("", 0, 0), ("Blue is A", 0, 1)):
        verdict = benchmark.judge(item, response, True, "locus")
        assert (verdict.correct, verdict.columns["official"]) == (ours, official), response
    gold_a = Item("1", "", "A", (), dict(zip("AB", "xy", strict=True)), item.groups)
    verdict = benchmark.judge(gold_a, "Answer: B", True, "locus")
    assert (verdict.correct, verdict.columns["official"]) == (0, 1)
    assert benchmark.judge(gold_a, "", True, "locus").correct == 0


def test_mme_realworld_scores():
    """Avg (by rows) and Avg-C (by domains) interchanged; by hand on 6 rows."""
    cells = [
        ("Perception", "Monitoring", 1.0, 1.0),
        ("Perception", "Monitoring", 0.0, 0.0),
        ("Perception", "Monitoring", 0.0, 1.0),
        ("Perception", "Remote Sensing", 1.0, 1.0),
        ("Reasoning", "Monitoring", 1.0, 0.0),
        ("Reasoning", "Monitoring", 0.0, 0.0),
    ]
    rows = pd.DataFrame(cells, columns=["task", "domain", "correct", "official"])
    rows["task_domain"] = rows["task"] + "/" + rows["domain"]
    rows["subtask"] = rows["task_domain"] + "/" + pd.Series(list("ppqrss"))
    found = scores(MMERealWorld("none", "mme_realworld", None), rows)
    assert found["accuracy"] == found["official"] == 50
    assert (found["perception"], found["reasoning"]) == (50, 50)
    assert found["perception_monitoring"] == pytest.approx(100 / 3) and found["perception_remote_sensing"] == 100
    assert found["perception_avg_c"] == pytest.approx(200 / 3) and found["reasoning_avg_c"] == 50
    assert found["avg_c"] == pytest.approx((100 / 3 + 100 + 50) / 3)
    assert found["subtask_mean"] == 50  # p 1/2, q 0/1, r 1/1, s 1/2
    assert np.isnan(found["perception_ocr"]), "no such row: not a zero"
    official = rows.assign(official=[1.0] * 6)
    assert scores(MMERealWorld("none", "mme_realworld", None), official)["official"] == 100


# --- MMStar ---------------------------------------------------------------------------------------------------
def test_mmstar_inline_options_are_printed_once(tmp_path):
    """Options in the question and again below it; commas, colons and a "None" in options."""
    inline, _ = MMStar(write_parquet(tmp_path / "a.parquet", mmstar_rows()), rows=2).items()
    assert inline.options == {"A": "A cat, asleep.", "B": "3, 4 and 5", "C": "None", "D": "note: a dog"}
    columns = vek(4, question="What is it?", answer="C", **inline.options, category="math", l2_category="geometry")
    (tsv,) = MMStar(write_tsv(tmp_path / "a.tsv", [columns]), rows=1).items()
    assert inline.prompt == tsv.prompt and inline.prompt.count("asleep") == 1
    assert tsv.groups == {"category": "math", "axis": "geometry"}


def test_mmstar_options_that_cannot_be_split_stay_where_they_are(tmp_path):
    """A question without its options, because they were cut off and not printed again."""
    assert split_options("Is it?\nOptions: A: Yes\nB: No") == ("Is it?", {"A": "Yes", "B": "No"})
    for text in ("What is in A, B or C?", "Options: left or right", "Options: one of these, A: x, B: y"):
        assert split_options(text) == (text, {})
    late = "It?\nOptions: A: x, C: z, B: plan B, C: plan C"
    assert split_options(late) == ("It?", {"A": "x, C: z", "B": "plan B", "C": "plan C"})
    benchmark = MMStar(write_parquet(tmp_path / "a.parquet", mmstar_rows()[1:]), rows=1)
    (item,) = benchmark.items()
    assert item.prompt == f"Question: Left or right?\n{SELECT}" and item.options == {}
    assert benchmark.judge(item, "B", True, "locus").correct == 1
    assert benchmark.judge(item, "E", True, "locus").correct == 0


def test_mmstar_scores():
    """The mean over axes of unequal size given for the accuracy."""
    rows = pd.DataFrame({"correct": [1.0, 0.0, 0.0, 1.0], "axis": list("aaab")})
    rows["category"] = ["math", "math", "science & technology", "math"]
    found = scores(MMStar("none"), rows)
    assert (found["accuracy"], found["science_technology"]) == (50, 0)
    assert found["axis_mean"] == pytest.approx(200 / 3) and found["math"] == pytest.approx(200 / 3)
    assert np.isnan(found["logical_reasoning"])


# --- RealWorldQA ----------------------------------------------------------------------------------------------
def test_realworldqa_official(tmp_path):
    """A second instruction that contradicts the first; numbers judged as letters; strict and normalised mixed up."""
    benchmark = RealWorldQA(write_realworldqa(tmp_path), rows=3)
    items = list(benchmark.items())
    assert [item.groups["kind"] for item in items] == ["letter", "short", "short"]
    assert items[0].options == {"A": "Left", "B": "None", "C": "Ahead"} and items[1].options == {}
    assert items[1].prompt == f"How many cars? {SHORT}" and [item.item_id for item in items] == ["0", "1", "2"]
    rows = answered(benchmark, ["The answer is B", "three", "yes."])
    assert rows["correct"].tolist() == [1, 1, 1] and rows["strict"].tolist() == [0, 0, 1]
    found = scores(benchmark, rows)
    expected = {"accuracy": 100, "strict": 100 / 3, "letter": 100, "short": 100, "without_broken": 100}
    assert found == pytest.approx(expected)
    assert benchmark.judge(items[1], "three", True, "vlmevalkit").correct == 0
    assert benchmark.judge(items[1], "3.", True, "vlmevalkit").correct == 1
    assert benchmark.judge(items[1], "", True, "vlmevalkit").extracted.reading == Reading.NONE
    with pytest.raises(LocusError, match="unknown extractor"):
        benchmark.judge(items[1], "3", True, "gpt")


def test_realworldqa_tsv_marks_its_broken_rows(tmp_path):
    """Rows whose right option was lost count like the others, and nobody can say by how much."""
    rows = [vek(104), vek(105), vek(106, answer="D")]
    benchmark = RealWorldQA(write_tsv(tmp_path / "a.tsv", rows), rows=3)
    assert [item.groups["row"] for item in benchmark.items()] == ["whole", "broken", "broken"]
    found = scores(benchmark, answered(benchmark, ["B", "A", "A"]))
    assert found["accuracy"] == pytest.approx(100 / 3) and found["without_broken"] == 100


# --- AI2D -----------------------------------------------------------------------------------------------------
def test_ai2d_answers_by_index_and_options_that_are_letters(tmp_path):
    """Answer "0" read as false or as a letter; an option's text "C" taken for the letter C."""
    benchmark = AI2D(write_parquet(tmp_path / "a.parquet", ai2d_rows()), rows=2)
    first, second = benchmark.items()
    assert (first.answer, second.answer) == ("A", "D")
    assert first.prompt == f"Question: Which?\nOptions:\nA. C\nB. A\nC. None\nD. B\n{SELECT}"
    assert benchmark.judge(first, "The answer is C", True, "locus").correct == 0
    assert benchmark.judge(first, "The answer is A", True, "locus").correct == 1
    columns = dict(zip("ABCD", ai2d_rows()[0]["options"], strict=True))
    (tsv,) = AI2D(write_tsv(tmp_path / "a.tsv", [vek(answer="D", **columns)]), "ai2d_no_mask", rows=1).items()
    assert tsv.prompt == first.prompt and tsv.answer == "D"


@pytest.mark.parametrize("answer", ["4", "A", "-1"])
def test_ai2d_index_out_of_range(tmp_path, answer):
    """An index of no option wraps around to another, or stops the run without naming the row."""
    row = {"question": "Which?", "options": list("wxyz"), "answer": answer, "image": hf_image()}
    with pytest.raises(LocusError, match=rf"row 1: the answer '{answer}' is no index of its 4 options"):
        list(AI2D(write_parquet(tmp_path / "a.parquet", [row])).items())
