"""What a run that is resumed must be, and is refused for before it changes: one that can come to its end."""

from __future__ import annotations

from collections.abc import Sequence

from locus.analysis.run_metrics import read_metrics, validations
from locus.errors import LocusError
from locus.files.step_tables import VALIDATION, read_rows
from locus.run.runtime import RunFolder
from locus.types import Example


def check_steps(run: RunFolder, steps: int) -> None:
    """Raises LocusError where no step is left to take, and the last one has no validation to end with.

    After the loggers are made, which mend a ``metrics.csv`` that a kill has left in two halves.
    """
    if run.last_step >= steps and not is_validated(run, run.last_step):
        raise unvalidated("trainer.steps", steps, run.last_step)


def is_validated(run: RunFolder, step: int) -> bool:
    """Whether ``metrics.csv`` has a validation of this step."""
    return step in set(validations(read_metrics(run.path))["step"])


def unvalidated(limit: str, value: float | None, step: int) -> LocusError:
    """What to say where this key leaves a run no step, and its last one has no validation."""
    return LocusError(f"{limit}={value}: the run is at step {step} already, which it has not validated; give more")


def check_held_out(run: RunFolder, examples: Sequence[Example]) -> None:
    """Raises LocusError where these are not the validation examples that the run began with: its end is paired."""
    path = run.path / "validation.parquet"
    if not path.exists():  # a kill while it was replaced: it is there again once it is opened
        return
    try:
        rows = read_rows(path, VALIDATION)
    except (OSError, ValueError):  # refused, with a way out, once it is opened
        return
    then = set(rows["example_id"][rows["step"] == rows["step"].min()])
    now = {example.example_id for example in examples}
    if then and now != then:
        raise LocusError(
            f"the data give other held-out examples than the run began with: {len(now)} instead of {len(then)}, of "
            f"which {len(now & then)} are the same; put files and settings back, or start anew"
        )
