"""Sources: what becomes of broken, odd and out-of-range input, and that the rest arrives unchanged."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from locus.errors import LocusError
from locus.images.sources import BoxesSource, CocoSource, FolderSource
from locus.images.tables import drop_images, keep_boxes
from tests.support.paths import COCO128

IMAGES = [
    {"id": 9, "file_name": "b.jpg", "width": 100, "height": 50},
    {"id": 2, "file_name": "a.jpg", "width": 64, "height": 64},
]
CATEGORIES = [{"id": 1, "name": "cat"}, {"id": 7, "name": "dog"}]


def annotation(number: int, image: int, bbox: list[float], category: int = 1, **more: int) -> dict:
    return {"id": number, "image_id": image, "bbox": bbox, "category_id": category, **more}


def coco_text(annotations: list[dict], images: list[dict] = IMAGES) -> str:
    return json.dumps({"images": images, "annotations": annotations, "categories": CATEGORIES})


def write_coco(folder: Path, annotations: list[dict], images: list[dict] = IMAGES) -> CocoSource:
    (folder / "instances.json").write_text(coco_text(annotations, images))
    return CocoSource(str(folder / "instances.json"), str(folder))


def test_coco_boxes_become_xyxy_in_the_order_of_ids(tmp_path):
    """A width taken for a coordinate, or labels and boxes that come apart when rows are sorted."""
    source = write_coco(tmp_path, [annotation(5, 9, [10, 20, 30, 5], 7), annotation(3, 2, [1.5, 2, 3, 4])])
    table = source.table()
    assert table.image_id == ("coco-2", "coco-9") and table.path == ("a.jpg", "b.jpg")
    assert table.width.tolist() == [64, 100] and table.height.tolist() == [64, 50]
    assert table.box_image.tolist() == [0, 1] and table.labels == ("cat", "dog")
    assert table.boxes.tolist() == [[1.5, 2, 4.5, 6], [10, 20, 40, 25]]


def test_coco_table_does_not_depend_on_the_order_in_the_file(tmp_path):
    """A corpus that changes when the same annotations are written in another order."""
    rows = [annotation(n, 9 if n % 2 else 2, [n, n, 5, 5], 1 if n % 3 else 7) for n in range(1, 9)]
    forward = write_coco(tmp_path, rows).table()
    backward = write_coco(tmp_path, rows[::-1], IMAGES[::-1]).table()
    assert forward.image_id == backward.image_id and forward.labels == backward.labels
    assert np.array_equal(forward.boxes, backward.boxes)


def test_coco_drops_crowds_and_counts_all_it_changes(tmp_path):
    """Crowd regions as targets, boxes outside the image as targets, or either dropped without a word."""
    source = write_coco(
        tmp_path,
        [
            annotation(1, 2, [0, 0, 10, 10], iscrowd=0),
            annotation(2, 2, [0, 0, 60, 60], iscrowd=1),
            annotation(3, 2, [60, 60, 10, 10]),  # sticks out: clipped to 4 x 4
            annotation(4, 2, [-5, 70, 10, 10]),  # wholly outside
            annotation(5, 2, [5, 5, 0, 10]),  # no width
            annotation(6, 2, [float("nan"), 5, 9, 10]),
            annotation(7, 77, [5, 5, 9, 10]),  # of no listed image
            annotation(8, 9, [60.1, 0, 39.9000000001, 50]),  # float text, not outside
        ],
    )
    table = source.table()
    assert table.boxes[:2].tolist() == [[0, 0, 10, 10], [60, 60, 64, 64]] and len(table.boxes) == 3
    assert source.audit == {
        "images_listed_again": 0,
        "boxes_of_unknown_image": 1,
        "boxes_crowd": 1,
        "boxes_clipped": 1,
        "boxes_without_area": 3,
    }


def test_coco_entries_of_one_file_are_one_image(tmp_path):
    """A picture in training and in validation, since it is listed under two ids, or under two spellings."""
    images = [*IMAGES, *({**IMAGES[1], "id": n, "file_name": name} for n, name in ((5, "./a.jpg"), (11, "a.jpg")))]
    rows = [annotation(n, image, [n, 1, 9, 9]) for n, image in ((4, 9), (3, 11), (2, 5), (1, 2))]
    source = write_coco(tmp_path, rows, images)
    table = source.table()
    assert table.image_id == ("coco-2", "coco-9") and table.path == ("a.jpg", "b.jpg")
    assert table.box_image.tolist() == [0, 0, 0, 1] and table.boxes[:, 0].tolist() == [1, 2, 3, 4]
    assert source.audit["images_listed_again"] == 2


def test_coco_reader_prints_nothing(tmp_path, capsys):
    """The library's progress lines in the middle of a run's output."""
    write_coco(tmp_path, [annotation(1, 2, [0, 0, 10, 10])]).table()
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"images": [', "not valid JSON"),
        ("[]", "not COCO instances JSON"),
        ("{}", "annotations"),
        ('{"images": [], "annotations": [], "categories": []}', "no images"),
        ('{"images": [{"id": 1}], "annotations": [], "categories": []}', "file_name"),
        (coco_text([{"id": 1, "category_id": 1}]), "image_id"),
        (coco_text([annotation(1, 2, [1, 2, 3])]), "ValueError"),
        (coco_text([annotation(1, 2, [1, 2, 3, 4], category=5)]), "KeyError: 5"),
    ],
)
def test_broken_coco_json_is_one_error_that_names_the_file(tmp_path, text, says):
    """A traceback from inside the COCO library, or an empty corpus, for a file that is not what it should be."""
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(LocusError, match=says) as error:
        CocoSource(str(path), str(tmp_path)).table()
    assert str(path) in str(error.value)


def test_missing_coco_json_names_the_key(tmp_path):
    """The error of a wrong path names the file and the key to set."""
    with pytest.raises(LocusError, match=r"nowhere\.json.*data\.annotations"):
        CocoSource(str(tmp_path / "nowhere.json"), str(tmp_path)).table()


def test_open_gives_rgb_as_stored_without_exif_orientation(tmp_path):
    """A photo turned by its EXIF tag while its boxes are not."""
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    Image.new("L", (40, 20)).save(tmp_path / "turned.jpg", exif=exif)
    image = FolderSource(str(tmp_path)).open("turned.jpg")
    assert image.size == (40, 20) and image.mode == "RGB"


def test_a_picture_of_16_bits_is_refused(tmp_path):
    """PIL clips its levels at 255: a policy that is trained on white pictures."""
    grey = np.full((4, 4), 1000, dtype=np.uint16)
    Image.fromarray(grey).save(tmp_path / "deep.png")
    Image.fromarray(grey.astype(np.uint8)).save(tmp_path / "plain.png")
    source = FolderSource(str(tmp_path))
    with pytest.raises(LocusError, match=r"deep\.png: .* mode I(;16)?, with more than 256 levels: scale them"):
        source.open("deep.png")
    assert source.open("plain.png").getpixel((0, 0)) == (232, 232, 232)


def test_missing_and_unreadable_images_are_named_on_open(tmp_path):
    """A run that stops with PIL's words and without the file's name; a truncated file that opens half grey."""
    Image.effect_noise((64, 64), 50).save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:900])
    (tmp_path / "text.png").write_text("no image")
    source = FolderSource(str(tmp_path))
    for name, says in (("gone.jpg", "no such file"), ("cut.jpg", "truncated"), ("text.png", "cannot identify")):
        with pytest.raises(LocusError, match=says) as error:
            source.open(name)
        assert name in str(error.value)


def write_boxes(folder: Path) -> list[dict]:
    (folder / "in").mkdir()
    for name, size in (("in/b.png", (30, 20)), ("a.png", (50, 60))):
        Image.new("RGB", size).save(folder / name)
    return [
        {"image": "in/b.png", "box": [1, 2, 11.5, 12], "label": "sign"},
        {"image": "a.png", "box": [40, 50, 99, 99], "label": None},
        {"image": "in/b.png", "box": [9, 9, 4, 12], "label": "inverted"},
    ]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_box_list_reads_sizes_from_the_images(tmp_path, suffix):
    """JSONL and parquet giving different tables; a folder named key=value read as a column."""
    rows = write_boxes(tmp_path)
    path = tmp_path / "crop=random" / f"boxes.{suffix}"
    path.parent.mkdir()
    if suffix == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    else:
        pd.DataFrame(rows).to_parquet(path)
    source = BoxesSource(str(path), str(tmp_path))
    table = source.table()
    assert table.image_id == ("a.png", "in/b.png") and table.width.tolist() == [50, 30]
    assert table.boxes.tolist() == [[40, 50, 50, 60], [1, 2, 11.5, 12]] and table.labels == ("", "sign")
    assert source.audit["boxes_clipped"] == 1 and source.audit["boxes_without_area"] == 1


def test_box_list_images_are_beside_the_list_by_default(tmp_path):
    """Paths in the list are relative to its folder, wherever the command is run from."""
    rows = write_boxes(tmp_path)
    (tmp_path / "boxes.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert BoxesSource(str(tmp_path / "boxes.jsonl")).table().path == ("a.png", "in/b.png")


def test_box_list_takes_all_spellings_of_a_path_for_one_image(tmp_path):
    """A picture in training and in validation under two names; new ids of a list that writes each path one way."""
    write_boxes(tmp_path)
    lines = ["in//b.png", "./a.png", str(tmp_path / "in" / "b.png"), "in/b.png", "in/../a.png"]
    rows = [{"image": image, "box": [n, 0, n + 9, 9]} for n, image in enumerate(lines)]
    path = tmp_path / "boxes.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    table = BoxesSource(str(path)).table()
    assert table.image_id == table.path == ("./a.png", "in/b.png")
    assert table.box_image.tolist() == [0, 0, 1, 1, 1] and table.boxes[:, 0].tolist() == [1, 4, 0, 2, 3]


def test_box_list_counts_unreadable_images_and_stops_when_all_are(tmp_path):
    """One missing picture that stops a corpus of thousands; a wrong folder that yields an empty corpus."""
    rows = [*write_boxes(tmp_path), {"image": "gone.png", "box": [1, 1, 5, 5]}]
    path = tmp_path / "boxes.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    source = BoxesSource(str(path))
    assert len(source.table().boxes) == 2
    assert source.audit["images_unreadable"] == 1 and "gone.png" in source.audit["images_unreadable_first"][0]
    assert source.audit["boxes_of_unreadable_image"] == 1
    with pytest.raises(LocusError, match="none of 3 images"):
        BoxesSource(str(path), str(tmp_path / "in")).table()


@pytest.mark.parametrize(
    "line", ["{", "3", "{}", '{"image": "a.png"}', '{"image": "a.png", "box": [1, 2, 3]}',
             '{"image": "a.png", "box": [1, 2, 3, "x"]}', '{"image": 4, "box": [1, 2, 3, 4]}',
             '{"image": "a.png", "box": 7}', '{"image": "a.png", "box": [1, 2, 3, 4], "label": 5}']
)  # fmt: skip
def test_a_bad_row_is_named_by_its_line(tmp_path, line):
    """'KeyError: image' for a file of a million lines."""
    path = tmp_path / "boxes.jsonl"
    path.write_text('{"image": "a.png", "box": [1, 2, 3, 4]}\n' + line + "\n")
    with pytest.raises(LocusError, match=r"boxes\.jsonl, line 2: "):
        BoxesSource(str(path)).table()


def test_missing_empty_and_truncated_box_lists(tmp_path):
    """One error that names the list: no traceback of the parser, no empty corpus."""
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 and then nothing")
    for name, says in (
        ("gone.jsonl", "cannot be read"),
        ("empty.jsonl", "no boxes"),
        ("cut.parquet", "cannot be read"),
    ):
        with pytest.raises(LocusError, match=says) as error:
            BoxesSource(str(tmp_path / name)).table()
        assert name in str(error.value)


def test_folder_is_read_recursively_sorted_and_unreadable_files_counted(tmp_path):
    """The file system's order in the corpus; one broken file that stops all."""
    with pytest.raises(LocusError, match="no images"):
        FolderSource(str(tmp_path)).table()
    (tmp_path / "z").mkdir()
    for name in ("z/1.JPG", "b.webp", "a.png"):
        Image.new("RGB", (30, 20)).save(tmp_path / name)
    (tmp_path / "bad.jpeg").write_text("no image")
    (tmp_path / "notes.txt").write_text("no image")
    source = FolderSource(str(tmp_path))
    table = source.table()
    assert table.path == ("a.png", "b.webp", "z/1.JPG") and len(table.boxes) == 0
    assert source.audit["images_unreadable"] == 1 and "bad.jpeg" in source.audit["images_unreadable_first"][0]


