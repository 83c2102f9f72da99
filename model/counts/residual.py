"""Residual: how often each item was taken, against how often the scorer expected it to be.

What counts and an encoder leave unexplained of an item: a package that nobody buys twice, a title
that sells whatever stands beside it.

Letters: B tasks, C candidates, N items.
"""

import numpy as np

from headrace.model.arrays import Floats, Ints

FADE = 0.99998  # for each judged event: old surprises weigh 1/e after 50,000
PRIOR = 0.5  # events taken and expected of an item nobody judged


class Residual:
    """Fading counts of each item."""

    def __init__(self, capacity: int) -> None:
        self.taken: Floats = np.full(capacity, PRIOR, np.float32)
        self.expected: Floats = np.full(capacity, PRIOR, np.float32)

    @classmethod
    def of(cls, taken: Floats, expected: Floats) -> "Residual":
        """Return the residual with these (N,) counts."""
        residual = cls(0)
        residual.taken, residual.expected = taken.copy(), expected.copy()
        return residual

    def grow(self, capacity: int) -> None:
        """Make room for item indexes below ``capacity``."""
        more = (0, capacity - len(self.taken))
        self.taken = np.pad(self.taken, more, constant_values=PRIOR)
        self.expected = np.pad(self.expected, more, constant_values=PRIOR)

    def forget(self, indexes: Ints) -> None:
        """Forget items whose index is about to be given to others."""
        self.taken[indexes] = PRIOR
        self.expected[indexes] = PRIOR

    def count(self, items: Ints, probabilities: Floats, taken: Ints) -> None:
        """Count B events: (B, C) candidates, -1 padded, their probabilities, what was taken."""
        n, fade = len(self.taken), FADE ** len(taken)
        filled = items >= 0
        expected = np.bincount(items[filled], probabilities[filled], n)
        for counts, new in (
            (self.taken, np.bincount(taken, minlength=n)),
            (self.expected, expected),
        ):
            counts *= fade
            counts += (1 - fade) * PRIOR + new.astype(np.float32)

    def logs(self) -> Floats:
        """Return the (N,) log of taken over expected."""
        logs: Floats = np.log(self.taken / self.expected)
        return logs
