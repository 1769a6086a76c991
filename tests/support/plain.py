"""What a run's ``policy/`` answers by transformers alone: its classes, its cache, its sampling."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from transformers import AutoModelForImageTextToText, AutoProcessor

from locus.run.building import build_data

GREEDY = "rollout.validation.temperature=0"
"""Has a run record greedy answers, which `check_greedy_answers` asks for again."""


def check_greedy_answers(folder: Path) -> None:
    """The exported policy, opened with from_pretrained, must give the answers of the run's last validation."""
    cfg = OmegaConf.load(folder / "config.yaml")
    policy = AutoModelForImageTextToText.from_pretrained(folder / "policy").eval()
    processor = AutoProcessor.from_pretrained(folder / "policy")
    table = pd.read_parquet(folder / "validation.parquet")
    last = table[table["step"] == table["step"].max()].set_index("example_id")
    # The run's prompts; each is what the processor makes of the chat template (tests/policy/test_prompts.py).
    cfg.backbone.path = str(folder / "policy")
    samples = build_data(cfg, instantiate(cfg.backbone), 0).first("validation", 4)
    vision = [
        token for token in processor.tokenizer.get_vocab() if token.startswith(("<|vision", "<|image", "<|video"))
    ]
    for sample in samples:
        prompt = sample.prompt
        generated = policy.generate(
            input_ids=prompt.input_ids[None],
            attention_mask=torch.ones_like(prompt.input_ids[None]),
            mm_token_type_ids=prompt.mm_token_type_ids[None],
            pixel_values=prompt.pixel_values,
            image_grid_thw=prompt.image_grid_thw,
            max_new_tokens=cfg.rollout.validation.max_new_tokens,
            do_sample=False,
            suppress_tokens=processor.tokenizer.convert_tokens_to_ids(vision),
        )[0, prompt.length :]
        text = processor.tokenizer.decode(generated, skip_special_tokens=True)
        assert text == last.loc[prompt.prompt_id, "text"], (text, last.loc[prompt.prompt_id, "text"])
    first = table[table["step"] == 0].set_index("example_id")
    assert any(first["text"] != last["text"])  # else the weights of the start would do
