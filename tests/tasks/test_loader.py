"""Batches from workers: the same as from one process, a handful of bytes ahead, and no wait without an end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from shutil import which

import pytest
import torch

from locus.errors import LocusError
from locus.tasks import loader as loader_module
from locus.tasks.loader import BatchLoader
from locus.types import Sample
from tests.support.children import alive, gone
from tests.support.models import FAMILIES, SIZES, example, sample_maker
from tests.support.paths import REPO
from tests.support.runs import SMALLEST, finish, spawn


class Squares:
    """key -> key²; beside it, what the tests below want of a worker."""

    def __init__(self, folder: Path | None = None, size: int = 1) -> None:
        self.folder, self.size = folder, size

    def __getitem__(self, key: int) -> torch.Tensor:
        if self.folder is not None:
            (self.folder / f"{key}-{os.getpid()}").touch()
        return torch.full((self.size,), key * key)

    @property
    def made(self) -> set[int]:
        return {int(file.name.split("-")[0]) for file in self.folder.iterdir()}

    @property
    def processes(self) -> set[int]:
        return {int(file.name.split("-")[1]) for file in self.folder.iterdir()}


class Stuck(Squares):
    """Never ready with key 5."""

    def __getitem__(self, key: int) -> torch.Tensor:
        if key == 5:
            time.sleep(600)
        return super().__getitem__(key)


class Wrong(Squares):
    """Raises for keys 5 and 6."""

    def __getitem__(self, key: int) -> torch.Tensor:
        if key == 5:
            raise LocusError("image 5.jpg: cannot be read; replace the file")
        return super().__getitem__([][key] if key == 6 else key)


def loader(items: Squares, batches: list[list[int]], workers: int, timeout: float = 60) -> Iterator[list[torch.Tensor]]:
    return iter(BatchLoader(items, batches, workers, timeout))


def numbers(batch: list[torch.Tensor]) -> list[int]:
    return [int(item[0]) for item in batch]


# --- What comes out -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("workers", [0, 1, 2, 3, 8])
def test_the_same_batches_with_any_number_of_workers(workers):
    """A batch in the order of its workers, a part lost where they do not divide it, the shorter last batch, or all that
    follow an empty one."""
    batches = [[3, 1, 4, 15, 9], [2, 6, 5, 35, 8], [97, 93]]
    made = [numbers(batch) for batch in loader(Squares(), batches, workers)]
    assert made == [[key * key for key in batch] for batch in batches]
    assert list(loader(Squares(), [], workers)) == []
    assert [numbers(batch) for batch in loader(Squares(), [[], [2, 3]], workers)] == [[], [4, 9]]
    assert len(BatchLoader(Squares(), batches, workers, 60)) == 3


@pytest.mark.parametrize("family", FAMILIES)
def test_samples_of_a_worker_are_those_of_the_trainer(family):
    """Pixels, tokens or grids that a pipe changes; all to the last bit, shapes and types included."""
    examples = [example(size, box, str(number)) for number, (size, box) in enumerate(SIZES)]
    make = sample_maker(family, [])

    class Made:
        def __getitem__(self, key: int) -> Sample:
            return make(examples[key])

    samples = [next(iter(BatchLoader(Made(), [range(len(examples))], workers, 60))) for workers in (0, 2)]
    for ours, theirs in zip(*samples, strict=True):
        assert (ours.example, ours.view, ours.prompt.opened) == (theirs.example, theirs.view, theirs.prompt.opened)
        assert ours.prompt.processed_size == theirs.prompt.processed_size
        for name in ("input_ids", "mm_token_type_ids", "image_grid_thw", "pixel_values"):
            one, other = (getattr(sample.prompt, name) for sample in (ours, theirs))
            assert one.dtype == other.dtype and torch.equal(one, other)


# --- How much is made ahead -----------------------------------------------------------------------------------
@pytest.mark.parametrize("workers", [2, 5])
def test_workers_are_one_batch_ahead(tmp_path, workers):
    """More ahead fills the memory with each further worker; less, and every step waits for its images."""
    items = Squares(tmp_path)
    batches = loader(items, [list(range(start, start + 8)) for start in range(0, 32, 8)], workers)
    for number in range(3):
        next(batches)
        ahead, end = set(range(8 * (number + 2))), time.monotonic() + 20
        while items.made != ahead and time.monotonic() < end:
            time.sleep(0.02)
        time.sleep(0.2)
        assert items.made == ahead
    assert len(items.processes) == workers


LIMITED = """
import os, resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
import torch
from locus.tasks.loader import BatchLoader

