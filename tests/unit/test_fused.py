"""What serves on a CPU in fused loops equals the modules that learning differentiates."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from model_samples import count_user, histories
from torch import nn
from torch.nn import functional as F

from headrace.model.config import ModelConfig
from headrace.model.counts.signals import ItemSignals
from headrace.model.networks.inner_loop import N_DECAYS, GradientSums, n_scorer_weights
from headrace.model.networks.meta_parameters import MetaParameters
from headrace.model.passes import arithmetic
from headrace.model.recommender import Prepared, Recommender

N_ITEMS, N_KNOWN = 30, 27  # the last have no embedding yet
CONFIG = ModelConfig(width=6, heads=2, length=6, hidden=5, inner_steps=3, negatives=7)
USERS = ([3, 1, 4, 1, 5, 28], [], [9, 0, 6], [-1, 5, 3], [7], [2, 2, 2, 29, 2, 2])
CONFIGS = (
    CONFIG,
    dataclasses.replace(CONFIG, inner_steps=0),
    dataclasses.replace(CONFIG, meta_learning="meta_sgd"),
    dataclasses.replace(CONFIG, clusters=3),
    dataclasses.replace(CONFIG, width=8, hidden=8, negatives=8),  # nothing is to be padded
)


def two_ways(config: ModelConfig) -> tuple[Recommender, Recommender]:
    """Return recommenders, fused and not, of the same model, whose every part speaks."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    signals = ItemSignals(8, capacity=N_ITEMS)
    for _ in range(20):
        count_user(signals, rng.integers(0, N_ITEMS, 6).tolist())
    signals.refresh_popular(N_ITEMS, quotas=(6, 0, 0, 0))
    meta = MetaParameters(config, capacity=N_ITEMS)
    for parameter in meta.parameters():
        nn.init.normal_(parameter, std=0.5)
    nn.init.uniform_(meta.scorer.mean)
    nn.init.uniform_(meta.scorer.std, 0.2, 2)  # some inputs are beyond what counts
    nn.init.normal_(meta.residual)
    meta.negatives.copy_(torch.arange(config.negatives))
    meta.n_items.fill_(N_KNOWN)
    return Recommender(meta, signals), Recommender(meta, signals, use_fused=False)


def judged_before(config: ModelConfig) -> GradientSums:
    """Return sums of as many users, of whom one was never judged."""
    counts = torch.arange(len(USERS))[:, None].expand(-1, N_DECAYS).float()
    sums = torch.randn(len(USERS), N_DECAYS, n_scorer_weights(config)) * counts[..., None]
    return GradientSums(sums, counts)


def is_candidate(prepared: Prepared) -> torch.Tensor:
    """Return where there is a candidate: what stands elsewhere is never looked at."""
    return torch.from_numpy(prepared.candidates.items >= 0)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@torch.no_grad()
