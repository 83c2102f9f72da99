"""Scorer: a linear part and a small network over each candidate's inputs.

The inputs of a candidate are its counted signals, what the user's items say of it by regression,
its residual (how far it did better than it was expected to) and its affinity, the encoder's score.
A user's fast weights shift the linear part, but for tenure's inputs, and the network's first layer.

Letters: B tasks, C candidates, I inputs, J of them adapted, X context, W hidden width.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from headrace.model.counts import item_regression
from headrace.model.counts.candidate_signals import N_CONTEXTS, SIGNALS
from headrace.model.counts.tenure import N_TENURE_SIGNALS, TenureWeights

INPUTS = (*SIGNALS, *item_regression.INPUTS, "residual", "affinity")
N_INPUTS = len(INPUTS)  # I
AFFINITY = INPUTS.index("affinity")  # the one that the user vector's inner loop moves
ADAPTED = slice(N_TENURE_SIGNALS, None)  # inputs whose linear weights are a user's own
N_ADAPTED = N_INPUTS - N_TENURE_SIGNALS
LINEAR_START = 0.1  # every signal is a reason to like an item until learned otherwise
AFFINITY_LIMITS = (-12.0, 6.0)
STANDARD_LIMITS = (-4.0, 6.0)  # of inputs: a few outliers rule otherwise


class Whole(NamedTuple):
    """What the scorer has for each of its inputs."""

    mean: Tensor  # (I,)
    std: Tensor  # (I,)
    linear: Tensor  # (I,) zero for what is left out
    first: Tensor  # (W, I) of the first layer


class Scorer(nn.Module):
    """Scores candidates from their inputs, one user's fast weights at a time or none."""

    mean: Tensor
    std: Tensor
    is_used: Tensor

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.linear = nn.Parameter(torch.full((N_ADAPTED,), LINEAR_START))
        self.first = nn.Linear(N_ADAPTED, hidden)
        self.context = nn.Linear(N_CONTEXTS, hidden, bias=False)
        self.second = nn.Linear(hidden, hidden)
        self.last = nn.Linear(hidden, 1, bias=False)
        nn.init.zeros_(self.last.weight)  # the network starts silent: the linear part leads
        self.register_buffer("mean", torch.zeros(N_ADAPTED))
        self.register_buffer("std", torch.ones(N_ADAPTED))
        self.tenure = TenureWeights(hidden)
        # (I,) 1, or 0 for an input that is left out (``ablation``).
        self.register_buffer("is_used", torch.ones(N_INPUTS), persistent=False)

    def whole(self) -> "Whole":
        """Return what there is for each input, tenure's among them."""
        return Whole(
            torch.cat([self.tenure.mean, self.mean]),
            torch.cat([self.tenure.std, self.std]),
            torch.cat([self.tenure.linear, self.linear]) * self.is_used,
            torch.cat([self.tenure.first, self.first.weight], 1),
        )

    def forward(
        self,
        inputs: Tensor,
        context: Tensor,
        *,
        linear_shift: Tensor | None = None,
        hidden_shift: Tensor | None = None,
    ) -> Tensor:
        """Return the (B, C) scores.

        Args:
            inputs: (B, C, I).
            context: (B, X).
            linear_shift: (B, J) fast weights of the linear part, on standardised inputs.
            hidden_shift: (B, W) fast weights of the first layer.
        """
        whole = self.whole()
        scale = 1 / whole.std
        standard = torch.addcmul(-whole.mean * scale, inputs, scale * self.is_used).clamp(
            *STANDARD_LIMITS
        )
        user = self.context(context)  # (B, W)
        if hidden_shift is not None:
            user = user + hidden_shift
        first = F.linear(standard, whole.first, self.first.bias) + user[:, None]  # (B, C, W)
        network = self.last(F.gelu(self.second(F.gelu(first)))).squeeze(-1)  # (B, C)
        scores: Tensor = inputs @ whole.linear + network
        if linear_shift is not None:
            scores = scores + torch.einsum("bcj,bj->bc", standard[..., ADAPTED], linear_shift)
        return scores
