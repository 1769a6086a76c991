"""Wrong input, through the commands: one line on stderr that names the file or key and the mend, and status 2.

Or, where one bad example does no harm, a counted skip. Never a traceback, never a silent run on less than was asked.
"""

from __future__ import annotations

import contextlib
import json
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from runs import SMALLEST, Ended, command, differences, finish, refused, resume, spawn, succeeded, train, warm_policy

import locus.train

SIZE = (64, 48)
BOX = [10, 8, 36, 30]
"""xywh, 35 % of the image."""
ASKED = ["data.train_examples=4", "data.validation_examples=2"]


def picture(path: Path, size: tuple[int, int] = SIZE) -> Path:
    """Noise: every crop of it is another."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(path.name)).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


class Instances:
    """COCO instances in a folder: twelve images with a box each, to be spoiled before `write`."""

    def __init__(self, folder: Path):
        self.folder, self.json = folder, folder / "instances.json"
        self.images = [picture(folder / "images" / f"{number}.png") for number in range(12)]
        names = [path.name for path in self.images]
        self.content: dict[str, list[dict[str, Any]]] = {
            "images": [dict(id=n, file_name=name, width=SIZE[0], height=SIZE[1]) for n, name in enumerate(names)],
            "annotations": [dict(id=n, image_id=n, category_id=1, iscrowd=0, bbox=BOX) for n in range(len(names))],
            "categories": [dict(id=1, name="thing")],
        }

    def write(self) -> list[str]:
        """Writes the JSON; returns the overrides that use it."""
        self.json.write_text(json.dumps(self.content))
        return self.overrides

    @property
    def overrides(self) -> list[str]:
        return [
            "data=coco",
            "crop=large",
            f"data.annotations={self.json}",
            f"data.images={self.folder / 'images'}",
            *ASKED,
        ]


@pytest.fixture
def coco(tmp_path) -> Instances:
    return Instances(tmp_path / "coco")


@pytest.fixture
def attempt(tmp_path) -> Callable[..., Ended]:
    """A training run of one step, and only of what is given beside: the smallest sizes without their data."""
    sizes = [text for text in SMALLEST if not text.startswith(("data", "crop", "trainer.steps"))]

    def run(*overrides: object) -> Ended:
        return command("train", *sizes, "trainer.steps=1", f"hydra.run.dir={tmp_path / 'run'}", *overrides)

    return run


@pytest.fixture
def scenes(attempt) -> Callable[..., Ended]:
    """The same on generated scenes."""
    data = [text for text in SMALLEST if text.startswith(("data", "crop"))]
    return lambda *overrides: attempt(*data, *overrides)


def prepared(tmp_path: Path, overrides: list[str]) -> dict[str, Any]:
    """What ``locus.prepare`` writes of a data set that is good enough."""
    succeeded(command("prepare", *overrides, f"hydra.run.dir={tmp_path / 'corpus'}"))
    return json.loads((tmp_path / "corpus" / "corpus.json").read_text())


# --- Images ---------------------------------------------------------------------------------------------------
def missing(path: Path) -> None:
    path.unlink()


def unreadable(path: Path) -> None:
    path.write_bytes(b"not a picture")


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def of_another_size(path: Path) -> None:
    picture(path, (SIZE[0] + 8, SIZE[1]))


BROKEN = {
    missing: "no such file",
    unreadable: "cannot be read",
    truncated: "cannot be read",
    of_another_size: "is 72x48",
}


def test_broken_images_are_counted_and_left_out(tmp_path, coco, attempt):
    """A data set that is refused for some bad files, or one that shrinks without a word, also in the run's record."""
    for image, spoil in zip(coco.images, BROKEN, strict=False):
        spoil(image)
    asked = "data.train_examples=10", "data.validation_examples=2"  # of all twelve, so that all of them are looked at
    record = prepared(tmp_path, [*coco.write(), *asked])
    broken = record["audits"]["broken_images"]
    assert broken["dropped"] == 4 and sum(record["examples"].values()) > 4
    for image, words in zip(coco.images, BROKEN.values(), strict=False):
        assert any(image.name in reason and words in reason for reason in broken["first"])
    used = pq.read_table(tmp_path / "corpus" / "corpus.parquet")["image_path"].to_pylist()
    assert not {path.name for path in coco.images[:4]} & set(used)

    succeeded(attempt(*coco.overrides, *asked, "rollout.sampling.max_new_tokens=2"))
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["corpus_hash"] == record["hash"]
    assert facts["audits"]["broken_images"]["dropped"] == 4, "a run that draws its own corpus must count them, too"


