"""GRPO: policy, frozen reference and a task with its rewards; `training_step` reads as the algorithm.

    samples → G rollouts each → rewards → advantages → reference log-probs → clipped updates of the policy

Departures from a textbook loop, all exact: prompt and pictures are encoded once per group (`policy.vlm`), a frozen
vision tower's features serve rollout, reference and policy, and with one update per rollout the old log-probs are the
new ones, detached; where such a step is one micro-batch, the encoded prompts of the rollout serve the update, too.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from locus import ranks
from locus.files.progress import Phases
from locus.policy.inference import fixed
from locus.policy.logprobs import CompletionBatch, Scorer, TokenScores
from locus.policy.reference import reference_of
from locus.policy.rollouts import DecodeStep, RolloutDecoding
from locus.policy.split_groups import PromptBatch, check_room, cut_from_graph, in_step, prompt_batches
from locus.policy.vlm import VLM, EncodedPrompts, VisionFeatures
from locus.training.advantages import group_advantages, length_penalty
from locus.training.algorithm import Algorithm
from locus.training.loss import Totals
from locus.training.metrics import TokenSums
from locus.training.module import PolicyModule, RunParts, groups_of_all
from locus.training.refill import Rolled, differ, refilled, rewards_of
from locus.training.scored_groups import ScoredGroup, stacked
from locus.types import LossTerms, Prompt, RolloutGroup, Sample, Sampling


def shares_prompts(
    policy: VLM,
    prompts: Sequence[Prompt],
    algorithm: Algorithm,
    max_new_tokens: int,
    token_budget: int,
    decoding: RolloutDecoding,
    sharded: bool = False,
) -> bool:
    """Whether a step's prompts, encoded once with their graph, serve rollout and update alike.

    sharded: whether devices share the weights; a rollout's weights, a whole copy, are then not the update's.
    """
    if sharded or algorithm.updates_per_rollout > 1 or algorithm.refill:
        return False
    if policy.recomputes or policy.drops_out or decoding.step != DecodeStep.DYNAMIC:
        return False
    tokens = max(prompt.length for prompt in prompts) + algorithm.group_size * max_new_tokens
    return len(prompts) * tokens <= min(token_budget, decoding.budget)


class GRPOModule(PolicyModule):
    """Conducts a GRPO run.

    Args:
        parts: what the run has built.
        algorithm: group size, loss, advantages, updates.
        scorer: packed (the group forward) or separate rows.
        sampling: how rollouts are drawn.
        offload_reference: whether a reference of its own leaves the device between its turns.
        shared: see `PolicyModule`.
    """

    def __init__(
        self,
        parts: RunParts,
        algorithm: Algorithm,
        scorer: Scorer,
        sampling: Sampling,
        offload_reference: bool = False,
        **shared: Any,
    ) -> None:
        super().__init__(
            parts,
            updates_per_step=algorithm.updates_per_rollout,
            completions_per_prompt=algorithm.group_size,
            **shared,
        )
        self.algorithm, self.scorer, self.sampling, self.draw = algorithm, scorer, sampling, parts.draw
        wanted = algorithm.needs_reference
        self.reference = reference_of(parts.policy, parts.load_reference, offload_reference) if wanted else None
        self._idle: list[ScoredGroup] = []
        """The group whose prompt a sharded policy's update passes through where this rank has no other."""

    def configure_model(self) -> None:
        """Under ``trainer=fsdp2`` the ranks share the reference, too."""
        if self.reference is not None and self.device_mesh is not None and self.policy.sharding is None:
            self.reference.shard(self.device_mesh["data_parallel"])
        super().configure_model()

    def on_fit_end(self) -> None:
        """The reference leaves the device to what follows a run, which needs none."""
        if self.reference is not None:
            self.reference.release()

    def training_step(self, samples: list[Sample], batch_idx: int) -> dict[str, Any]:
        """One rollout batch: B prompts, G rollouts each, then ``updates_per_rollout`` optimiser steps.

        samples: this rank's share of the B. A group is trained on by the rank that rolled it out.
        """
        phases, sums, step = Phases(self.device), TokenSums(), self.finished_steps
        rate = self.optimizer.param_groups[0]["lr"]
        check_room([sample.prompt for sample in samples], self.sampling.max_new_tokens, self.token_budget)
        with phases("rollout"), self.rollout_phase():
            encoded = self.encode_for_update([sample.prompt for sample in samples])
            own = self.rolled(samples, step, encoded)
            drawn = ranks.laid_out(own)
            self.task.observe(ranks.gathered([entry and self.seen(entry[0]) for entry in drawn]))
            groups, zero_spread = self.refill(drawn, step)
            if self.policy.sharding is not None:
                self._idle = [self.with_advantages(*min(own, key=lambda entry: entry[0].sample.prompt.length))]
        with phases("reference"):
            scored = [self.with_advantages(*entry, place) for place, entry in enumerate(groups) if entry is not None]
            scored = self.with_fixed_logprobs(scored)
            if self.reference is not None:
                self.reference.rest()
        with phases("update"):
            for mini_batch in self.mini_batches(scored, len(groups)):
                self.update(mini_batch, sums, encoded)
        self.finish_step()
        everyone, advantages = self.of_all_ranks(scored, len(groups))
        metrics = self.task.training_metrics(everyone) | sums.means()
        metrics |= {"zero_spread_groups": zero_spread / len(groups), "lr": rate}
        if self.algorithm.overlong_penalty:
            penalties = torch.stack([self.length_penalty(group) for group in everyone])
            metrics["length_penalty"] = penalties.mean().item()
        self.log_metrics({f"train/{name}": value for name, value in metrics.items()} | phases.costs())
        return {"groups": list(zip(everyone, advantages, strict=True))}

    def rolled(self, samples: Sequence[Sample], step: int, encoded: EncodedPrompts | None = None) -> list[Rolled]:
        """Samples -> groups of G rollouts, with the vision features where these stay valid while the policy changes."""
        groups = self.roll_out(samples, self.sampling, self.algorithm.group_size, step, encoded)
        return [(group, None) for group, _ in groups] if self.policy.train_vision else groups

    def encode_for_update(self, prompts: list[Prompt]) -> EncodedPrompts | None:
        """The prompts with their graph, for rollouts and update alike; None where the update cannot use them.

        It can when one update sees all prompts in one micro-batch: then holding the graph during the rollout costs no
        more memory than the update needs anyway.
        """
        shared = shares_prompts(
            self.policy,
            prompts,
            self.algorithm,
            self.sampling.max_new_tokens,
            self.token_budget,
            self.decoding,
            self.policy.sharding is not None,
        )
        return self.policy.eval().encode(prompts) if shared else None

    def of_all_ranks(self, scored: list[ScoredGroup], count: int) -> tuple[list[RolloutGroup], list[torch.Tensor]]:
        """All ``count`` groups of the step in their order, and the advantages of each."""
        groups: list[RolloutGroup | None] = [None] * count
        advantages: list[torch.Tensor | None] = [None] * count
        for entry in scored:
            groups[entry.place], advantages[entry.place] = entry.group, entry.advantages
        return groups_of_all(groups), ranks.gathered(advantages)

    def seen(self, group: RolloutGroup) -> tuple[str, bool]:
        """What the task observes of a group."""
        return self.task.part(group.sample.example), differ(group)

    def refill(self, groups: Sequence[Rolled | None], step: int) -> tuple[list[Rolled | None], int]:
        """Replaces groups without spread, see `refilled`."""

        def roll_out(fresh: list[Sample]) -> list[Rolled]:
            check_room([sample.prompt for sample in fresh], self.sampling.max_new_tokens, self.token_budget)
            return self.rolled(fresh, step)

        return refilled(groups, self.algorithm.refill, partial(self.draw, step), roll_out)

    def with_advantages(self, group: RolloutGroup, features: VisionFeatures | None, place: int = 0) -> ScoredGroup:
        """Attaches advantages."""
        rewards = rewards_of(group)
        if self.algorithm.overlong_penalty:
            rewards = rewards + self.length_penalty(group)
        advantages = group_advantages(rewards, self.algorithm.divide_by_std, self.algorithm.std_epsilon)[0]
        return ScoredGroup(group, advantages, features, place=place)

    def length_penalty(self, group: RolloutGroup) -> torch.Tensor:
        """[G], at most 0: what the group's completions lose by their length."""
        lengths = torch.tensor([len(rollout.completion.token_ids) for rollout in group.rollouts])
        penalty = length_penalty(lengths, self.sampling.max_new_tokens, self.algorithm.overlong_buffer)
        return self.algorithm.overlong_penalty * penalty

    def in_loss(self, group: RolloutGroup) -> list[bool]:
        """[G]: which of the group's completions train the policy."""
        return [rollout.completion.finished or not self.algorithm.mask_truncated for rollout in group.rollouts]

    @torch.no_grad()
    def with_fixed_logprobs(self, scored: list[ScoredGroup]) -> list[ScoredGroup]:
        """Attaches log-probs that do not change during the updates: the reference's, and off-policy the old ones."""
        if self.reference is not None:
            with self.reference.on(self.device) as reference:
                # A frozen tower is the same in policy and reference, so its features are, too.
                fixed_rows = self.logprobs_of_all(reference, scored)
            del reference  # which may be a gathered copy, before another is gathered
            scored = [replace(entry, reference=row) for entry, row in zip(scored, fixed_rows, strict=True)]
        if self.algorithm.updates_per_rollout > 1:
            with fixed(self.policy) as policy:
                fixed_rows = self.logprobs_of_all(policy, scored)
            scored = [replace(entry, old=row) for entry, row in zip(scored, fixed_rows, strict=True)]
        return scored

    def logprobs_of_all(self, policy: VLM, scored: list[ScoredGroup]) -> list[torch.Tensor]:
        """[G, T] of each group under ``policy``."""
        rows: dict[int, torch.Tensor] = {}
        for prompts in self.prompt_batches(scored):
            logprobs = self.score(policy, [scored[i] for i in prompts.groups], prompts).logprobs
            rows |= dict(zip(prompts.groups, logprobs, strict=True))
        return [rows[i] for i in range(len(scored))]

    def mini_batches(self, scored: list[ScoredGroup], count: int) -> Iterable[list[ScoredGroup]]:
        """The groups of each optimiser step: ``mini_batches`` parts that differ by one at most, ``epochs`` times.

        The parts are of all ``count`` groups of the step; a rank has its own groups of each, and maybe none.
        """
        parts = self.algorithm.mini_batches
        for _ in range(self.algorithm.epochs):
            for part in range(parts):
                places = range(count * part // parts, count * (part + 1) // parts)
                yield [entry for entry in scored if entry.place in places]

    def update(self, mini_batch: list[ScoredGroup], sums: TokenSums, encoded: EncodedPrompts | None = None) -> None:
        """One optimiser step: the gradients of all micro-batches add up to the mini-batch's.

        encoded: the prompts of the whole mini-batch under the policy as it is now, see `encode_for_update`.
        """
        finite = True
        self.policy.train()
        with closing(self.losses(mini_batch, sums, encoded)) as losses:
            for loss in losses:
                finite = finite and bool(loss.isfinite())
                if not finite and self.policy.sharding is None:
                    break
                self.manual_backward(loss)
        sums.add_update(self.apply_update(finite))
        self.optimizer.zero_grad()  # now, as a rollout has use for their memory

    def losses(
        self, mini_batch: list[ScoredGroup], sums: TokenSums, encoded: EncodedPrompts | None
    ) -> Generator[torch.Tensor]:
        """The loss of each micro-batch, whose backward pass must be done before the next is asked for."""
        lengths = [
            len(ids)
            for entry in mini_batch
            for ids, counts in zip(entry.token_ids, self.in_loss(entry.group), strict=True)
            if counts
        ]
        tokens, sequences = (sum(counts) for counts in zip(*ranks.exchanged((sum(lengths), len(lengths))), strict=True))
        totals = Totals(max(1, tokens), max(1, sequences), self.sampling.max_new_tokens)
        group = self.algorithm.group_size
        batches = [PromptBatch.whole(range(len(mini_batch)), group)] if encoded else self.prompt_batches(mini_batch)
        if self.policy.sharding is not None:
            batches, mini_batch = in_step(batches, group, idle=len(mini_batch)), [*mini_batch, *self._idle]
        for prompts in batches:
            batch = [mini_batch[i] for i in prompts.groups]
            with closing(self.scores(self.policy, batch, prompts, encoded)) as parts:
                for scores in parts:
                    terms = self.loss_of(batch, scores, totals)
                    if scores.mask.any():
                        sums.add(terms, scores, [entry.group for entry in batch])
                    yield terms.loss

    def loss_of(self, batch: list[ScoredGroup], scores: TokenScores, totals: Totals) -> LossTerms:
        """Of a micro-batch's completions, as its share of the mini-batch's."""
        old = stacked([entry.old for entry in batch], scores)
        counts = torch.tensor([self.in_loss(entry.group) for entry in batch], device=scores.mask.device)
        return self.algorithm.loss(
            scores.logprobs,
            scores.logprobs.detach() if old is None else old,
            stacked([entry.reference for entry in batch], scores),
            torch.stack([entry.advantages for entry in batch]).to(self.device),
            scores.mask & counts[..., None],
            totals,
        )

    def scores(
        self, policy: VLM, batch: list[ScoredGroup], prompts: PromptBatch, encoded: EncodedPrompts | None = None
    ) -> Generator[TokenScores]:
        """Log-probs of each micro-batch under ``policy``; after the last, gradient runs through the prompts."""
        completions = CompletionBatch.of([entry.token_ids for entry in batch], self.device)
        kept = [entry.features for entry in batch]
        features = None if any(one is None for one in kept) else [one for one in kept if one is not None]
        given = [entry.group.sample.prompt for entry in batch]
        encoded = encoded or self.scorer.encode(policy, given, features)
        with cut_from_graph(encoded) if encoded else nullcontext() as shared:
            for rows in prompts.parts:
                part = completions.only(rows)
                yield self.scorer(policy, given, part, self.sampling.temperature, features, shared)

    def score(self, policy: VLM, batch: list[ScoredGroup], prompts: PromptBatch | None = None) -> TokenScores:
        """Log-probs of these groups' completions under ``policy``, all at once unless ``prompts`` has parts."""
        prompts = prompts or PromptBatch.whole(range(len(batch)), self.algorithm.group_size)
        return TokenScores.joined(list(self.scores(policy, batch, prompts)))

    def prompt_batches(self, scored: Sequence[ScoredGroup]) -> list[PromptBatch]:
        """What is scored together, by token budget."""
        lengths = [[len(ids) for ids in entry.token_ids] for entry in scored]
        return prompt_batches([entry.group.sample.prompt for entry in scored], lengths, self.token_budget)
