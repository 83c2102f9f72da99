"""Scorer's inner loop: preconditioned steps along what a user's judged events told."""

import math
from dataclasses import replace

import torch
from model_samples import raw
from torch import Tensor, nn

from headrace.model.config import ModelConfig
from headrace.model.networks.inner_loop import N_DECAYS, GradientSums, ScorerLoop, n_scorer_weights
from headrace.model.networks.scorer import N_ADAPTED

CONFIG = ModelConfig(hidden=3)
ONE = torch.ones(1, 1)  # all belong to the only cluster


def scorer_loop(*, value: float, steps: int = 1) -> ScorerLoop:
    """Return a loop that reads only the first of the gradients and moves each weight as far."""
    loop = ScorerLoop(replace(CONFIG, inner_steps=steps))
    with torch.no_grad():
        loop.read.weight.zero_()
        loop.read.bias.zero_()
        loop.read.weight[0, 0] = 1
        loop.write.weight[:, 0] = value
        loop.raw_patience.fill_(raw(3))
    return loop


def sums(*users: tuple[float, float, float]) -> GradientSums:
    """Return sums of users, each given as its first gradient's sum and its short and long count."""
    gradients = torch.zeros(len(users), N_DECAYS, n_scorer_weights(CONFIG))
    gradients[:, 0, 0] = torch.tensor([total for total, _, _ in users])
    return GradientSums(gradients, torch.tensor([counts for _, *counts in users]))


def test_scorer_shift_is_the_preconditioned_mean_gradient_times_trust() -> None:
    linear, hidden = scorer_loop(value=2)(sums((3, 3, 3), (-18, 3, 6)), ONE)
    # The mean is over the short count, shrunk by three: 3 / (3 + 3) and -18 / (3 + 3). Trust is
    # over the long one: 3 / (3 + 3) and 6 / (6 + 3).
    expected = [2 * math.tanh(1 / 2) / 2, 2 * math.tanh(-3) * 2 / 3]
    assert linear.shape == (2, N_ADAPTED)
    assert hidden.shape == (2, CONFIG.hidden)
    torch.testing.assert_close(linear, torch.tensor(expected)[:, None].expand_as(linear))
    torch.testing.assert_close(hidden, torch.tensor(expected)[:, None].expand_as(hidden))


def test_preconditioner_is_told_how_many_events_were_judged() -> None:
    loop = scorer_loop(value=2)
    with torch.no_grad():
        loop.read.weight.zero_()
        loop.read.weight[0, -1] = 1
    linear, _ = loop(sums((0, 1, 6)), ONE)
    expected = 2 * math.tanh(math.log1p(6)) * 6 / (6 + 3)
    torch.testing.assert_close(linear, torch.full_like(linear, expected))


def test_user_without_judged_events_keeps_the_scorer() -> None:
    loop = scorer_loop(value=2)
    nn.init.ones_(loop.read.bias)  # even where nothing read means something
    linear, hidden = loop(sums((0, 0, 0), (1, 1, 1)), ONE)
    assert linear[0].eq(0).all()
    assert hidden[0].eq(0).all()
    assert linear[1].ne(0).all()


def test_new_loop_moves_no_scorer() -> None:
    linear, hidden = ScorerLoop(CONFIG)(sums((3, 3, 3)), ONE)
    assert not linear.any()
    assert not hidden.any()


def test_later_steps_follow_the_gradient_at_the_shift() -> None:
    # The quadratic model's gradient falls by curvature times shift, as sure as its support is.
    loop = scorer_loop(value=2, steps=3)
    with torch.no_grad():
        loop.raw_curvature.fill_(raw(0.5))
    linear, _ = loop(sums((3, 3, 3)), ONE)
    mean, share, trust, shift = 3 / 6, 3 / 6, 3 / 6, 0.0
    for _ in range(3):
        shift += 2 * math.tanh(mean - share * 0.5 * shift) * trust
    torch.testing.assert_close(linear, torch.full_like(linear, shift))


def test_batched_steps_equal_one_user_at_a_time_with_autograd() -> None:
    torch.manual_seed(0)
    loop = ScorerLoop(replace(CONFIG, inner_steps=3))
    nn.init.normal_(loop.write.weight)
    nn.init.normal_(loop.raw_curvature)
    gradients = GradientSums(
        torch.randn(4, N_DECAYS, loop.n_weights),
        torch.tensor([[0.0, 0.0], [1.0, 1.0], [4.0, 9.0], [5.0, 40.0]]),
    )
    together = torch.cat(loop(gradients, ONE), 1)
    for row in range(4):
        alone = adapt_alone(loop, gradients.sums[row], gradients.counts[row])
        torch.testing.assert_close(together[row], alone, rtol=1e-4, atol=1e-6)


def adapt_alone(loop: ScorerLoop, total: Tensor, counts: Tensor) -> Tensor:
    """Return one user's shift, by autograd on the quadratic model of each decay's support loss."""
    curvature = nn.functional.softplus(loop.raw_curvature)
    trust = counts[-1] / (counts[-1] + nn.functional.softplus(loop.raw_patience))
    shift = torch.zeros(loop.n_weights)
    for _ in range(loop.inner_steps):
        ascents = []
        for decay in range(N_DECAYS):
            at = shift.detach().requires_grad_(True)
            likelihood = (total[decay] @ at - counts[decay] * (curvature * at * at).sum() / 2) / (
                counts[decay] + 3
            )
            ascents += torch.autograd.grad(likelihood, at)
        read = loop.read(torch.cat([*ascents, torch.log1p(counts[-1:])]))
        shift = shift + loop.write(torch.tanh(read)) * trust
    return shift


def test_without_inner_steps_nothing_moves() -> None:
    linear, hidden = scorer_loop(value=2, steps=0)(sums((3, 3, 3)), ONE)
    assert not linear.any()
    assert not hidden.any()