def test_when_all_images_are_broken_the_first_is_named(coco, attempt):
    """An empty corpus, or a run that fails in its first step."""
    kinds = 3 * list(BROKEN)
    for image, spoil in zip(coco.images, kinds, strict=True):
        spoil(image)
    line = refused(attempt(*coco.write()), "none of the 6 images drawn can be used")
    assert any(path.name in line and BROKEN[spoil] in line for path, spoil in zip(coco.images, kinds, strict=True))


@pytest.mark.parametrize("spoil", [missing, truncated, of_another_size], ids=lambda spoil: spoil.__name__)
def test_a_broken_image_that_was_not_checked_is_named_when_it_is_met(coco, attempt, spoil):
    """The traceback of a decoder, in the middle of a run that asked for no check."""
    for image in coco.images:
        spoil(image)
    line = refused(attempt(*coco.write(), "audit.check_images=false"), BROKEN[spoil])
    assert any(path.name in line for path in coco.images)


def test_an_image_that_disappears_during_a_run(tmp_path, coco, attempt):
    """Broken after the audit: the image is named, and what was done until then is kept."""
    prepared(tmp_path, coco.write())
    for image in coco.images:
        image.unlink()
    refused(attempt(*coco.overrides, f"corpus={tmp_path / 'corpus'}"), "no such file", "data.images")


def test_extreme_images_are_refused_by_name(tmp_path, attempt):
    """An image of one row, which the processor refuses with words of its own."""
    lines = []
    for number in range(4):
        picture(tmp_path / "flat" / f"{number}.png", (2048, 8))
        lines.append(json.dumps({"image": f"{number}.png", "box": [100, 0, 900, 8]}))
    (tmp_path / "flat" / "boxes.jsonl").write_text("\n".join(lines))
    data = ["data=boxes", f"data.path={tmp_path / 'flat' / 'boxes.jsonl'}", "crop=large", "crop.min_side=4"]
    data += ["data.train_examples=2", "data.validation_examples=1"]
    refused(attempt(*data), ".png: the processor refuses", "ratio")


# --- Annotations ----------------------------------------------------------------------------------------------
def test_boxes_outside_and_without_area_are_counted(tmp_path, coco):
    """Boxes that are clipped or dropped without a word, or that reach a run as cues of no pixel."""
    coco.content["annotations"][0]["bbox"] = [1000, 1000, 20, 20]
    coco.content["annotations"][1]["bbox"] = [10, 10, 0, 12]
    coco.content["annotations"][2]["bbox"] = [10, 10, -5, 12]
    coco.content["annotations"][3]["bbox"] = [30, 10, 1000, 30]  # partly outside: clipped and kept
    record = prepared(tmp_path, coco.write())
    assert record["audits"]["source"]["boxes_without_area"] == 3 and record["audits"]["source"]["boxes_clipped"] == 1
    corpus = pq.read_table(tmp_path / "corpus" / "corpus.parquet").to_pylist()
    assert all(0 <= x1 < x2 <= SIZE[0] and 0 <= y1 < y2 <= SIZE[1] for x1, y1, x2, y2 in (row["box"] for row in corpus))


def test_only_boxes_outside_is_an_empty_data_set(coco, attempt):
    """No eligible box: which bins were looked for, and what to do."""
    for annotation in coco.content["annotations"]:
        annotation["bbox"] = [1000, 1000, 20, 20]
    refused(attempt(*coco.write()), "empty data set", "0 boxes in 12 images", "crop=random")


def test_boxes_too_small_for_the_strategy_are_an_empty_data_set(coco, attempt):
    """The strategy and its keys are named, with what was found."""
    for annotation in coco.content["annotations"]:
        annotation["bbox"] = [10, 10, 10, 10]
    refused(attempt(*coco.write()), "empty data set", "crop.min_side", "crop=")


@pytest.mark.parametrize("key", ["annotations", "images"])
def test_coco_without_annotations_or_images(coco, attempt, key):
    """An empty list: no cue, no division by zero."""
    coco.content[key] = []
    refused(attempt(*coco.write()), "empty data set" if key == "annotations" else "lists no images")


@pytest.mark.parametrize("text", ['{"images": [', "[]"])
def test_broken_annotations_are_named(coco, attempt, text):
    """A decoder's traceback for half a download."""
    coco.write()
    coco.json.write_text(text)
    refused(attempt(*coco.overrides), str(coco.json))


