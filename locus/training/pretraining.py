"""Supervised pretraining of a tiny backbone: what is at each patch, then answers to questions.

From random weights, answers alone teach a tiny model nothing for a long time: the gradient reaches the vision tower
through one token. Labels of every patch first give it something to read: words and numbers, told by the embeddings of
their own tokens, so that questions and answers find them. The questions of an image are isolated rows of
one group forward, so that none sees another's answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any, cast

import torch
import torch.nn.functional as F
from lightning import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from locus.errors import LocusError
from locus.policy.engines import LocalEngine
from locus.policy.group_attention import Prefill, WatchedContinuation
from locus.policy.logprobs import CompletionBatch, PackedScorer, head_scores
from locus.policy.prompts import PromptBuilder
from locus.policy.vlm import VLM, EncodedPrompts, VisionFeatures
from locus.scenes.source import ATTRIBUTES
from locus.tasks.rollouts import roll_out
from locus.tasks.task import Task
from locus.training.lessons import NOTHING, Lesson, Questions
from locus.types import Prompt, Sample, Sampling

CLIP_NORM = 1.0
SHARPNESS = 8.0
"""Of the words at a patch: logits over products with embeddings, so that features become as large as embeddings."""
KINDS = ("shape", "colour", "pattern")
NO_WORD = "none"
"""Said of a patch without an object."""
PROGRESS = ("train/patch_loss", "train/answer_loss", "val/colour", "val/grounding_iou", "val/cue_iou")
"""Shown in the progress bar."""


GREEDY = Sampling(temperature=0.0, max_new_tokens=24)
VALIDATION_BUDGET = 32_768
"""Padded tokens decoded at a time."""
MATCHING_LAYERS = (1, 2)
"""Whose matching heads are told where to look: not the first, where a question's last token has met its words only."""


@dataclass(frozen=True, eq=False)
class HeldOut:
    """One batch of the validation: samples of a task, and the name of each part of their grades that is logged."""

    task: Task
    samples: Sequence[Sample]
    names: Mapping[str, str]


@torch.no_grad()
def start_matching(policy: VLM, heads: int) -> None:
    """Gives the first heads of every layer equal query and key weights, so that at first like looks at like.

    Patches are told by the words' own embeddings, so a word then looks at the patches that show what it says.
    """
    for layer in policy.model.model.language_model.layers:
        attention = layer.self_attn
        rows = heads * attention.head_dim
        if rows > len(attention.k_proj.weight):
            raise LocusError(f"module.matching_heads={heads}: the text model has fewer key-value heads")
        attention.q_proj.weight[:rows] = attention.k_proj.weight[:rows]


