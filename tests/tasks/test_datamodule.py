"""The order of examples follows from seed and step alone, wherever a run starts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from locus.errors import LocusError
from locus.tasks.cue_search.corpus import SCHEMA, Corpus, CueTable
from locus.tasks.cue_search.task import CueSearch
from locus.tasks.datamodule import SampleMaker, StepSampler, TaskDataModule
from locus.tasks.order import Curriculum, Order
from locus.types import CueExample, Frame, View
from tests.support.models import FAMILIES, SIZES, builder, example, sample_maker
from tests.support.numbers import Numbers


def batches(size: int = 10, batch_size: int = 3, steps: int = 12, start: int = 0, seed: int = 7) -> list[list[int]]:
    """All batches of a sampler in the default order."""
    return list(StepSampler(Numbers(size), batch_size, steps, start, seed))


@pytest.mark.parametrize("start", range(13))
def test_a_step_has_one_batch_wherever_the_run_started(start):
    """A resumed run that begins its epoch anew, skips a batch or repeats one; also in the middle of an epoch."""
    assert batches(start=start) == batches()[start:]


def test_every_example_once_an_epoch():
    """Ten examples, three a step: nine different ones an epoch, none twice in a batch, another order each epoch."""
    epochs = [sum(batches()[start : start + 3], []) for start in range(0, 12, 3)]
    for epoch in epochs:
        assert len(epoch) == 9 and len(set(epoch)) == 9 and set(epoch) <= set(range(10))
    assert len({tuple(epoch) for epoch in epochs}) == 4
    whole = batches(size=12, batch_size=4, steps=3)
    assert sorted(sum(whole, [])) == list(range(12))


def test_the_dropped_tail_changes():
    """The same examples left out of every epoch would never be trained on."""
    left_out = [set(range(10)) - set(sum(batches(steps=90)[start : start + 3], [])) for start in range(0, 90, 3)]
    assert len(set().union(*left_out)) > 5  # of 30 draws; fewer by bad luck with a chance of 3e-7


def test_seed_and_only_the_seed():
    """Two seeds with one order, or an order that depends on the global generators."""
    torch.manual_seed(0)
    first = batches()
    torch.manual_seed(1)
    assert batches() == first != batches(seed=8)
    assert Counter(sum(batches(steps=300), [])).most_common()[-1][1] > 60  # 90 each on average


def test_a_batch_may_be_the_whole_corpus_but_no_more():
    """More prompts a step than examples: an endless loop of empty batches, or examples twice in a batch."""
    assert sorted(batches(size=3, batch_size=3, steps=1)[0]) == [0, 1, 2]
    with pytest.raises(LocusError, match=r"2 training examples, a step wants 3.*trainer\.prompts_per_step"):
        StepSampler(Numbers(2), 3, 10, 0, 0)


# --- The datamodule -------------------------------------------------------------------------------------------
class GreySource:
    """Images whose grey is their number."""

    def open(self, path: str) -> Image.Image:
        return Image.new("RGB", (64, 48), (int(path),) * 3)


class Checking(SampleMaker):
    """Without a processor; checks that the pictures are those of the example."""

    def __init__(self, task: CueSearch) -> None:
        super().__init__(task, None, Frame.FILE)

    def __call__(self, example: CueExample) -> str:
        image, cue = self.task.prompt(example, self.frame).images
        assert image.getpixel((0, 0))[0] == cue.getpixel((0, 0))[0] == int(example.image_path)
        return example.example_id


def table(prefix: str, count: int, bins: Sequence[str] = ("medium",) * 11) -> CueTable:
    """Examples <prefix>0, <prefix>1, … each on an image of its own."""
    box, split = (8.0, 8.0, 24.0, 24.0), {"t": "train", "v": "validation"}[prefix]
    rows = [(f"{prefix}{i}", f"{prefix}{i}", str(i), 64, 48, box, 1 / 12, bins[i], "", 1.0) for i in range(count)]
    rows = [dict(zip(SCHEMA.names, row, strict=True)) for row in rows]
    return CueTable(pa.Table.from_pylist(rows, schema=SCHEMA), split)


def datamodule(
    start_step: int = 0, seed: int = 5, prompts: int = 4, workers: int = 0, order: Order | None = None, **columns: Any
) -> TaskDataModule:
    """Eleven training and seven validation examples."""
    corpus = Corpus(table("t", 11, **columns), table("v", 7), seed=0, asked={"train": 11, "validation": 7})
    make = Checking(CueSearch(corpus, GreySource(), order=order))
    return TaskDataModule(make, prompts, 3, 6, workers, seed, start_step)


@pytest.mark.parametrize("workers", [0, 2])
def test_training_batches(workers):
    """One batch a step from start_step on, from the training split, in the same order with worker processes."""
    whole = list(datamodule().train_dataloader())
    assert len(whole) == 6 and all(len(set(batch)) == 4 for batch in whole)
    assert {name[0] for batch in whole for name in batch} == {"t"}
    assert list(datamodule(start_step=4, workers=workers).train_dataloader()) == whole[4:]


def test_validation_is_whole_and_in_order():
    """A validation that shuffles, or drops the last batch, is not the same set at every step."""
    for start in (0, 3):
        assert list(datamodule(start).val_dataloader()) == [["v0", "v1", "v2"], ["v3", "v4", "v5"], ["v6"]]


def test_draw_is_a_function_of_its_arguments():
    """Refills of a resumed run must be those of the run it goes on with."""
    drawn = {(step, attempt): datamodule().draw(step, attempt, 4) for step in range(4) for attempt in range(3)}
    assert all(len(set(names)) == 4 and {name[0] for name in names} == {"t"} for names in drawn.values())
    assert len(set(map(tuple, drawn.values()))) > 10  # steps and attempts differ
    other = datamodule(start_step=3)
    list(islice(other.train_dataloader(), 2))
    assert all(other.draw(*key, 4) == names for key, names in drawn.items())
    assert datamodule(seed=6).draw(0, 0, 4) != drawn[0, 0]
    assert sorted(datamodule().draw(0, 0, 11)) == sorted(f"t{i}" for i in range(11))


def test_refills_of_the_default_order_are_those_of_earlier_versions():
    """Other refills than those that a seed gave before there were orders; the old draw, written out."""
    for step, attempt in ((0, 0), (0, 2), (3, 1)):
        names = [f"t{i}" for i in np.random.default_rng([5, 1 + step, 1 + attempt]).permutation(11)]
        assert datamodule().draw(step, attempt, 4) == names[:4]
        assert datamodule().draw(step, attempt, 4, set(names[1:3])) == [names[0], *names[3:6]]


def test_refills_have_the_shares_of_their_step():
    """Refills by the corpus's own mixture undo what the order is for; none of the excluded, fewer when a bin ends."""
    names = [f"t{i}" for i in range(11)]
    bins = dict(zip(names, ["tiny"] * 8 + ["small"] * 3, strict=True))
    order = Curriculum({"tiny": 1, "small": 1}, {"tiny": 1, "small": 0}, 3)
    module = datamodule(order=order, bins=list(bins.values()))
    for attempt in range(5):
        for step, tiny in enumerate((2, 3, 4, 4)):  # of four
            drawn = module.draw(step, attempt, 4)
            assert Counter(bins[name] for name in drawn)["tiny"] == tiny and len(set(drawn)) == 4
        drawn = module.draw(0, attempt, 4, {"t8", "t9", "t0"})
        assert sorted(name for name in drawn if bins[name] == "small") == ["t10"] and len(drawn) == 3
        assert "t0" not in drawn


