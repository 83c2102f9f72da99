"""Significance: is one ranking better than another, on the same events, beyond chance of users.

Events of one user resemble each other, so users are drawn, not events: the cluster bootstrap, Field
and Welsh 2007 (doi:10.1111/j.1467-9868.2007.00593.x); for few users its intervals are widened,
Hesterberg 2015 (doi:10.1080/00031305.2015.1089789).

Letters: n events, U users.
"""

import math
from typing import NamedTuple

import numpy as np

from headrace.model.arrays import Doubles, Longs

DRAWS = 1000
_NORMAL_975 = 1.96
FEWEST_USERS = (
    10  # of fewer, an interval of "95 %" holds the truth in .93 (five) or .8 (two) of cases
)
_DRAWS_AT_ONCE = 50  # bounds the working memory: so many times U counts


class Difference(NamedTuple):
    """A mean difference and its 95 % confidence interval; NaN without events, or of few users."""

    events: int
    users: int
    difference: float
    low: float
    high: float

    def told(self) -> dict[str, float | None]:
        """Return the fields as JSON has them: rounded, and null for NaN."""
        return {
            name: None if math.isnan(value) else round(value, 5)
            for name, value in self._asdict().items()
        }


def paired_difference(first: Doubles, second: Doubles, users: Longs) -> Difference:
    """Return the mean of ``first`` less ``second`` over (n,) events of the given users."""
    if not len(users):
        return Difference(0, 0, float("nan"), float("nan"), float("nan"))
    _, user = np.unique(users, return_inverse=True)
    sums, counts = np.bincount(user, first - second), np.bincount(user)  # (U,)
    n, mean = len(counts), float(sums.sum() / len(users))
    if n < FEWEST_USERS:
        return Difference(len(users), n, mean, float("nan"), float("nan"))
    random = np.random.default_rng(0)  # the same draws for every comparison
    means = []
    for _ in range(DRAWS // _DRAWS_AT_ONCE):
        drawn = random.multinomial(n, np.full(n, 1 / n), _DRAWS_AT_ONCE)  # (draws, U)
        means.append((drawn @ sums) / (drawn @ counts))
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    # Of few users the draws vary too little: as Student's t is wider than the normal distribution,
    # and the variance of a population smaller than its estimate from a sample.
    wider = math.sqrt(n / (n - 1)) * (1 + (_NORMAL_975**2 + 1) / (4 * (n - 1)))
    return Difference(
        len(users), n, mean, mean - wider * (mean - float(low)), mean + wider * (float(high) - mean)
    )
