"""The scorer in one loop over users, for the CPU: inputs, scores, gradients, shares of a score.

``scorer`` says what is computed, and is what learning differentiates; this is the same (a test
holds them to each other), but what lies between stays in the fastest memory, places that are only
padding cost nothing, and a small micro-batch does not wait for a hundred calls.

Letters: B users, C candidates, K listed of them, I inputs, N items, W hidden width.
"""

from typing import NamedTuple

import numpy as np

from headrace.model.arrays import Floats, Longs
from headrace.model.networks.scorer import STANDARD_LIMITS, Scorer
from headrace.model.passes.arithmetic import exp, fused, gelu, gelu_and_slope, multiply, padded

_TILE = 64  # candidates
_LOWEST, _HIGHEST = np.float32(STANDARD_LIMITS[0]), np.float32(STANDARD_LIMITS[1])


class Weights(NamedTuple):
    """The scorer's own, each size padded."""

    scale: Floats  # (I,) of inputs, to be standardised
    offset: Floats  # (I,)
    mean: Floats  # (I,)
    linear: Floats  # (I,)
    first: Floats  # (W, I)
    first_back: Floats  # (I, W) transposed
    second: Floats  # (W, W)
    second_back: Floats  # (W, W) transposed
    second_bias: Floats  # (W,)
    last: Floats  # (W,)


class _Memory(NamedTuple):
    """What lies between for one user."""

    standard: Floats  # (I, C) standardised inputs
    first: Floats  # (W, C) of the first layer
    second: Floats  # (W, C) of the second
    first_slope: Floats  # (W, C)
    second_slope: Floats  # (W, C)


def weights_of(scorer: Scorer) -> Weights:
    """Return the weights of a scorer on the CPU as the loops take them."""
    whole = scorer.whole()
    return Weights(
        padded(scorer.is_used / whole.std),
        padded(-whole.mean / whole.std),
        padded(whole.mean),
        padded(whole.linear),
        padded(whole.first),
        padded(whole.first.T),
        padded(scorer.second.weight),
        padded(scorer.second.weight.T),
        padded(scorer.second.bias),
        padded(scorer.last.weight[0]),
    )


@fused
def write_inputs(
    signals: Floats,
    residual: Floats,
    affinities: Floats,
    n_items: int,
    items: Longs,
    filled: Longs,
    inputs: Floats,
) -> None:
    """Write the inputs: signals, residual, affinity.

    Args:
        signals: (B, C, I - 2).
        residual: (N,).
        affinities: (B, C).
        n_items: items from this index on are too new for a residual.
        items: (B, C) item index.
        filled: (B,) how many candidates each user has.
        inputs: (B, C, I) zeros, written to.
    """
    n = signals.shape[2]
    for b in range(len(items)):
        for c in range(filled[b]):
            z = np.uint32(items[b, c])
            for i in range(n):
                inputs[b, c, i] = signals[b, c, i]
            if z < n_items:
                inputs[b, c, n] = residual[z]
            inputs[b, c, n + 1] = affinities[b, c]


@fused
def score(
    weights: Weights, inputs: Floats, filled: Longs, shifts: Floats, users: Floats, scores: Floats
) -> None:
    """Write the (B, C) scores, minus infinity behind the candidates.

    Args:
        weights: the scorer's.
        inputs: (B, C, I).
        filled: (B,) how many candidates each user has.
        shifts: (B, I) of the linear part, on standardised inputs.
        users: (B, W) what context, bias and fast weights add to the first layer.
        scores: (B, C) written to.
    """
    memory = _new_memory(weights, inputs.shape[1])
    for b in range(len(inputs)):
        n = filled[b]
        scores[b, :n] = 0
        scores[b, n:] = -np.inf
        _start(weights, inputs[b], shifts[b], users[b], memory, scores[b], n)
        gelu(memory.first, n)
        multiply(weights.second, memory.first, memory.second, n)
        gelu(memory.second, n)
        _add_last(weights.last, memory.second, scores[b], n)


@fused
def learn(
    weights: Weights,
    inputs: Floats,
    filled: Longs,
    shifts: Floats,
    users: Floats,
    places: Longs,
    scores: Floats,
    probabilities: Floats,
    gradients: Floats,
) -> None:
    """Write scores too, and which shifts of both layers make the event's place likelier.

    Args:
        places: (B,) of the event's item among the candidates, negative for none.
        probabilities: (B, C) zeros, written to: the softmax of the scores.
        gradients: (B, I + W) zeros, written to: of the logarithm of the place's probability.
        weights, inputs, filled, shifts, users, scores: as in ``score``.
    """
    memory = _new_memory(weights, inputs.shape[1])
    n_inputs = inputs.shape[2]
    for b in range(len(inputs)):
        n = filled[b]
        scores[b, :n] = 0
        scores[b, n:] = -np.inf
        _start(weights, inputs[b], shifts[b], users[b], memory, scores[b], n)
        gelu_and_slope(memory.first, memory.first_slope, n)
        multiply(weights.second, memory.first, memory.second, n)
        gelu_and_slope(memory.second, memory.second_slope, n)
        _add_last(weights.last, memory.second, scores[b], n)
        _softmax(scores[b], probabilities[b], n)
        if places[b] >= 0:
            _ascend(weights, memory, probabilities[b], places[b], n, n_inputs, gradients[b])