class Pixels:
    def __getitem__(self, key):
        return [torch.full((size,), key, dtype=torch.uint8) for size in (1_000_000, 10, 10, 10)]

def shared():
    facts = os.statvfs("/dev/shm")
    return (facts.f_blocks - facts.f_bfree) * facts.f_frsize

before, most = shared(), 0
for batch in BatchLoader(Pixels(), [range(128)] * 3, int(sys.argv[1]), 60):
    assert [int(item[0][-1]) for item in batch] == list(range(128))
    most = max(most, shared() - before)
print(os.statvfs("/dev/shm").f_blocks * os.statvfs("/dev/shm").f_frsize, most, len(os.listdir("/proc/self/fd")))
"""
SMALL = 'mount -t tmpfs -o size=64m tmpfs /dev/shm && exec "$@"'
"""Runs what follows with a /dev/shm of 64 MB, Docker's default."""


@pytest.mark.parametrize("workers", [2, 8])
def test_a_batch_needs_neither_descriptors_nor_shared_memory(workers):
    """128 prompts of 1 MB and four tensors each, with 256 file descriptors and 64 MB of /dev/shm: a wait for ever.

    Where this machine lets nobody mount, /dev/shm is as large as it is, and only what lies there is measured.
    """
    python, small = [sys.executable, "-c", LIMITED, str(workers)], ["unshare", "-rm", "sh", "-c", SMALL, "sh"]
    possible = which("unshare") and not subprocess.run([*small, "true"], check=False, capture_output=True).returncode
    run = [*small, *python] if possible else python
    done = subprocess.run(run, cwd=REPO, check=False, capture_output=True, text=True, timeout=120)
    assert not done.returncode, done.stderr
    size, used, descriptors = map(int, done.stdout.split())
    assert used < 1_000_000 and descriptors < 10 + 4 * workers
    assert size == 64 * 2**20 or not possible


# --- What goes wrong ------------------------------------------------------------------------------------------
def test_a_killed_worker_is_one_clear_error(tmp_path):
    """The out-of-memory killer takes a worker that waits to send 8 MB: half a message, and no end of the wait."""
    items = Squares(tmp_path, size=1_000_000)
    batches = loader(items, [[0, 1], [2, 3], [4, 5]], workers=2)
    next(batches)
    while 2 not in items.made:
        time.sleep(0.02)
    victim = next(int(file.name.split("-")[1]) for file in tmp_path.iterdir() if file.name.startswith("2-"))
    time.sleep(0.3)  # now it sends
    os.kill(victim, signal.SIGKILL)
    start = time.monotonic()
    with pytest.raises(LocusError, match=r"killed by SIGKILL.*out of memory.*trainer\.workers") as caught:
        next(batches)
    assert "\n" not in str(caught.value) and time.monotonic() - start < 10
    assert gone(items.processes)  # the other one, too


def test_a_worker_killed_at_its_work_is_one_clear_error(tmp_path):
    """The same in the middle of an image, while the trainer waits already."""
    items = Stuck(tmp_path)
    batches = loader(items, [[0, 1], [4, 5]], workers=2, timeout=600)
    next(batches)
    victim = next(int(file.name.split("-")[1]) for file in tmp_path.iterdir() if file.name.startswith("1-"))
    os.kill(victim, signal.SIGTERM)
    with pytest.raises(LocusError, match=r"killed by SIGTERM"):
        next(batches)


def test_a_hung_worker_is_one_clear_error(tmp_path):
    """A network folder that never answers: the error must come in time, and say which key to change."""
    items = Stuck(tmp_path)
    batches = loader(items, [[0, 1], [4, 5], [6, 7]], workers=2, timeout=0.5)
    assert numbers(next(batches)) == [0, 1]
    with pytest.raises(LocusError, match=r"nothing for 0\.5 s.*trainer\.worker_timeout.*trainer\.workers=0") as caught:
        next(batches)
    assert "\n" not in str(caught.value) and gone(items.processes)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_workers_error_is_the_trainers(tmp_path, workers):
    """A user's error that comes with a worker's traceback, or a defect that comes without one."""
    for key, kind, says in (
        (5, LocusError, r"^image 5\.jpg: cannot be read; replace the file$"),
        (6, IndexError, None),
    ):
        items = Wrong(tmp_path)
        batches = loader(items, [[0, 1], [2, key]], workers)
        next(batches)
        with pytest.raises(kind, match=says) as caught:
            next(batches)
        if workers:
            assert ("__getitem__" in "".join(getattr(caught.value, "__notes__", ()))) == (kind is IndexError)
            assert gone(items.processes)


