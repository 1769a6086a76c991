"""Where things lie: the repository, its configuration, the tests' own data, and real images beside the repository."""

from __future__ import annotations

from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
CONF = REPO / "conf"
DATA = REPO / "tests" / "data"
EXPERIMENTS = ("experiment", "experiment/table8", "experiment/transfer")
"""Groups of conf whose options are experiments."""
COCO128 = REPO.parent / "shared" / "coco128"
"""The first 128 images of COCO; tests that read them are skipped where it is not there."""


def experiments() -> list[str]:
    """Names of all experiments, as ``experiment=`` takes them."""
    files = [file for group in EXPERIMENTS for file in sorted((CONF / group).glob("*.yaml"))]
    return [file.relative_to(CONF / "experiment").with_suffix("").as_posix() for file in files]
