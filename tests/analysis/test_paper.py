"""The paper's numbers: by benchmark and policy, or none."""

from __future__ import annotations

from locus.analysis.paper import paper_numbers


def test_paper_numbers():
    """Beside a backbone of the paper only."""
    assert paper_numbers("vstar", "Qwen/Qwen2.5-VL-7B-Instruct") == (79.6, 87.4)
    assert paper_numbers("pope", "models/MiMo-VL-7B-RL/") == (86.1, 86.2)
    assert paper_numbers("refcoco", "Qwen/Qwen3-VL-4B-Thinking") is None
    assert paper_numbers("vstar", "Qwen/Qwen2.5-VL-72B-Instruct") is None and paper_numbers("vstar", None) is None
