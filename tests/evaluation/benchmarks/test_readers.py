"""Files of benchmarks as they lie on disk, with their known traps: words, pictures and shards arrive as they are."""

from __future__ import annotations

import base64
import struct
import zlib
from pathlib import Path

import pytest

from locus.errors import LocusError
from locus.evaluation.benchmark import Picture
from locus.evaluation.benchmarks.readers import read_rows
from locus.evaluation.benchmarks.vstar import VStar
from tests.support.benchmark_files import encoded, hf_image, picture, write_parquet, write_tsv
from tests.support.benchmark_files_choice import vek


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
    assert Picture("large", data).size == (20_000, 10_000)
    with pytest.raises(LocusError, match="picture broken cannot be decoded"):
        assert Picture("broken", data[:20]).size


def test_broken_files_are_one_error(tmp_path):
    """Tracebacks out of pyarrow, csv or json in place of the file's name and the remedy."""
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
