"""conf/algorithm: the settings of each preset as in its source, and its loss worked out again in plain floats."""

from __future__ import annotations

import dataclasses
import inspect
import math
from dataclasses import dataclass, replace
from itertools import combinations

import pytest
import torch
from hydra.utils import instantiate

from locus.errors import LocusError
from locus.training.advantages import group_advantages
from locus.training.algorithm import Algorithm
from locus.training.loss import Loss, Totals


@dataclass(frozen=True)
class Source:
    """What a source says, as numbers."""

    clip: tuple[float, float] = (0.2, 0.2)
    dual: float = math.inf
    sequence_ratio: bool = False
    average: str = "sequence"
    kl: float = 0.0
    kl_bound: float = math.inf
    divide: bool = True
    epsilon: float = 1e-6
    mini_batches: int = 1
    refill: bool = False
    prompts: int | None = None
    overlong: float = 0.0


# grpo: arXiv 2402.03300, eq. 3, with the KL weight of LOCUS; grpo_refill is no paper's. easyr1: examples/config.yaml
# and core_algos.py of EasyR1. trl: GRPOConfig of TRL 1.16. dr_grpo: arXiv 2503.20783. dapo: arXiv 2503.14476. gspo:
# arXiv 2507.18071.
SOURCES = {
    "grpo": Source(kl=0.01),
    "grpo_refill": Source(kl=0.01, refill=True),
    "easyr1": Source((0.2, 0.3), dual=3.0, average="token", kl=0.01, kl_bound=10.0, mini_batches=4, prompts=512),
    "trl": Source(average="token", epsilon=1e-4),
    "dr_grpo": Source(average="constant", divide=False),
    "dapo": Source((0.2, 0.28), average="token", mini_batches=16, refill=True, prompts=512, overlong=1.0),
    "gspo": Source((3e-4, 4e-4), sequence_ratio=True, mini_batches=4),
}
AVERAGES = {"token": "token_mean", "sequence": "sequence_mean", "constant": "constant_length"}

# Two groups of three completions of different lengths; log-probs per token. The values meet every bound on both
# sides: ratios between 1.2 and 1.28, 1.28 and 1.3, above 3; completions within 3e-4 and between 3e-4 and 4e-4; a KL
# above 10; a group whose rewards hardly differ.
MAX_LENGTH = 8
REWARDS = [[0.1, 0.1, 0.64], [0.5, 0.5005, 0.4985]]
NEW = [
    [[-1.2], [-0.3, -2.0, -0.7, -1.1], [-0.9, -0.2]],
    [[-0.5, -1.4, -0.8], [-2.2, -0.6], [-0.1, -0.9, -1.6, -0.4, -3.0]],
]
NEW_MINUS_OLD = [
    [[1.3], [0.1, -0.5, 0.4, -0.2], [0.22, 0.255]],
    [[0.1, 0.05, -0.1499], [0.5, -0.49925], [-0.4, 0.3, 1.4, 0.02, -0.01]],
]
REFERENCE_MINUS_NEW = [
    [[0.2], [-0.3, 3.0, 0.0, 0.1], [0.4, -0.2]],
    [[0.1, -0.1, 0.5], [-1.0, 0.3], [0.0, 0.2, -0.6, 0.7, 0.05]],
]


def plain_advantages(source: Source) -> list[list[float]]:
    """Reward minus the group's mean, over its unbiased std."""
    advantages = []
    for rewards in REWARDS:
        mean = sum(rewards) / len(rewards)
        std = math.sqrt(sum((r - mean) ** 2 for r in rewards) / (len(rewards) - 1))
        advantages.append([(r - mean) / (std + source.epsilon) if source.divide else r - mean for r in rewards])
    return advantages


