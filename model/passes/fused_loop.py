"""The user vector's inner loop and affinities in loops over users, for the CPU.

``inner_loop`` says what is computed, and is what learning differentiates; this is the same (a test
holds them to each other), but what lies between stays in the fastest memory, and interactions that
are only padding cost nothing.

Letters: B users, C candidates, T interactions, D width, S support, M negatives, N items.
"""

from typing import NamedTuple

import numpy as np
from torch.nn import functional as F

from headrace.model.arrays import Floats, Longs
from headrace.model.networks.encoder import Encoder
from headrace.model.networks.inner_loop import LOGIT_LIMIT, UserLoop
from headrace.model.networks.scorer import AFFINITY_LIMITS
from headrace.model.passes.arithmetic import exp, fused, multiply, padded

_LIMIT = np.float32(LOGIT_LIMIT)
_LEAST, _MOST = np.float32(AFFINITY_LIMITS[0]), np.float32(AFFINITY_LIMITS[1])


class Weights(NamedTuple):
    """The loop's own, and the items it is about."""

    items: Floats  # (N, D)
    bias: Floats  # (N,)
    negatives: Longs  # (M,) item index
    negative_items: Floats  # (D, M), D padded
    negative_bias: Floats  # (M,)
    steps: Floats  # (steps, D) lengths
    fade: np.float32
    patience: np.float32


class _Support(NamedTuple):
    """One user's support set, S at most."""

    asked: Longs  # (S,) what came next
    weights: Floats  # (S,) fading with age
    hidden: Floats  # (S, D) padded both ways
    target_logits: Floats  # (S,) without a shift
    exps: Floats  # (S, M) of the negatives' logits without a shift; zero for what came next
    pushed: Floats  # (M,) what a shift multiplies them by
    push: Floats  # (M,)


def weights_of(loop: UserLoop, encoder: Encoder, negatives: Longs) -> Weights:
    """Return what the loop needs of meta-parameters on the CPU."""
    items, bias = encoder.items.detach().numpy(), encoder.bias.detach().numpy()
    steps = F.softplus(loop.raw_step.detach()).reshape(len(loop.raw_step), -1)
    return Weights(
        items,
        bias,
        negatives,
        padded(encoder.items.detach()[negatives])[: len(negatives)].T.copy(),
        bias[negatives],
        steps.expand(-1, items.shape[1]).contiguous().numpy()[: loop.inner_steps],
        np.float32(F.softplus(loop.raw_fade.detach())),
        np.float32(F.softplus(loop.raw_patience.detach())),
    )


@fused
def adapt(weights: Weights, hidden: Floats, items: Longs, shifts: Floats) -> None:
    """Take the steps of each user.

    Args:
        weights: the loop's.
        hidden: (B, T, D) of the encoder.
        items: (B, T) item index, oldest first, -1 padded.
        shifts: (B, D) where the users start, written to.
    """
    support = _new_support(weights, hidden.shape[1] - 1)
    for b in range(len(hidden)):
        n = _write_support(weights, hidden[b], items[b], support)
        total = support.weights[:n].sum()
        trust = total / (total + weights.patience)
        for step in range(len(weights.steps) if n else 0):
            gradient = _gradient(weights, support, n, total, shifts[b])
            for d in range(len(gradient)):
                shifts[b, d] -= weights.steps[step, d] * trust * gradient[d]


@fused
def write_affinities(
    weights: Weights, users: Floats, n_items: int, items: Longs, filled: Longs, affinities: Floats
) -> None:
    """Write how far each candidate's logit is above the average negative's.

    Args:
        weights: the loop's.
        users: (B, D) user vectors.
        n_items: items from this index on are too new for one.
        items: (B, C) item index.
        filled: (B,) how many candidates each user has.
        affinities: (B, C) zeros, written to.
    """
    width, logits = users.shape[1], np.zeros_like(weights.negative_bias)
    for b in range(len(users)):
        average = _average(weights, users[b], logits)
        for c in range(filled[b]):
            z = np.uint32(items[b, c])
            if z < n_items:
                affinity = weights.bias[z] - average
                for d in range(width):
                    affinity += weights.items[z, d] * users[b, d]
                affinities[b, c] = min(max(affinity, _LEAST), _MOST)


