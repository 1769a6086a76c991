"""Supervised pretraining of a tiny backbone: what is at each patch, then answers to questions.

From random weights, answers alone teach a tiny model nothing for a long time: the gradient reaches the vision tower
through one token. Labels of every patch first give it something to read. The questions of an image are isolated rows of
one group forward, so that none sees another's answer.
"""

from __future__ import annotations

from statistics import mean
from typing import Any

import torch
import torch.nn.functional as F
from lightning import LightningModule
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from locus.data.collate import QuestionCollator
from locus.data.scene_lessons import NOTHING, AnswerLesson, PatchLesson
from locus.data.scenes import ATTRIBUTES
from locus.evaluation.questions import AskedScene, ask_policy, cue_search
from locus.grpo.logprobs import CompletionBatch, PackedScorer
from locus.models.vlm import VLM
from locus.types import PromptRecord

CLIP_NORM = 1.0
PROGRESS = ("train/loss", "val/colour", "val/grounding_iou", "val/cue_iou")
"""Shown in the progress bar."""


class PretrainModule(LightningModule):
    """Conducts the pretraining.

    Args:
        policy: from random weights.
        collator: makes the prompts of validation questions.
        lr, muon_lr: highest rates of AdamW and of Muon, reached after ``warmup`` steps of each part and held; over the
            run's last ``decay`` steps they fall to a twentieth.
        weight_decay: of both.
        patch_lessons, steps: lessons of the first part, and of both.
        box_weight: of the corners' error beside the words' cross-entropy in a patch lesson.
    """

    def __init__(
        self,
        policy: VLM,
        collator: QuestionCollator,
        lr: float,
        muon_lr: float,
        weight_decay: float,
        warmup: int,
        decay: int,
        patch_lessons: int,
        steps: int,
        box_weight: float,
    ):
        super().__init__()
        self.policy, self.collator = policy, collator
        self.automatic_optimization = False
        self.lr, self.muon_lr, self.weight_decay = lr, muon_lr, weight_decay
        self.warmup, self.decay, self.patch_lessons, self.steps = warmup, decay, patch_lessons, steps
        self.box_weight = box_weight
        width = policy.lm_head.in_features
        self.word_heads = nn.ModuleList(nn.Linear(width, 1 + len(words)) for words in ATTRIBUTES)
        self.box_head = nn.Linear(width, 4)
        self.scorer = PackedScorer()
        self.finished_steps = 0

    def training_step(self, lesson: PatchLesson | AnswerLesson, batch_idx: int) -> None:
        """One lesson, one update."""
        self.policy.train()
        loss, metrics = self.patches(lesson) if isinstance(lesson, PatchLesson) else self.answers(lesson)
        self.apply_update(loss)
        self.finished_steps += 1
        self.record({f"train/{name}": float(value) for name, value in (metrics | {"loss": loss.detach()}).items()})

    def record(self, metrics: dict[str, float]) -> None:
        """To the loggers, with the step they belong to, and to the progress bar."""
        for logger in self.loggers:
            logger.log_metrics(metrics, step=self.finished_steps)
        for name, value in metrics.items():
            self.log(name, value, prog_bar=name in PROGRESS, logger=False, batch_size=1)

    def patches(self, lesson: PatchLesson) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Cross-entropy of the words at each patch, and the corners' error where there is an object."""
        features = self.policy.vision_features(lesson.prompts)
        states = torch.cat([feature.embeddings for feature in features])  # [N, D]
        words, boxes = lesson.words.to(self.device), lesson.boxes.to(self.device)
        there = words[0] != NOTHING
        scores = [head(states) for head in self.word_heads]
        loss = sum(F.cross_entropy(score.float(), word) for score, word in zip(scores, words, strict=True))
        error = self.box_head(states)[there].float() - boxes[there]
        metrics = {
            f"{name}_accuracy": (score[there].argmax(-1) == word[there]).float().mean()
            for name, score, word in zip(("shape", "colour", "pattern"), scores, words, strict=True)
        }
        metrics["box_error"] = error.detach().abs().mean()
        return loss + self.box_weight * F.smooth_l1_loss(error, torch.zeros_like(error), beta=0.25), metrics

    def answers(self, lesson: AnswerLesson) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Mean over completion tokens of their negative log-likelihood, questions and cues together."""
        batch = CompletionBatch(lesson.token_ids.to(self.device), lesson.learned.to(self.device))
        total = -self.scorer(self.policy, lesson.prompts, batch, 1.0).logprobs.sum()
        count = batch.mask.sum()
        if lesson.cues:
            cues = CompletionBatch.of([[target] for target in lesson.cue_targets], self.device)
            total = total - self.scorer(self.policy, lesson.cues, cues, 1.0).logprobs.sum()
            count = count + cues.mask.sum()
        return total / count, {}

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Leaves lessons where they are: what is needed is moved when it is needed."""
        return batch

    def validation_step(self, batch: list[AskedScene] | list[PromptRecord], batch_idx: int) -> None:
        """Free decoding: a batch is the questions of one kind, or cue-search prompts."""
        if isinstance(batch[0], AskedScene):
            results = ask_policy(self.policy, batch, self.collator)
            found = {results[0].kind: mean(result.score for result in results)}
            if results[0].iou is not None:
                found["grounding_iou"] = mean(result.iou for result in results)
        else:
            found = cue_search(self.policy, batch, self.collator.decode)
        self.record({f"val/{name}": value for name, value in found.items()})

    def configure_optimizers(self) -> tuple[list[torch.optim.Optimizer], list[LambdaLR]]:
        """Muon for the matrices between hidden states, AdamW for the rest; one schedule.

        Muon (https://kellerjordan.github.io/posts/muon) learns shapes and patterns in half the steps of AdamW here.
        """
        hidden, rest = [], []
        for name, parameter in self.named_parameters():
            inner = parameter.ndim == 2 and "embed" not in name and "head" not in name
            (hidden if inner else rest).append(parameter)
        optimizers = [
            torch.optim.Muon(hidden, lr=self.muon_lr, weight_decay=self.weight_decay),
            torch.optim.AdamW(rest, lr=self.lr, weight_decay=self.weight_decay, betas=(0.9, 0.98)),
        ]
        return optimizers, [LambdaLR(optimizer, self.rate) for optimizer in optimizers]

    def apply_update(self, loss: torch.Tensor) -> None:
        """One step of both optimisers, the gradient clipped."""
        optimizers = self.optimizers()
        for optimizer in optimizers:
            optimizer.zero_grad()
        self.manual_backward(loss)
        torch.nn.utils.clip_grad_norm_(self.parameters(), CLIP_NORM)
        for optimizer, schedule in zip(optimizers, self.lr_schedulers(), strict=True):
            optimizer.step()
            schedule.step()

    def rate(self, step: int) -> float:
        """Share of the highest rate at a step."""
        since = step - self.patch_lessons if step >= self.patch_lessons else step
        return min(1.0, (since + 1) / self.warmup, max(0.05, (self.steps - step) / self.decay))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the run's position."""
        checkpoint["locus"] = {"finished_steps": self.finished_steps}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restores it."""
        self.finished_steps = checkpoint["locus"]["finished_steps"]
