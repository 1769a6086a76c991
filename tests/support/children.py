"""Actions in a forked process, which may meet a full disk or be killed; whether processes run."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Callable
from typing import Any

import psutil

LIMIT = 100_000
"""Bytes that a file in the child process may grow to."""


def in_child(action: Callable[[], Any], limited: bool = False, dies_at_limit: bool = False) -> tuple[int, str]:
    """Runs an action in a forked process: its wait status, and the error it raised as ``type: message``.

    The action makes no tensor: torch's thread pool does not survive a fork, and waiting for it never ends.

    Args:
        limited: no file may grow above LIMIT: the kernel then refuses to write, as a full disk does.
        dies_at_limit: the kernel kills the process at that byte instead.
    """
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(120)  # a child that hangs is killed
            if limited or dies_at_limit:
                signal.signal(signal.SIGXFSZ, signal.SIG_DFL if dies_at_limit else signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
                resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, LIMIT))
            action()
        except BaseException as error:
            number = f" errno {error.errno}" if isinstance(error, OSError) else ""
            os.write(send, f"{type(error).__name__}{number}: {error}".encode()[:4000])
        finally:
            os._exit(0)
    os.close(send)
    status = os.waitpid(child, 0)[1]
    os.set_blocking(receive, False)
    with os.fdopen(receive, "rb") as pipe:  # what it forked may hold the other end: to wait for that is to outlast it
        return status, (pipe.read() or b"").decode()


def alive(process: int) -> bool:
    """Whether it runs; one that is only remembered by its parent does not."""
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def gone(processes: set[int], seconds: float = 20) -> bool:
    """Whether all of them end in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and any(map(alive, processes)):
        time.sleep(0.02)
    return not any(map(alive, processes))
