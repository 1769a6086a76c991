"""The loss by hand: clipping, KL, averaging, the sequence ratio; what micro-batches and padding must not change."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch

from locus.training.loss import MAX_LOG_RATIO, Loss, Totals, constant_length, k1, k2, k3, sequence_mean, token_mean
from locus.types import LossTerms

LOG2 = math.log(2)
NO_KL = Loss(kl_coefficient=0.0)


def one_token(
    loss: Loss, log_ratio: float, advantage: float, reference: float | None = None, logprob: float = -1.0
) -> tuple[LossTerms, float]:
    """The loss of a single token, and its gradient by that token's log-prob.

    ``log_ratio`` is new minus old; ``reference`` is the reference's log-prob minus the new one.
    """
    new = torch.full((1, 1, 1), logprob, dtype=torch.float64, requires_grad=True)
    old = new.detach() - log_ratio
    other = None if reference is None else new.detach() + reference
    advantages, mask = torch.tensor([[advantage]], dtype=torch.float64), torch.ones(1, 1, 1, dtype=torch.bool)
    terms = loss(new, old, other, advantages, mask, Totals(1, 1, 1))
    terms.loss.backward()
    return terms, new.grad.item()


# --- Clipping -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "ratio, advantage, expected, gradient",
    [
        (0.5, 2.0, -1.0, -1.0),  # below, good: the bound is no help, full gradient
        (0.9, 2.0, -1.8, -1.8),
        (1.1, 2.0, -2.2, -2.2),
        (1.25, 2.0, -2.5, -2.5),  # above 1.2, below the higher bound
        (1.5, 2.0, -2.6, 0.0),  # above, good: enough
        (9.0, 2.0, -2.6, 0.0),
        (0.5, -2.0, 1.6, 0.0),  # below, bad: enough
        (0.9, -2.0, 1.8, 1.8),
        (1.1, -2.0, 2.2, 2.2),
        (1.5, -2.0, 3.0, 3.0),  # above, bad: pushed back
        (9.0, -2.0, 18.0, 18.0),
        (9.0, 0.0, 0.0, 0.0),
    ],
)
def test_clip(ratio, advantage, expected, gradient):
    """The pessimistic bound for both signs: max for min, or the bounds 0.2 and 0.3 exchanged, fails here."""
    terms, found = one_token(replace(NO_KL, clip_low=0.2, clip_high=0.3), math.log(ratio), advantage)
    assert (terms.loss.item(), found) == pytest.approx((expected, gradient), rel=1e-12)
    assert terms.metrics["clip_fraction"] == (gradient == 0.0 and advantage != 0.0)
    assert terms.metrics["max_log_ratio"] == pytest.approx(abs(math.log(ratio))) and terms.tokens == 1


@pytest.mark.parametrize(
    "ratio, advantage, expected, gradient",
    [
        (2.9, -2.0, 5.8, 5.8),
        (3.5, -2.0, 6.0, 0.0),  # bounded at three advantages
        (100.0, -2.0, 6.0, 0.0),
        (100.0, 2.0, -2.4, 0.0),  # a good one is bounded by clip_high, as ever
        (0.01, 2.0, -0.02, -0.02),
        (0.01, -2.0, 1.6, 0.0),
    ],
)
def test_dual_clip(ratio, advantage, expected, gradient):
    """A bad token whose ratio exploded: without the ceiling its loss has none."""
    terms, found = one_token(replace(NO_KL, dual_clip=3.0), math.log(ratio), advantage)
    assert (terms.loss.item(), found) == pytest.approx((expected, gradient), rel=1e-12)
    assert terms.metrics["clip_fraction"] == (gradient == 0.0)


# --- KL -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "estimator, values",
    [
        (k1, (-LOG2, LOG2, 0.0)),
        (k2, (LOG2**2 / 2, LOG2**2 / 2, 0.0)),
        (k3, (1 - LOG2, LOG2 - 0.5, 0.0)),
    ],
)
def test_kl_estimators_by_hand(estimator, values):
    """log reference - log policy of log 2, -log 2 and 0; the sign exchanged is k3 of the other direction."""
    found = estimator(torch.tensor([LOG2, -LOG2, 0.0], dtype=torch.float64))
    assert found.tolist() == pytest.approx(values, abs=1e-15)


def test_k1_and_k3_are_unbiased():
    """Their expectation under the policy is KL(policy || reference), summed over a whole distribution, not sampled."""
    policy, reference = (torch.tensor(p, dtype=torch.float64) for p in ([0.5, 0.3, 0.2], [0.2, 0.2, 0.6]))
    exact = sum(p * math.log(p / q) for p, q in zip(policy.tolist(), reference.tolist(), strict=True))
    log_ratio = reference.log() - policy.log()
    for estimator in (k1, k3):
        assert (policy * estimator(log_ratio)).sum().item() == pytest.approx(exact, rel=1e-12)
    assert abs((policy * k2(log_ratio)).sum().item() - exact) > 1e-3  # k2 is biased: the estimators do differ


def test_what_the_gradient_of_each_estimator_is():
    """An estimator of the KL's value need not descend the KL: over a whole softmax, k1's gradient is nothing, k2's that
    of KL(policy || reference), k3's that of KL(reference || policy)."""
    logits = torch.tensor([0.3, -1.0, 0.8, 0.1], dtype=torch.float64, requires_grad=True)
    policy, reference = logits.log_softmax(-1), torch.tensor([0.1, 0.4, 0.2, 0.3], dtype=torch.float64).log()

    def gradient(value: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad(value, logits, retain_graph=True)[0]

    def expected(estimator: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """Of the loss, over all tokens, each as often as the policy writes it."""
        return gradient((policy.exp().detach() * estimator(reference - policy)).sum())

    forward = gradient((policy.exp() * (policy - reference)).sum())
    backward = gradient((reference.exp() * (reference - policy)).sum())
    assert (forward - backward).abs().max() > 0.01 < forward.abs().max()
    torch.testing.assert_close(expected(k1), torch.zeros_like(logits), rtol=0, atol=1e-15)
    torch.testing.assert_close(expected(k2), forward, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(expected(k3), backward, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("apart", [1.0, -1.0])
def test_kl_term_by_hand(apart):
    """Loss, metric and gradient: d k3 / d log policy = 1 - exp(apart), so that descent goes to the reference."""
    terms, gradient = one_token(Loss(kl_coefficient=0.5), 0.0, 0.0, apart)
    k = math.exp(apart) - apart - 1
    assert (terms.loss.item(), terms.metrics["kl"]) == pytest.approx((0.5 * k, k), rel=1e-12)
    assert gradient == pytest.approx(0.5 * (1 - math.exp(apart)), rel=1e-12)
    assert math.copysign(1, -gradient) == apart  # a step against the gradient


def test_kl_clamp():
    """EasyR1 bounds each token's KL at 10: above it there is no gradient, below it nothing changes."""
    bounded = Loss(kl_coefficient=1.0, kl_clamp=10.0)
    terms, gradient = one_token(bounded, 0.0, 0.0, 5.0)  # k3 is 142
    assert (terms.loss.item(), terms.metrics["kl"], gradient) == (10.0, 10.0, 0.0)
    terms, gradient = one_token(bounded, 0.0, 0.0, 2.0)
    assert (terms.loss.item(), gradient) == pytest.approx((math.exp(2) - 3, 1 - math.exp(2)))
    terms, gradient = one_token(replace(bounded, kl_estimator="k1"), 0.0, 0.0, 15.0)  # k1 is negative here
    assert (terms.loss.item(), gradient) == (-10.0, 0.0)


def test_no_reference_no_kl():
    """Without a reference there is no term, and no metric that pretends to one."""
    terms, gradient = one_token(Loss(kl_coefficient=1.0), 0.0, 1.0)
    assert (terms.loss.item(), gradient) == (-1.0, -1.0) and "kl" not in terms.metrics


@pytest.mark.parametrize("sequence_ratio", [False, True])
@pytest.mark.parametrize("estimator", [k1, k2, k3])
@pytest.mark.parametrize("log_ratio", [1e4, -1e4])
@pytest.mark.parametrize("advantage", [3.0, -3.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_wild_log_ratios_stay_finite(sequence_ratio, estimator, log_ratio, advantage, dtype):
    """exp(1e4) is inf, and its gradient NaN even where the value is clipped: one such token ruins the policy."""
    loss = Loss(sequence_ratio=sequence_ratio, kl_estimator=estimator.__name__, kl_coefficient=0.01)
    new = torch.full((1, 1, 2), -2.0, dtype=dtype, requires_grad=True)
    shift = torch.tensor([log_ratio, 0.0], dtype=dtype)
    mask = torch.ones(1, 1, 2, dtype=torch.bool)
    arguments = new.detach() - shift, new.detach() + shift, torch.tensor([[advantage]], dtype=dtype)
    terms = loss(new, *arguments, mask, Totals(2, 1, 2))
    terms.loss.backward()
    assert terms.loss.isfinite() and new.grad.isfinite().all()
    assert new.grad[0, 0, 0] == 0  # the wild token itself learns nothing
    assert terms.loss.abs() < 2 * abs(advantage) * math.exp(MAX_LOG_RATIO)
    assert terms.metrics["max_log_ratio"] >= 5e3  # logged as it was


# --- Averages -------------------------------------------------------------------------------------------------
def batch(lengths: Sequence[Sequence[int]], seed: int = 0, spread: float = 0.5) -> dict[str, torch.Tensor]:
    """Random log-probs, old log-probs, reference log-probs and advantages for B groups of these lengths; float64."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.tensor(lengths)
    shape = (*sizes.shape, int(sizes.max()))
    new = -torch.rand(shape, generator=generator, dtype=torch.float64) * 3
    near = [new + spread * torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2)]
    advantages = torch.randn(sizes.shape, generator=generator, dtype=torch.float64)
    return {"new": new, "old": near[0], "reference": near[1], "advantages": advantages, "mask": mask_of(sizes)}


def mask_of(lengths: torch.Tensor) -> torch.Tensor:
    """[B, G] lengths -> [B, G, T]."""
    return torch.arange(int(lengths.max())) < lengths[..., None]


def totals(data: dict[str, torch.Tensor], max_length: int = 20) -> Totals:
    """Of a whole mini-batch."""
    return Totals(int(data["mask"].sum()), data["mask"][..., 0].numel(), max_length)


def run(loss: Loss, data: dict[str, torch.Tensor], whole: Totals) -> tuple[LossTerms, torch.Tensor]:
    """The loss and its gradient by the log-probs."""
    new = data["new"].clone().requires_grad_()
    terms = loss(new, data["old"], data["reference"], data["advantages"], data["mask"], whole)
    terms.loss.backward()
    return terms, new.grad


@pytest.mark.parametrize(
    "average, expected, weights",
    [
        (token_mean, (-1.0 + 3 * 0.5) / 4, (1 / 4, 1 / 4)),
        (sequence_mean, (-1.0 + 0.5) / 2, (1 / 2, 1 / 6)),
        (constant_length, (-1.0 + 3 * 0.5) / (2 * 10), (1 / 20, 1 / 20)),
    ],
)
def test_averages_by_hand(average, expected, weights):
    """Completions of 1 and 3 tokens, advantages 1 and -1/2, on-policy: what a long completion weighs is the choice."""
    data = batch([[1, 3]])
    data |= {"old": data["new"], "advantages": torch.tensor([[1.0, -0.5]], dtype=torch.float64)}
    terms, gradient = run(replace(Loss(kl_coefficient=0.0), average=average.__name__), data, totals(data, 10))
    assert terms.loss.item() == pytest.approx(expected, rel=1e-6) and terms.tokens == 4
    by_hand = [[-weights[0], 0, 0], [0.5 * weights[1]] * 3]
    torch.testing.assert_close(gradient[0], torch.tensor(by_hand, dtype=torch.float64), rtol=1e-6, atol=0)


@pytest.mark.parametrize("average", [token_mean, sequence_mean, constant_length])
def test_at_ratio_1_the_gradient_is_the_policy_gradient(average):
    """On-policy, the surrogate's gradient is that of -A·log p, at the edge where clipped and unclipped are equal."""
    data = batch([[2, 5, 1], [4, 4, 3]])
    data["old"] = data["new"]
    terms, gradient = run(replace(NO_KL, average=average.__name__), data, totals(data))
    new = data["new"].clone().requires_grad_()
    weights = average(data["mask"], totals(data))
    (-(weights * data["advantages"][..., None] * new)).sum().backward()
    torch.testing.assert_close(gradient, new.grad)
    assert terms.metrics["clip_fraction"] == 0 and terms.metrics["max_log_ratio"] == 0


VARIANTS = {
    "sequence_mean": Loss(),
    "token_mean": Loss(average="token_mean", clip_high=0.3, dual_clip=3.0, kl_clamp=1.0),
    "constant_length": Loss(average="constant_length", kl_estimator="k2", kl_coefficient=0.3),
    "sequence_ratio": Loss(sequence_ratio=True, clip_low=0.05, clip_high=0.1),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_groups_and_rollouts_do_not_mix(name):
    """Advantages broadcast over the wrong axis: each completion alone gives its share of loss and gradient."""
    loss, data = VARIANTS[name], batch([[2, 6, 1], [4, 3, 3]])
    whole = totals(data)
    terms, gradient = run(loss, data, whole)
    assert 0 < terms.metrics["clip_fraction"] < terms.tokens  # both branches are in the example
    total = 0.0
    for b in range(2):
        for g in range(3):
            alone, part = run(loss, {name: value[b : b + 1, g : g + 1] for name, value in data.items()}, whole)
            torch.testing.assert_close(part[0, 0], gradient[b, g])
            total += alone.loss.item()
    assert total == pytest.approx(terms.loss.item(), rel=1e-12)


@pytest.mark.parametrize("parts", [[[0], [1, 2, 3]], [[2, 0], [3, 1]], [[3], [2], [1], [0]]])
@pytest.mark.parametrize("name", VARIANTS)
def test_micro_batches_add_up(name, parts):
    """A mean per micro-batch makes the step depend on the token budget; each part is cut to its own longest."""
    loss, data = VARIANTS[name], batch([[2, 5], [9, 1], [4, 4], [3, 6]])
    whole = totals(data)
    terms, gradient = run(loss, data, whole)
    sums = {"loss": 0.0, "tokens": 0, "clip_fraction": 0.0, "kl": 0.0}
    for rows in parts:
        width = int(data["mask"][rows].sum(-1).max())
        cut = {name: value[rows][..., :width] if value.dim() == 3 else value[rows] for name, value in data.items()}
        part, part_gradient = run(loss, cut, whole)
        torch.testing.assert_close(part_gradient, gradient[rows][..., :width])
        sums["loss"] += part.loss.item()
        sums["tokens"] += part.tokens
        for key in ("clip_fraction", "kl"):
            sums[key] += part.metrics[key]
    assert (sums["loss"], sums["kl"]) == pytest.approx((terms.loss.item(), terms.metrics["kl"]), rel=1e-12)
    assert (sums["tokens"], sums["clip_fraction"]) == (terms.tokens, terms.metrics["clip_fraction"])


@pytest.mark.parametrize("rubbish", [1e30, -1e30, float("nan"), float("inf")])
@pytest.mark.parametrize("name", VARIANTS)
def test_padding_changes_nothing(name, rubbish):
    """What stands at padding is arbitrary: it must reach neither loss, gradient nor metrics."""
    loss, data = VARIANTS[name], batch([[2, 5], [9, 1]])
    terms, gradient = run(loss, data, totals(data))
    padded = dict(data)
    for key in ("new", "old", "reference"):
        wide = torch.full((2, 2, 12), rubbish, dtype=torch.float64)
        wide[..., :9] = torch.where(data["mask"], data[key], rubbish)
        padded[key] = wide
    padded["mask"] = torch.nn.functional.pad(data["mask"], (0, 3))
    again, wide_gradient = run(loss, padded, totals(data))
    assert again.loss.item() == pytest.approx(terms.loss.item(), rel=1e-12) and again.tokens == terms.tokens
    assert again.metrics == pytest.approx(terms.metrics)
    torch.testing.assert_close(wide_gradient[..., :9], torch.where(data["mask"], gradient, 0))
    assert (wide_gradient[..., 9:] == 0).all() and (wide_gradient[..., :9][~data["mask"]] == 0).all()


def test_an_empty_completion_is_no_nan():
    """A completion without tokens: 0/0 in the mean over its tokens."""
    data = batch([[0, 3]])
    for loss in VARIANTS.values():
        terms, gradient = run(loss, data, totals(data))
        assert terms.loss.isfinite() and gradient.isfinite().all() and terms.tokens == 3


def test_no_advantage_no_gradient():
    """A group without spread must not move the policy, however far off-policy it is."""
    data = batch([[2, 5]], spread=3.0) | {"advantages": torch.zeros(1, 2, dtype=torch.float64)}
    terms, gradient = run(NO_KL, data | {"reference": None}, totals(data))
    assert terms.loss == 0 and (gradient == 0).all()


# --- Sequence ratio (GSPO) ------------------------------------------------------------------------------------
def sequence(log_ratios: list[float], advantage: float, loss: Loss) -> tuple[LossTerms, torch.Tensor]:
    """One completion with these log-ratios, then two tokens of padding that have wild ones."""
    ratios = torch.tensor([[log_ratios + [5.0, -3.0]]], dtype=torch.float64)
    length = len(log_ratios)
    new = torch.full_like(ratios, -1.0)
    data = {"new": new, "old": new - ratios, "reference": None}
    data |= {"advantages": torch.tensor([[advantage]], dtype=torch.float64)}
    data |= {"mask": (torch.arange(length + 2) < length)[None, None]}
    terms, gradient = run(loss, data, Totals(length, 1, length))
    return terms, gradient[0, 0, :length]


def test_sequence_ratio_by_hand():
    """exp of the mean log-ratio over the completion's own tokens: 0.1, 0.3, -0.1 give exp(0.1), and each token a
    third of the gradient."""
    terms, gradient = sequence([0.1, 0.3, -0.1], 2.0, replace(NO_KL, sequence_ratio=True))
    assert terms.loss.item() == pytest.approx(-2 * math.exp(0.1), rel=1e-6)
    torch.testing.assert_close(gradient, torch.full_like(gradient, -2 * math.exp(0.1) / 3), rtol=1e-6, atol=0)
    assert terms.metrics["clip_fraction"] == 0  # per token, 0.3 would be clipped


@pytest.mark.parametrize(
    "mean, advantage, expected, clipped",
    [
        (5e-4, 1.0, -1.0004, True),
        (3.5e-4, 1.0, -math.exp(3.5e-4), False),
        (-5e-4, 1.0, -math.exp(-5e-4), False),
        (-5e-4, -1.0, 0.9997, True),
        (5e-4, -1.0, math.exp(5e-4), False),
    ],
)
def test_sequence_clip_is_all_or_nothing(mean, advantage, expected, clipped):
    """GSPO clips whole completions, at 3e-4 below and 4e-4 above, whatever single tokens do."""
    loss = replace(NO_KL, sequence_ratio=True, clip_low=3e-4, clip_high=4e-4)
    terms, gradient = sequence([mean + 0.5, mean - 0.5], advantage, loss)
    assert terms.loss.item() == pytest.approx(expected, rel=1e-12)
    assert (gradient == 0).all() == clipped and terms.metrics["clip_fraction"] == (2 if clipped else 0)
