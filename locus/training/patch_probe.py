"""What can be read off the vision tower's patches: a linear probe, in sparse scenes and in crowded ones.

A base that fails on crowded scenes may see them badly, or see them well and look at the wrong place. Where a linear
probe reads a patch as well in a crowd as in a sparse scene, it sees them well.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
import torch

from locus.errors import LocusError
from locus.policy.prompts import PromptBuilder
from locus.policy.vlm import VLM
from locus.scenes.render import render
from locus.scenes.source import ATTRIBUTES, SceneSource
from locus.training.lessons import NOTHING, cells_of, patch_labels
from locus.training.pretraining import KINDS

RIDGE = 1e-3
"""Penalty, in units of the features' mean square."""
BATCH = 32
"""Images through the tower at a time."""


def linear_probe(features: torch.Tensor, targets: torch.Tensor, classes: int) -> torch.Tensor:
    """Ridge regression onto one-hot targets, with an intercept.

    Args:
        features: [N, D] float.
        targets: [N] int64 below ``classes``.

    Returns:
        [D + 1, classes] weights, the intercept last; scores are ``[features, 1] @ weights``.
    """
    design = _with_intercept(features)
    penalty = RIDGE * len(design) * features.double().square().mean() * torch.eye(design.shape[1]).double()
    penalty[-1, -1] = 0
    wanted = torch.nn.functional.one_hot(targets, classes).double()
    return torch.linalg.solve(design.T @ design + penalty, design.T @ wanted)


def probed(features: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """[N, D] features -> [N] the class with the highest score."""
    return (_with_intercept(features) @ weights).argmax(-1)


def _with_intercept(features: torch.Tensor) -> torch.Tensor:
    return torch.cat([features.double(), features.new_ones(len(features), 1).double()], dim=1)


@dataclass(frozen=True)
class PatchProbe:
    """Reads shape, colour and pattern of the object at each merged patch that shows one.

    One probe per attribute, fitted on sparse and crowded scenes together and tested on others.

    Args:
        sparse, crowded: families of scenes.
        scenes: of each to fit on, and as many others to test on.
    """

    sparse: SceneSource
    crowded: SceneSource
    scenes: int

    def __post_init__(self) -> None:
        if self.scenes < 1:
            raise LocusError(f"probe.scenes={self.scenes}: give at least 1")

    def measure(self, policy: VLM, builder: PromptBuilder) -> pd.DataFrame:
        """Columns: attribute, scenes (sparse or crowded), patches (tested), accuracy."""
        families = {"sparse": self.sparse, "crowded": self.crowded}
        seen = [labelled_patches(policy, builder, source, range(self.scenes)) for source in families.values()]
        features, words = torch.cat([one for one, _ in seen]), torch.cat([one for _, one in seen], dim=1)
        unseen = range(self.scenes, 2 * self.scenes)
        tests = {name: labelled_patches(policy, builder, source, unseen) for name, source in families.items()}
        rows = []
        for kind, (attribute, names) in enumerate(zip(KINDS, ATTRIBUTES, strict=True)):
            weights = linear_probe(features, words[kind], len(names))
            for scenes, (patches, truth) in tests.items():
                right = (probed(patches, weights) == truth[kind]).double()
                rows.append((attribute, scenes, len(right), right.mean().item()))
        return pd.DataFrame(rows, columns=["attribute", "scenes", "patches", "accuracy"])


@torch.no_grad()
def labelled_patches(
    policy: VLM, builder: PromptBuilder, source: SceneSource, numbers: range
) -> tuple[torch.Tensor, torch.Tensor]:
    """Merged patches that show an object: features [N, D], and [3, N] the index of its shape, colour and pattern."""
    features, words = [], []
    for start in range(0, len(numbers), BATCH):
        scenes = [source.scene(number) for number in numbers[start : start + BATCH]]
        prompts = builder.image_prompts([render(scene) for scene in scenes])
        features += [one.embeddings.float().cpu() for one in policy.vision_features(prompts)]
        for scene, prompt in zip(scenes, prompts, strict=True):
            words.append(patch_labels(scene, cells_of(prompt, builder), prompt.processed_size)[0])
    told = torch.cat(words, dim=1)
    there = told[0] != NOTHING
    return torch.cat(features)[there], told[:, there] - 1
