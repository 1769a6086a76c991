"""Odd one out: the right crop is found nowhere in the picture, the others once."""

from __future__ import annotations

from collections import Counter

from locus.tasks.proxies.odd_one_out import OddOneOut
from tests.support.choice_tasks import Noise, inside, shown, task_of


def test_the_odd_crop_is_found_nowhere_in_the_picture():
    """Two odd ones, none, the same crop twice, or the odd one of an image of the other split."""
    task = task_of(OddOneOut, 12)
    for split in ("train", "validation"):
        examples = task.examples(split)
        for example in examples:
            image, *crops = shown(task, example)
            found = {str(number): inside(crop, image) for number, crop in enumerate(crops, 2)}
            odd = crops[int(task.answer(example)) - 2]
            assert found.pop(task.answer(example)) == []
            assert all(len(places) == 1 for places in found.values()) and len(set(map(tuple, found.values()))) == 3
            homes = [one.image_id for one in examples if inside(odd, Noise().open(one.image_path))]
            assert len(homes) == 1 and homes != [example.image_id]


def test_another_seed_another_puzzle():
    """A seed that is not read; answers that are not balanced."""
    one, other = task_of(OddOneOut, 80), task_of(OddOneOut, 80, seed=1)
    answers = [task.answer(example) for task in (one, other) for example in task.examples("train")]
    assert answers[:80] != answers[80:]
    assert set(Counter(answers)) == {"2", "3", "4", "5"} and max(Counter(answers).values()) < 60
