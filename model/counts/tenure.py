"""Tenure: how far a user is, and how the scorer weighs what users as far take.

What somebody takes first is not what everybody takes: a shop has openers, and a site shows new
users other pages. Each item's events are counted by their users' tenure, and two inputs of the
scorer say how often users as far as this one took it, and whether more of them than others.

These inputs were added after 0.1.0. They stand before all others, apart in files, and a user's fast
weights do not shift their weights: so what either release writes is read by the other.

Letters: N items, S tenures, W hidden width of the scorer.
"""

import torch
from numba import njit
from torch import Tensor, nn

from headrace.model.arrays import Floats

N_TENURES = 10  # S, in doublings of interactions: none, 1, 2 to 3, 4 to 7, ..., 256 and more
BESIDE = 0.5  # of an event counts for the tenures beside it too: few users are exactly as far
FEW = 3.0  # events of an item that its share is held against, so that one or two prove little:
USUAL_SHARE = 0.2  # what counts for one of ten tenures, with halves beside them

TENURE_SIGNALS = ("tenure", "tenure_share")
N_TENURE_SIGNALS = len(TENURE_SIGNALS)
# As they are found on real streams. Inputs of 0.1.0 are measured while a stream is young, which it
# no longer is where a model of 0.1.0 goes on.
MEAN = (1.4, 1.35)
STD = (0.8, 0.4)


class TenureWeights(nn.Module):
    """The scorer's weights of these inputs; they start silent."""

    mean: Tensor
    std: Tensor

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.linear = nn.Parameter(torch.zeros(N_TENURE_SIGNALS))
        self.first = nn.Parameter(torch.zeros(hidden, N_TENURE_SIGNALS))
        self.register_buffer("mean", torch.tensor(MEAN), persistent=False)
        self.register_buffer("std", torch.tensor(STD), persistent=False)


@njit(cache=True, nogil=True)
def tenure_of(n_earlier: int) -> int:
    """Return the tenure of a user with ``n_earlier`` interactions."""
    tenure = 0
    while n_earlier > 0 and tenure < N_TENURES - 1:
        n_earlier //= 2
        tenure += 1
    return tenure


@njit(cache=True, nogil=True)
def count_tenure(tenures: Floats, n_earlier: int) -> None:
    """Count an event of a user with ``n_earlier`` interactions in its item's (S,) tenures."""
    tenure = tenure_of(n_earlier)
    tenures[tenure] += 1
    if tenure > 0:
        tenures[tenure - 1] += BESIDE
    if tenure + 1 < N_TENURES:
        tenures[tenure + 1] += BESIDE
