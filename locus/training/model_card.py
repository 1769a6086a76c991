"""The model card of a pretrained tiny backbone."""

from __future__ import annotations

from collections.abc import Mapping

KINDS = {
    "colour": "colour of a named object (chance 0.10)",
    "shape": "shape (0.10)",
    "pattern": "pattern (0.20)",
    "relation": "left or right, above or below (0.50)",
    "existence_random": "is there a ..., absent ones at random (0.50)",
    "existence_adversarial": "is there a ..., absent ones differ in one word (0.50)",
    "count": "how many, 0 to 3 (0.25)",
    "grounding": "box of a named object, IoU of at least 0.5",
    "grounding_iou": "the same, mean IoU",
    "cue_iou": "cue search, mean IoU",
    "cue_format": "cue search, well-formed answers",
}


def model_card(values: Mapping[str, float], facts: Mapping[str, object]) -> str:
    """Markdown with the metadata that the Hugging Face hub reads.

    Args:
        values: validation by kind, without ``val/``.
        facts: what was trained on, and how long; name -> value.
    """
    lines = [f"| {words} | {values[name]:.3f} |" for name, words in KINDS.items() if name in values]
    told = "\n".join(f"- {name}: {value}" for name, value in facts.items())
    return f"""---
license: apache-2.0
library_name: transformers
pipeline_tag: image-text-to-text
tags: [locus, visual-grounding, synthetic]
---
# A tiny Qwen3-VL that knows generated scenes

The embedded backbone of locus: the real `Qwen3VLForConditionalGeneration` and `Qwen3VLProcessor`, small enough for two
CPU cores. It answers `<think></think><answer>...</answer>`, writes boxes as `[x1, y1, x2, y2]` in pixels of the
processed image, and knows nothing but generated scenes of coloured, patterned shapes on clutter. Not for any other use.

Trained from random weights, supervised, on generated scenes alone: first the object at each patch, then isolated
questions. It has seen few cue-search prompts, the same ones again and again, so that its cue search is weak on purpose:
what post-training by local visual cue search adds can then be seen.

{told}

Free decoding of held-out scenes:

| task | score |
|---|---|
{chr(10).join(lines)}

Licence: Apache-2.0. Made by `python -m locus.pretrain`.
"""
