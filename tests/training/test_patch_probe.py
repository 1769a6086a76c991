"""`locus.training.patch_probe`: what a linear probe reads off patches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from locus.errors import LocusError
from locus.policy.backbone import Backbone
from locus.policy.prompts import PixelLimits, PromptBuilder
from locus.policy.tiny import TinyQwen3VL
from locus.scenes.source import SceneSource
from locus.training.patch_probe import RIDGE, PatchProbe, labelled_patches, linear_probe, probed


def test_the_probe_is_ridge_regression():
    """Weights and intercept equal least squares with a row per feature that pulls its weight to 0."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(200, 6, generator=generator) + 2
    targets = (features[:, 0] > 2).long() + (features[:, 1] > 3).long()
    weights = linear_probe(features, targets, 3)
    pull = np.sqrt(RIDGE * len(features) * features.double().square().mean().item()) * np.eye(6, 7)
    design = np.concatenate([np.column_stack([features.double().numpy(), np.ones(200)]), pull])
    wanted = np.concatenate([np.eye(3)[targets.numpy()], np.zeros((6, 3))])
    torch.testing.assert_close(weights, torch.from_numpy(np.linalg.lstsq(design, wanted)[0]))
    assert (probed(features, weights) == targets).double().mean() > 0.7


def test_labelled_patches_show_objects():
    """Every patch kept shows an object, and its words are those of one of its scene's objects."""
    source = SceneSource(1, 64, 64, (1, 1), (24, 24), seed=5)
    backbone = Backbone("processed", architecture=TinyQwen3VL(text_layers=1, vision_layers=1))
    policy, builder = backbone.load(), PromptBuilder(backbone.processor(), PixelLimits())
    features, words = labelled_patches(policy, builder, source, range(3))
    assert features.shape == (words.shape[1], policy.lm_head.in_features)
    found = {tuple(column) for column in words.T.tolist()}
    assert len(found) == 3, "one object per scene, all different"
    rows = PatchProbe(source, source, 3).measure(policy, builder)
    assert list(rows["scenes"].unique()) == ["sparse", "crowded"] and rows["accuracy"].between(0, 1).all()


def test_no_scenes_are_refused():
    """With the key and what to give."""
    source = SceneSource(1, 64, 64, (1, 1), (24, 24))
    with pytest.raises(LocusError, match="probe.scenes=0: give at least 1"):
        PatchProbe(source, source, 0)
