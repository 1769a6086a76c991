"""locus: Local Visual Cue Search (arXiv 2606.16586)."""