def plain_loss(source: Source, moved: tuple[int, int, int] | None = None, by: float = 0.0) -> float:
    """The whole mini-batch's loss; ``moved`` is one token whose log-prob under the policy is greater ``by`` this."""
    tokens = sum(len(completion) for group in NEW for completion in group)
    completions = sum(len(group) for group in NEW)
    total = 0.0
    for b, advantages in enumerate(plain_advantages(source)):
        for g, advantage in enumerate(advantages):
            length = len(NEW[b][g])
            shift = [by if moved == (b, g, t) else 0.0 for t in range(length)]
            ratios = [math.exp(NEW_MINUS_OLD[b][g][t] + shift[t]) for t in range(length)]
            if source.sequence_ratio:
                ratios = [math.prod(ratios) ** (1 / length)] * length
            weight = {
                "token": 1 / tokens,
                "sequence": 1 / (length * completions),
                "constant": 1 / (completions * MAX_LENGTH),
            }[source.average]
            for t in range(length):
                bounded = min(max(ratios[t], 1 - source.clip[0]), 1 + source.clip[1])
                gain = min(ratios[t] * advantage, bounded * advantage)
                if advantage < 0:
                    gain = max(gain, source.dual * advantage)
                apart = REFERENCE_MINUS_NEW[b][g][t] - shift[t]
                kl = min(math.exp(apart) - apart - 1, source.kl_bound)
                total += weight * (source.kl * kl - gain)
    return total


def tensor(rows: list[list[list[float]]]) -> torch.Tensor:
    """[B, G, T] float64, filled with rubbish at padding."""
    width = max(len(completion) for group in rows for completion in group)
    filled = [[completion + [99.0] * (width - len(completion)) for completion in group] for group in rows]
    return torch.tensor(filled, dtype=torch.float64)


def locus_loss(algorithm: Algorithm) -> tuple[float, torch.Tensor]:
    """The same by the library: value, and gradient by the log-probs [B, G, T]."""
    lengths = torch.tensor([[len(completion) for completion in group] for group in NEW])
    mask = torch.arange(int(lengths.max())) < lengths[..., None]
    new = tensor(NEW).requires_grad_()
    old, reference = new.detach() - tensor(NEW_MINUS_OLD), new.detach() + tensor(REFERENCE_MINUS_NEW)
    rewards = torch.tensor(REWARDS, dtype=torch.float64)
    advantages = group_advantages(rewards, algorithm.divide_by_std, algorithm.std_epsilon)
    totals = Totals(int(lengths.sum()), lengths.numel(), MAX_LENGTH)
    terms = algorithm.loss(new, old, reference if algorithm.needs_reference else None, advantages, mask, totals)
    terms.loss.backward()
    return terms.loss.item(), new.grad


@pytest.fixture
def preset(compose_app):
    """``preset(name)``: conf/algorithm/<name>.yaml as a run builds it."""
    return lambda name: instantiate(compose_app("train", [f"algorithm={name}"]).algorithm)


def test_every_preset_has_its_source(repo):
    """A preset that is added without saying what it is."""
    assert {file.stem for file in (repo / "conf" / "algorithm").glob("*.yaml")} - {"sft"} == set(SOURCES)


@pytest.mark.parametrize("name", SOURCES)
def test_settings(name, preset):
    """A default of the base file that leaks into a preset whose source has another."""
    algorithm, source = preset(name), SOURCES[name]
    loss = Loss(
        *source.clip,
        dual_clip=None if source.dual == math.inf else source.dual,
        sequence_ratio=source.sequence_ratio,
        average=AVERAGES[source.average],
        kl_coefficient=source.kl,
        kl_estimator="k3",
        kl_clamp=None if source.kl_bound == math.inf else source.kl_bound,
    )
    assert algorithm.loss == loss
    assert (algorithm.divide_by_std, algorithm.std_epsilon) == (source.divide, source.epsilon)
    assert (algorithm.updates_per_rollout, algorithm.epochs) == (source.mini_batches, 1)
    assert (algorithm.refill > 0, algorithm.needs_reference) == (source.refill, source.kl > 0)
    assert (algorithm.overlong_penalty, algorithm.overlong_buffer) == (source.overlong, 4096 / 20480)
    assert not algorithm.mask_truncated
    assert (algorithm.group_size, algorithm.source_prompts_per_step) == (8, source.prompts)


