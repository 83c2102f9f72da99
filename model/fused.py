"""Fused passes: what serves on a CPU, as tensors in and out.

The loops are in ``fused_scorer`` and ``fused_loop``. Nothing can be differentiated through them:
learning takes the modules, and so does a GPU.

Letters: B users, C candidates, K listed of them, I inputs, D width, W hidden width, P fast weights.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from headrace.model import fused_loop, fused_scorer
from headrace.model.encoder import Encoded, Encoder
from headrace.model.inner_loop import UserLoop
from headrace.model.scorer import ADAPTED, N_INPUTS, Scorer
from headrace.model.signals import Floats, Longs


class Weights(NamedTuple):
    """What the loops take of meta-parameters on the CPU."""

    scorer: fused_scorer.Weights
    loop: fused_loop.Weights


def weights_of(scorer: Scorer, loop: UserLoop, encoder: Encoder, negatives: Tensor) -> Weights:
    """Return what the loops take, as the meta-parameters are now."""
    return Weights(
        fused_scorer.weights_of(scorer), fused_loop.weights_of(loop, encoder, negatives.numpy())
    )


def shift(weights: Weights, loop: UserLoop, encoded: Encoded) -> Tensor:
    """Return the (B, D) shifts of the user vectors, as ``UserLoop.forward`` does."""
    shifts = _floats(loop.initial(encoded.latest)).copy()
    items = np.ascontiguousarray(encoded.items.numpy())
    fused_loop.adapt(weights.loop, _floats(encoded.hidden), items, shifts)
    return torch.from_numpy(shifts)


def inputs(
    encoder: Encoder,
    residual: Tensor,
    n_items: int,
    signals: Tensor,
    items: Tensor,
    filled: Longs,
    users: Tensor,
    averages: Tensor,
) -> Tensor:
    """Return the (B, C, I) inputs of the scorer, as ``Recommender.inputs`` does."""
    out = np.zeros((*items.shape, N_INPUTS), np.float32)
    fused_scorer.write_inputs(
        *(_floats(each) for each in (signals, residual, encoder.items, encoder.bias)),
        n_items,
        items.numpy(),
        filled,
        *(_floats(each) for each in (users, averages)),
        out,
    )
    return torch.from_numpy(out)


def score(
    weights: Weights,
    scorer: Scorer,
    inputs: Tensor,
    context: Tensor,
    linear: Tensor,
    hidden: Tensor,
    filled: Longs,
) -> Tensor:
    """Return the (B, C) scores, minus infinity behind the ``filled`` (B,) candidates."""
    scores = np.empty(inputs.shape[:2], np.float32)
    users = _users(scorer, context, hidden)
    fused_scorer.score(weights.scorer, _floats(inputs), filled, _shifts(linear), users, scores)
    return torch.from_numpy(scores)


def learn(
    weights: Weights,
    scorer: Scorer,
    inputs: Tensor,
    context: Tensor,
    linear: Tensor,
    hidden: Tensor,
    filled: Longs,
    places: Longs,
) -> tuple[Tensor, Floats, Floats]:
    """Return scores, their (B, C) softmax, and the (B, P) gradients of the log of it at a place.

    A user whose (B,) place is negative has no gradient.
    """
    scores, probabilities = (
        np.empty(inputs.shape[:2], np.float32),
        np.zeros(inputs.shape[:2], np.float32),
    )
    gradients = np.zeros((len(inputs), N_INPUTS + scorer.hidden), np.float32)
    fused_scorer.learn(
        weights.scorer,
        _floats(inputs),
        filled,
        _shifts(linear),
        _users(scorer, context, hidden),
        places,
        scores,
        probabilities,
        gradients,
    )
    return torch.from_numpy(scores), probabilities, gradients[:, ADAPTED]


def explain(
    weights: Weights,
    scorer: Scorer,
    inputs: Tensor,
    context: Tensor,
    linear: Tensor,
    hidden: Tensor,
    listed: Tensor,
) -> Tensor:
    """Return the (B, K, I) shares that inputs have of the scores of (B, K) listed candidates."""
    shares = np.empty((*listed.shape, N_INPUTS), np.float32)
    fused_scorer.explain(
        weights.scorer,
        _floats(inputs),
        listed.numpy(),
        _shifts(linear),
        _users(scorer, context, hidden),
        shares,
    )
    return torch.from_numpy(shares)


def _shifts(linear: Tensor) -> Floats:
    """Return the shifts of all inputs, of those that are not adapted zero: (B, I)."""
    return _floats(F.pad(linear, (N_INPUTS - linear.shape[1], 0)))


def _users(scorer: Scorer, context: Tensor, hidden: Tensor) -> Floats:
    """Return what context, bias and fast weights add to the first layer of each user: (B, W)."""
    return _floats(F.linear(context, scorer.context.weight, scorer.first.bias) + hidden)


def _floats(tensor: Tensor) -> Floats:
    array: Floats = np.ascontiguousarray(tensor.detach().numpy())
    return array
