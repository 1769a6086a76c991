"""What a training run leaves: every file, and in each the right numbers, recomputed from the others."""

from __future__ import annotations

import json
import os
import re
import subprocess
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from tests.support.paths import COCO128, REPO
from tests.support.runs import (
    SMALLEST,
    Ended,
    command,
    differences,
    finish,
    metrics,
    spawn,
    succeeded,
    train,
    warm_policy,
    warm_run,
    weights,
)

STEPS, PROMPTS, GROUP, HELD_OUT, TOKENS = 3, 2, 4, 4, 20
VALIDATED = [0, 2, 3]
FILES = ["config.yaml", "run.json", "metrics.csv", "rollouts.parquet", "validation.parquet", "summary.json",
         "train.log", "figures/curve.png", "policy/model.safetensors", "policy/config.json"]  # fmt: skip
HYDRA = [f".hydra/{name}.yaml" for name in ("config", "resume", "choices", "hydra", "overrides")]


def settings() -> list[str]:
    """A start that earns rewards."""
    return [f"backbone.path={warm_policy()}", "optimizer.make.lr=1e-3"]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[Path, Ended]:
    """A GRPO run of three steps from a policy that earns rewards."""
    folder = tmp_path_factory.mktemp("train") / "run"
    return folder, train(folder, *settings(), "progress.every=0")


@pytest.fixture(scope="module")
def folder(run) -> Path:
    return run[0]


@pytest.fixture(scope="module")
def rollouts(folder) -> pd.DataFrame:
    return pd.read_parquet(folder / "rollouts.parquet")


@pytest.fixture(scope="module")
def validation(folder) -> pd.DataFrame:
    return pd.read_parquet(folder / "validation.parquet")


