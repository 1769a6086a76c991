"""The TRL half of `perf.step_time`: ``python -m perf.trl_step FOLDER RESULT``. Written against TRL 1.16.

`trl.GRPOTrainer` on the same weights, processor, pictures and prompts, set up in its favour: no gradient
checkpointing, float32 as locus has it, no logging, no checkpoint. Phases are read at public methods: `generate`, the
reference's forward, and from the policy's forward with gradient to the end of the step; images prepared by the
processor, rewards and the data loader are its ``rest``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from datasets import Dataset, Image, List
from transformers import AutoProcessor, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from locus.tasks.cue_search.corpus import Corpus
from locus.tasks.cue_search.prompts import PAPER
from perf.step_workload import FRAME, Meter, Workload, answered, read_inputs, resident_bytes, reward_of


def prompt_dataset(folder: Path, corpus: Corpus) -> Dataset:
    """Prompt, two pictures and target box of each example."""
    columns: dict[str, list[Any]] = {"prompt": [], "images": [], "target": []}
    for example in corpus.train:
        content = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": PAPER.text(FRAME)}]
        columns["prompt"].append([{"role": "user", "content": content}])
        pictures = folder / "pictures" / example.image_path, folder / "cues" / f"{example.example_id}.png"
        columns["images"].append([str(path) for path in pictures])
        columns["target"].append(example.box)
    return Dataset.from_dict(columns).cast_column("images", List(Image()))


def config(folder: Path, work: Workload) -> GRPOConfig:
    """The step of `perf.locus_step` in TRL's words."""
    settings = json.loads((folder / "model" / "config.json").read_text())
    end = json.loads((folder / "model" / "generation_config.json").read_text())["eos_token_id"]
    never = [end, *(settings[f"{name}_token_id"] for name in ("image", "video", "vision_start", "vision_end"))]
    return GRPOConfig(
        output_dir=str(folder / "trl"),
        max_steps=work.all_steps,
        per_device_train_batch_size=work.prompts * work.group,
        num_generations=work.group,
        max_completion_length=work.new_tokens,
        temperature=1.0,
        generation_kwargs={"suppress_tokens": never},
        beta=0.01,
        learning_rate=1e-6,
        weight_decay=1e-2,
        max_grad_norm=1.0,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        report_to="none",
        logging_strategy="no",
        save_strategy="no",
        disable_tqdm=True,
        seed=0,
    )


class StepMeter(TrainerCallback):
    """Times the phases of a step."""

    def __init__(self, meter: Meter):
        self.meter = meter
        self.update_start: float | None = None

    def watch(self, trainer: GRPOTrainer) -> None:
        """Hooks policy and reference of the trainer."""
        policy, reference, generate = trainer.model, trainer.ref_model, trainer.model.generate
        started: list[float] = []

        def timed_generate(*args: Any, **kwargs: Any) -> Any:
            self.meter.prompt_tokens = kwargs["input_ids"].shape[1]
            with self.meter("rollout"):
                return generate(*args, **kwargs)

        def forward_starts(*_: Any) -> None:
            if torch.is_grad_enabled():
                self.update_start = perf_counter()

        policy.generate = timed_generate
        policy.register_forward_pre_hook(forward_starts)
        reference.register_forward_pre_hook(lambda *_: started.append(perf_counter()))
        reference.register_forward_hook(lambda *_: self.meter.add("reference", perf_counter() - started.pop()))
        for model in (policy, reference):
            self.meter.watch_vision(model)

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.meter.add("update", perf_counter() - self.update_start)
        self.meter.step_ended()


def main() -> None:
    folder, result = Path(sys.argv[1]), Path(sys.argv[2])
    work, corpus = read_inputs(folder)
    torch.set_num_threads(work.threads)
    before, meter = resident_bytes(), Meter()

    def reward(completions: list, completion_ids: list, target: list, **_: Any) -> list[float]:
        texts = [completion[0]["content"] for completion in completions]
        rows = zip(texts, completion_ids, target, strict=True)
        rewards = [reward_of(answered(text, ids, work), box, work) for text, ids, box in rows]
        meter.lengths += [len(ids) for ids in completion_ids]
        meter.rewards += rewards
        return rewards

    callback = StepMeter(meter)
    trainer = GRPOTrainer(
        str(folder / "model"),
        reward,
        config(folder, work),
        prompt_dataset(folder, corpus),
        processing_class=AutoProcessor.from_pretrained(folder / "model", padding_side="left"),
        callbacks=[callback],
    )
    callback.watch(trainer)
    trainer.model.model.visual.requires_grad_(bool(work.train_vision))
    parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
    trainer.train()
    result.write_text(json.dumps(meter.result(work, parameters, before)))


if __name__ == "__main__":
    main()
