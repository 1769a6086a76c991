"""Cue search as a task: its gold answers, foils and targets, what it records, and its metrics, by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from locus.errors import LocusError
from locus.tasks.box_task import shifted
from locus.tasks.cue_search.audits import corpus_of
from locus.tasks.cue_search.corpus import CueTable
from locus.tasks.cue_search.rationales import TemplateRationales, rationale
from locus.tasks.cue_search.reward import BoxReward
from locus.tasks.cue_search.task import CueSearch
from locus.types import Box, Frame, Grade, Response, Rollout, RolloutGroup, Sample, View
from tests.support.miniature import scenes
from tests.support.models import cue_task, example

EXAMPLE = example((200, 100), (20, 10, 60, 30))
SEEN = View(Frame.PROCESSED, (400.0, 100.0))
VIEWS = {View(Frame.FILE): (20, 10, 60, 30), SEEN: (40, 10, 120, 30), View(Frame.UNIT1000): (100, 100, 300, 300)}


@pytest.mark.parametrize(("view", "xyxy"), VIEWS.items(), ids=lambda one: str(getattr(one, "frame", "")))
def test_gold_and_foil_by_hand(view, xyxy):
    """A gold answer in another frame than the policy's, a foil that moves along one axis, or by whole sides."""
    task, (x1, y1, x2, y2) = cue_task([EXAMPLE]), xyxy
    gold = f"<think></think><answer>[{x1:.3f}, {y1:.3f}, {x2:.3f}, {y2:.3f}]</answer>"
    assert task.gold(EXAMPLE, view) == gold
    dx, dy = (x2 - x1) / 2, (y2 - y1) / 2
    moved = f"[{x1 + dx:.3f}, {y1 + dy:.3f}, {x2 + dx:.3f}, {y2 + dy:.3f}]"
    assert task.foil(EXAMPLE, view) == f"<think></think><answer>{moved}</answer>"
    rounded = task.variants(EXAMPLE, view)
    assert rounded == {"rounded to integers": f"<think></think><answer>[{x1}, {y1}, {x2}, {y2}]</answer>"}
    earned = [task.grade(EXAMPLE, Response(text), view) for text in (gold, task.foil(EXAMPLE, view))]
    assert earned[0].total == pytest.approx(1) and earned[1].parts["iou"] == pytest.approx(1 / 7)
    assert shifted(Box(0, 0, 4, 2, Frame.FILE, 9, 9)).xyxy == (2, 1, 6, 3)


def test_a_reward_of_the_format_alone_has_no_foil():
    """A pre-flight that stops every run whose reward does not look at the place, which is meant so."""
    assert cue_task([EXAMPLE], reward=BoxReward(alpha=1.0)).foil(EXAMPLE, SEEN) is None


def test_targets_hold_the_rationale_and_whole_numbers():
    """SFT without its rationale, with decimals, in the file's frame, or of the next example."""
    one = replace(EXAMPLE, label="dotted red star")
    samples = [Sample(one, None, SEEN), Sample(replace(one, example_id="other"), None, View(Frame.FILE))]
    texts = list(cue_task([one], rationales=TemplateRationales()).target(samples))
    assert texts == [
        f"<think>{rationale(one)}</think><answer>[40, 10, 120, 30]</answer>",
        f"<think>{rationale(samples[1].example)}</think><answer>[20, 10, 60, 30]</answer>",
    ]
    plain = list(cue_task([one]).target(samples))
    assert plain[0] == "<think></think><answer>[40, 10, 120, 30]</answer>"


def test_a_missing_rationale_is_seen_beforehand():
    """An hour of training before the first example that has no rationale."""

    class Lacking(TemplateRationales):
        def check(self, examples):
            raise LocusError(f"none for {[one.example_id for one in examples]}")

    with pytest.raises(LocusError, match="none for .'example-0'"):
        cue_task([EXAMPLE], rationales=Lacking()).check_targets()


def test_what_run_files_say_of_an_example():
    """A column that is lost on the way: pages and analyses then lack it."""
    task = cue_task([EXAMPLE])
    assert task.row(EXAMPLE) == {
        **{"image_id": "image-0", "image_path": EXAMPLE.image_path, "bin": "tiny", "area_ratio": 0.04},
        **{"expression": "", "target": [20, 10, 60, 30]},
    }
    assert task.facts() == {"corpus_hash": task.corpus.content_hash, "audits": task.corpus.audits}
    assert task.group(EXAMPLE) == "tiny" and set(task.labels) == set(task.summary([graded(task, 1.0)]))


def graded(task: CueSearch, iou: float, formed: bool = True) -> Grade:
    """Of a box that lies in the target with this IoU."""
    answer = f"[20, 10, {20 + 40 * iou}, 30]"
    return task.grade(EXAMPLE, Response(f"{'<think></think>' * formed}<answer>{answer}</answer>"), View(Frame.FILE))


def test_validation_metrics_by_hand():
    """A threshold that is exclusive, means of bins in place of examples, or a bin under another's name."""
    task = cue_task([EXAMPLE])
    found = {"tiny": (1.0, 0.75), "large": (0.5, 0.25)}
    groups = []
    for name, ious in found.items():
        one = replace(EXAMPLE, bin=name)
        groups += [
            RolloutGroup(Sample(one, None, SEEN), (Rollout(None, "", graded(task, iou, iou > 0.3)),)) for iou in ious
        ]
    metrics = task.validation_metrics(groups)
    whole = {"mean_iou": 2.5 / 4, "acc@0.5": 3 / 4, "acc@0.75": 2 / 4, "format": 3 / 4}
    whole["reward"] = 0.9 * 2.5 / 4 + 0.1 * 3 / 4
    large = {"mean_iou": 0.375, "acc@0.5": 0.5, "acc@0.75": 0, "format": 0.5, "reward": 0.9 * 0.375 + 0.05}
    tiny = {"mean_iou": 0.875, "acc@0.5": 1, "acc@0.75": 1, "format": 1, "reward": 0.9 * 0.875 + 0.1}
    expected = whole | {f"large/{key}": value for key, value in large.items()}
    assert metrics == pytest.approx(expected | {f"tiny/{key}": value for key, value in tiny.items()})
    assert task.headline in metrics


def test_a_corpus_without_validation_is_refused(tmp_path):
    """A run whose validations are means of nothing."""
    source, corpus = scenes()
    none = CueTable(corpus.validation.columns.slice(0, 0), "validation")
    replace(corpus, validation=none).save(tmp_path)
    with pytest.raises(LocusError, match=r"no validation examples; prepare it with some \(data\.validation_examples\)"):
        corpus_of(source, None, 12, 4, seed=0, corpus=str(tmp_path))


def test_a_prepared_corpus_is_the_one_drawn(tmp_path):
    """A corpus that changes, or splits that are exchanged, on the way through its file."""
    source, corpus = scenes()
    corpus.save(tmp_path)
    task = CueSearch(corpus_of(source, None, 0, 0, seed=0, corpus=str(tmp_path)), source)
    for split in ("train", "validation"):
        own = list(corpus.splits[split])
        assert list(task.examples(split)) == own and {one.split for one in own} == {split}
