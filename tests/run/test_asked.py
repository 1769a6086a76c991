"""Which policy is asked, and with which instruction: with what is known of it, or one line that says what is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hydra import initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from locus.errors import LocusError
from locus.evaluation.benchmark import Item
from locus.run.asked import AskedPolicy, asked_policy
from locus.tasks.answers import THINK_ANSWER
from tests.support.chat_server import endpoint
from tests.support.paths import CONF


@pytest.fixture
def choose(compose_app):
    """``choose(*overrides)``: the policy that is asked."""

    def chosen(*overrides: str) -> AskedPolicy:
        cfg = compose_app("evaluate", list(overrides))
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return asked_policy(cfg)

    return chosen


@pytest.fixture
def run(tmp_path) -> Path:
    """A run's ``policy/`` folder."""
    backbone = {"_target_": "locus.policy.backbone.Backbone", "frame": "unit1000", "path": "org/base", "seed": 3}
    OmegaConf.save(OmegaConf.create({"backbone": backbone}), tmp_path / "config.yaml")
    (tmp_path / "policy").mkdir()
    return tmp_path / "policy"


def test_policies_are_asked_alike(choose, run):
    """Training and prompt confounded where nobody chose that: only think=trained asks the two differently."""
    assert choose("policy=tiny").instruction == choose(f"policy={run}").instruction == "none"
    assert choose(f"policy={run}", "think=true").instruction == "think"
    asked = [choose(f"policy={policy}", "think=trained").instruction for policy in ("tiny", run)]
    assert asked == ["none", "think"]
    own = [Item("0", f"Which?\n{THINK_ANSWER}", "A")]
    with_own = [choose(f"policy={policy}", "think=trained").for_items(own) for policy in ("tiny", run)]
    assert [one.instruction for one in with_own] == ["none", "none"], "a prompt that has the instruction is no other"
    assert choose(f"policy={run}", "think=true").for_items([*own, Item("1", "Where?", "A")]).instruction == "think"
    with pytest.raises(LocusError, match="think=sometimes: give one of true, false, trained"):
        choose("think=sometimes")


def test_a_served_policy_under_another_name(choose, run):
    """A trained policy that think=trained asks as a base one, because the server calls it otherwise; a server asked
    where nothing is left to ask of it."""
    settings = "policy=endpoint", "endpoint.url=http://localhost:1", "endpoint.tries=1", "endpoint.model=mine"
    vstar = *settings, "benchmark=vstar", "backbone=qwen2_5_vl_7b", "think=trained"
    assert choose(*vstar, f"backbone.path={run}").instruction == "think"
    for unknown in (vstar, (*settings, "benchmark=vstar", "think=trained")):
        with pytest.raises(LocusError, match="think=trained: nothing says whether the served policy was trained: pass"):
            choose(*unknown)
    alone = choose(*settings, "benchmark=refcoco", "think=trained", f"backbone.path={run}")
    assert (alone.instruction, alone.known, alone.origin, alone.name) == ("think", True, "org/base", "endpoint:mine")
    assert (alone.cfg.backbone.frame, alone.cfg.backbone.path) == ("unit1000", str(run)), "the run says what it is"
    with pytest.raises(LocusError, match=rf"backbone\.path={run.parent}: not the policy/ .*pass backbone=<"):
        choose(*settings, "benchmark=refcoco", "backbone.frame=unit1000", f"backbone.path={run.parent}")
    asked = choose(*settings, "benchmark=vstar")
    with pytest.raises(LocusError, match=r"endpoint mine .*gives no answer"):
        asked.asker()


def test_further_fields_of_every_request(choose):
    """The documented override that Hydra refuses; nested fields that no request can be written with, which looks like
    a server that does not answer; a manifest of before, which says ``{}``, that no longer resumes."""
    settings = "policy=endpoint", "endpoint.model=mine", "benchmark=vstar"
    with endpoint("A", models=["mine"]) as (url, _):
        fields = "endpoint.extra={top_k: 1, chat_template_kwargs: {enable_thinking: false}}"
        asked = choose(*settings, f"endpoint.url={url}", fields)
        options = asked.asker()[0].options
    sent = json.loads(json.dumps(options))
    assert (sent["top_k"], sent["chat_template_kwargs"]) == (1, {"enable_thinking": False})
    assert json.dumps(asked.extra) == '{"top_k": 1, "chat_template_kwargs": {"enable_thinking": false}}'
    assert choose(*settings).extra == {}


def test_what_is_known_of_a_served_policy(choose, run):
    """Boxes read in a frame or a size that nobody declared; a run's policy that is served under its folder's name."""
    other = str(run.parent / "other")
    with endpoint("A", models=[str(run), other]) as (url, _):
        settings = "policy=endpoint", f"endpoint.url={url}", "endpoint.tries=1"
        asked = choose(*settings, f"endpoint.model={run}", "benchmark=refcoco", "think=trained")
        assert (asked.name, asked.origin, asked.instruction) == (f"endpoint:{run}", "org/base", "think")
        assert (asked.cfg.backbone.frame, asked.cfg.backbone.path, asked.known) == ("unit1000", str(run), True)
        given = choose(*settings, f"endpoint.model={other}", "benchmark=refcoco", "backbone=qwen2_5_vl_7b")
        assert (given.cfg.backbone.frame, given.origin) == ("processed", "Qwen/Qwen2.5-VL-7B-Instruct")
        free = choose(*settings, f"endpoint.model={other}", "benchmark=vstar")
        assert (free.known, free.cfg.backbone.frame) == (False, None)
        words = choose(*settings, f"endpoint.model={other}", "benchmark=scenes_relation")
        assert not words.known and instantiate(words.cfg.benchmark).frame == "file"
        boxes = *settings, f"endpoint.model={other}", "benchmark=refcoco"
        assert choose(*boxes, "backbone.frame=unit1000").cfg.benchmark.frame == "unit1000"
        with pytest.raises(LocusError, match="nothing says in which frame it writes boxes: pass backbone="):
            choose(*boxes)
        with pytest.raises(LocusError, match="nothing says which processor: pass backbone="):
            choose(*boxes, "backbone.frame=processed")
        with pytest.raises(LocusError, match=rf"endpoint\.model=: http.* serves {run}, {other}: give one"):
            choose(*settings, "benchmark=vstar")
    with pytest.raises(LocusError, match=r"gives no answer .*check endpoint\.url"):
        choose(*settings, "benchmark=vstar")
