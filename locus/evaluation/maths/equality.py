"""Is a short mathematical answer the gold one? By sympy, in a process that time and memory bound.

Exact arithmetic can run for hours, or fill a machine, on a dozen characters of a policy's text. So the rules
(`locus.evaluation.maths.rules`) are asked in a second process, which ends itself at either bound; the next question
starts another one.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import json
import os
import signal
import subprocess
import sys
import threading

from locus.errors import LocusError

SECONDS = 5.0
"""For one pair of answers; an honest one takes milliseconds."""
MEMORY = 2 * 2**30
"""Bytes of address space, where the system can limit it; sympy itself takes a tenth."""


def equal(answer: str, gold: str, decimals: int | None = None) -> bool:
    """Whether ``answer`` says the same as ``gold``; False where that takes longer than `SECONDS` or more than `MEMORY`.

    Args:
        decimals: numbers are also equal when they are to this many decimals (MATH-V compares to 2); by default they
            must agree to VLMEvalKit's 1e-6.

    Example: ``equal("\\\\frac{1}{2}\\\\text{ cm}", "0.5")`` is true; ``equal("50%", "0.5")`` is not.
    """
    if not answer.strip() or not gold.strip():
        return False
    return answer.strip() == gold.strip() or _RULES.ask(answer, gold, decimals)


class BoundedRules:
    """The rules in a process of its own, which is started at the first question. Threads may share it.

    Args:
        seconds: for one question.
    """

    def __init__(self, seconds: float = SECONDS) -> None:
        self.seconds = seconds
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    def ask(self, answer: str, gold: str, decimals: int | None = None) -> bool:
        """What the rules say; False when the process ended over it. Raises LocusError when it does not even start."""
        with self._lock:
            return self._ask(answer, gold, decimals)

    def _ask(self, answer: str, gold: str, decimals: int | None) -> bool:
        if self._process is None or self._process.poll() is not None:
            self._process = self._start()
        questions, replies = self._process.stdin, self._process.stdout
        assert questions is not None and replies is not None, "both are pipes"
        try:
            questions.write(json.dumps([answer, gold, decimals]) + "\n")
            questions.flush()
            reply = replies.readline()
        except BaseException:  # an interrupt: the reply would be taken for the next question's
            self.stop()
            raise
        if not reply:
            self.stop()
        return reply == "true\n"

    def stop(self) -> None:
        """Ends the process, if there is one."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-P", "-m", __name__, str(self.seconds)]
        paths = os.pathsep.join(path for path in sys.path if path)
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": paths},
        )
        assert process.stdout is not None, "it is a pipe"
        if process.stdout.readline() != "ready\n":
            process.kill()
            process.communicate()
            raise LocusError(f"{' '.join(command)} does not start: is sympy installed? pip install -r requirements.txt")
        return process


_RULES = BoundedRules()
atexit.register(_RULES.stop)


def _serve(seconds: float) -> None:
    """Answers each line of the standard input, or ends."""
    from locus.evaluation.maths.rules import same  # with sympy, which only this process needs

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other process decides what an interrupt ends
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    _reply("ready")
    with open(os.devnull, "w") as nowhere:
        for line in sys.stdin:
            # Its watch is a thread outside the interpreter: it ends even one long multiplication.
            faulthandler.dump_traceback_later(seconds, exit=True, file=nowhere)
            try:
                verdict = same(*json.loads(line))
            except Exception:  # whatever sympy stumbles over is not the gold answer
                verdict = False
            faulthandler.cancel_dump_traceback_later()
            _reply(json.dumps(bool(verdict)))


def _reply(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    _serve(float(sys.argv[1]))