def test_folders_without_images(tmp_path, attempt):
    """An empty folder, one that is not there, and one of images without boxes under a strategy that needs boxes."""
    (tmp_path / "empty").mkdir()
    for name in ("empty", "nowhere"):
        refused(
            attempt("data=folder", "crop=random", f"data.path={tmp_path / name}"), str(tmp_path / name), "data.path"
        )
    for number in range(4):
        picture(tmp_path / "plain" / f"{number}.png")
    refused(attempt("data=folder", f"data.path={tmp_path / 'plain'}", *ASKED), "empty data set", "crop=random")


def test_too_few_images_for_a_validation(tmp_path, coco, attempt):
    """One image cannot be in both sets."""
    coco.content["images"], coco.content["annotations"] = coco.content["images"][:1], coco.content["annotations"][:1]
    refused(attempt(*coco.write()), "without a common image", "more images")


def test_a_corpus_that_is_none(tmp_path, scenes):
    """A folder that locus.prepare did not make, or did not finish."""
    refused(scenes(f"corpus={tmp_path / 'nowhere'}"), str(tmp_path / "nowhere"), "locus.prepare")


# --- Configuration --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["backbone.frame=pixels"], ["unknown frame 'pixels'", "backbone.frame", "unit1000"]),
        (["backbone.frame=null"], ["backbone.frame is not declared"]),
        (["backbone.path=no/such/folder"], ["backbone.path=no/such/folder", "check the path"]),
        (["backbone.architecture=null"], ["backbone.path is not set"]),
        (["+backbone.dtype=float33"], ["backbone.dtype=float33"]),
        (["reward.alpha=2"], ["reward.alpha=2"]),
        (["algorithm.group_size=1"], ["algorithm.group_size=1", "at least 2"]),
        (["algorithm.mini_batches=0"], ["algorithm.mini_batches=0"]),
        (["trainer.prompts_per_step=25"], ["24 training examples", "trainer.prompts_per_step"]),
        (["rollout.token_budget=100"], ["the budget is 100", "rollout.token_budget"]),
        (["data.train_examples=0"], ["data.train_examples=0"]),
        (["crop.mixture={large: 0.0}"], ["crop"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) and "=" in value[0] else "",
)
def test_settings_that_cannot_be(scenes, overrides, says):
    """A value with no meaning: found before, not in, the first step, and named by its key."""
    refused(scenes(*overrides), *says)


OUT_OF_RANGE = {
    "trainer.steps=0": "steps",
    "trainer.steps=many": "steps",
    "trainer.prompts_per_step=0": "prompts_per_step",
    "trainer.validate_every=0": "validate_every",
    "trainer.checkpoint_every=0": "checkpoint_every",
    "trainer.validation_batch=0": "validation_batch",
    "trainer.accelerator=abacus": "abacus",
    "trainer.precision=7": "precision",
    "trainer.precision=16-mixed": "bf16-mixed",
    "rollout.sampling.max_new_tokens=0": "max_new_tokens",
    "rollout.sampling.max_new_tokens=many": "rollout.sampling.max_new_tokens",
    "rollout.token_budget=many": "rollout.token_budget",
    "data.train_examples=many": "data.train_examples",
    "data.validation_examples=0": "data.validation_examples",
    "algorithm.mini_batches=9": "trainer.prompts_per_step",
    "rollout.sampling.temperature=-1": "temperature",
    "rollout.sampling.top_p=0": "top_p",
    "optimizer.make.lr=fast": "optimizer",
    "optimizer.make.lr=-1": "learning rate",
    "pixels.max_pixels=0": "max_pixels",
    "seed=one": "seed",
    "algorithm.loss.average.path=locus.training.loss.nothing": "locus.training.loss.nothing",
    "preflight_prompts=0": "preflight_prompts",
    "data.source.width=0": "width",
}
"""Override -> a word that the message must have."""
TRIED_ALWAYS = ("trainer.steps=0", "trainer.validate_every=0", "rollout.sampling.top_p=0", "optimizer.make.lr=fast")


@pytest.mark.parametrize(
    "override", [text if text in TRIED_ALWAYS else pytest.param(text, marks=pytest.mark.slow) for text in OUT_OF_RANGE]
)
def test_values_out_of_range(scenes, override):
    """A number or word that some library stops at with a traceback, or nothing stops at: a run that does nothing."""
    line = refused(scenes(override))
    assert OUT_OF_RANGE[override].lower() in line.lower(), line


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(scenes):
    """The settings for a GPU on a machine without one."""
    refused(scenes("trainer.accelerator=gpu", "trainer.precision=bf16-mixed"), "gpu")


