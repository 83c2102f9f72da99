"""Fused passes: what serves on a CPU, as tensors in and out.

The loops are in ``fused_scorer`` and ``fused_loop``. Nothing can be differentiated through them:
learning takes the modules, and so does a GPU.

Letters: B users, C candidates, K listed of them, I inputs, J of them adapted, X context, D width,
W hidden width, P fast weights.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from headrace.model import fused_loop, fused_scorer
from headrace.model.arrays import Floats, Longs
from headrace.model.encoder import Encoded, Encoder
from headrace.model.inner_loop import UserLoop
from headrace.model.scorer import ADAPTED, N_INPUTS, Scorer


class Weights(NamedTuple):
    """What the loops take of meta-parameters on the CPU."""

    scorer: fused_scorer.Weights
    loop: fused_loop.Weights


def weights_of(scorer: Scorer, loop: UserLoop, encoder: Encoder, negatives: Tensor) -> Weights:
    """Return what the loops take, as the meta-parameters are now."""
    return Weights(
        fused_scorer.weights_of(scorer), fused_loop.weights_of(loop, encoder, negatives.numpy())
    )


def shift(weights: Weights, start: Tensor, encoded: Encoded) -> Tensor:
    """Return the (B, D) shifts of the user vectors from ``start``, as ``UserLoop`` does."""
    shifts = _floats(start).copy()
    items = np.ascontiguousarray(encoded.items.numpy())
    fused_loop.adapt(weights.loop, _floats(encoded.hidden), items, shifts)
    return torch.from_numpy(shifts)


def affinities(
    weights: Weights, users: Tensor, n_items: int, items: Tensor, filled: Longs
) -> Tensor:
    """Return the (B, C) affinities, as ``Recommender.affinities`` does."""
    out = np.zeros(items.shape, np.float32)
    fused_loop.write_affinities(weights.loop, _floats(users), n_items, items.numpy(), filled, out)
    return torch.from_numpy(out)


def inputs(
    residual: Tensor,
    n_items: int,
    signals: Tensor,
    items: Tensor,
    filled: Longs,
    affinities: Tensor,
) -> Tensor:
    """Return the (B, C, I) inputs of the scorer, as ``Recommender.inputs`` does."""
    out = np.zeros((*items.shape, N_INPUTS), np.float32)
    fused_scorer.write_inputs(
        *(_floats(each) for each in (signals, residual, affinities)),
        n_items,
        items.numpy(),
        filled,
        out,
    )
    return torch.from_numpy(out)


class Users(NamedTuple):
    """What the scorer has of each user."""

    inputs: Tensor  # (B, C, I)
    context: Tensor  # (B, X)
    linear: Tensor  # (B, J) shift of the linear part
    hidden: Tensor  # (B, W) shift of the first layer


def score(weights: Weights, scorer: Scorer, users: Users, filled: Longs) -> Tensor:
    """Return the (B, C) scores, minus infinity behind the ``filled`` (B,) candidates."""
    scores = np.empty(users.inputs.shape[:2], np.float32)
    fused_scorer.score(
        weights.scorer,
        _floats(users.inputs),
        filled,
        _shifts(users),
        _first(scorer, users),
        scores,
    )
    return torch.from_numpy(scores)


def learn(
    weights: Weights, scorer: Scorer, users: Users, filled: Longs, places: Longs
) -> tuple[Tensor, Floats, Floats]:
    """Return scores, their (B, C) softmax, and the (B, P) gradients of the log of it at a place.

    A user whose (B,) place is negative has no gradient.
    """
    scores, probabilities = (
        np.empty(users.inputs.shape[:2], np.float32),
        np.zeros(users.inputs.shape[:2], np.float32),
    )
    gradients = np.zeros((len(users.inputs), N_INPUTS + scorer.hidden), np.float32)
    fused_scorer.learn(
        weights.scorer,
        _floats(users.inputs),
        filled,
        _shifts(users),
        _first(scorer, users),
        places,
        scores,
        probabilities,
        gradients,
    )
    return torch.from_numpy(scores), probabilities, gradients[:, ADAPTED]


def explain(weights: Weights, scorer: Scorer, users: Users, listed: Tensor) -> Tensor:
    """Return the (B, K, I) shares that inputs have of the scores of (B, K) listed candidates."""
    shares = np.empty((*listed.shape, N_INPUTS), np.float32)
    fused_scorer.explain(
        weights.scorer,
        _floats(users.inputs),
        listed.numpy(),
        _shifts(users),
        _first(scorer, users),
        shares,
    )
    return torch.from_numpy(shares)


def _shifts(users: Users) -> Floats:
    """Return the shifts of all inputs, of those that are not adapted zero: (B, I)."""
    return _floats(F.pad(users.linear, (N_INPUTS - users.linear.shape[1], 0)))


def _first(scorer: Scorer, users: Users) -> Floats:
    """Return what context, bias and fast weights add to the first layer of each user: (B, W)."""
    added = F.linear(users.context, scorer.context.weight, scorer.first.bias)
    return _floats(added + users.hidden)


def _floats(tensor: Tensor) -> Floats:
    array: Floats = np.ascontiguousarray(tensor.detach().numpy())
    return array