class PretrainModule(LightningModule):
    """Conducts the pretraining.

    Args:
        policy: from random weights.
        builder: its tokenizer encodes words and decodes answers.
        lr, muon_lr: highest rates of AdamW and of Muon, reached after ``warmup`` steps of each part and held; over the
            run's last ``decay`` steps they fall to a twentieth.
        weight_decay: of both.
        patch_lessons, steps: lessons of the first part, and of both.
        box_weight: of the corners' cross-entropy beside the words' at a patch.
        patch_weight: of the patches' loss beside the answers'.
        look_weight, look_lessons: of the looking loss as questions begin, and the lessons over which it fades.
        matching_heads: of each layer start as `start_matching` says; they are the ones told where to look.
        largest_number: that a corner can be.
    """

    number_ids: torch.Tensor

    def __init__(
        self,
        policy: VLM,
        builder: PromptBuilder,
        lr: float,
        muon_lr: float,
        weight_decay: float,
        warmup: int,
        decay: int,
        patch_lessons: int,
        steps: int,
        box_weight: float,
        patch_weight: float,
        look_weight: float,
        look_lessons: int,
        matching_heads: int,
        largest_number: int,
    ):
        super().__init__()
        self.policy, self.builder = policy, builder
        self.automatic_optimization = False
        self.lr, self.muon_lr, self.weight_decay = lr, muon_lr, weight_decay
        self.warmup, self.decay, self.patch_lessons, self.steps = max(1, warmup), max(1, decay), patch_lessons, steps
        self.box_weight, self.patch_weight = box_weight, patch_weight
        self.look_weight, self.look_lessons, self.matching_heads = look_weight, max(1, look_lessons), matching_heads
        start_matching(policy, matching_heads)
        width = policy.lm_head.in_features
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
        ids = self.builder.encode(text)
        if len(ids) != 1:
            raise LocusError(f"{text!r} is {len(ids)} tokens: pretraining needs a tokenizer with one for each word")
        return ids[0]

    def training_step(self, lesson: Lesson, batch_idx: int) -> None:
        """One lesson, one update."""
        self.policy.train()
        features = self.policy.vision_features(lesson.prompts)
        loss, metrics = self.patch_loss(lesson, features)
        if lesson.questions is not None:
            asked = slice(len(lesson.questions.token_ids))
            answer_loss, look_loss = self.question_losses(lesson.prompts[asked], lesson.questions, features[asked])
            metrics |= {"answer_loss": answer_loss.detach(), "look_loss": look_loss.detach()}
            loss = self.patch_weight * loss + answer_loss + self.look_share * self.look_weight * look_loss
        self.apply_update(loss)
        self.finished_steps += 1
        self.record({f"train/{name}": float(value) for name, value in metrics.items()})

    def record(self, metrics: dict[str, float]) -> None:
        """To the loggers, with the step they belong to, and to the progress bar."""
        for logger in self.loggers:
            logger.log_metrics(metrics, step=self.finished_steps)
        for name, value in metrics.items():
            self.log(name, value, prog_bar=name in PROGRESS, logger=False, batch_size=1)

    def patch_loss(
        self, lesson: Lesson, features: list[VisionFeatures]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Cross-entropy of the words at each patch, and of the corners' numbers where there is an object."""
        states = torch.cat([feature.embeddings for feature in features])  # [N, D]
        words, boxes = lesson.words.to(self.device), lesson.boxes.to(self.device)
        there = words[0] != NOTHING
        loss, metrics = states.new_zeros(()), {}
        for name, tokens, target in zip(KINDS, self.word_ids, words, strict=True):
            scores = self.token_scores(states, tokens)  # [N, spellings, words]
            many = target[:, None].expand(-1, scores.shape[1])
            loss = loss + F.cross_entropy(scores.flatten(0, 1), many.flatten())
            metrics[f"{name}_accuracy"] = (scores[there, 0].argmax(-1) == target[there]).float().mean()
        corners = self.box_head(states[there]).unflatten(-1, (4, -1))  # [objects' patches, 4, D]
        scores = self.token_scores(corners, self.number_ids[None])[..., 0, :]
        metrics["box_error"] = (scores.argmax(-1) - boxes[there]).abs().float().mean()
        loss = loss + self.box_weight * F.cross_entropy(scores.flatten(0, 1), boxes[there].flatten())
        return loss, metrics | {"patch_loss": loss.detach()}

    def token_scores(self, states: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """[..., D] states, [spellings, words] ids -> [..., spellings, words] logits by the tokens' own embeddings."""
        vectors = self.policy.model.get_input_embeddings()(tokens)
        return SHARPNESS * torch.einsum("...d,swd->...sw", states, vectors).float()

    def question_losses(
        self, prompts: list[Prompt], asked: Questions, features: list[VisionFeatures]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean over completion tokens, of questions and cues together, of their negative log-likelihood; and how much
        the matching heads look past the evidence."""
        ids, learned = asked.token_ids.to(self.device), asked.learned.to(self.device)
        plans: list[WatchedContinuation] = []

        def plan(prefill: Prefill, fed: torch.Tensor) -> WatchedContinuation:
            plans.append(WatchedContinuation(prefill, fed, MATCHING_LAYERS, self.matching_heads))
            return plans[-1]

        encoded = self.policy.encode(prompts, features)
        mask = learned.flip(-1).cumsum(-1).flip(-1) > 0  # up to the last token that is learned
        hidden = self.policy.completion_hidden(encoded, ids, mask, plan)
        answers = hidden[learned[mask]]
        total, count = -head_scores(self.policy, answers, ids[learned], 1.0)[0].sum(), learned.sum()
        if asked.cues:
            cues = CompletionBatch.of([[target] for target in asked.cue_targets], self.device)
            total = total - self.scorer(self.policy, asked.cues, cues, 1.0).logprobs.sum()
            count = count + cues.mask.sum()
        return total / count, self.look_loss(asked, encoded, prompts, plans[0].scores)

    def look_loss(
        self, asked: Questions, encoded: EncodedPrompts, prompts: list[Prompt], scores: list[torch.Tensor]
    ) -> torch.Tensor:
        """Mean negative log of the share of the attention to the image that lies on the evidence."""
        types = pad_sequence([prompt.mm_token_type_ids for prompt in prompts], True, 0).bool().to(self.device)
        evidence = asked.evidence.to(self.device)
        fed = torch.arange(1, asked.token_ids.shape[-1]) <= asked.learned.int().cumsum(-1).argmax(-1, keepdim=True)
        looking = (asked.looking[..., :-1] & fed & asked.evidence.any(-1, keepdim=True)).to(self.device)  # [B, G, T-1]
        losses = []
        for layer in scores:  # [B, G, heads, T-1, P]
            layer = layer.float()
            all_image = layer.masked_fill(~types[:, None, None, None], float("-inf")).logsumexp(-1)
            there = layer.masked_fill(~evidence[:, :, None, None], torch.finfo(torch.float32).min).logsumexp(-1)
            losses.append((all_image - there).movedim(2, -1)[looking].mean())
        return torch.stack(losses).mean()

    @property
    def look_share(self) -> float:
        """Of the looking loss's weight: 1 as questions begin, falling to 0 over ``look_lessons``."""
        return max(0.0, 1 - (self.finished_steps - self.patch_lessons) / self.look_lessons)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Leaves lessons where they are: what is needed is moved when it is needed."""
        return batch

    def validation_step(self, batch: HeldOut, batch_idx: int) -> None:
        """Free decoding of the questions of one kind, or of cue search."""
        groups = roll_out(
            self.policy,
            batch.task,
            batch.samples,
            self.builder.decode,
            GREEDY,
            group=1,
            seed=0,
            step=0,
            engine=LocalEngine(VALIDATION_BUDGET, VALIDATION_BUDGET),
        )
        grades = [group.rollouts[0].grade for group, _ in groups]
        self.record({f"val/{name}": mean(one.parts[part] for one in grades) for part, name in batch.names.items()})

    def configure_optimizers(self) -> tuple[list[torch.optim.Optimizer], list[LambdaLR]]:
        """Muon for the matrices between hidden states, AdamW for the rest; one schedule.

        Muon (https://kellerjordan.github.io/posts/muon) learns shapes and patterns in half the steps of AdamW here.
        """
        hidden: list[nn.Parameter] = []
        rest: list[nn.Parameter] = []
        for name, parameter in self.named_parameters():
            inner = parameter.ndim == 2 and "embed" not in name and "head" not in name
            (hidden if inner else rest).append(parameter)
        optimizers = [
            torch.optim.Muon(hidden, lr=self.muon_lr, weight_decay=self.weight_decay),
            torch.optim.AdamW(rest, lr=self.lr, weight_decay=self.weight_decay, betas=(0.9, 0.98)),
        ]
        return optimizers, [LambdaLR(optimizer, self.rate) for optimizer in optimizers]

    def on_train_start(self) -> None:
        """Rates and decay are as configured now; a checkpoint brings those of its own run."""
        optimizers = cast(list[LightningOptimizer], self.optimizers())
        schedules = cast(list[LambdaLR], self.lr_schedulers())
        for optimizer, schedule, highest in zip(optimizers, schedules, (self.muon_lr, self.lr), strict=True):
            schedule.base_lrs = [highest]
            now = highest * self.rate(schedule.last_epoch)
            optimizer.param_groups[0].update(initial_lr=highest, lr=now, weight_decay=self.weight_decay)

    def apply_update(self, loss: torch.Tensor) -> None:
        """One step of both optimisers, the gradient clipped; raises LocusError for one that is not finite."""
        optimizers = cast(list[LightningOptimizer], self.optimizers())
        schedules = cast(list[LRScheduler], self.lr_schedulers())
        for optimizer in optimizers:
            optimizer.zero_grad()
        self.manual_backward(loss)
        if not torch.nn.utils.clip_grad_norm_(self.parameters(), CLIP_NORM).isfinite():
            raise LocusError(
                f"the gradient of lesson {self.finished_steps} is not finite: resume with a lower module.lr and "
                "module.muon_lr"
            )
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
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
