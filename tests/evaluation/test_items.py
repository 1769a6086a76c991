"""Items that are read once, and their shards: the same items, predictions and files whatever the number of parts."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from locus.errors import LocusError
from locus.evaluation.benchmark import Item
from locus.evaluation.benchmarks.vstar import VStar
from locus.evaluation.items import ItemsRead
from locus.evaluation.predictions import Prediction, PredictionFile
from locus.evaluation.scores import judged, scores
from locus.evaluation.shards import Shard, merge
from tests.support.vstar_six import said, write_vstar_six


@pytest.fixture(scope="module")
def opened() -> Iterator[list[str]]:
    """Paths of all files that are opened, as Python is asked for them."""
    paths, on = [], [True]
    sys.addaudithook(lambda event, given: paths.append(str(given[0])) if on and event == "open" else None)
    yield paths
    on.clear()  # a hook cannot be taken away


def shown(item: Item) -> tuple[object, ...]:
    """All of an item, its pictures decoded."""
    return item.item_id, item.prompt, item.answer, [picture.open().tobytes() for picture in item.pictures]


def test_a_file_is_read_once(tmp_path, opened):
    """A file of 4.6 GB that is parsed for its ids, then for its pictures, then for its answers; pictures that are
    mixed up or held although there is no room for them."""
    file = write_vstar_six(tmp_path)
    benchmark = VStar(str(file), rows=6)
    expected = [shown(item) for item in benchmark.items()]
    found = {}
    for kept, opens in ((2**20, 1), (1500, 2), (0, 2)):
        opened.clear()
        read = ItemsRead(benchmark, kept=kept)
        part = read.part(1, 5)
        assert part.ids == list("1234") and [shown(item) for item in part.items()] == expected[1:5]
        made = judged(benchmark, read.items, said("ABAAAA"))
        assert opened.count(str(file)) == opens and read.held == (kept == 2**20), kept
        assert read.held or not any(one.source for item in read.items for one in item.pictures)
        found[kept] = read.digest, scores(benchmark, made, 10)
    assert found[0] == found[1500] == found[2**20]
    with pytest.raises(LocusError, match="vstar has 191 items, found 6"):
        ItemsRead(VStar(str(file)))
    assert len(ItemsRead(VStar(str(file)), limit=2).items) == 2


def test_digest_of_what_is_asked(tmp_path):
    """Predictions of another file taken for this one's; those of a file that was moved or whose answers were mended
    thrown away."""
    file = write_vstar_six(tmp_path)
    before = ItemsRead(VStar(str(file), rows=6)).digest
    (tmp_path / "other").mkdir()
    moved = Path(shutil.copy(file, tmp_path / "other" / "VStar.tsv"))
    assert ItemsRead(VStar(str(moved), rows=6)).digest == before
    text = moved.read_text()
    assert "\tblue\tA\t" in text
    moved.write_text(text.replace("\tblue\tA\t", "\tblue\tB\t"))
    assert ItemsRead(VStar(str(moved), rows=6)).digest == before != ItemsRead(VStar(str(moved), rows=6), 5).digest


def parts(place: Path, count: int, ids: list[str], **settings: object) -> None:
    """The shards of a benchmark whose responses are the ids."""
    for shard in (Shard(number, count) for number in range(1, count + 1)):
        start, end = shard.bounds(len(ids))
        file = PredictionFile(place / shard.folder, settings, ids[start:end], {})
        file.write([Prediction(name, f"é {name}") for name in ids[start:end]])


def test_shards_make_the_same_file(tmp_path):
    """An item of two shards or of none; a file that depends on how many there were."""
    ids = [str(number) for number in range(11)]
    whole = PredictionFile(tmp_path / "whole", {"seed": 1}, ids, {})
    whole.write([Prediction(name, f"é {name}") for name in ids])
    files = {whole.path.read_bytes()}
    for count in (1, 2, 3, 7, 11, 13):
        place = tmp_path / str(count)
        parts(place, count, ids, seed=1)
        file = merge(place, {"seed": 1}, ids)
        assert PredictionFile(place, {"seed": 1}, ids, {}).finished
        files.add(file.path.read_bytes())
    assert len(files) == 1 and files.pop().count(b"\n") == 11
    bounds = [Shard(number, 4).bounds(10) for number in range(1, 5)]
    assert bounds == [(0, 2), (2, 5), (5, 7), (7, 10)]


def test_a_merged_file_says_how_its_shards_were_made(tmp_path):
    """Shards of a GPU refused on a machine without one; its hardware in the place of theirs; two types taken as one."""
    ids, shards = list("abcd"), [Shard(1, 2), Shard(2, 2)]
    for shard, card in zip(shards, ("h100", "h200"), strict=True):
        start, end = shard.bounds(4)
        settings, facts = {"dtype": "bfloat16", "seed": 1}, {"hardware": card, "commit": "1234"}
        file = PredictionFile(tmp_path / shard.folder, settings, ids[start:end], facts)
        file.note(policy="endpoint")
        file.write([Prediction(name, name) for name in ids[start:end]])
    for _ in range(2):  # the second time into a finished file
        manifest = merge(tmp_path, {"dtype": None, "seed": 1}, ids).manifest
        assert manifest == json.loads((tmp_path / "manifest.json").read_text())
        assert manifest == {
            "rows": 4,
            "settings": {"dtype": "bfloat16", "seed": 1},
            "commit": "1234",
            "policy": "endpoint",
            "shards": [{"hardware": "h100"}, {"hardware": "h200"}],
        }
    path = tmp_path / "shard-2-of-2" / "manifest.json"
    path.write_text(path.read_text().replace("bfloat16", "float32"))
    with pytest.raises(LocusError, match="dtype was float32, is bfloat16"):
        merge(tmp_path, {"dtype": None, "seed": 1}, ids)


def test_shards_that_cannot_be_merged(tmp_path):
    """A score of half a benchmark, of two policies, or of two ways to divide."""
    ids = list("abcde")
    with pytest.raises(LocusError, match="holds no shards: evaluate with shard=1/n"):
        merge(tmp_path, {}, ids)
    parts(tmp_path, 2, ids, seed=1)
    with pytest.raises(LocusError, match="seed was 1, is 2"):
        merge(tmp_path, {"seed": 2}, ids)
    path = tmp_path / "shard-2-of-2" / "predictions.jsonl"
    whole = path.read_text().splitlines(keepends=True)
    path.write_text("".join(whole[:1]))
    with pytest.raises(LocusError, match="1 of 3 items are answered: finish it with shard=2/2"):
        merge(tmp_path, {"seed": 1}, ids)
    assert path.read_text() == whole[0], "it may still be at work"
    shutil.rmtree(path.parent)
    with pytest.raises(LocusError, match="0 of 3 items"):
        merge(tmp_path, {"seed": 1}, ids)
    parts(tmp_path, 3, ids)
    with pytest.raises(LocusError, match=r"shards of 2 and of 3: remove the folders .*\(shard-\*-of-2 or"):
        merge(tmp_path, {"seed": 1}, ids)
    for text in ("0/4", "5/4", "1", "a/b", None, "1/4 "):
        with pytest.raises(LocusError, match="give k/n"):
            Shard.parse(text)


@pytest.mark.parametrize("cut", [b"", b'{"id": "d", "response": "\xc3'])
def test_a_shard_at_work_is_to_be_finished(tmp_path, cut):
    """ "Line 1: not a prediction" of a shard that was killed, or writes at this moment."""
    parts(tmp_path, 2, list("abcd"))
    path = tmp_path / "shard-2-of-2" / "predictions.jsonl"
    for before in (b"", path.read_bytes().splitlines(keepends=True)[0]):
        path.write_bytes(before + cut)
        number = before.count(b"\n")
        with pytest.raises(LocusError, match=rf"-2: {number} of 2 items are answered: finish it with shard=2/2"):
            merge(tmp_path, {}, list("abcd"))
