"""Which backbone is measured: the configuration given stays as it is, the one returned has the policy's."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import initialize_config_dir
from omegaconf import OmegaConf

from locus.errors import LocusError
from locus.run.policies import with_policy
from tests.support.paths import CONF


@pytest.fixture
def run(tmp_path) -> Path:
    """A run's ``policy/`` folder, and the configuration beside it."""
    backbone = {"_target_": "locus.policy.backbone.Backbone", "frame": "unit1000", "path": "org/base", "seed": 3}
    OmegaConf.save(OmegaConf.create({"backbone": backbone}), tmp_path / "config.yaml")
    (tmp_path / "policy").mkdir()
    return tmp_path / "policy"


@pytest.fixture
def choose(compose_app):
    """``choose(*overrides)``: the backbone chosen and its origin; fails where the configuration given was changed."""

    def chosen(*overrides: str) -> tuple[dict, str | None]:
        cfg = compose_app("evaluate", overrides)
        before = OmegaConf.to_yaml(cfg)
        with initialize_config_dir(str(CONF), version_base="1.3"):
            found, origin = with_policy(cfg, cfg.policy)
        assert OmegaConf.to_yaml(cfg) == before
        unresolved = OmegaConf.to_container(found) | {"backbone": OmegaConf.to_container(cfg)["backbone"]}
        assert unresolved == OmegaConf.to_container(cfg)
        return OmegaConf.to_container(found.backbone, resolve=True), origin

    return chosen


def test_a_run_brings_its_settings(run, choose):
    """A policy whose boxes are read in the default backbone's frame; a table of the paper for another origin."""
    backbone, origin = choose(f"policy={run}")
    assert (backbone["frame"], backbone["path"], origin) == ("unit1000", str(run), "org/base")
    assert backbone["random_weights"] is False and "recipe" not in backbone


def test_a_name_or_a_hub_id_is_one_of_conf(choose):
    """The same backbone by either name, and the chosen group's own."""
    for policy in ("qwen2_5_vl_7b", "Qwen/Qwen2.5-VL-7B-Instruct"):
        backbone, origin = choose(f"policy={policy}", "dtype=bfloat16")
        assert backbone["path"] == origin == "Qwen/Qwen2.5-VL-7B-Instruct" and backbone["dtype"] == "bfloat16"
    assert choose("backbone=tiny_random")[1] is None and choose("dtype=bfloat16")[0]["dtype"] == "bfloat16"


def test_dotted_overrides_hold_for_the_policy(run, choose):
    """An override that the run's own setting shadows; one that its backbone does not know is none of it."""
    backbone, _ = choose(f"policy={run}", "backbone.frame=processed", "backbone.train_vision=false")
    assert backbone["frame"] == "processed" and "train_vision" not in backbone
    overrides = "backbone=tiny_random", "backbone.architecture={text_layers:3}"  # as YAML, a key ``text_layers:3``
    backbone, _ = choose(f"policy={run}", *overrides)
    assert backbone["architecture"] == {"text_layers": 3}


def test_a_policy_that_nothing_is_known_of(choose, tmp_path):
    """Boxes that are read in a frame nobody declared."""
    with pytest.raises(LocusError, match=r"policy=org/other: .*in which frame"):
        choose("policy=org/other")
    assert choose("policy=org/other", "backbone=qwen3_vl_4b_thinking")[0]["frame"] == "unit1000"


def test_weights_of_an_evaluation_are_bfloat16_on_a_gpu(run, choose):
    """A policy asked in float32 on a GPU because its run was trained so; a type that was asked for and not taken."""
    policy = f"policy={run}"
    assert choose(policy, "device=cuda")[0]["dtype"] == "bfloat16"
    assert choose("backbone=qwen2_5_vl_3b", "device=cuda", "backbone.dtype=float32")[0]["dtype"] == "float32"
    assert choose(policy, "device=cuda", "dtype=float32")[0]["dtype"] == "float32"
    assert (
        "dtype" not in choose(policy, "device=cpu")[0] and "dtype" not in choose(policy, "device=cuda", "dtype=null")[0]
    )
    with pytest.raises(LocusError, match="device=gpu"):
        choose(policy, "device=gpu")
