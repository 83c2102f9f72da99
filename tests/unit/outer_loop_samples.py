"""Outer loops and tasks that the tests of the outer loop share."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from model_samples import count_user, histories
from torch import Tensor, nn
from torch.nn import functional as F

from headrace.model.config import ModelConfig, OuterLoopConfig
from headrace.model.counts.candidate_signals import N_CONTEXTS
from headrace.model.counts.signals import ItemSignals
from headrace.model.counts.tenure import N_TENURE_SIGNALS
from headrace.model.learning.losses import Processes
from headrace.model.learning.outer_loop import OuterLoop
from headrace.model.learning.rehearsal import Tasks
from headrace.model.networks.inner_loop import N_DECAYS, GradientSums, n_scorer_weights
from headrace.model.networks.meta_parameters import MetaParameters
from headrace.model.networks.scorer import N_INPUTS
from headrace.model.recommender import Recommender

CONFIG = ModelConfig(width=4, heads=2, length=6, hidden=5, inner_steps=2, negatives=8)
P = n_scorer_weights(CONFIG)
N_ITEMS = 30
USERS = ([3, 1, 4, 1, 5], [2, 8], [9, 2, 6], [5, 3, 5], [7, 7, 1])
# Nothing drawn at random, inputs that are not standardised meanwhile, a step on every task.
PLAIN = OuterLoopConfig(gradient_dropout=0, standardise_until=0, batch_tasks=1)


def new_loop(
    config: OuterLoopConfig = PLAIN,
    *,
    seed: int = 0,
    model: ModelConfig = CONFIG,
    processes: Processes | None = None,
) -> OuterLoop:
    """Return an outer loop over a stream drawn at random; equal seeds make equal loops."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(0)
    signals = ItemSignals(8, capacity=N_ITEMS)
    for _ in range(20):
        count_user(signals, rng.integers(0, N_ITEMS, 6).tolist())
    meta = MetaParameters(model, capacity=N_ITEMS)
    nn.init.normal_(meta.scorer_loop.write.weight, std=0.1)
    meta.negatives.copy_(torch.arange(model.negatives) % N_ITEMS)
    return OuterLoop(Recommender(meta, signals), config, seed=seed, processes=processes)


def new_tasks(loop: OuterLoop, users: Sequence[Sequence[int]] = USERS, *, place: int = 1) -> Tasks:
    """Return a task for each user: the event is of the candidate in that place."""
    had = histories(*users)
    prepared = loop.recommender.prepare(had)
    targets = prepared.candidates.items[:, place].copy()
    n = len(users)
    p = n_scorer_weights(loop.meta.config)
    none = np.zeros((n, N_DECAYS, p), np.float32), np.zeros((n, N_DECAYS), np.float32)
    with torch.no_grad():
        adapted = loop.recommender.adapt(prepared, GradientSums(*map(torch.from_numpy, none)))
        shares = prepared.shares.numpy()
    judgement = loop.recommender.judge(prepared, targets)
    return Tasks(
        had,
        prepared.candidates.items,
        adapted.inputs.numpy(),
        prepared.candidates.context,
        targets,
        np.ones(n, np.int64),
        judgement.positions.astype(np.int32),
        judgement.probabilities,
        *none,
        shares,
    )


def with_gradients(tasks: Tasks) -> Tasks:
    """Return the tasks of users of whom five events were judged before."""
    rng = np.random.default_rng(0)
    sums = rng.normal(size=tasks.gradient_sums.shape).astype(np.float32)
    counts = np.full_like(tasks.gradient_counts, 5)
    return replace(tasks, gradient_sums=sums, gradient_counts=counts)


def two_candidates(*signals: float) -> Tasks:
    """Return one task, its event of the second item, told apart by the first adapted signal."""
    inputs = np.zeros((1, 2, N_INPUTS), np.float32)
    inputs[0, :, N_TENURE_SIGNALS] = signals
    return Tasks(
        histories([2]),
        np.array([[0, 1]], np.int32),
        inputs,
        np.zeros((1, N_CONTEXTS), np.float32),
        np.array([1], np.int32),
        np.array([1]),
        np.array([1], np.int32),
        np.full((1, 2), 0.5, np.float32),
        np.zeros((1, N_DECAYS, P), np.float32),
        np.zeros((1, N_DECAYS), np.float32),
        np.ones((1, 1), np.float32),
    )


def item_loss(loop: OuterLoop, tasks: Tasks) -> float:
    """Return the cross-entropy of the adapted users' vectors over all items, in nats."""
    recommender, encoder, h = loop.recommender, loop.meta.encoder, tasks.histories
    with torch.no_grad():
        encoded = recommender.encode(h.items, h.actions, h.times_s, h.features)
        shift = loop.meta.user_loop(encoder, encoded, loop.meta.negatives, first_order=True)
        logits = (encoded.latest + shift) @ encoder.items.T + encoder.bias
        return float(F.cross_entropy(logits, torch.from_numpy(tasks.targets).long()))


def parameters(loop: OuterLoop, *parts: str) -> dict[str, Tensor]:
    """Return a copy of the meta-parameters, of some parts or of all."""
    return {
        name: value.detach().clone()
        for name, value in loop.meta.named_parameters()
        if not parts or name.split(".")[0] in parts
    }


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    """Equal to the bit."""
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def are_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Return whether no parameter differs."""
    return all(torch.equal(value, other[name]) for name, value in one.items())