def test_values_that_must_be_given_are_named(attempt):
    """omegaconf's message about an interpolation, in place of what to type."""
    refused(attempt("data=coco"), "data.annotations=...", "data.images=...")


@pytest.mark.parametrize("override", ["trainer.stepz=3", "algorithm=grp", "trainer.steps"])
def test_overrides_that_do_not_exist_are_hydras_to_refuse(tmp_path, scenes, override):
    """A mistyped key that is ignored, or a traceback."""
    ended = scenes(override)
    assert ended.status not in (0, None) and "Traceback" not in ended.stderr
    assert override.partition("=")[0].rpartition(".")[2] in ended.stderr
    assert not (tmp_path / "run" / "metrics.csv").exists()


def test_a_corpus_of_other_scenes(tmp_path, scenes):
    """Another seed's scenes under a corpus's boxes: the pre-flight earns 1, and every cue shows clutter."""
    prepared(tmp_path, [text for text in SMALLEST if text.startswith(("data", "crop"))])
    refused(scenes(f"corpus={tmp_path / 'corpus'}", "seed=2"), "scene://", "that the corpus was made with")


# --- Resume ---------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> Path:
    """A run of four steps with a validation at 2 and 4."""
    folder = tmp_path_factory.mktemp("wrong") / "unbroken"
    train(folder, "trainer.steps=4", f"backbone.path={warm_policy()}", "optimizer.make.lr=2e-3")
    return folder


@pytest.fixture
def run(tmp_path, unbroken) -> Path:
    """A copy of it that ends at step 2, with the rows of later steps."""
    folder = Path(shutil.copytree(unbroken, tmp_path / "run"))
    for step in (3, 4):
        (folder / "checkpoints" / f"step-{step:06d}.ckpt").unlink()
    shutil.rmtree(folder / "policy")
    return folder


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def foreign(path: Path) -> None:
    torch.save({"state_dict": {}}, path)


def flipped(path: Path) -> None:
    """A bad block in the weights: the archive around them is whole."""
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 4096] = bytes(byte ^ 255 for byte in content[middle : middle + 4096])
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut_in_half, pytest.param(emptied, marks=pytest.mark.slow), foreign, flipped])
def test_a_corrupt_checkpoint_and_the_earlier_one(run, unbroken, damage):
    """A run that goes on from rubbish, or that gives up where the checkpoint before is whole."""
    newest = run / "checkpoints" / "step-000002.ckpt"
    damage(newest)
    refused(command("train", f"resume={run}"), str(newest), "corrupt", "step-000001.ckpt")
    if damage is cut_in_half:
        newest.unlink()  # as it says
        resume(run)
        assert list(differences(run, unbroken)) == []


def test_the_only_checkpoint_is_corrupt(run):
    """There is no earlier one to fall back to."""
    (run / "checkpoints" / "step-000001.ckpt").unlink()
    cut_in_half(run / "checkpoints" / "step-000002.ckpt")
    refused(command("train", f"resume={run}"), "step-000002.ckpt", "start the run anew")


def test_a_run_that_is_not_there(tmp_path):
    """A typo in the path, or another folder: it is no run, rather than a run without checkpoints."""
    (tmp_path / "other").mkdir()
    for name in ("absent", "other"):
        refused(command("train", f"resume={tmp_path / name}"), f"resume={tmp_path / name}", "folder of a run")


@pytest.mark.parametrize("lacks", ["checkpoints", ".hydra/resume.yaml"])
def test_a_folder_that_is_no_run(run, lacks):
    """A folder of something else, or of a run that was tidied up."""
    path = run / lacks
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    refused(command("train", f"resume={run}"), f"resume={run}", "start the run anew")


@pytest.mark.parametrize("text", ["", "seed: ["])
def test_a_configuration_that_is_none(run, text):
    """Emptied or cut, by a copy or a quota."""
    (run / ".hydra" / "resume.yaml").write_text(text)
    refused(command("train", f"resume={run}"), f"resume={run}", "resume.yaml")


@pytest.mark.parametrize("name", ["rollouts.parquet", "metrics.csv"])
@pytest.mark.parametrize("text", [pytest.param("", marks=pytest.mark.slow), "not a table\n1,2\n"])
def test_tables_that_cannot_be_read(run, name, text):
    """A table of the run that is overwritten, or a traceback, because it is broken."""
    (run / name).write_text(text)
    refused(command("train", f"resume={run}"), str(run / name))
    assert (run / name).read_text() == text


