"""Makes a tiny backbone from random weights: ``python -m locus.pretrain`` (conf/pretrain.yaml). Entry point."""

from __future__ import annotations

from locus.run.help import answer_early

if __name__ == "__main__":
    answer_early()  # before the imports below, which take seconds

import logging
import sys
from collections.abc import Mapping
from typing import Any, cast

import hydra
import pandas as pd
import torch
from hydra.utils import instantiate
from lightning import Trainer, seed_everything
from omegaconf import DictConfig
from torch.utils.data import DataLoader

from locus.analysis.diagnoses.context_suppression import FULL, SUPPRESSED
from locus.analysis.diagnoses.shared import measure
from locus.analysis.run_metrics import read_metrics, validations
from locus.boxes import parse_frame
from locus.errors import number, whole
from locus.evaluation.evaluator import Evaluator
from locus.files.checkpoints import AtomicCheckpointIO
from locus.files.progress import peak_memory_gb
from locus.files.run_files import write_text
from locus.policy.backbone import Backbone
from locus.policy.prompts import PixelLimits, PromptBuilder
from locus.policy.vlm import VLM
from locus.run.callbacks import ProgressLines, RunCheckpoint
from locus.run.record import Start, finish_record, write_summary
from locus.run.resumption import check_steps
from locus.run.runtime import RunFolder, entry_point, open_run, quiet_lightning
from locus.run.sweeps import finished_before
from locus.run.threads import choose_threads
from locus.scenes.questions import grounding, kinds_of
from locus.tasks.cue_search.audits import AuditSettings, audited_corpus
from locus.tasks.cue_search.rationales import NO_RATIONALES, LabelRationales
from locus.tasks.cue_search.task import CueSearch
from locus.tasks.datamodule import SampleMaker, Samples
from locus.tasks.scene_questions import SceneQuestions
from locus.training.lessons import LessonLoader, SceneLessons, Thoughts
from locus.training.pretraining import GREEDY, PROGRESS, VALIDATION_BUDGET, HeldOut