def test_linked_folders_are_read_once(tmp_path):
    """Pictures behind a link that are not trained on, without a word; a link to its own parent that has no end; one
    picture in training and in validation, since its folder is there twice, or ids that change by a link to it."""
    folder = tmp_path / "data"
    (folder / "z").mkdir(parents=True)
    (tmp_path / "disk" / "deep").mkdir(parents=True)
    for name in ("data/z/1.png", "data/b.png", "disk/3.png", "disk/deep/2.png"):
        Image.new("RGB", (30, 20)).save(tmp_path / name)
    for link, to in (("a", folder / "z"), ("m", tmp_path / "disk"), ("n", tmp_path / "disk"), ("z/up", folder)):
        (folder / link).symlink_to(to, target_is_directory=True)
    (tmp_path / "disk" / "deep" / "back").symlink_to(tmp_path / "disk", target_is_directory=True)
    (folder / "c.png").symlink_to(tmp_path / "nowhere.png")
    source = FolderSource(str(folder))
    assert source.table().path == ("b.png", "m/3.png", "m/deep/2.png", "z/1.png")
    assert source.audit["images_unreadable"] == 0


def test_folders_that_cannot_be_read_are_counted(tmp_path, monkeypatch):
    """Half of the pictures left out for want of rights, without a word."""
    (tmp_path / "closed").mkdir()
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    scan = os.scandir

    def refused(path: str) -> Any:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refused)
    source = FolderSource(str(tmp_path))
    assert source.table().path == ("a.png",) and source.audit["folders_unreadable"] == 1
    assert source.audit["folders_unreadable_first"] == [f"folder '{tmp_path}/closed': Permission denied"]


