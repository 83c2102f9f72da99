"""Shown: what users' lists were made from, kept to judge their next events by.

The list that a user had before an event was made by the very passes that judging would run again,
from the same history. What they found is kept instead: the event is judged by the list as it was
shown, which is less work and nearer to the truth.

Letters: B users, C candidates, I inputs, X context, P popular items, G clusters, K places listed.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from headrace.model.arrays import Floats, Halves, Ints, Longs


class Shown(NamedTuple):
    """Lists of B users; of one user's, nothing has the first dimension, nor padding."""

    items: Ints  # (B, C) the candidates, -1 padded
    inputs: Halves  # (B, C, I) of the scorer at the initial weights: most of what is kept
    scores: Floats  # (B, C) of the adapted user
    listed: Longs  # (B, K) places among the candidates
    popular: Ints  # (B, P) items that popularity would have listed, best first, -1 padded
    context: Floats  # (B, X)
    shares: Floats  # (B, G) of the user in each task cluster

    def users(self) -> Iterator["Shown"]:
        """Yield what is of each user, without padding, as copies: the whole is let go."""
        for row, n in enumerate((self.items >= 0).sum(1).tolist()):
            yield Shown(
                self.items[row, :n].copy(),
                self.inputs[row, :n].copy(),
                self.scores[row, :n].copy(),
                *(part[row].copy() for part in self[3:]),
            )


def stack(users: Sequence[Shown]) -> Shown:
    """Put lists of single users, at least one, into a micro-batch."""
    b, c = len(users), max(1, *(len(user.items) for user in users))
    k, p = (max(len(user[part]) for user in users) for part in (3, 4))
    out = Shown(
        np.full((b, c), -1, np.int32),
        np.zeros((b, c, users[0].inputs.shape[1]), np.float16),
        np.full((b, c), -np.inf, np.float32),
        np.full((b, k), c, np.int64),  # no candidate's place
        np.full((b, p), -1, np.int32),
        np.stack([user.context for user in users]),
        np.stack([user.shares for user in users]),
    )
    for row, user in enumerate(users):
        n = len(user.items)
        out.items[row, :n], out.inputs[row, :n], out.scores[row, :n] = user[:3]
        out.listed[row, : len(user.listed)] = user.listed
        out.popular[row, : len(user.popular)] = user.popular
    return out
