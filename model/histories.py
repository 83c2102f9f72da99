"""Histories: what users did lately, as the model sees it.

Letters: B users, H interactions, J features.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from headrace.model.arrays import Ints, Longs
from headrace.model.config import REMEMBERED
from headrace.model.features import MAX_FEATURES


class Histories(NamedTuple):
    """Recent interactions of B users, newest first, as the model sees them."""

    items: Ints  # (B, H) item index, -1 padded or unknown
    times_s: Longs  # (B, H)
    actions: Ints  # (B, H) action index
    n_events: Longs  # (B,) ever, beyond what is remembered
    n_repeats: Longs  # (B,) of them, items the user already had
    features: Ints  # (B, J) of the latest context, -1 padded

    def rows(self, index: npt.NDArray[np.generic] | slice) -> "Histories":
        """Return the histories of some of the users."""
        return Histories._make(column[index] for column in self)

    def and_then(self, others: "Histories") -> "Histories":
        """Return the histories of these users and then of others."""
        return Histories._make(
            np.concatenate([getattr(each, name) for each in (self, others)])
            for name in self._fields
        )


def from_columns(
    items: npt.ArrayLike,
    times_s: npt.ArrayLike,
    actions: npt.ArrayLike,
    spans: Sequence[tuple[int, int]],
    *,
    length: int = REMEMBERED,
) -> Histories:
    """Return the history in each (start, end) span of the (n,) columns, which are oldest first.

    The latest ``length`` interactions of each are in it: H.

    Counts are zero, features none: they are the caller's to write.
    """
    n = len(spans)
    histories = Histories(
        np.full((n, length), -1, np.int32),
        np.zeros((n, length), np.int64),
        np.zeros((n, length), np.int32),
        np.zeros(n, np.int64),
        np.zeros(n, np.int64),
        np.full((n, MAX_FEATURES), -1, np.int32),
    )
    _write_newest_first(
        np.asarray(items, np.int32),
        np.asarray(times_s, np.int64),
        np.asarray(actions, np.int32),
        np.array(spans, np.int64).reshape(-1, 2),
        histories,
    )
    return histories


@njit(cache=True, nogil=True)
def _write_newest_first(
    items: Ints, times_s: Longs, actions: Ints, spans: Longs, out: Histories
) -> None:
    for b in range(len(spans)):
        start, end = spans[b]
        for k in range(min(end - start, out.items.shape[1])):
            at = end - 1 - k
            out.items[b, k], out.times_s[b, k], out.actions[b, k] = (
                items[at],
                times_s[at],
                actions[at],
            )
