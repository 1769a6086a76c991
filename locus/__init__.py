"""locus: Local Visual Cue Search (arXiv 2606.16586)."""

import os

# Read as torch loads OpenMP (libgomp). By default its waiting threads spin ten times as long and take the core from
# whoever else could use it: beside two busy processes a run takes twice as long (docs/results.md). Sleeping at once
# costs an idle machine a tenth.
os.environ.setdefault("GOMP_SPINCOUNT", "30000")
