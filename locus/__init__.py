"""locus: Local Visual Cue Search (arXiv 2606.16586)."""

import os

# Read as torch loads OpenMP. By default its waiting threads spin and take the core from whoever else could use it:
# beside two busy processes a run takes twice as long as with threads that sleep.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