def iou(a, b) -> float:
    """By the definition, in plain numbers."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    inter = max(width, 0) * max(height, 0)
    return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter)


def rows(table: pd.DataFrame, prefix: str) -> pd.DataFrame:
    """The metrics of a prefix by step, only steps that have them."""
    chosen = table.set_index("step")[[name for name in table if name.startswith(prefix)]].dropna(how="all")
    assert chosen.index.is_unique
    return chosen


# --- Files ----------------------------------------------------------------------------------------------------
def test_every_file_is_there(folder):
    """A run that ends well without one of the files that are promised."""
    assert [name for name in FILES + HYDRA if not (folder / name).is_file()] == []
    assert not list(folder.rglob("*.partial")) and not (folder / ".metrics.csv.old").exists()
    assert [path.name for path in sorted((folder / "checkpoints").iterdir())] == [
        f"step-{n:06d}.ckpt" for n in (1, 2, 3)
    ]


def test_the_configuration_is_kept_resolved(folder):
    """A config.yaml with references in it, or without what was overridden."""
    text = (folder / "config.yaml").read_text()
    config = yaml.safe_load(text)
    assert "${" not in text
    assert config["trainer"]["steps"] == STEPS and config["algorithm"]["group_size"] == GROUP
    assert config["optimizer"]["make"]["lr"] == 1e-3 and config["data"]["source"]["seed"] == 1


def test_pictures_open(folder):
    """Broken or empty pictures; validations without any."""
    shown = sorted(path.relative_to(folder).as_posix() for path in folder.glob("validation/*/*.png"))
    assert shown == [f"validation/step-{step:06d}/{index:02d}.png" for step in VALIDATED for index in range(4)]
    for path in [*shown, "figures/curve.png"]:
        pixels = np.asarray(Image.open(folder / path).convert("RGB"))
        assert min(pixels.shape[:2]) > 200 and pixels.std() > 10, path


COLUMNS = {
    "rollouts.parquet": "step prompt_id rollout image_path bin expression text status target box written iou format "
    "reward advantage logprob_sum length finished question expected correct",
    "validation.parquet": "step example_id image_id image_path bin area_ratio text status target box iou format reward",
}
"""Of the tables of a run on cue search, in their order."""


@pytest.mark.parametrize("name", COLUMNS)
def test_names_of_the_columns(folder, name):
    """A column that is renamed, lost or new: pages, notebooks and older runs know them by name."""
    assert list(pd.read_parquet(folder / name)) == COLUMNS[name].split()


# --- Rollouts and validation ----------------------------------------------------------------------------------
def test_one_row_a_rollout(rollouts):
    """Steps, prompts or rollouts that are missing or doubled."""
    assert len(rollouts) == STEPS * PROMPTS * GROUP
    assert rollouts["step"].drop_duplicates().tolist() == [1, 2, 3]
    sizes = rollouts.groupby(["step", "prompt_id"])["rollout"].agg(list)
    assert len(sizes) == STEPS * PROMPTS and all(numbers == list(range(GROUP)) for numbers in sizes)
    assert rollouts["prompt_id"].nunique() == STEPS * PROMPTS  # within an epoch, no prompt comes twice


def test_rewards_follow_from_the_boxes(rollouts):
    """A column that is not what its name says: IoU of the parsed box, 0.9 IoU + 0.1 format, written in its frame."""
    parsed = rollouts["status"] == "ok"
    assert 0.2 < parsed.mean() < 1, "the policy of this test should answer in format, and not always"
    assert (rollouts["box"].notna() == parsed).all() and (rollouts["written"].notna() == parsed).all()
    np.testing.assert_allclose(rollouts["reward"], 0.9 * rollouts["iou"] + 0.1 * rollouts["format"], atol=1e-12)
    assert (rollouts["iou"][~parsed] == 0).all() and (rollouts["format"][~parsed] == 0).all()
    for row in rollouts[parsed].itertuples():
        assert row.iou == pytest.approx(iou(row.box, row.target))
        np.testing.assert_allclose(np.array(row.written) * 32 / 48, row.box)
        numbers = [float(number) for number in re.findall(r"\d+", row.text.rpartition("<answer>")[2])]
        assert numbers[:4] == list(row.written)
    assert (rollouts["iou"] > 0).sum() > 5


def test_advantages_are_those_of_their_group(rollouts):
    """Advantages of another group, another order, or of rewards before the last change."""
    spread = 0
    for _, group in rollouts.groupby(["step", "prompt_id"]):
        rewards = group["reward"].to_numpy()
        if np.ptp(rewards) > 1e-6:
            expected = (rewards - rewards.mean()) / (rewards.std(ddof=1) + 1e-6)
            spread += 1
        else:
            expected = np.zeros(GROUP)
        np.testing.assert_allclose(group["advantage"], expected, rtol=1e-5, atol=1e-6)
    assert spread >= STEPS, "groups without spread check nothing"


def test_lengths_and_log_probs(rollouts):
    """Completions longer than the limit, unfinished ones shorter than it, or log-probs that are none."""
    assert rollouts["length"].between(1, TOKENS).all()
    assert (rollouts["length"][~rollouts["finished"]] == TOKENS).all() and rollouts["finished"].any()
    assert (rollouts["logprob_sum"] < 0).all() and np.isfinite(rollouts["logprob_sum"]).all()


def test_one_row_a_validation_sample_and_step(validation):
    """Validations that are missing or doubled, or that show other samples each time."""
    assert validation["step"].tolist() == [step for step in VALIDATED for _ in range(HELD_OUT)]
    samples = validation.groupby("step")["example_id"].agg(tuple)
    assert samples.nunique() == 1 and len(set(samples.iloc[0])) == HELD_OUT
    for row in validation[validation["status"] == "ok"].itertuples():
        assert row.iou == pytest.approx(iou(row.box, row.target))
    np.testing.assert_allclose(validation["reward"], 0.9 * validation["iou"] + 0.1 * validation["format"])


def test_training_and_validation_share_no_image(rollouts, validation):
    """Numbers of a validation on what was trained on."""
    assert not set(rollouts["image_path"]) & set(validation["image_path"])


def test_a_prepared_corpus_and_workers_give_the_same_run(tmp_path, folder, rollouts):
    """A corpus drawn by train that is not the one of locus.prepare; another order in other processes."""
    data = [setting for setting in SMALLEST if setting.startswith(("data", "crop"))]
    succeeded(command("prepare", *data, f"hydra.run.dir={tmp_path / 'corpus'}"))
    prepared = json.loads((tmp_path / "corpus" / "corpus.json").read_text())
    assert prepared["hash"] == json.loads((folder / "run.json").read_text())["corpus_hash"]
    corpus = pd.read_parquet(tmp_path / "corpus" / "corpus.parquet").set_index("example_id")
    for row in rollouts.itertuples():
        assert corpus.split[row.prompt_id] == "train" and list(corpus.box[row.prompt_id]) == list(row.target)
    train(tmp_path / "run", *settings(), f"corpus={tmp_path / 'corpus'}", "trainer.workers=1")
    assert list(differences(folder, tmp_path / "run")) == []


# --- Metrics and facts ----------------------------------------------------------------------------------------
def test_names_of_the_scalars(folder):
    """A scalar that is renamed or no longer logged: dashboards and papers read them by name."""
    names = set(pd.read_csv(folder / "metrics.csv"))
    assert names >= {f"train/{name}" for name in (
        "reward", "iou", "format", "kl", "clip_fraction", "entropy", "zero_spread_groups", "completion_length",
        "grad_norm",
    )}  # fmt: skip
    scores = ("mean_iou", "acc@0.5", "acc@0.75", "format")
    assert names >= {f"val/{part}{name}" for part in ("", "large/") for name in scores}
    assert names >= {"time/rollout_s", "time/reference_s", "time/update_s", "memory/peak_gb"}


def test_metrics_are_means_of_the_tables(folder, rollouts, validation):
    """A curve that shows other numbers than the tables hold."""
    table = metrics(folder)
    trained, validated = rows(table, "train/"), rows(table, "val/")
    assert trained.index.tolist() == [1, 2, 3] and validated.index.tolist() == VALIDATED
    steps = rollouts.groupby("step")
    for name in ("reward", "iou", "format"):
        np.testing.assert_allclose(trained[f"train/{name}"], steps[name].mean(), rtol=1e-6)
    np.testing.assert_allclose(trained["train/completion_length"], steps["length"].mean(), rtol=1e-6)
    spread = rollouts.groupby(["step", "prompt_id"])["reward"].agg(np.ptp)
    np.testing.assert_allclose(trained["train/zero_spread_groups"], (spread <= 1e-6).groupby("step").mean())
    assert set(validation["bin"]) == {"large"}
    steps = validation.groupby("step")
    for part in ("val/", "val/large/"):
        np.testing.assert_allclose(validated[f"{part}mean_iou"], steps["iou"].mean(), rtol=1e-6)
        np.testing.assert_allclose(validated[f"{part}format"], steps["format"].mean(), rtol=1e-6)
        for least in (0.5, 0.75):
            expected = steps["iou"].agg(lambda values, least=least: (values >= least).mean())
            np.testing.assert_allclose(validated[f"{part}acc@{least}"], expected)


def test_metrics_of_the_update_are_possible(folder):
    """A reference that is not the start, rollouts of another distribution than scored, or updates that do nothing."""
    trained = rows(metrics(folder), "train/")
    assert trained["train/kl"].iloc[0] == pytest.approx(0, abs=1e-6) and trained["train/kl"].iloc[-1] > 1e-5
    assert (trained["train/rollout_mismatch"] < 1e-4).all() and (trained["train/clip_fraction"] == 0).all()
    assert (trained["train/grad_norm"] > 0).all() and (trained["train/entropy"] > 0).all()
    assert (trained["train/skipped_updates"] == 0).all()


def test_facts_of_the_run(folder):
    """A record that cannot say what was run."""
    record = json.loads((folder / "run.json").read_text())
    assert record["seed"] == 1 and re.fullmatch("[0-9a-f]{64}", record["corpus_hash"])
    assert record["prompts_per_step"] == PROMPTS and record["completions_per_step"] == PROMPTS * GROUP
    assert record["updates_per_rollout"] == 1 and record["resumed_from_step"] == 0
    assert record["versions"]["torch"] == version("torch") and record["versions"]["transformers"]
    assert record["hardware"]["cpus"] == os.cpu_count() and 0.1 < record["peak_memory_gb"] < 100
    table = pd.read_csv(folder / "metrics.csv")
    assert set(record["seconds_per_phase"]) == {"rollout", "reference", "update"}
    for phase, seconds in record["seconds_per_phase"].items():
        assert seconds == pytest.approx(table[f"time/{phase}_s"].sum()) and seconds > 0
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=REPO, capture_output=True, text=True, check=False)
    assert (record["commit"] or "").startswith(head.stdout.strip())


def test_summary(folder, validation):
    """A summary of another validation than the last."""
    summary = json.loads((folder / "summary.json").read_text())
    last = validation[validation["step"] == STEPS]
    assert summary["status"] == "finished" and summary["headline"] == "val/mean_iou"
    assert summary["val/mean_iou"] == pytest.approx(last["iou"].mean(), rel=1e-6)


def test_the_terminal_shows_how_it_goes(run):
    """No pre-flight, progress without the reward and the headline, or no validation table at the end."""
    folder, ended = run
    for split, samples in (("train", 8), ("validation", HELD_OUT)):  # preflight_prompts, or all there are
        assert re.search(rf"pre-flight, {samples} samples of {split}: gold earns 1\.000, foil earns 0", ended.stdout)
    assert (
        len(re.findall(rf"pre-flight, {HELD_OUT} samples of cue_search with black pictures: blind", ended.stdout)) == 1
    )
    assert "algorithm departs from the paper's: group_size: 4 (paper: 8)" in ended.stdout
    assert re.search(r"training: 3/3 steps.* train/reward \d.* val/mean_iou \d", ended.stdout)
    table = ended.stdout[ended.stdout.index("- validation:") :].splitlines()
    assert table[1].split()[:3] == ["step", "mean", "IoU"] and [row.split()[0] for row in table[2:5]] == ["0", "2", "3"]
    assert f"run folder: {folder}" in ended.stdout


# --- The policy -----------------------------------------------------------------------------------------------
def test_policy_opens_with_plain_transformers_and_is_the_trained_one(folder):
    """An export of the reference, of the start, or of weights before the last update."""
    policy = AutoModelForImageTextToText.from_pretrained(folder / "policy")
    checkpoint = torch.load(folder / "checkpoints" / "step-000003.ckpt", weights_only=True)["state_dict"]
    state = policy.state_dict()
    trained = {name.removeprefix("policy.model."): tensor for name, tensor in checkpoint.items()}
    assert state.keys() == trained.keys() and all(torch.equal(state[name], trained[name]) for name in state)
    start = weights(warm_run())
    assert any(not torch.equal(tensor, start[name]) for name, tensor in weights(folder).items())

    processor = AutoProcessor.from_pretrained(folder / "policy")
    content = [{"type": "image"}, {"type": "text", "text": "Where is the red star?"}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(text=[text], images=[Image.new("RGB", (32, 32), "red")], return_tensors="pt")
    assert policy.generate(**inputs, max_new_tokens=3, do_sample=False).shape[1] > inputs["input_ids"].shape[1]


def test_checkpoint_holds_no_reference(folder):
    """A second model in every checkpoint."""
    checkpoint = torch.load(folder / "checkpoints" / "step-000003.ckpt", weights_only=True)
    assert all(name.startswith("policy.") for name in checkpoint["state_dict"])
    parts = {tensor.data_ptr(): tensor.nbytes for tensor in checkpoint["state_dict"].values()}  # a tied head is one
    size = sum(parts.values())
    assert size == sum(tensor.nbytes for tensor in weights(folder).values())
    # Weights and AdamW's two moments.
    assert (folder / "checkpoints" / "step-000003.ckpt").stat().st_size < 3.2 * size


# --- Other ways to run ----------------------------------------------------------------------------------------
def test_sft_leaves_the_same_files():
    """A method with run files of its own kind; here, only the two newest checkpoints stay, and the last is one."""
    folder = warm_run()
    checkpoints = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert checkpoints == ["step-000030.ckpt", "step-000040.ckpt"]
    assert [name for name in FILES + HYDRA if not (folder / name).is_file()] == []
    assert len(pd.read_parquet(folder / "rollouts.parquet")) == 0
    assert pd.read_parquet(folder / "validation.parquet")["step"].tolist() == [0] * 4 + [20] * 4 + [40] * 4
    losses = rows(metrics(folder), "train/")["train/loss"]
    assert losses.index.tolist() == list(range(1, 41)) and losses.iloc[-5:].mean() < 0.3 * losses.iloc[0]
    assert json.loads((folder / "summary.json").read_text())["val/format"] >= 0.5
    assert len(list(folder.glob("validation/*/*.png"))) == 12
    record = json.loads((folder / "run.json").read_text())
    assert record["completions_per_step"] == 8 and list(record["seconds_per_phase"]) == ["update"]


PRESETS = sorted({path.stem for path in (REPO / "conf" / "algorithm").glob("*.yaml")} - {"sft"})


@pytest.mark.parametrize(
    "preset", [name if name == "easyr1" else pytest.param(name, marks=pytest.mark.slow) for name in PRESETS]
)
def test_every_algorithm_trains(tmp_path, preset):
    """A preset that composes and then fails in a run, or takes other updates than it says."""
    small = [
        f"backbone.path={warm_policy()}",
        "optimizer.make.lr=1e-3",
        "trainer.prompts_per_step=4",
        "trainer.steps=2",
    ]
    updates = {"easyr1": 4, "gspo": 4, "dapo": 2}.get(preset, 1)
    ended = train(tmp_path, f"algorithm={preset}", f"algorithm.mini_batches={updates}", *small)
    trained = rows(metrics(tmp_path), "train/")
    values = trained.to_numpy()
    assert np.isfinite(values).all(), trained.to_string()
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["updates_per_rollout"] == updates
    steps = torch.load(tmp_path / "checkpoints" / "step-000002.ckpt", weights_only=True)["optimizer_states"][0]["state"]
    assert {int(state["step"]) for state in steps.values()} == {2 * updates}
    departs = {"easyr1": "mini_batches: 4 (paper: 1)", "trl": "std_epsilon: 0.0001 (paper: 1e-06)",
               "dapo": "refill: 3 (paper: 0)", "gspo": "loss.sequence_ratio: True (paper: False)",
               "dr_grpo": "divide_by_std: False (paper: True)"}  # fmt: skip
    assert departs.get(preset, "group_size: 4 (paper: 8)") in ended.stdout


# --- The command itself ---------------------------------------------------------------------------------------
@pytest.mark.slow
def test_wandb_without_a_login_never_asks(tmp_path):
    """A run that waits for an answer nobody gives: no login, no key, no terminal, no standard input."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB") and name != "NETRC"}
    (tmp_path / "home").mkdir()
    process = spawn(
        "-m", "locus.train", *SMALLEST, "logger=default", f"hydra.run.dir={tmp_path / 'run'}",
        env=kept | {"HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}, stdin=None,
        preexec_fn=lambda: os.close(0), start_new_session=True,
    )  # fmt: skip
    ended = succeeded(finish(process))
    assert len(list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))) == 1
    assert (tmp_path / "run" / "metrics.csv").exists()
    assert not re.search("enter your choice|paste an API key|create.*account", ended.stdout + ended.stderr, re.I)


