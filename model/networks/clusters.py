"""Task clusters: kinds of users, each with initial fast weights of its own.

A user belongs to every cluster by a share: a softmax over how far the encoder's latest hidden
vector, which is known before anything is adapted, points towards each cluster's prototype.
Prototypes are learned with the encoder. Someone of whom nothing is known belongs to all by the same
shares. One cluster is plain MAML.

Source: Yao et al. 2019, HSML (arXiv:1905.05301), for the soft assignment; here there is one layer
of clusters, and they mix initial values where it gates them.

Letters: B tasks, D width, G clusters, P fast weights.
"""

import torch
from torch import Tensor, nn

_LEAST = 1e-6  # of all users' shares in a cluster: a share underflows to zero


def new_prototypes(clusters: int, width: int) -> nn.Parameter:
    """Return (G, D) prototypes, drawn at random: equal ones would never part.

    The only one of a single cluster is all zeros, and gets no gradient: its share is one.
    """
    drawn = torch.randn(clusters, width) if clusters > 1 else torch.zeros(1, width)
    return nn.Parameter(drawn, requires_grad=clusters > 1)


def mean_moves(start: Tensor, adapted: Tensor, shares: Tensor, total: Tensor) -> Tensor:
    """Return how far the users of each cluster went from where they started, on average: (G, P).

    ``total`` is (G,): the sum of the shares. If it is that of more users than these (of other
    processes), the results are to be added up. A cluster without anybody stays where it is.
    """
    moves = adapted - shares @ start  # (B, P)
    return (shares / total.clamp(min=_LEAST)).T @ moves
