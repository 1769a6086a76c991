"""Helpers of the tests that can be wrong by themselves."""

from __future__ import annotations

import os
import signal
import subprocess

from tests.support.children import alive, gone
from tests.support.interrupted import other_rank
from tests.support.runs import spawn

PARENT = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(flush=True); input()'])"


def test_processes_are_found_and_end(monkeypatch):
    """A machine without ``ps``; an ended process that only its parent remembers, taken for one that runs."""
    monkeypatch.setenv("PATH", "")
    process = spawn("-c", PARENT, stdin=subprocess.PIPE)
    assert process.stdout.readline() == "\n"
    child = other_rank(process)
    assert alive(child) and not gone({child}, seconds=0)
    process.send_signal(signal.SIGSTOP)
    os.kill(child, signal.SIGKILL)  # its parent, stopped, does not take note
    assert gone({child}) and alive(process.pid)
    process.kill()
    process.communicate()
    assert not alive(process.pid)
