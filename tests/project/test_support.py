"""Helpers of the tests that can be wrong by themselves."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

from tests.support import proof
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


def test_the_proof_tells_what_differs(tmp_path, monkeypatch, capsys):
    """A file that has changed, or that only one folder has, and goes unseen; times that count as results; an earlier
    folder with fewer jobs that ends the comparison."""

    def run(name: str, folder: Path, samples: Path) -> dict[str, str]:
        place = folder / name
        place.mkdir(parents=True)
        later = folder.name == "after"
        (place / "metrics.csv").write_text(f"step,reward,time/step_s\n1,0.5,{later}\n")
        (place / "predictions.jsonl").write_text(str(later and name == "files"))
        (place / ("new.jsonl" if later and name == "scenes" else "old.jsonl")).write_text("")
        return proof.results(place)

    monkeypatch.setattr(proof, "run", run)
    monkeypatch.setattr(proof.subprocess, "run", lambda *_, **__: None)  # writes the samples
    before, after, again = (tmp_path / name for name in ("before", "after", "again"))
    for folder in (before, again, after):
        folder.mkdir()
    assert proof.main(before, None, ["grpo", "files", "scenes"]) == 0
    assert proof.main(again, before, ["grpo", "files", "scenes"]) == 0 and "differ" not in capsys.readouterr().out
    assert proof.main(after, before, ["grpo", "files", "scenes", "lora"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "grpo: 3 files ",
        "files: 3 files differ: predictions.jsonl",
        "scenes: 3 files differ: new.jsonl, old.jsonl",
        "lora: 3 files differ: metrics.csv, old.jsonl, predictions.jsonl",
    ]
