"""The measurements in perf/ run at their smallest; their figures are not judged here."""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
from argparse import ArgumentParser
from importlib import import_module, util
from typing import Any
from unittest import mock

import pytest
import torch
from PIL import Image
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from locus.policy.backbone import Backbone
from locus.policy.prompts import PixelLimits, PromptBuilder
from perf import evaluate, prepare_corpus
from perf.grid import add_grid, points
from perf.limit import least_flops
from perf.step_workload import FRAME, Workload
from tests.support.photos import photo

TINY = {
    **{"rounds": 1, "warmup": 0, "steps": 1, "threads": 1, "group": 2, "new-tokens": 3},
    **{"width": 112, "height": 84, "cue": 56, "text-layers": 1},
}
IMAGE_TOKENS = 4 * 3 + 2 * 2
"""Of a 112x84 image and a 56x56 cue: one token per 28x28 pixels."""


def printed(name: str, *arguments: str) -> str:
    """What ``python -m perf.<name>`` prints, through its own entry point: no six seconds of imports."""
    threads, out = torch.get_num_threads(), io.StringIO()
    try:
        with mock.patch.object(sys, "argv", [name, *arguments]), contextlib.redirect_stdout(out):
            import_module(f"perf.{name}").main()
    finally:
        torch.set_num_threads(threads)
    return out.getvalue()


def report_of(name: str, *arguments: str) -> dict[str, Any]:
    """The JSON object that ``perf.<name>`` prints."""
    return json.loads(printed(name, *arguments))


def sized_report(name: str, *arguments: str, **sizes: int) -> dict[str, Any]:
    """What ``perf.<name>`` prints at the smallest sizes."""
    return report_of(name, *(f"--{size}={value}" for size, value in (TINY | sizes).items()), *arguments)


def check_half(report: dict[str, Any], phases: set[str], vision_forwards: int) -> None:
    assert set(report["phases"]) == phases
    assert report["seconds_per_step"] > 0 and report["peak_mb"] > 0 and report["parameters"] > 0
    assert report["completion_length"] == TINY["new-tokens"]  # both wrote to the limit: the same work
    assert report["groups_with_spread"] == 1.0  # else the update had nothing to learn from
    assert report["prompt_tokens"] > IMAGE_TOKENS
    assert report["vision_forwards_per_image"] == vision_forwards


@pytest.mark.slow
def test_step_time():
    """The measuring code breaks with the next change of a constructor, and nobody sees it for months."""
    report = sized_report("step_time", "--against", "separate")
    (point,) = report["points"]
    phases = {"data", "rollout", "reference", "update", "rest"}
    check_half(point["locus"], phases, vision_forwards=2)
    check_half(point["separate"], phases, vision_forwards=1 + 2 * TINY["group"])
    assert point["against"]["separate"]["ratio"] > 0


@pytest.mark.slow
@pytest.mark.skipif(util.find_spec("trl") is None, reason="needs trl, which is not among the requirements")
def test_step_time_against_trl():
    """The two halves drift apart in what they measure, and the ratio compares different work."""
    (point,) = sized_report("step_time", "--against", "trl")["points"]
    check_half(point["trl"], {"rollout", "reference", "update", "rest"}, vision_forwards=3 * TINY["group"])
    for name in ("prompt_tokens", "parameters", "completion_length"):
        assert point["locus"][name] == point["trl"][name]
    ratios = point["against"]["trl"]
    assert ratios["ratio"] > 0 and ratios["cpu_ratio"] > 0 and len(ratios["ratio_by_round"]) == 1


def test_grid():
    """Every combination of the lists is a point, and an image of its size unless one is given."""
    parser = ArgumentParser()
    add_grid(parser)
    options = vars(parser.parse_args(["--prompt-tokens", "550", "2100", "--group", "4", "8", "--train-vision", "0"]))
    found = points(options)
    assert [(work.width, work.group) for work in found] == [(616, 4), (616, 8), (1568, 4), (1568, 8)]
    assert not any(work.train_vision for work in found) and not options
    given = vars(parser.parse_args(["--width=112", "--prompt-tokens", "2100"]))
    assert points(given)[0].width == 112


def measured_points(name: str, measures: str, *arguments: str) -> list[Workload]:
    """The sizes that ``perf.<name>`` would measure, by the first argument of its function ``measures``."""
    module, asked = import_module(f"perf.{name}"), []

    def measure(point: Any, *_: Any) -> dict[str, Any]:
        asked.append(getattr(point, "work", point))
        return {"peak_mb": {"locus": 1.0}}

    with mock.patch.object(module, measures, measure):
        printed(name, *arguments)
    return asked


