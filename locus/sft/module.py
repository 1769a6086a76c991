"""Supervised fine-tuning on the true box, in the format that GRPO rewards.

It shares data, prompt, batching, group forward and validation with GRPO; a "group" is the one target completion.
"""

from __future__ import annotations

from typing import Any

import torch

from locus.boxes import convert
from locus.grpo.batching import micro_batches
from locus.grpo.logprobs import CompletionBatch, Scorer
from locus.grpo.metrics import Phases
from locus.policy_module import PolicyModule, RunParts
from locus.prompts import answer_text, completion_text
from locus.types import QuestionRecord, TrainingPrompt


class SFTModule(PolicyModule):
    """Maximises the likelihood of ``<think>…</think><answer>[x1, y1, x2, y2]</answer>`` with the target box.

    Args:
        parts: what the run has built.
        scorer: packed or separate rows.
        thought: text of the think block; the same for every example.
        shared: see `PolicyModule`.
    """

    def __init__(self, parts: RunParts, scorer: Scorer, thought: str, **shared: Any):
        super().__init__(parts, **shared)
        self.scorer, self.encode, self.thought = scorer, parts.encode, thought

    def training_step(self, prompts: list[TrainingPrompt], batch_idx: int) -> dict[str, Any]:
        """One optimiser step on B targets; the loss is the mean over their tokens."""
        phases, total, finite = Phases(self.device), 0.0, True
        with phases("update"):
            targets = [self.target_ids(prompt) for prompt in prompts]
            tokens = sum(len(target) for target in targets)
            self.policy.train()
            self.optimizers().zero_grad()
            for indices in micro_batches(prompts, max(len(target) for target in targets), self.token_budget):
                completions = CompletionBatch.of([[targets[i]] for i in indices], self.device)
                scores = self.scorer(self.policy, [prompts[i] for i in indices], completions, temperature=1.0)
                loss = -scores.logprobs.sum() / tokens
                finite = finite and bool(loss.isfinite())
                if not finite:
                    break
                self.manual_backward(loss)
                total += loss.item()
            norm = self.apply_update(finite)
        self.finished_steps += 1
        self.log_metrics({"train/loss": total, "train/grad_norm": norm} | phases.costs())
        return {"groups": []}

    def target_ids(self, prompt: TrainingPrompt) -> torch.Tensor:
        """[T] tokens of the completion to learn: integers in the frame the policy speaks, or a question's answer, then
        the end token."""
        if isinstance(prompt, QuestionRecord):
            text = completion_text(prompt.answer, self.thought, prompt.opened)
        else:
            box = convert(prompt.target, prompt.answer_frame, *prompt.answer_size)
            text = answer_text(box, self.thought, opened=prompt.opened)
        return torch.tensor([*self.encode(text), self.policy.end_token_ids[0]])
