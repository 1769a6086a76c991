"""Settings that cannot be, through the commands: one line on stderr that names the key, and status 2."""

from __future__ import annotations

import pytest
import torch

from tests.support.coco_folder import prepared
from tests.support.runs import SMALLEST, finish, refused, spawn


# --- Configuration --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["backbone.frame=pixels"], ["unknown frame 'pixels'", "backbone.frame", "unit1000"]),
        (["backbone.frame=null"], ["backbone.frame is not declared"]),
        (["backbone.path=no/such/folder"], ["backbone.path=no/such/folder", "check the path"]),
        (["backbone.architecture=null"], ["backbone.path is not set"]),
        (["+backbone.dtype=float33"], ["backbone.dtype=float33"]),
        (["reward.alpha=2"], ["reward.alpha=2"]),
        (["algorithm.group_size=1"], ["algorithm.group_size=1", "at least 2"]),
        (["algorithm.mini_batches=0"], ["algorithm.mini_batches=0"]),
        (["trainer.prompts_per_step=25"], ["24 training examples", "trainer.prompts_per_step"]),
        (["rollout.token_budget=100"], ["the budget is 100", "rollout.token_budget"]),
        (["rollout.decode_budget=100"], ["the budget is 100", "rollout.decode_budget"]),
        (["data.train_examples=0"], ["data.train_examples=0"]),
        (["crop.mixture={large: 0.0}"], ["crop"]),
        (
            ["diagnoses=scenes", "diagnoses.attention.name=questions"],
            ["both write questions.parquet", "set diagnoses."],
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) and "=" in value[0] else "",
)
def test_settings_that_cannot_be(scenes, overrides, says):
    """A value with no meaning: found before, not in, the first step, and named by its key."""
    refused(scenes(*overrides), *says)


OUT_OF_RANGE = {
    "trainer.steps=0": "steps",
    "trainer.steps=many": "steps",
    "trainer.prompts_per_step=0": "prompts_per_step",
    "trainer.validate_every=0": "validate_every",
    "trainer.checkpoint_every=0": "checkpoint_every",
    "trainer.validation_batch=0": "validation_batch",
    "trainer.accelerator=abacus": "abacus",
    "trainer.precision=7": "precision",
    "trainer.precision=16-mixed": "bf16-mixed",
    "trainer.precision=64-true": "trainer.precision=64-true: give one of 32-true, bf16-mixed, bf16-true",
    "trainer.precision=bf16-true": "backbone.dtype=bfloat16 with weights=lora",
    "+backbone.dtype=bfloat16": "weights that train are bfloat16",
    "rollout.sampling.max_new_tokens=0": "max_new_tokens",
    "rollout.sampling.max_new_tokens=many": "rollout.sampling.max_new_tokens",
    "rollout.token_budget=many": "rollout.token_budget",
    "rollout.decode_budget=many": "rollout.decode_budget",
    "rollout.decode_step=graph": "rollout.decode_step",
    "data.train_examples=many": "data.train_examples",
    "data.validation_examples=0": "data.validation_examples",
    "algorithm.mini_batches=9": "trainer.prompts_per_step",
    "rollout.sampling.temperature=-1": "temperature",
    "rollout.sampling.top_p=0": "top_p",
    "optimizer.make.lr=fast": "optimizer",
    "optimizer.make.lr=-1": "learning rate",
    "pixels.max_pixels=0": "max_pixels",
    "seed=one": "seed",
    "algorithm.loss.average=nothing": "algorithm.loss.average=nothing: give one of sequence_mean",
    "preflight_prompts=0": "preflight_prompts",
    "preflight_blind=-1": "preflight_blind=-1: give a whole number from 0 on",
    "data.source.width=0": "width",
}
"""Override -> a word that the message must have."""
TRIED_ALWAYS = (
    *("trainer.steps=0", "trainer.validate_every=0", "trainer.precision=bf16-true"),
    *("rollout.sampling.top_p=0", "optimizer.make.lr=fast"),
)


@pytest.mark.parametrize(
    "override", [text if text in TRIED_ALWAYS else pytest.param(text, marks=pytest.mark.slow) for text in OUT_OF_RANGE]
)
def test_values_out_of_range(scenes, override):
    """A number or word that some library stops at with a traceback, or nothing stops at: a run that does nothing."""
    line = refused(scenes(override))
    assert OUT_OF_RANGE[override].lower() in line.lower(), line


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(scenes):
    """The settings for a GPU on a machine without one."""
    refused(scenes("trainer.accelerator=gpu", "trainer.precision=bf16-mixed"), "gpu")


def test_values_that_must_be_given_are_named(attempt):
    """omegaconf's message about an interpolation, in place of what to type."""
    refused(attempt("data=coco"), "data.annotations=...", "data.images=...")


@pytest.mark.parametrize("override", ["trainer.stepz=3", "algorithm=grp", "trainer.steps"])
def test_overrides_that_do_not_exist_are_hydras_to_refuse(tmp_path, scenes, override):
    """A mistyped key that is ignored, or a traceback."""
    ended = scenes(override)
    assert ended.status not in (0, None) and "Traceback" not in ended.stderr
    assert override.partition("=")[0].rpartition(".")[2] in ended.stderr
    assert not (tmp_path / "run" / "metrics.csv").exists()


def test_a_corpus_of_other_scenes(tmp_path, scenes):
    """Another seed's scenes under a corpus's boxes: the pre-flight earns 1, and every cue shows clutter."""
    prepared(tmp_path, [text for text in SMALLEST if text.startswith(("data", "crop"))])
    refused(scenes(f"corpus={tmp_path / 'corpus'}", "seed=2"), "scene://", "that the corpus was made with")


# --- The commands themselves ----------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.parametrize("app", ["train", "prepare"])
def test_the_command_says_it_in_one_line(tmp_path, app):
    """What the tests above see in this process is what a user sees, and what a script gets as the status."""
    data = ["data=coco", "data.annotations=nowhere.json", "data.images=.", f"hydra.run.dir={tmp_path}"]
    ended = finish(spawn("-m", f"locus.{app}", *data))
    assert (ended.status, ended.stdout) == (2, "")
    assert ended.stderr.startswith("locus: nowhere.json: cannot be read") and ended.stderr.count("\n") == 1
