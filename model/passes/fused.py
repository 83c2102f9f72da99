"""Fused passes: what serves on a CPU, as tensors in and out.

The loops are in ``fused_scorer`` and ``fused_loop``. Nothing can be differentiated through them.

Letters: B users, C candidates, K listed of them, I inputs, J of them adapted, W hidden width.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from headrace.model.arrays import Floats, Longs
from headrace.model.networks.encoder import Encoded
from headrace.model.networks.meta_parameters import MetaParameters
from headrace.model.networks.scorer import ADAPTED, N_INPUTS
from headrace.model.passes import fused_loop, fused_scorer
from headrace.model.passes.modules import Users


class _Weights(NamedTuple):
    """What the loops take of meta-parameters on the CPU."""

    scorer: fused_scorer.Weights
    loop: fused_loop.Weights


class FusedPasses:
    """Implements ``passes.Passes`` in loops over users."""

    def __init__(self, meta: MetaParameters) -> None:
        self._meta = meta
        self._held: _Weights | None = None

    def hold(self) -> None:
        """Keep the weights in the form the loops take, until the meta-parameters change.

        Else each pass converts them, which takes a small micro-batch a tenth of its time.
        """
        self._held = None
        self._held = self._weights

    @property
    def _weights(self) -> _Weights:
        meta = self._meta
        return self._held or _Weights(
            fused_scorer.weights_of(meta.scorer),
            fused_loop.weights_of(meta.user_loop, meta.encoder, meta.negatives.numpy()),
        )

    def shift(self, encoded: Encoded) -> Tensor:
        """See ``Passes``."""
        loop = self._meta.user_loop
        shifts = _floats(loop.initial(loop.shares(encoded.latest))).copy()
        items = np.ascontiguousarray(encoded.items.numpy())
        fused_loop.adapt(self._weights.loop, _floats(encoded.hidden), items, shifts)
        return torch.from_numpy(shifts)

    def affinities(self, users: Tensor, items: Tensor, filled: Longs) -> Tensor:
        """See ``Passes``."""
        out = np.zeros(items.shape, np.float32)
        n_items = int(self._meta.n_items)
        fused_loop.write_affinities(
            self._weights.loop, _floats(users), n_items, items.numpy(), filled, out
        )
        return torch.from_numpy(out)

    def inputs(self, signals: Tensor, items: Tensor, filled: Longs, affinities: Tensor) -> Tensor:
        """See ``Passes``."""
        out = np.zeros((*items.shape, N_INPUTS), np.float32)
        fused_scorer.write_inputs(
            *(_floats(each) for each in (signals, self._meta.residual, affinities)),
            int(self._meta.n_items),
            items.numpy(),
            filled,
            out,
        )
        return torch.from_numpy(out)

    def score(self, users: Users, filled: Longs) -> Tensor:
        """See ``Passes``."""
        scores = np.empty(users.inputs.shape[:2], np.float32)
        inputs, shifts, first = self._given(users)
        fused_scorer.score(self._weights.scorer, inputs, filled, shifts, first, scores)
        return torch.from_numpy(scores)

    def learn(self, users: Users, filled: Longs, places: Longs) -> tuple[Tensor, Floats, Floats]:
        """See ``Passes``."""
        inputs, shifts, first = self._given(users)
        scores = np.empty(inputs.shape[:2], np.float32)
        probabilities = np.zeros(inputs.shape[:2], np.float32)
        gradients = np.zeros((len(inputs), N_INPUTS + self._meta.scorer.hidden), np.float32)
        fused_scorer.learn(
            self._weights.scorer,
            inputs,
            filled,
            shifts,
            first,
            places,
            scores,
            probabilities,
            gradients,
        )
        return torch.from_numpy(scores), probabilities, gradients[:, ADAPTED]

    def explain(self, users: Users, listed: Tensor) -> Tensor:
        """See ``Passes``."""
        shares = np.empty((*listed.shape, N_INPUTS), np.float32)
        inputs, shifts, first = self._given(users)
        fused_scorer.explain(self._weights.scorer, inputs, listed.numpy(), shifts, first, shares)
        return torch.from_numpy(shares)

    def _given(self, users: Users) -> tuple[Floats, Floats, Floats]:
        """Return what the loops take of users.

        The (B, C, I) inputs; the (B, I) shifts of all, zero for those that are not adapted; and
        the (B, W) sums of context, bias and fast weights that each adds to the first layer.
        """
        scorer = self._meta.scorer
        shifts = F.pad(users.linear, (N_INPUTS - users.linear.shape[1], 0))
        first = F.linear(users.context, scorer.context.weight, scorer.first.bias) + users.hidden
        return _floats(users.inputs), _floats(shifts), _floats(first)


def _floats(tensor: Tensor) -> Floats:
    array: Floats = np.ascontiguousarray(tensor.detach().numpy())
    return array