@fused
def _average(weights: Weights, user: Floats, logits: Floats) -> np.float32:
    """Return the logarithm of the mean exponential of the negatives' (M,) logits."""
    logits[:] = weights.negative_bias
    for d in range(len(user)):
        for m in range(len(logits)):
            logits[m] += user[d] * weights.negative_items[d, m]
    highest, total = logits.max(), np.float32(0)
    for m in range(len(logits)):
        total += exp(logits[m] - highest)
    average: np.float32 = highest + np.log(total / np.float32(len(logits)))
    return average


@fused
def _write_support(weights: Weights, hidden: Floats, items: Longs, support: _Support) -> int:
    """Write one user's support set; return S."""
    n, last, width = 0, len(items) - 2, hidden.shape[1]
    for s in range(last + 1):
        asked = items[s + 1]
        if items[s] < 0 or asked < 0:
            continue
        support.asked[n] = asked
        support.weights[n] = exp(-weights.fade * np.float32(last - s))
        logit = weights.bias[asked]
        for d in range(width):
            support.hidden[n, d] = hidden[s, d]
            logit += hidden[s, d] * weights.items[asked, d]
        support.target_logits[n] = min(max(logit, -_LIMIT), _LIMIT)
        support.exps[n] = weights.negative_bias
        n += 1
    rows = n + n % 2  # ``multiply`` takes two at a time; the one more is not looked at
    multiply(support.hidden[:rows], weights.negative_items, support.exps, len(weights.negatives))
    for s in range(n):
        for m in range(len(weights.negatives)):
            value = exp(min(max(support.exps[s, m], -_LIMIT), _LIMIT))
            support.exps[s, m] = value * np.float32(weights.negatives[m] != support.asked[s])
    return n


@fused
def _gradient(
    weights: Weights, support: _Support, n: int, total: np.float32, shift: Floats
) -> Floats:
    """Return the (D,) gradient at a shift: expected minus observed."""
    pushed, push = support.pushed, support.push
    pushed[:] = 0
    for d in range(len(shift)):
        for m in range(len(pushed)):
            pushed[m] += shift[d] * weights.negative_items[d, m]
    for m in range(len(pushed)):
        pushed[m] = exp(min(max(pushed[m], -_LIMIT), _LIMIT))
        push[m] = 0
    gradient = np.zeros(len(shift), np.float32)
    for s in range(n):
        target, added = weights.items[support.asked[s]], np.float32(0)
        for d in range(len(shift)):
            added += shift[d] * target[d]
        likely = exp(support.target_logits[s] + min(max(added, -_LIMIT), _LIMIT))
        others = np.float32(0)
        for m in range(len(pushed)):
            others += support.exps[s, m] * pushed[m]
        share = support.weights[s] / total / (likely + others)
        for m in range(len(pushed)):
            push[m] += share * support.exps[s, m]
        for d in range(len(shift)):
            gradient[d] -= share * others * target[d]
    for d in range(len(shift)):
        pull = np.float32(0)
        for m in range(len(pushed)):
            pull += push[m] * pushed[m] * weights.negative_items[d, m]
        gradient[d] += pull
    return gradient


@fused
def _new_support(weights: Weights, n: int) -> _Support:
    width, m = weights.negative_items.shape
    return _Support(
        np.zeros(n, np.int64),
        np.zeros(n, np.float32),
        np.zeros((n + 1, width), np.float32),
        np.zeros(n, np.float32),
        np.zeros((n + 1, m), np.float32),
        np.zeros(m, np.float32),
        np.zeros(m, np.float32),
    )
