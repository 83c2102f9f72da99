"""Scorer's inner loop: one preconditioned step along what a user's judged events told."""

import math

import torch
from model_samples import raw
from torch import nn

from headrace.model.config import ModelConfig
from headrace.model.inner_loop import N_DECAYS, GradientSums, ScorerLoop, n_scorer_weights
from headrace.model.scorer import N_INPUTS

CONFIG = ModelConfig(hidden=3)


def scorer_loop(*, value: float) -> ScorerLoop:
    """Return a loop that reads only the first of the gradients and moves each weight as far."""
    loop = ScorerLoop(CONFIG)
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
    linear, hidden = scorer_loop(value=2)(sums((3, 3, 3), (-18, 3, 6)))
    # The mean is over the short count, shrunk by three: 3 / (3 + 3) and -18 / (3 + 3). Trust is
    # over the long one: 3 / (3 + 3) and 6 / (6 + 3).
    expected = [2 * math.tanh(1 / 2) / 2, 2 * math.tanh(-3) * 2 / 3]
    assert linear.shape == (2, N_INPUTS)
    assert hidden.shape == (2, CONFIG.hidden)
    torch.testing.assert_close(linear, torch.tensor(expected)[:, None].expand_as(linear))
    torch.testing.assert_close(hidden, torch.tensor(expected)[:, None].expand_as(hidden))


def test_preconditioner_is_told_how_many_events_were_judged() -> None:
    loop = scorer_loop(value=2)
    with torch.no_grad():
        loop.read.weight.zero_()
        loop.read.weight[0, -1] = 1
    linear, _ = loop(sums((0, 1, 6)))
    expected = 2 * math.tanh(math.log1p(6)) * 6 / (6 + 3)
    torch.testing.assert_close(linear, torch.full_like(linear, expected))


def test_user_without_judged_events_keeps_the_scorer() -> None:
    loop = scorer_loop(value=2)
    nn.init.ones_(loop.read.bias)  # even where nothing read means something
    linear, hidden = loop(sums((0, 0, 0), (1, 1, 1)))
    assert linear[0].eq(0).all()
    assert hidden[0].eq(0).all()
    assert linear[1].ne(0).all()


def test_new_loop_moves_no_scorer() -> None:
    linear, hidden = ScorerLoop(CONFIG)(sums((3, 3, 3)))
    assert not linear.any()
    assert not hidden.any()