log = logging.getLogger("locus")
CARD = {
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
"""Scalars of the validation -> what the model card calls them."""
THOUGHTS = {
    Thoughts.NAMED: "the words for what is asked about or cropped",
    Thoughts.CUES: "the words for what is cropped; none for questions",
    Thoughts.SILENT: "none",
}


def build_lessons(cfg: DictConfig, backbone: Backbone, policy: VLM) -> tuple[SceneLessons, list[HeldOut]]:
    """Lessons of the run, and its validation batches: questions by kind, and cue search."""
    frame, lessons = parse_frame(backbone.frame), cfg.lessons
    thoughts = Thoughts.parse(lessons.think)
    builder = PromptBuilder(backbone.processor(), PixelLimits(), backbone.family)
    source = instantiate(lessons.cue_source, _convert_="all")
    audit = AuditSettings(duplicate_iou=1.0, check_images=False)  # boxes of a scene do not overlap
    crop, sizes = instantiate(cfg.crop, _convert_="all"), (lessons.cue_examples, cfg.validation.cues)
    rationales = LabelRationales() if thoughts.of_cues else NO_RATIONALES
    corpus = audited_corpus(source, crop, *sizes, cfg.seed, audit=audit)
    cues = SampleMaker(CueSearch(corpus, source, rationales=rationales), builder, frame)
    kinds = list(zip(kinds_of(lessons.questions), lessons.questions.values(), strict=True))
    scenes = SceneLessons(
        [instantiate(source, _convert_="all") for source in lessons.sources],
        [instantiate(source, _convert_="all") for source in lessons.question_sources],
        builder,
        policy.end_token_ids[0],
        frame,
        kinds,
        (lessons.patch_images, lessons.question_images, lessons.seen_images),
        thoughts,
        lessons.patch_lessons,
        Samples(cues, "train"),
        lessons.cues_per_lesson,
        lessons.first_cue_lesson,
        cfg.seed,
    )
    unseen, batches = instantiate(cfg.validation.source, _convert_="all"), []
    for ask, _ in kinds:
        names = {"accuracy": ask.__name__} | ({"iou": "grounding_iou"} if ask is grounding else {})
        questions = SceneQuestions(unseen, ask, cfg.validation.questions, cfg.seed)
        batches.append(held_out(SampleMaker(questions, builder, frame), names))
    return scenes, [*batches, held_out(cues, {"iou": "cue_iou", "format": "cue_format"})]


def held_out(make: SampleMaker, names: dict[str, str]) -> HeldOut:
    """A task's validation examples as a batch."""
    samples = Samples(make, "validation")
    return HeldOut(make.task, [samples[index] for index in range(len(samples))], names)


def pretrain(cfg: DictConfig) -> None:
    """Runs the pretraining and writes the policy."""
    quiet_lightning()
    with open_run(cfg) as (cfg, run):
        pretrained(cfg, run)


def pretrained(cfg: DictConfig, run: RunFolder) -> None:
    """As `pretrain`, in a folder that no other process writes into."""
    for name in ("steps", "validate_every", "checkpoint_every", "keep_checkpoints"):
        whole(f"trainer.{name}", cfg.trainer[name])
    loading = cfg.trainer.workers, cfg.trainer.get("worker_timeout", 600)  # a run of before it was a key goes on
    whole("trainer.workers", loading[0], 0)
    number("trainer.worker_timeout", loading[1], 0, above=True)
    choose_threads(cfg.trainer.accelerator, run.path / "run.json")
    seed_everything(cfg.seed, verbose=False)
    backbone = instantiate(cfg.backbone)
    policy = backbone.load()
    lessons, held_out = build_lessons(cfg, backbone, policy)
    module = instantiate(cfg.module)(policy, lessons.builder)
    start = Start(run, {"seed": cfg.seed, "parameters": sum(p.numel() for p in policy.parameters())})
    trainer = build_trainer(cfg, run, start)
    check_steps(run, cfg.trainer.steps)
    train = LessonLoader(lessons, cfg.trainer.steps, run.last_step, *loading)
    validation: DataLoader[Any] = DataLoader(cast(Any, held_out), batch_size=None, collate_fn=lambda batch: batch)
    trainer.fit(module, train, validation, ckpt_path=run.checkpoint, weights_only=True)
    start.write()
    final = final_scores(read_metrics(run.path))
    on_gpu = trainer.strategy.root_device.type == "cuda"
    finish_record(run, start.record, {}, peak_memory_gb=peak_memory_gb(on_gpu))
    evaluator = Evaluator(policy, lessons.builder, GREEDY, VALIDATION_BUDGET)
    context = measure(instantiate(cfg.context, _convert_="all"), evaluator, "the policy")
    context.to_parquet(run.path / "context.parquet", index=False)
    read = instantiate(cfg.probe, _convert_="all").measure(policy.eval(), lessons.builder)
    export(cfg, run, policy, lessons, final, (context_table(context), probe_table(read)))
    write_summary(run, final)
    log.info("run folder: %s", run.path)


def final_scores(metrics: pd.DataFrame) -> dict[str, float]:
    """``val/…`` scalars of the last validation, also where a resumed run had no lesson left; each kind has its row."""
    last = validations(metrics).iloc[-1]
    return {name: float(last[name]) for name in metrics if name.startswith("val/")}


def context_table(measured: pd.DataFrame) -> str:
    """Markdown: accuracy of each kind against the objects in the scene, and with all but the evidence black.

    measured: rows of `Crowding`. Only questions with evidence count, so that all columns are of the same ones.
    """
    paired = measured[measured["image"] == SUPPRESSED]["question"]
    rows = measured[measured["question"].isin(paired)]
    counts = rows.groupby("level")["objects"].mean()
    named = {level: f"{count:.0f} objects" for level, count in counts.items()}
    column = rows["level"].map(named).where(rows["image"] == FULL, "all else black")
    table = rows.assign(column=column).pivot_table("correct", "kind", "column", sort=False)
    lines = [" | ".join([str(kind), *(f"{value:.2f}" for value in values)]) for kind, values in table.iterrows()]
    head = [" | ".join(["question", *table.columns]), "|".join(["---"] * (len(table.columns) + 1))]
    return "\n".join(f"| {line} |" for line in [*head, *lines])


def probe_table(measured: pd.DataFrame) -> str:
    """Markdown: what a linear probe reads off the patches. measured: as `PatchProbe.measure` gives it."""
    table = measured.pivot_table("accuracy", "attribute", "scenes", sort=False)
    lines = [" | ".join([str(kind), *(f"{value:.2f}" for value in values)]) for kind, values in table.iterrows()]
    return "\n".join(f"| {line} |" for line in ["attribute | " + " | ".join(table.columns), "---|---|---", *lines])


def export(
    cfg: DictConfig,
    run: RunFolder,
    policy: VLM,
    lessons: SceneLessons,
    final: dict[str, float],
    tables: tuple[str, str],
) -> None:
    """Writes ``policy/`` in bfloat16, half the size, with its model card; tables: of context, and of the probe."""
    folder = run.path / "policy"
    half = policy.model.to(torch.bfloat16)  # type: ignore[arg-type]  # transformers' decorator hides the signature
    half.save_pretrained(folder)
    lessons.builder.processor.save_pretrained(folder)
    patches, steps = min(cfg.lessons.patch_lessons, cfg.trainer.steps), cfg.trainer.steps
    facts = {
        "parameters": f"{sum(parameter.numel() for parameter in policy.parameters()):,}",
        "lessons": f"{patches} of patches with {cfg.lessons.patch_images} images each, then "
        f"{steps - patches} of questions with {cfg.lessons.question_images} images each "
        f"and {cfg.lessons.seen_images} beside them whose patches are told",
        "questions per image": sum(cfg.lessons.questions.values()),
        "cue-search prompts": f"{cfg.lessons.cues_per_lesson} per lesson in the last "
        f"{max(0, steps - cfg.lessons.first_cue_lesson)}, of {cfg.lessons.cue_examples} different ones",
        "thoughts before answers": THOUGHTS[lessons.thoughts],
        "seed": cfg.seed,
    }
    card = model_card({name.removeprefix("val/"): value for name, value in final.items()}, facts, *tables)
    write_text(folder / "README.md", card)


def model_card(values: Mapping[str, float], facts: Mapping[str, object], context: str, probe: str) -> str:
    """Markdown with the metadata that the Hugging Face hub reads.

    Args:
        values: validation by kind, without ``val/``.
        facts: what was trained on, and how long; name -> value.
        context: a table of what surroundings cost.
        probe: a table of what the patches tell.
    """
    lines = [f"| {words} | {values[name]:.3f} |" for name, words in CARD.items() if name in values]
    told = "\n".join(f"- {name}: {value}" for name, value in facts.items())
    return f"""---
license: apache-2.0
library_name: transformers
pipeline_tag: image-text-to-text
tags: [locus, visual-grounding, synthetic]
---
# A tiny Qwen3-VL that knows generated scenes

The embedded backbone of locus: the real `Qwen3VLForConditionalGeneration` and `Qwen3VLProcessor`, small enough for two
CPU cores. It answers `<think>...</think><answer>...</answer>`, writes boxes as `[x1, y1, x2, y2]` in pixels of the
processed image, and knows nothing but generated scenes of coloured, patterned shapes on clutter. Not for any other use.

Trained from random weights, supervised, on generated scenes alone. It has learned what is at each patch of sparse and
crowded scenes alike, but has been asked about sparse ones only. So it sees a crowded scene well and answers questions
about it badly. This is the paper's visual context rot by construction, and what local visual cue search in crowded
scenes should mend.

{told}

Free decoding of held-out scenes:

| task | score |
|---|---|
{chr(10).join(lines)}

The same questions about the same pixels, with ever more objects around the evidence:

{context}

What a linear probe reads off the patches that show an object, in scenes that it was not fitted on:

{probe}

Licence: Apache-2.0. Made by `python -m locus.pretrain`.
"""


def build_trainer(cfg: DictConfig, run: RunFolder, start: Start) -> Trainer:
    """A Lightning trainer whose one epoch is the run."""
    settings = cfg.trainer
    every, last = settings.validate_every, settings.steps
    checkpoints = RunCheckpoint(run.path, settings.checkpoint_every, every, last, settings.keep_checkpoints)
    return Trainer(
        accelerator=settings.accelerator,
        precision=settings.precision,
        devices=1,
        max_epochs=1,
        val_check_interval=every,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        logger=[make(run) for make in instantiate(cfg.logger).values()],
        plugins=[AtomicCheckpointIO()],
        callbacks=[start, checkpoints, ProgressLines("pretraining", last, PROGRESS)],
        enable_model_summary=False,
        enable_progress_bar=sys.stdout.isatty(),
        default_root_dir=run.path,
    )


@hydra.main(version_base="1.3", config_path="../conf", config_name="pretrain")
@entry_point
def main(cfg: DictConfig) -> None:
    """The command."""
    if finished_before(cfg) is None:
        pretrain(cfg)


if __name__ == "__main__":
    main()