def test_users_are_adapted_and_scored_as_by_the_modules(config: ModelConfig) -> None:
    fused, plain = two_ways(config)
    prepared, gradients = fused.prepare(histories(*USERS)), judged_before(config)
    one, other = fused.adapt(prepared, gradients), plain.adapt(prepared, gradients)
    here = is_candidate(prepared)
    torch.testing.assert_close(one.inputs[here], other.inputs[here], rtol=1e-4, atol=1e-5)
    scores = fused.score(prepared, one)
    torch.testing.assert_close(scores, plain.score(prepared, other), rtol=1e-4, atol=1e-4)
    is_moved = scores[0, 0] != fused.score(prepared, fused.initial(prepared))[0, 0]
    assert is_moved == (config.inner_steps > 0)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_events_are_judged_as_by_the_modules(config: ModelConfig) -> None:
    fused, plain = two_ways(config)
    prepared = fused.prepare(histories(*USERS))
    targets = prepared.candidates.items[:, 1].copy()
    targets[0] = prepared.candidates.items[0, 0]
    targets[-1] = -1
    one, other = fused.judge(prepared, targets), plain.judge(prepared, targets)
    np.testing.assert_array_equal(one.ranks, other.ranks)
    np.testing.assert_allclose(one.probabilities, other.probabilities, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(one.gradients, other.gradients, rtol=1e-3, atol=1e-4)
    assert np.abs(one.gradients[:-1]).max(1).min() > 0
    assert not one.gradients[-1].any()


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_lists_are_explained_as_by_the_modules(config: ModelConfig) -> None:
    fused, plain = two_ways(config)
    with torch.no_grad():
        prepared = fused.prepare(histories(*USERS))
        adapted = fused.adapt(prepared, judged_before(config))
        top = fused.lists(prepared, fused.score(prepared, adapted), length=3)
    one, other = fused.explain(prepared, adapted, top), plain.explain(prepared, adapted, top)
    here = is_candidate(prepared).gather(1, top)
    assert here.sum() > len(USERS)
    torch.testing.assert_close(one[here], other[here], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_meta_parameters_that_are_held_are_followed_when_they_are_held_again() -> None:
    fused, plain = two_ways(CONFIG)
    prepared, gradients = fused.prepare(histories(*USERS)), judged_before(CONFIG)

    def scores(recommender: Recommender) -> torch.Tensor:
        return recommender.score(prepared, recommender.adapt(prepared, gradients))

    fused.hold()
    before = scores(fused)
    fused.meta.scorer.second.weight.mul_(1.5)
    fused.meta.user_loop.raw_step.add_(1.0)
    assert (scores(fused) == before).all()
    fused.hold()
    after = scores(fused)
    assert (after != before).sum() > 20
    torch.testing.assert_close(after, scores(plain), rtol=1e-4, atol=1e-4)


def test_input_that_is_left_out_has_no_say() -> None:
    fused, plain = two_ways(CONFIG)
    fused.meta.scorer.is_used[3] = 0
    prepared = fused.prepare(histories(*USERS))
    frozen = fused.initial(prepared)
    before = fused.score(prepared, frozen)
    frozen.inputs[..., 3] += 1
    torch.testing.assert_close(fused.score(prepared, frozen), before)
    torch.testing.assert_close(plain.score(prepared, frozen), before, rtol=1e-4, atol=1e-4)


# ------------------------------------------------------------------------------------ arithmetic

ODD = [-math.inf, -1e9, -90.0, -20.0, -1.0, -1e-9, 0.0, 1e-9, 1.0, 20.0, 80.0]


@pytest.mark.parametrize("x", ODD)
def test_exponential_is_right_to_single_precision(x: float) -> None:
    expected = max(math.exp(x), math.exp(-87))  # from where on it is as good as none
    assert arithmetic.exp(np.float32(x)) == pytest.approx(expected, rel=1e-5)


def test_gelu_and_its_slope_are_torchs() -> None:
    x = torch.cat([torch.linspace(-15, 15, 1001), torch.tensor([-1e9, 1e9])]).requires_grad_(True)
    expected = F.gelu(x)
    (slope,) = torch.autograd.grad(expected.sum(), x)
    values, alone = (x.detach().numpy()[None].copy() for _ in range(2))
    slopes = np.empty_like(values)
    arithmetic.gelu_and_slope(values, slopes, values.shape[1])
    arithmetic.gelu(alone, alone.shape[1])
    np.testing.assert_allclose(values[0], expected.detach(), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(slopes[0], slope, atol=1e-6)
    np.testing.assert_allclose(alone, values, rtol=1e-6, atol=1e-6)


def test_product_is_added_to_the_first_columns() -> None:
    rng = np.random.default_rng(0)
    weights, x = rng.normal(size=(6, 8)), rng.normal(size=(8, 5))
    out = np.ones((6, 5), np.float32)
    arithmetic.multiply(weights.astype(np.float32), x.astype(np.float32), out, 3)
    np.testing.assert_allclose(out[:, :3], 1 + (weights @ x)[:, :3], rtol=1e-5)
    assert (out[:, 3:] == 1).all()


def test_weights_are_padded_with_zeros() -> None:
    padded = arithmetic.padded(torch.ones(3, 5))
    assert padded.shape == (4, 8)
    assert padded.sum() == 15
    whole = torch.ones(4, 8)
    assert arithmetic.padded(whole).ctypes.data == whole.data_ptr()  # nothing is copied
