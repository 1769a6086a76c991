"""Where things lie: the repository, its configuration, the tests' own data, and real images beside the repository."""

from __future__ import annotations

from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
CONF = REPO / "conf"
DATA = REPO / "tests" / "data"
COCO128 = REPO.parent / "shared" / "coco128"
"""The first 128 images of COCO; tests that read them are skipped where it is not there."""
