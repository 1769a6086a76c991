"""Work on several gloo ranks, each in a process of its own."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.fabric.plugins.environments.lightning import find_free_network_port
from torch import distributed

from tests.support.runs import finish, spawn


def on_ranks(count: int, work: Callable[..., Any], folder: Path, *arguments: Any) -> list[Any]:
    """What ``work(*arguments)``, a function of a module, returns on each rank."""
    port, results = find_free_network_port(), [folder / f"rank-{rank}.pickle" for rank in range(count)]
    call = folder / "call.pickle"
    call.write_bytes(pickle.dumps((work, arguments)))
    processes = [spawn("-m", "tests.support.ranks", port, count, rank, call, path) for rank, path in enumerate(results)]
    for process in processes:
        ended = finish(process, timeout=300)
        assert ended.status == 0, ended.stderr[-4000:]
    return [pickle.loads(path.read_bytes()) for path in results]


def main(port: str, count: str, rank: str, call: str, result: str) -> None:
    distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=int(rank), world_size=int(count))
    work, arguments = pickle.loads(Path(call).read_bytes())
    Path(result).write_bytes(pickle.dumps(work(*arguments)))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