def test_a_name_that_is_no_utf_8_is_counted(tmp_path):
    """A name of an old Windows among thousands: pyarrow's UnicodeEncodeError, which names neither file nor remedy."""
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    try:
        shutil.copy(tmp_path / "a.png", os.fsencode(tmp_path) + b"/caf\xe9.png")
    except OSError:
        pytest.skip("the file system takes no such name")
    source = FolderSource(str(tmp_path))
    assert source.table().path == ("a.png",) and source.audit["images_unreadable"] == 1
    assert source.audit["images_unreadable_first"] == ["image 'caf\\udce9.png': its name is no UTF-8; rename it"]
    (tmp_path / "boxes.jsonl").write_text('{"image": "\\udce9.png", "box": [1, 2, 3, 4]}')
    with pytest.raises(LocusError, match=r"none of 1 images .*'\\udce9\.png': its name is no UTF-8"):
        BoxesSource(str(tmp_path / "boxes.jsonl")).table()


def test_table_without_some_images_and_boxes(tmp_path):
    """Boxes that point at the wrong image after images were left out."""
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 50 + i, "height": 50} for i in range(4)]
    rows = [annotation(10 * i + k, i, [i, k, 9, 9]) for i in range(4) for k in range(2)]
    table = drop_images(write_coco(tmp_path, rows, images).table(), {"coco-0", "coco-2"})
    assert table.image_id == ("coco-1", "coco-3") and table.width.tolist() == [51, 53]
    assert table.box_image.tolist() == [0, 0, 1, 1] and table.boxes[:, 0].tolist() == [1, 1, 3, 3]
    table = keep_boxes(table, np.array([True, False, False, True]))
    assert table.box_image.tolist() == [0, 1] and table.boxes[:, 1].tolist() == [0, 1] and len(table.labels) == 2


@pytest.mark.skipif(not COCO128.exists(), reason="needs ../shared/coco128")
def test_real_coco_counts():
    """A reader that loses or invents boxes: 929, of which 452 below 1 % of the image and 214 of 1-5 %."""
    source = CocoSource(str(COCO128 / "instances_train2017.json"), str(COCO128 / "train2017"))
    table = source.table()
    sides = table.boxes[:, 2:] - table.boxes[:, :2]
    ratio = sides.prod(axis=1) / (table.width * table.height)[table.box_image]
    assert len(table.image_id) == 128 and len(ratio) == 929
    assert (ratio < 0.01).sum() == 452 and ((ratio >= 0.01) & (ratio < 0.05)).sum() == 214
    assert all(
        source.open(path).size == (w, h) for path, w, h in zip(table.path, table.width, table.height, strict=True)
    )