@pytest.mark.parametrize("name", SOURCES)
def test_loss_as_worked_out_by_hand(name, preset):
    """Value and gradient: a setting that the loss reads in another sense than its source."""
    value, gradient = locus_loss(preset(name))
    source = SOURCES[name]
    assert value == pytest.approx(plain_loss(source), rel=1e-6)
    for b, group in enumerate(NEW):
        for g, completion in enumerate(group):
            for t in range(len(completion)):
                step = 1e-6
                rise = plain_loss(source, (b, g, t), step) - plain_loss(source, (b, g, t), -step)
                assert gradient[b, g, t].item() == pytest.approx(rise / (2 * step), rel=1e-5, abs=1e-7), (b, g, t)
            assert (gradient[b, g, len(completion) :] == 0).all()


@pytest.mark.parametrize("name", SOURCES)
def test_keys_of_the_kl_change_the_kl_alone(name, preset, compose_app):
    """An estimator that resets the clips of a preset; a coefficient of 0 that leaves a reference."""
    algorithm, loss = preset(name), "algorithm.loss"
    keys = {"on": [f"{loss}.kl_estimator=k2", f"{loss}.kl_coefficient=0.5"], "off": [f"{loss}.kl_coefficient=0"]}
    on, off = (instantiate(compose_app("train", [f"algorithm={name}", *keys[key]]).algorithm) for key in ("on", "off"))
    assert on == replace(algorithm, loss=replace(algorithm.loss, kl_estimator="k2", kl_coefficient=0.5))
    assert off == replace(algorithm, loss=replace(algorithm.loss, kl_coefficient=0.0)) and not off.needs_reference


def test_the_example_tells_presets_apart():
    """An example that all presets agree on would test nothing: every single departure changes its value."""
    losses = {
        replace(source, refill=False, prompts=None, overlong=0.0): name for name, source in SOURCES.items()
    }  # grpo_refill's is that of grpo
    values = {name: plain_loss(source) for source, name in losses.items()}
    for one, other in combinations(values, 2):
        assert values[one] != pytest.approx(values[other], rel=1e-3), (one, other)
    paper = SOURCES["grpo"]
    for name, source in SOURCES.items():
        for key in ("clip", "dual", "sequence_ratio", "average", "kl", "kl_bound", "divide", "epsilon"):
            if getattr(source, key) != getattr(paper, key):
                without = plain_loss(replace(source, **{key: getattr(paper, key)}))
                assert without != pytest.approx(plain_loss(source), rel=1e-4), (name, key)
    easyr1 = SOURCES["easyr1"]
    assert plain_loss(easyr1) != pytest.approx(plain_loss(replace(easyr1, clip=(0.2, 0.28))), rel=1e-4)


@pytest.mark.parametrize(
    "setting, value", [("group_size", 1), ("group_size", 0), ("mini_batches", 0), ("epochs", 0), ("epochs", -1)]
)
def test_impossible_settings(setting, value):
    """A group of one has no advantage, no mini-batch no update: a run that trains nothing says so at its start."""
    with pytest.raises(LocusError, match=rf"algorithm\.{setting}={value}"):
        Algorithm(**{setting: value})


def test_trl_defaults_are_those_of_the_preset():
    """TRL changes its defaults between versions (loss_type was grpo, then bnpo, then dapo): a new one shows up here."""
    trl = pytest.importorskip("trl")
    fields = {field.name: field.default for field in dataclasses.fields(trl.GRPOConfig)}
    expected = {
        "loss_type": "dapo",  # TRL's name for the mean over all active tokens
        "epsilon": 0.2,
        "epsilon_high": None,  # as below
        "delta": None,  # no bound on the loss of a negative advantage
        "beta": 0.0,
        "importance_sampling_level": "token",
        "scale_rewards": "group",
        "num_iterations": 1,
        "steps_per_generation": None,  # on-policy
        "num_generations": 8,
        "mask_truncated_completions": False,
        "temperature": 1.0,
        "top_p": 1.0,
    }
    assert {name: fields[name] for name in expected} == expected
    assert "(std_rewards + 1e-4)" in inspect.getsource(trl.GRPOTrainer)