@pytest.mark.parametrize("name", ["step_time", "limit", "memory"])
def test_the_token_budget_is_a_size(name):
    """A budget that is left out of the parser, or that does not reach the step: two prompts encoded at a time."""
    (default,) = measured_points(name, "measure")
    assert default.token_budget == Workload().token_budget == 32768
    small, large = measured_points(name, "measure", "--token-budget=3000", "--prompt-tokens", "550", "2100")
    assert small.token_budget == large.token_budget == 3000 and small.width < large.width


def test_the_token_budget_on_a_gpu(monkeypatch):
    """The CPU's default takes a GPU's memory for prompts; another one makes figures that cannot be compared."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    assert [point.token_budget for point in measured_points("gpu", "run", "--group", "4", "8")] == [8192, 8192]
    assert [point.token_budget for point in measured_points("gpu", "run", "--token-budget=2048")] == [2048]


def test_the_least_work_is_what_torch_counts():
    """Of a prompt and its images through the stock model: the formulas against PyTorch's counter, to two percent."""
    work = Workload(group=1, new_tokens=1, prompts=1, width=224, height=168, cue=56)
    backbone = Backbone(FRAME, architecture=work.architecture)
    builder = PromptBuilder(backbone.processor(), PixelLimits())
    images = [Image.new("RGB", size) for size in ((work.width, work.height), (work.cue, work.cue))]
    prompt, model = builder.build("one", "Where is it?", images), backbone.load().model
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        model(
            input_ids=prompt.input_ids[None],
            mm_token_type_ids=prompt.mm_token_type_ids[None],
            pixel_values=prompt.pixel_values,
            image_grid_thw=prompt.image_grid_thw,
            logits_to_keep=1,
        )
    # The stock model computes all pairs of a causal prompt, where half of them are needed.
    length, text = prompt.length, model.config.get_text_config()
    spared = 4 * text.hidden_size * text.num_hidden_layers * length * (length - 1) / 2
    least = least_flops(model, work, length)["rollout"]
    assert least == pytest.approx(counter.get_total_flops() - spared, rel=0.02)


@pytest.mark.slow
def test_limit():
    """Every phase has its least and its measured time."""
    (point,) = sized_report("limit")["points"]
    assert point["gflops"] > 0
    for phase in ("rollout", "reference", "update"):
        assert 0 < point[phase]["least_s"] < point[phase]["measured_s"] and point[phase]["over_limit"] > 1


@pytest.mark.slow
def test_memory():
    """Peaks of all halves, and the growth over the smallest group."""
    arguments = ("--group", "2", "4", "--against", "separate")
    small, large = sized_report("memory", *arguments)["points"]
    assert set(small["peak_mb"]) == {"locus", "separate"} and "growth" not in small
    assert large["workload"]["group"] == 4 and large["growth"] > 0


