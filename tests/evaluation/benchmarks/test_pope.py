"""POPE: three settings read from files of either form, and scores by hand."""

from __future__ import annotations

import numpy as np
import pytest

from locus.errors import LocusError
from locus.evaluation.benchmarks.pope import POPE
from tests.support.benchmark_files import answered, picture, scores, told, write_tsv
from tests.support.benchmark_files_other import pope_rows, write_pope


def test_pope_rows_are_read_once_for_every_setting(tmp_path):
    """Settings of 1,709 rows instead of 3,000: the file names each distinct question once."""
    items = list(POPE(write_tsv(tmp_path / "POPE.tsv", pope_rows()), rows=6).items())
    assert [item.item_id for item in items] == [
        *("random_0", "popular_0", "adversarial_0", "random_1", "popular_2", "adversarial_2"),
    ]
    assert [item.groups["setting"] for item in items[:2]] == ["random", "popular"] and items[0].answer == "yes"
    assert items[0].groups["picture"] == items[3].groups["picture"] != items[4].groups["picture"]


def test_pope_scores(tmp_path):
    """An unread answer that counts as no answer at all raises recall; yes_ratio of the truth is always a half."""
    pope = POPE(write_tsv(tmp_path / "POPE.tsv", pope_rows()), rows=None)
    said = {
        "random_0": "Yes.",
        "popular_0": "**Yes**",
        "adversarial_0": "I cannot say",
        "random_1": "Yes",
        "popular_2": "no",
    }
    score = scores(pope, answered(pope, said))
    # Truth: 3 yes, 3 no. Said yes: 3, two of them right; the unread yes is missed; the unread no is wrong.
    assert score["precision"] == pytest.approx(200 / 3) and score["recall"] == pytest.approx(200 / 3)
    assert score["f1"] == pytest.approx(200 / 3) and score["accuracy"] == pytest.approx(50)
    assert score["yes_ratio"] == pytest.approx(50)
    # Random: precision 1/2, recall 1 -> 2/3; popular: 1; adversarial: nothing said yes, one there -> 0.
    assert (score["f1_random"], score["f1_popular"], score["f1_adversarial"]) == pytest.approx((200 / 3, 100, 0))
    assert score["f1_mean"] == pytest.approx(500 / 9) and score["accuracy_popular"] == pytest.approx(100)
    assert [score[f"{name}_random"] for name in ("precision", "recall", "yes_ratio")] == pytest.approx([50, 100, 100])
    assert np.isnan(score["precision_adversarial"]) and score["recall_adversarial"] == 0


def test_pope_f1_of_resamples(tmp_path):
    """A bootstrap that ignores the weights gives an interval of no width."""
    pope = POPE(write_tsv(tmp_path / "POPE.tsv", pope_rows()), rows=None)
    table = answered(pope, {"random_0": "yes", "random_1": "yes"})
    weights = np.array([[1.0] * 6, [2, 0, 0, 0, 0, 0], [0, 0, 0, 3, 0, 0], [0.0, 0, 0, 0, 1, 1]])
    assert pope.statistics()["f1"](table, weights).tolist() == pytest.approx([40, 100, 0, np.nan], nan_ok=True)


def test_pope_official_files_name_their_setting_only_in_their_name(tmp_path):
    """JSON lines under the name .json, question ids that begin anew in each file, pictures of another folder."""
    write_pope(tmp_path)
    pope = POPE(str(tmp_path), images=str(tmp_path / "val2014"), suffix=" Please answer yes or no.", rows=4)
    items = list(pope.items())
    assert [item.item_id for item in items] == ["random_1", "random_2", "adversarial_1", "adversarial_2"]
    assert items[0].prompt == "Is there a cat in the image? Please answer yes or no."
    assert told(POPE(str(tmp_path), rows=4)) == told(pope)
    with pytest.raises(LocusError, match=r"elsewhere/a\.jpg does not exist; pass images="):
        list(POPE(str(tmp_path), images=str(tmp_path / "elsewhere"), rows=4).items())


def test_pope_broken_official_files(tmp_path):
    """A traceback of json or of the decoder for a page of HTML or a picture that was saved under the file's name."""
    line = b'{"question_id": 1, "image": "a.jpg", "text": "Is it?", "label": "yes"}\n'
    for content, says in ((b"<html>\n", "line 1: not a JSON object"), (b"\xff\xfe", "cannot be read")):
        (tmp_path / "coco_pope_popular.json").write_bytes(content)
        with pytest.raises(LocusError, match=rf"coco_pope_popular\.json.*{says}"):
            list(POPE(str(tmp_path)).items())
    (tmp_path / "a.jpg").write_bytes(picture())
    (tmp_path / "coco_pope_popular.json").write_bytes(line + b"\n\n")
    assert len(list(POPE(str(tmp_path), rows=1).items())) == 1, "empty lines at the end are no rows"
