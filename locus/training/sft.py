"""Supervised fine-tuning on a task's targets, in the format that GRPO rewards.

It shares data, prompt, batching, group forward and validation with GRPO; a "group" is the one target completion.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from locus import ranks
from locus.errors import LocusError
from locus.files.progress import Phases
from locus.policy.logprobs import CompletionBatch, Scorer
from locus.policy.split_groups import in_step, prompt_batches
from locus.tasks.answers import after_opened
from locus.training.module import PolicyModule, RunParts
from locus.types import Prompt, Sample


class SFTModule(PolicyModule):
    """Maximises the likelihood of the task's targets: for cue search a rationale and the true box.

    Args:
        parts: what the run has built.
        scorer: packed or separate rows.
        shared: see `PolicyModule`.
    """

    def __init__(self, parts: RunParts, scorer: Scorer, **shared: Any):
        super().__init__(parts, **shared)
        self.scorer, self.encode = scorer, parts.encode

    def setup(self, stage: str) -> None:
        """Raises LocusError before anything is computed when a training example lacks its target."""
        self.task.check_targets()

    def training_step(self, samples: list[Sample], batch_idx: int) -> dict[str, Any]:
        """One optimiser step on B targets, of which this rank has its share; the loss is the mean over their tokens."""
        phases, total, entropy, finite = Phases(self.device), 0.0, 0.0, True
        rate = self.optimizer.param_groups[0]["lr"]
        prompts = [sample.prompt for sample in samples]
        with phases("update"):
            texts = self.task.target(samples)
            targets = [self.target_ids(prompt, text) for prompt, text in zip(prompts, texts, strict=True)]
            lengths = [length for part in ranks.exchanged([len(target) for target in targets]) for length in part]
            tokens = sum(lengths)
            self.policy.train()
            self.optimizer.zero_grad()
            batches = prompt_batches(prompts, [[len(target)] for target in targets], self.token_budget)
            if self.policy.sharding is not None:
                batches = in_step(batches, 1, idle=min(range(len(prompts)), key=lambda i: prompts[i].length))
            for batch in batches:
                completions = CompletionBatch.of([[targets[i]] for i in batch.groups], self.device)
                completions = completions.only(batch.parts[0])
                scores = self.scorer(self.policy, [prompts[i] for i in batch.groups], completions, temperature=1.0)
                loss = -scores.logprobs.sum() / tokens
                finite = finite and bool(loss.isfinite())
                if not finite and self.policy.sharding is None:
                    break
                self.manual_backward(loss)
                total += loss.item()
                entropy += scores.entropy.sum().item() / tokens
            norm = self.apply_update(finite)
        self.finish_step()
        total, entropy = (sum(parts) for parts in zip(*ranks.exchanged((total, entropy)), strict=True))
        metrics = {"loss": total, "grad_norm": norm, "skipped_updates": float(not math.isfinite(norm)), "lr": rate}
        metrics |= {"entropy": entropy, "completion_length": tokens / len(lengths)}
        self.log_metrics({f"train/{name}": value for name, value in metrics.items()} | phases.costs())
        return {"groups": []}

    def target_ids(self, prompt: Prompt, text: str) -> torch.Tensor:
        """[T] tokens of the completion to learn, the end token last.

        Raises LocusError for a target that validation, which ends completions at a limit, would never see whole.
        """
        ids = [*self.encode(after_opened(text, prompt.opened)), self.policy.end_token_ids[0]]
        limit = self.validation_sampling.max_new_tokens
        if len(ids) > limit:
            raise LocusError(
                f"example {prompt.prompt_id}: its target has {len(ids)} tokens, completions end at {limit}: give a "
                "larger rollout.sampling.max_new_tokens, or shorter rationales"
            )
        return torch.tensor(ids)