@pytest.mark.slow
@pytest.mark.gpu
def test_gpu():
    """Both halves at the smallest size, with ratios; a share or a peak of nothing would divide by zero."""
    sizes = ("--shape=smallest", "--width=112", "--height=84", "--cue=56", "--new-tokens=8", "--steps=1", "--group=2")
    (point,) = report_of("gpu", *sizes, "--against=separate")["points"]
    assert point["locus"]["update_share_of_matrix_rate"] > 0 and point["locus"]["token_over_reading"] > 1
    assert set(point["times_locus"]) >= {"update_seconds", "update_peak", "update_peak_beyond_held"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_gpu_is_needed():
    """Minutes of building a model on a CPU before the first error."""
    with pytest.raises(SystemExit, match="perf.gpu needs a GPU"):
        printed("gpu")


@pytest.mark.slow
def test_threads():
    """A step with the threads that a run chooses and with one, alone and beside a busy process.

    Not with two: on a busy machine they take minutes.
    """
    sizes = ("--steps=1", "--rounds=1", "trainer.prompts_per_step=2", "rollout.sampling.max_new_tokens=8")
    report = report_of("threads", *sizes, "data.source.count=64", "data.train_examples=16", "--threads", "default", "1")
    rows = {(one["threads"], one["busy"]): one for one in report["settings"]}
    assert set(rows) == {(threads, busy) for threads in ("default", "1") for busy in (0, 1)}
    assert all(row["seconds_per_step"] > 0 and len(row["threads_of_runs"]) == 1 for row in rows.values())
    assert all(rows["1", busy]["threads_of_runs"] == [1] and rows["1", 0]["beside_busy"] == 1 for busy in (0, 1))


@pytest.mark.slow
def test_data():
    """Batches that are handed over in other ways than those of a run, or figures that do not fit each other."""
    sizes = ("--examples=6", "--prompts=4", "--new-tokens=2", "--steps=1", "--rounds=1", "--step-prompts=1")
    report = report_of("data", *sizes)
    for limits, samples in report["samples"].items():
        assert samples["examples_per_second_and_core"] > 0 and set(samples["ms_per_example"]) >= {"decoding"}
        assert samples["mb_per_example_normalised"] == pytest.approx(8 * samples["mb_per_example"], rel=0.01)
        handover = report["handover"][limits]
        assert handover["batch_mb"] == pytest.approx(4 * samples["mb_per_example"], rel=0.3)
        assert handover["shared_memory_mb"] < 1
    for waiting in report["waiting"].values():
        assert 0 < waiting["share"] < 1 and waiting["seconds_waiting"] < waiting["seconds_per_step"]


@pytest.mark.slow
def test_scaling():
    """Stages that have lost one of a run's, or sizes that are not those asked for."""
    sizes = ("--rounds=1", "--threads=1", "--steps=1", "--new-tokens=4")
    sizes += ("--examples", "200", "400", "--groups", "2", "4")
    report = report_of("scaling", *sizes, "--widths", "224", "448")
    for rows in report["start_up"].values():
        assert list(rows) == ["200", "400"] and rows["200"]["ratio"] == 1
        assert all(row["seconds"] >= row["stages"]["data"] > 0 and row["cpu_seconds"] > 0 for row in rows.values())
    assert list(report["group"]) == ["G=2", "G=4"] and list(report["image"]) == ["224x168", "448x336"]
    assert report["image"]["448x336"]["prompt_tokens"] > report["image"]["224x168"]["prompt_tokens"]


@pytest.mark.slow
def test_attention():
    """Maps that differ from those of the whole attention, or a table without a row."""
    head, *rows = (line.split() for line in printed("attention", "--tokens", "64", "144").splitlines())
    assert len(rows) == 2 and head[0] == "tokens"
    assert all(float(row[-1]) < 1e-5 and float(row[1]) >= 0 for row in rows)


@pytest.mark.slow
def test_evaluate():
    """A way that is left out, or answers of other lengths than the others' (its own assertion)."""
    report = report_of("evaluate", "--pictures=2", "--rounds=1", "--mean=4", "--most=8", "--budget=1024")
    assert report["items"] >= 2 and report["tokens"]["most"] <= 8
    assert set(report["items_per_second"]) == {"locus", "one_by_one", "generate"}
    assert all(min(one["ratio"], one["cpu_ratio"]) > 0 for one in report["against"].values())


def test_ways_that_write_other_lengths_are_not_compared():
    """A ratio of different work."""
    ways = mock.Mock(locus=lambda items, _: [3] * len(items), alone=lambda items, _: [2] * len(items))
    sizes = evaluate.Sizes(pictures=1, width=28, height=28, threads=torch.get_num_threads())
    with mock.patch.object(evaluate, "Ways", lambda _: ways), pytest.raises(AssertionError, match="one_by_one wrote"):
        evaluate.measure(sizes, rounds=1)


@pytest.mark.slow
def test_prepare_corpus():
    """Annotations that the command no longer reads, or boxes of which it takes none."""
    with mock.patch.multiple(prepare_corpus, IMAGES=300, BOXES=2000):
        report = report_of("prepare_corpus", "--polygon-points=3")
    assert (report["images"], report["boxes"]) == (300, 2000) and report["seconds"] > 0 and report["peak_gb"] > 0
    assert all(sum(report["bins"][split].values()) > 50 for split in ("train", "validation"))


def test_fingerprints(tmp_path):
    """A way of storing that is left out, or pictures stored anew that are further apart than different ones."""
    for seed in range(4):
        photo(seed).save(tmp_path / f"{seed}.png")
    head, *ways, pairs, _ = printed("fingerprints", str(tmp_path), "--most=3", "--against=8").splitlines()
    assert head.startswith("3 pictures, ") and len(ways) == 4 and pairs.startswith("3 pairs")
    furthest = [int(re.search(r"at most (\d+) of 256 bits differ", line)[1]) for line in ways]
    assert max(furthest) < int(re.search(r"at least (\d+)", pairs)[1])
