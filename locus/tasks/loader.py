"""Batches of samples, made by worker processes one batch ahead and sent through pipes.

Torch's loader shares each tensor of a batch through a file descriptor and shared memory: at 128 prompts per step
that is over the usual limit of descriptors, more than a container's /dev/shm, and the run waits for ever. Here every
worker has a pipe of its own: one descriptor per worker, nothing in shared memory, no lock that a killed worker could
leave taken, and a pipe that ends when its worker does.
"""

from __future__ import annotations

import io
import pickle
import signal
import traceback
from collections.abc import Iterator, Sequence
from multiprocessing import Pipe, Process
from multiprocessing.connection import Connection
from typing import Any, Generic, NoReturn, Protocol, TypeVar

import torch

from locus.errors import LocusError

Item = TypeVar("Item", covariant=True)
LEAVING = 5.0
"""Seconds that a process whose pipe has ended may take to end itself."""


class Items(Protocol[Item]):
    """Makes an item of a key: the same one in any process."""

    def __getitem__(self, key: Any, /) -> Item: ...


class Batches(Protocol):
    """Keys of each batch, in order."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Sequence[Any]]: ...


class BatchLoader(Generic[Item]):
    """The items of each batch of keys, in order.

    Workers share each batch: all of them make the next one while the trainer is busy with the present one. Beside that,
    nothing is made ahead, so that workers hold at most one batch together, however many they are.

    Args:
        items: what keys name.
        batches: of keys.
        workers: processes that make items; 0 makes them in this one, when they are asked for.
        timeout: seconds that the trainer waits for a worker.
    """

    def __init__(self, items: Items[Item], batches: Batches, workers: int, timeout: float) -> None:
        self.items, self.batches, self.workers, self.timeout = items, batches, workers, timeout

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Item]]:
        """Raises LocusError when a worker is killed or makes nothing in time, and whatever a worker raised."""
        batches = iter(self.batches)
        if not self.workers:
            for keys in batches:
                yield [self.items[key] for key in keys]
            return
        first = next(batches, None)
        if first is None:
            return
        pool: list[_Worker] = []
        try:
            for part in _parts(first, max(1, min(self.workers, len(first)))):  # a rank's share may begin empty
                pool.append(_Worker(self.items, self.timeout))
                pool[-1].ask(part)
            for keys in batches:
                yield _exchange(pool, keys)
            last = _exchange(pool, ())
        finally:
            for worker in pool:
                worker.stop()
        yield last  # without workers: nobody asks for more


def _parts(keys: Sequence[Any], count: int) -> list[Sequence[Any]]:
    """The keys in order as ``count`` parts, whose sizes differ by at most one."""
    return [keys[len(keys) * part // count : len(keys) * (part + 1) // count] for part in range(count)]


def _exchange(pool: Sequence[_Worker], keys: Sequence[Any]) -> list[Any]:
    """The batch that was asked for; these keys are asked for next."""
    batch: list[Any] = []
    for worker, part in zip(pool, _parts(keys, len(pool)), strict=True):
        batch += worker.receive()
        worker.ask(part)  # only now: a worker that still sends would not read, and both would wait
    return batch


class _Worker:
    """A process that makes items of the keys it is sent."""

    def __init__(self, items: Items[Any], timeout: float) -> None:
        self.timeout = timeout
        self.pipe, theirs = Pipe()
        self.process = Process(target=_serve, args=(items, theirs, self.pipe), daemon=True)
        self.process.start()
        theirs.close()  # held by the process alone, so that the pipe ends with it

    def ask(self, keys: Sequence[Any]) -> None:
        try:
            self.pipe.send(keys)
        except OSError:
            self._ended()

    def receive(self) -> list[Any]:
        """The items asked for; raises what the worker raised, and LocusError when it does not answer."""
        try:
            if not self.pipe.poll(self.timeout):
                raise LocusError(
                    f"a worker that prepares images has made nothing for {self.timeout:g} s: check that the image "
                    "folder answers, raise trainer.worker_timeout, or find the image with trainer.workers=0"
                )
            answer = pickle.loads(self.pipe.recv_bytes())
        except (EOFError, OSError):
            self._ended()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _ended(self) -> NoReturn:
        self.process.join(LEAVING)
        code = self.process.exitcode
        if code is not None and code < 0:
            raise LocusError(
                f"a worker that prepares images was killed by {signal.Signals(-code).name}: SIGKILL mostly means that "
                "the machine is out of memory; lower trainer.workers or trainer.prompts_per_step, then resume the run"
            ) from None
        raise LocusError(
            f"a worker that prepares images ended with status {code}: see its traceback above, or run with "
            "trainer.workers=0"
        ) from None

    def stop(self) -> None:
        """Ends the process at once, whatever it does: it holds nothing that would be lost."""
        self.process.kill()
        self.process.join(LEAVING)  # a read that cannot be interrupted outlives even that
        self.pipe.close()


def _serve(items: Items[Any], pipe: Connection, trainers: Connection) -> None:
    """Answers keys with items, or with the exception that making them raised, until the trainer is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the trainer's to obey, and its handlers are inherited
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    trainers.close()  # held by the trainer alone, so that the pipe ends with it
    torch.set_num_threads(1)  # workers are many, and a thread pool does not survive a fork
    try:
        while True:
            pipe.send_bytes(_answer(items, pipe.recv()))
    except (EOFError, ConnectionError):
        pass


def _answer(items: Items[Any], keys: Sequence[Any]) -> bytes:
    try:
        return _pickled([items[key] for key in keys])
    except Exception as error:
        if not isinstance(error, LocusError):
            error.add_note(f"in a worker:\n{traceback.format_exc()}")
        return _pickled_error(error)


def _pickled_error(error: Exception) -> bytes:
    """The error, or one that says the same where it cannot be sent."""
    try:
        sent = pickle.dumps(error)
        pickle.loads(sent)
        return sent
    except Exception:
        same = RuntimeError(f"{type(error).__name__}: {error}")
        for note in getattr(error, "__notes__", ()):
            same.add_note(note)
        return pickle.dumps(same)


class _Pickler(pickle.Pickler):
    """Writes tensors as the arrays they are: torch's own way makes a file of each, which takes ten times as long."""

    def reducer_override(self, value: Any) -> Any:
        if type(value) is torch.Tensor and value.device.type == "cpu" and value.dtype != torch.bfloat16:
            return torch.from_numpy, (value.numpy(),)
        return NotImplemented


def _pickled(value: Any) -> bytes:
    file = io.BytesIO()
    _Pickler(file, pickle.HIGHEST_PROTOCOL).dump(value)
    return file.getvalue()
