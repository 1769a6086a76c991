"""The order of examples follows from seed and step alone, wherever a run starts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import islice

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from locus.errors import LocusError
from locus.tasks.cue_search.corpus import SCHEMA, Corpus, CueTable
from locus.tasks.datamodule import CueDataModule, StepSampler
from locus.tasks.order import Curriculum, Uniform
from locus.types import CuePixels


def batches(size: int = 10, batch_size: int = 3, steps: int = 12, start: int = 0, seed: int = 7) -> list[list[int]]:
    """All batches of a sampler in the default order."""
    return list(StepSampler(Uniform(), np.array(["tiny"] * size), batch_size, steps, start, seed))


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
        StepSampler(Uniform(), np.array(["tiny"] * 2), 3, 10, 0, 0)


# --- The datamodule -------------------------------------------------------------------------------------------
class GreySource:
    """Images whose grey is their number."""

    def open(self, path: str) -> Image.Image:
        return Image.new("RGB", (64, 48), (int(path),) * 3)


def example_ids(samples: Sequence[CuePixels]) -> list[str]:
    """Stands for the collator; checks that the pictures are those of the example."""
    for sample in samples:
        assert sample.image.getpixel((0, 0))[0] == sample.cue.getpixel((0, 0))[0] == int(sample.example.image_path)
    return [sample.example.example_id for sample in samples]


def table(prefix: str, count: int) -> CueTable:
    """Examples <prefix>0, <prefix>1, … each on an image of its own."""
    box = (8.0, 8.0, 24.0, 24.0)
    rows = [(f"{prefix}{i}", f"{prefix}{i}", str(i), 64, 48, box, 1 / 12, "medium", "", 1.0) for i in range(count)]
    return CueTable(pa.Table.from_pylist([dict(zip(SCHEMA.names, row, strict=True)) for row in rows], schema=SCHEMA))


def datamodule(start_step: int = 0, seed: int = 5, prompts: int = 4, workers: int = 0) -> CueDataModule:
    """Eleven training and seven validation examples."""
    corpus = Corpus(table("t", 11), table("v", 7), seed=0, asked={"train": 11, "validation": 7})
    return CueDataModule(corpus, GreySource(), example_ids, prompts, 3, 6, workers, seed, start_step)


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
    train = table("t", 11)
    columns = train.columns.set_column(SCHEMA.names.index("bin"), "bin", pa.array(list(bins.values())))
    corpus = Corpus(CueTable(columns), table("v", 7), seed=0, asked={"train": 11, "validation": 7})
    order = Curriculum({"tiny": 1, "small": 1}, {"tiny": 1, "small": 0}, 3)
    module = CueDataModule(corpus, GreySource(), example_ids, 4, 3, 6, 0, seed=5, order=order)
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