@pytest.mark.slow
@pytest.mark.skipif(not COCO128.is_dir(), reason="../shared/coco128 is not there")
def test_real_images(tmp_path):
    """The documented command on real images: boxes that lie in their files, cues of the mixture, finite numbers."""
    small = [
        setting
        for setting in SMALLEST
        if setting.startswith(("logger", "diagnoses", "backbone=", "backbone.architecture", "trainer", "algorithm"))
    ]
    folder = tmp_path / "run"
    succeeded(command(
        "train", "data=coco", f"data.annotations={COCO128 / 'instances_train2017.json'}",
        f"data.images={COCO128 / 'train2017'}", *small, "backbone.architecture.patch_size=16", "trainer.steps=2",
        "data.train_examples=200", "data.validation_examples=10", f"hydra.run.dir={folder}",
    ))  # fmt: skip
    rollouts, validation = (pd.read_parquet(folder / f"{name}.parquet") for name in ("rollouts", "validation"))
    assert len(rollouts) == 2 * PROMPTS * GROUP and len(validation) == 2 * 10
    assert not (folder / "questions.parquet").exists()  # minutes of diagnoses
    for row in [*rollouts.itertuples(), *validation.itertuples()]:
        width, height = Image.open(COCO128 / "train2017" / row.image_path).size
        x1, y1, x2, y2 = row.target
        assert 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height
        ratio = (x2 - x1) * (y2 - y1) / (width * height)
        assert ratio < (0.01 * 1.2**2 if row.bin == "tiny" else 0.05)  # padded by at most a tenth on each side
    assert (validation[validation["step"] == 0]["bin"] == "tiny").sum() == 7
    assert np.isfinite(rows(metrics(folder), "train/").to_numpy()).all()