class TwoWords(Exception):
    """Cannot be made of its message alone, so it cannot be sent."""

    def __init__(self, one: str, other: str) -> None:
        super().__init__(f"{one} {other}")


class Unsendable(Squares):
    """Raises what cannot be sent with key 5; ends without a word with key 6."""

    def __getitem__(self, key: int) -> torch.Tensor:
        if key == 5:
            raise TwoWords("broken", "thing")
        if key == 6:
            os._exit(3)
        return super().__getitem__(key)


def test_an_error_that_cannot_be_sent_says_what_it_said():
    """A constructor's TypeError, or "out of memory", in place of the user's own exception."""
    batches = loader(Unsendable(), [[0, 1], [2, 5]], workers=2)
    next(batches)
    with pytest.raises(RuntimeError, match="^TwoWords: broken thing") as caught:
        next(batches)
    assert "__getitem__" in "".join(caught.value.__notes__)


def test_a_worker_that_ends_itself_is_not_called_out_of_memory():
    """A library that calls exit: the status, and how to see why."""
    batches = loader(Unsendable(), [[0, 1], [2, 6]], workers=2)
    next(batches)
    with pytest.raises(LocusError, match=r"ended with status 3: .*trainer\.workers=0"):
        next(batches)


def test_stopping_does_not_wait_for_a_process_that_cannot_be_killed(monkeypatch):
    """A read from a dead network folder ignores SIGKILL: waiting for its end hides the error for ever."""
    waited = []
    worker = loader_module._Worker(Squares(), timeout=1)
    monkeypatch.setattr(worker.process, "join", lambda timeout=None: waited.append(timeout))
    worker.stop()
    assert waited == [loader_module.LEAVING]


# --- When workers end -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("taken", [1, 3])
def test_workers_end_with_their_batches(tmp_path, taken):
    """Each validation leaves its workers behind, also where the trainer does not ask for more than the last batch."""
    items = Squares(tmp_path)
    batches = loader(items, [[0, 1], [2, 3], [4, 5]], workers=2)
    for _ in range(taken):
        next(batches)
    if taken == 1:
        del batches
    assert len(items.processes) == 2 and gone(items.processes)


ORPHANS = """
import os, sys, time
from pathlib import Path
from locus.tasks.loader import BatchLoader

class Large:
    def __getitem__(self, key):
        (Path(sys.argv[1]) / f"{key}-{os.getpid()}").touch()
        return bytes(1_000_000)

batches = iter(BatchLoader(Large(), [[0, 1, 2], [3, 4, 5], [6, 7, 8]], 3, 60))
next(batches)
print("ready", flush=True)
time.sleep(600)
"""


def test_workers_end_with_a_killed_trainer(tmp_path):
    """A run that is killed leaves eight processes, each with its share of a batch, until somebody looks."""
    trainer = spawn("-c", ORPHANS, tmp_path, cwd=REPO)
    assert trainer.stdout.readline() == "ready\n"
    workers = {int(file.name.split("-")[1]) for file in tmp_path.iterdir()}
    assert len(workers) == 3 and all(map(alive, workers))
    trainer.kill()
    assert gone(workers)
    trainer.communicate()


@pytest.mark.slow
def test_a_run_of_128_prompts_and_eight_workers(tmp_path):
    """The whole command under 256 file descriptors: Lightning, tables and checkpoints hold some, too."""
    run = [*SMALLEST, "algorithm=sft", "data.train_examples=128", "data.source.count=400", "trainer.workers=8"]
    run = [one for one in run if "group_size" not in one] + [
        "trainer.prompts_per_step=128",
        f"hydra.run.dir={tmp_path}",
    ]
    limit = "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256)); "
    ended = finish(spawn("-c", limit + "runpy.run_module('locus.train', run_name='__main__', alter_sys=True)", *run))
    assert ended.status == 0, ended.stderr