@fused
def explain(
    weights: Weights,
    inputs: Floats,
    listed: Longs,
    shifts: Floats,
    users: Floats,
    shares: Floats,
) -> None:
    """Write what each input has of a listed candidate's score: its gradient times the input.

    The input is held against its mean.

    Args:
        listed: (B, K) places among the candidates.
        shares: (B, K, I) written to.
        weights, inputs, shifts, users: as in ``score``.
    """
    n, n_inputs = listed.shape[1], inputs.shape[2]
    memory = _new_memory(weights, n)
    chosen, scores = np.zeros((n, n_inputs), np.float32), np.zeros(n, np.float32)
    for b in range(len(inputs)):
        for k in range(n):
            chosen[k] = inputs[b, listed[b, k]]
        _start(weights, chosen, shifts[b], users[b], memory, scores, n)
        gelu_and_slope(memory.first, memory.first_slope, n)
        multiply(weights.second, memory.first, memory.second, n)
        gelu_and_slope(memory.second, memory.second_slope, n)
        _go_back(weights, memory, n)
        memory.first[:] = memory.second * memory.first_slope
        back = np.zeros((len(weights.scale), n), np.float32)
        multiply(weights.first_back, memory.first, back, n)
        for i in range(n_inputs):
            for k in range(n):
                s = memory.standard[i, k]
                slope = weights.linear[i]
                if _LOWEST < s < _HIGHEST:
                    slope += weights.scale[i] * (back[i, k] + shifts[b, i])
                shares[b, k, i] = slope * (chosen[k, i] - weights.mean[i])


@fused
def _start(
    weights: Weights,
    inputs: Floats,
    shift: Floats,
    user: Floats,
    memory: _Memory,
    scores: Floats,
    n: int,
) -> None:
    """Write the standardised inputs, the linear part of the scores and the first layer."""
    standard = memory.standard
    for start in range(0, n, _TILE):  # inputs stand by candidate: a tile's are read at once
        end = min(n, start + _TILE)
        for i in range(inputs.shape[1]):
            scale, offset = weights.scale[i], weights.offset[i]
            linear, own = weights.linear[i], shift[i]
            for c in range(start, end):
                x = inputs[c, i]
                s = min(max(x * scale + offset, _LOWEST), _HIGHEST)
                standard[i, c] = s
                scores[c] += x * linear + s * own
    for w in range(len(user)):
        memory.first[w, :n] = user[w]
        memory.second[w, :n] = weights.second_bias[w]
    multiply(weights.first, standard, memory.first, n)


@fused
def _add_last(last: Floats, second: Floats, scores: Floats, n: int) -> None:
    for w in range(len(last)):
        for c in range(n):
            scores[c] += last[w] * second[w, c]


@fused
def _softmax(scores: Floats, probabilities: Floats, n: int) -> None:
    highest, total = np.float32(-np.inf), np.float32(0)
    for c in range(n):
        highest = max(highest, scores[c])
    for c in range(n):
        probabilities[c] = exp(scores[c] - highest)
        total += probabilities[c]
    for c in range(n):
        probabilities[c] /= total


@fused
def _ascend(
    weights: Weights,
    memory: _Memory,
    probabilities: Floats,
    place: int,
    n: int,
    n_inputs: int,
    gradient: Floats,
) -> None:
    """Write the gradient of one user: that of the place's score, less what was expected of it."""
    pull = -probabilities[:n]
    pull[place] += 1
    for i in range(n_inputs):
        total = np.float32(0)
        for c in range(n):
            total += pull[c] * memory.standard[i, c]
        gradient[i] = total
    _go_back(weights, memory, n)
    for w in range(len(gradient) - n_inputs):
        total = np.float32(0)
        for c in range(n):
            total += pull[c] * memory.first_slope[w, c] * memory.second[w, c]
        gradient[n_inputs + w] = total


@fused
def _go_back(weights: Weights, memory: _Memory, n: int) -> None:
    """Write the scores' gradients of what the first layer gives in place of the second's."""
    for w in range(len(weights.last)):
        for c in range(n):
            memory.second_slope[w, c] *= weights.last[w]
        memory.second[w, :n] = 0
    multiply(weights.second_back, memory.second_slope, memory.second, n)


@fused
def _new_memory(weights: Weights, n: int) -> _Memory:
    width = len(weights.last)
    return _Memory(
        np.zeros((len(weights.scale), n), np.float32),
        np.zeros((width, n), np.float32),
        np.zeros((width, n), np.float32),
        np.zeros((width, n), np.float32),
        np.zeros((width, n), np.float32),
    )
