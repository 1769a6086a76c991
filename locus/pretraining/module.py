"""Supervised pretraining of a tiny backbone: what is at each patch, then answers to questions.

From random weights, answers alone teach a tiny model nothing for a long time: the gradient reaches the vision tower
through one token. Labels of every patch first give it something to read: words and numbers, told by the embeddings of
their own tokens, so that questions and answers find them. The questions of an image are isolated rows of
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
from locus.errors import LocusError
from locus.evaluation.questions import AskedScene, ask_policy, cue_search
from locus.grpo.logprobs import CompletionBatch, PackedScorer
from locus.models.vlm import VLM
from locus.types import PromptRecord

CLIP_NORM = 1.0
KINDS = ("shape", "colour", "pattern")
NO_WORD = "none"
"""Said of a patch without an object."""
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
        box_weight: of the corners' cross-entropy beside the words' in a patch lesson.
        largest_number: that a corner can be.
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
        largest_number: int,
    ):
        super().__init__()
        self.policy, self.collator = policy, collator
        self.automatic_optimization = False
        self.lr, self.muon_lr, self.weight_decay = lr, muon_lr, weight_decay
        self.warmup, self.decay, self.patch_lessons, self.steps = warmup, decay, patch_lessons, steps
        self.box_weight = box_weight
        width = policy.lm_head.in_features
        self.word_heads = nn.ModuleList(nn.Linear(width, width) for _ in ATTRIBUTES)
        self.box_head = nn.Linear(width, 4 * width)
        for name, words in zip(KINDS, ATTRIBUTES, strict=True):
            spellings = [[spelling + word for word in (NO_WORD, *words)] for spelling in ("", " ")]
            ids = [[self.token_id(text) for text in row] for row in spellings]
            self.register_buffer(f"{name}_ids", torch.tensor(ids), persistent=False)
        numbers = [self.token_id(str(number)) for number in range(largest_number + 1)]
        self.register_buffer("number_ids", torch.tensor(numbers), persistent=False)
        self.scorer = PackedScorer()
        self.finished_steps = 0

    @property
    def word_ids(self) -> list[torch.Tensor]:
        """[2, 1 + words] token ids of each kind: as an answer begins, and after a space as in a question."""
        return [getattr(self, f"{name}_ids") for name in KINDS]

    def token_id(self, text: str) -> int:
        """The id of a text that is one token; raises LocusError where it is not."""
        ids = self.collator.encode(text)
        if len(ids) != 1:
            raise LocusError(f"{text!r} is {len(ids)} tokens: pretraining needs a tokenizer with one for each word")
        return ids[0]

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
        """Cross-entropy of the words at each patch, and of the corners' numbers where there is an object."""
        features = self.policy.vision_features(lesson.prompts)
        states = torch.cat([feature.embeddings for feature in features])  # [N, D]
        words, boxes = lesson.words.to(self.device), lesson.boxes.to(self.device)
        there = words[0] != NOTHING
        loss, metrics = states.new_zeros(()), {}
        for name, head, tokens, target in zip(KINDS, self.word_heads, self.word_ids, words, strict=True):
            scores = self.token_scores(head(states), tokens)  # [N, spellings, words]
            many = target[:, None].expand(-1, scores.shape[1])
            loss = loss + F.cross_entropy(scores.flatten(0, 1), many.flatten())
            metrics[f"{name}_accuracy"] = (scores[there, 0].argmax(-1) == target[there]).float().mean()
        corners = self.box_head(states[there]).unflatten(-1, (4, -1))  # [objects' patches, 4, D]
        scores = self.token_scores(corners, self.number_ids[None])[..., 0, :]
        metrics["box_error"] = (scores.argmax(-1) - boxes[there]).abs().float().mean()
        return loss + self.box_weight * F.cross_entropy(scores.flatten(0, 1), boxes[there].flatten()), metrics

    def token_scores(self, states: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """[..., D] states, [spellings, words] ids -> [..., spellings, words] logits by the tokens' own embeddings."""
        vectors = self.policy.model.get_input_embeddings()(tokens)
        states = F.rms_norm(states, states.shape[-1:])
        return torch.einsum("...d,swd->...sw", states, vectors).float()

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