def test_a_checkpoint_of_another_model(run):
    """A resumed run whose backbone changed: torch's list of a hundred keys."""
    change = "backbone=tiny_random", "backbone.path=null", "backbone.architecture.text_layers=3"
    refused(command("train", f"resume={run}", *change), "checkpoint")


# --- A full disk ----------------------------------------------------------------------------------------------
@contextlib.contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """The kernel refuses to write any file beyond this many bytes, as a full disk or quota does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def sizes(folder: Path) -> dict[str, int]:
    """Bytes of each file, by its path in the folder."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


@pytest.mark.parametrize(
    ("since", "name", "share"),
    [
        ("fit", "checkpoints/step-000002.ckpt", 0.5),
        pytest.param("fit", "rollouts.parquet", 0.5, marks=pytest.mark.slow),
        pytest.param("fit", "validation/step-000004/00.png", 0.5, marks=pytest.mark.slow),
        pytest.param("fit", "metrics.csv", 0.8, marks=pytest.mark.slow),
        pytest.param("build_trainer", "rollouts.parquet", 0.1, marks=pytest.mark.slow),
        pytest.param("build_trainer", "metrics.csv", 0.1, marks=pytest.mark.slow),
        pytest.param("save_curve", "figures/curve.png", 0.5, marks=pytest.mark.slow),
        ("open_run", ".hydra/resume.yaml", 0.5),
    ],
)
def test_a_full_disk_is_one_line_and_costs_nothing(run, unbroken, since, name, share):
    """A file that cannot be written to its end, whichever it is: what was whole before stays whole, the run goes on."""
    limit, checkpoint = int(sizes(unbroken)[name] * share), run / "checkpoints" / "step-000002.ckpt"
    before, original = checkpoint.read_bytes(), getattr(locus.train, since)
    with contextlib.ExitStack() as stack:

        def limited(*args: Any, **kwargs: Any) -> Any:
            stack.enter_context(no_file_above(limit))
            return original(*args, **kwargs)

        stack.enter_context(mock.patch.object(locus.train, since, limited))
        ended = command("train", f"resume={run}")
    refused(ended, "disk", "resume")
    assert checkpoint.read_bytes() == before
    resume(run)
    assert list(differences(run, unbroken)) == []


ROOM = {
    "first checkpoint": lambda size: size["checkpoints/step-000001.ckpt"] // 4,
    "second checkpoint": lambda size: size["checkpoints/step-000001.ckpt"] * 3 // 2,
    "policy": lambda size: sum(size.values()) - size["policy/model.safetensors"] // 2,
}
"""What does not fit any more -> bytes of the file system, from those of the run's files."""


@pytest.mark.slow
@pytest.mark.parametrize("what", ROOM)
def test_a_disk_that_really_is_full(tmp_path, unbroken, what):
    """The same on a small file system: what does not fit is said, and with more room the run goes on."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={ROOM[what](sizes(unbroken))}", "tmpfs", disk]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a file system")
    try:
        folder = disk / "run"
        arguments = ["trainer.steps=4", f"backbone.path={warm_policy()}", "optimizer.make.lr=2e-3"]
        refused(command("train", *SMALLEST, f"hydra.run.dir={folder}", *arguments), "disk")
        subprocess.run(["mount", "-o", "remount,size=1G", disk], check=True)
        if list(folder.glob("checkpoints/*.ckpt")):
            resume(folder)
        else:
            shutil.rmtree(folder)
            train(folder, *arguments)
        assert list(differences(folder, unbroken)) == []
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


# --- The commands themselves ----------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.parametrize("app", ["train", "prepare"])
def test_the_command_says_it_in_one_line(tmp_path, app):
    """What the tests above see in this process is what a user sees, and what a script gets as the status."""
    data = ["data=coco", "data.annotations=nowhere.json", "data.images=.", f"hydra.run.dir={tmp_path}"]
    ended = finish(spawn("-m", f"locus.{app}", *data))
    assert (ended.status, ended.stdout) == (2, "")
    assert ended.stderr.startswith("locus: nowhere.json: cannot be read") and ended.stderr.count("\n") == 1


@pytest.mark.slow
def test_the_command_on_a_full_disk(tmp_path, run):
    """In a process of its own, with the limit there from its start."""
    limit = sizes(run)["checkpoints/step-000002.ckpt"] // 2
    process = spawn("-m", "locus.train", f"resume={run}",
                    preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))  # fmt: skip
    refused(finish(process), "step-000003.ckpt", "free disk space, then resume", "the previous checkpoint is whole")