def test_prompts_stay_where_they_are():
    """Lightning would walk through the records and move, or refuse, their tensors."""
    batch = [object()]
    assert datamodule().transfer_batch_to_device(batch, torch.device("meta"), 0) is batch


def test_first_samples_of_a_split():
    """What the pre-flight checks: those that the first step trains on, and the first that are validated."""
    assert datamodule().first("train", 3) == next(iter(datamodule().train_dataloader()))[:3]
    assert len(datamodule().first("train", 9)) == 9
    assert datamodule().first("validation", 2) == ["v0", "v1"] and len(datamodule().first("validation", 9)) == 7


# --- Samples --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("family", FAMILIES)
def test_a_sample_says_how_its_policy_sees_it(family):
    """The size of the cue, of another sample, or of the file; another frame than the backbone's."""
    make = sample_maker(family, [])
    for number, (size, box) in enumerate(SIZES):
        one = make(example(size, box, str(number)))
        rows, columns = one.prompt.image_grid_thw[0, 1:].tolist()
        seen = columns * make.builder.patch_size, rows * make.builder.patch_size
        assert one.view == View(FAMILIES[family][1], seen) and one.prompt.prompt_id == one.example.example_id


def test_a_prompt_without_pictures_has_no_size():
    """A box divided by a size of zero, where a task asks about no image and the answer holds a box all the same."""
    one = SampleMaker(Numbers(3), builder("qwen3_vl"), Frame.PROCESSED)(Numbers(3).example(1))
    assert one.view == View(Frame.PROCESSED, None) and one.prompt.processed_size == (0, 0)


def test_an_image_that_the_processor_refuses_is_named():
    """Its error without the image's name, in the middle of a run; one without a path is told by its id."""
    with pytest.raises(LocusError, match=r"2100,10.*long\.png.*aspect ratio") as caught:
        sample_maker("qwen3_vl", [])(example((2100, 10), (5, 0, 20, 10), "long"))
    assert "\n" not in str(caught.value)
