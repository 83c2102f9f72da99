"""Content: what items are, as vectors of one width, and which of them few users have met.

An item is *cold* while fewer than ``FEW_EVENTS`` events were counted of it. Nothing that is counted
leads to it, so the cold items nearest to what a user took lately become candidates by content.

Letters: B tasks, H interactions, C candidates, N items, V content width, K nearest.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from headrace.model.arrays import Bools, Floats, Halves, Ints, Longs

FEW_EVENTS = 3
MAX_COLD = 4096  # newest first; bounds a micro-batch's product with their vectors
_RETIRED = -1  # stands for when such an item arrived
NEAREST = 20  # K
PROFILE_LENGTH = 20  # interactions; further back one weighs less than an eighth
PROFILE_FADE = 0.9  # for each step further back
_STEP_WEIGHTS = (PROFILE_FADE ** np.arange(PROFILE_LENGTH)).astype(np.float32)


class Content:
    """Content vectors by item index, of unit length; zero for an item of unknown content.

    A *retired* item is offered no more, and its vector still says what those who took it like.
    """

    def __init__(self) -> None:
        self.vectors: Halves = np.zeros((0, 0), np.float16)  # (N, V)
        self.stamps: Longs = np.zeros(0, np.int64)  # (N,) names what each was made from, 0 none
        self.arrived: Longs = np.zeros(0, np.int64)  # (N,) order in which the items came
        self.cold: Ints = np.zeros(0, np.int32)  # (n,) newest first
        self._cold_vectors: Floats = np.zeros((0, 0), np.float32)  # (n, V)
        self._changed: set[int] = set()

    @property
    def width(self) -> int:
        """Return V, 0 while nothing is known of any item."""
        return int(self.vectors.shape[1])

    def put(self, indexes: Ints, vectors: Halves, stamps: Longs, arrived: Longs) -> None:
        """Set some items' (n, V) vectors; a stamp of 0 forgets one."""
        if not len(indexes):
            return
        self._reserve(int(indexes.max()) + 1, vectors.shape[1])
        self.vectors[indexes] = vectors
        self.stamps[indexes] = stamps
        self.arrived[indexes] = arrived
        self._changed.update(indexes.tolist())

    def forget(self, indexes: Sequence[int] | npt.NDArray[np.integer]) -> None:
        """Forget the content of items that have none now, or whose index others are to have."""
        known = np.asarray(indexes, np.int64)
        known = known[known < len(self.stamps)]
        zeros = np.zeros(len(known), np.int64)
        self.put(known.astype(np.int32), self.vectors[known] * 0, zeros, zeros)
        # Or another item is a candidate by what this one was, before anybody has seen it.
        stays = ~np.isin(self.cold, known)
        if not stays.all():
            self.cold, self._cold_vectors = self.cold[stays], self._cold_vectors[stays]

    def retire(self, index: int) -> None:
        """Keep an item's vector, and offer the item to nobody by it."""
        if self.stamp_of(index) and not self.is_retired(index):
            self.arrived[index] = _RETIRED
            self._changed.add(index)

    def is_retired(self, index: int) -> bool:
        """Return whether an item is offered no more."""
        return index < len(self.arrived) and bool(self.arrived[index] == _RETIRED)

    @property
    def is_in_use(self) -> bool:
        """Return whether any item that is not retired has a vector."""
        return bool(np.any((self.stamps != 0) & (self.arrived != _RETIRED)))

    def stamp_of(self, index: int) -> int:
        """Return what the item's vector was made from, 0 if it has none."""
        return int(self.stamps[index]) if 0 <= index < len(self.stamps) else 0

    def untaken(self, popularity: Floats, filled: Ints) -> Ints:
        """Return the items that only the catalogue knows, oldest first.

        Args:
            popularity: (N,) events ever counted.
            filled: (N,) neighbours in use: what was counted around an item its users had before.
        """
        n = min(len(self.stamps), len(popularity))
        found = np.flatnonzero((self.stamps[:n] != 0) & (popularity[:n] == 0) & (filled[:n] == 0))
        return found[np.argsort(self.arrived[found], kind="stable")].astype(np.int32)

    def refresh(self, popularity: Floats) -> None:
        """Choose the cold items, newest first, by the (N,) events ever counted."""
        if not self.width:
            return
        n = min(len(self.stamps), len(popularity))
        is_offered = (self.stamps[:n] != 0) & (self.arrived[:n] != _RETIRED)
        found = np.flatnonzero(is_offered & (popularity[:n] < FEW_EVENTS))
        newest = np.argsort(-self.arrived[found], kind="stable")[:MAX_COLD]
        self.cold = found[newest].astype(np.int32)
        self._cold_vectors = self.vectors[self.cold].astype(np.float32)

    # ------------------------------------------------------------------------- for micro-batches

    def profiles(self, items: Ints) -> Floats:
        """Return (B, V) mean content of (B, H) items, newest first: the recent ones weigh more."""
        recent = items[:, :PROFILE_LENGTH]
        return _unit(_STEP_WEIGHTS[: recent.shape[1]] @ self.vectors_of(recent))

    def nearest(self, profiles: Floats) -> Ints:
        """Return the (B, K) cold items nearest to each profile, -1 for users without one."""
        k = min(NEAREST, len(self.cold))
        if not k:
            return np.zeros((len(profiles), 0), np.int32)
        likeness = profiles @ self._cold_vectors.T  # (B, n)
        top = np.argpartition(-likeness, k - 1, axis=1)[:, :k]
        has_profile: Bools = np.any(profiles != 0, axis=1, keepdims=True)
        return np.where(has_profile, self.cold[top], np.int32(-1))

    def likeness(self, profiles: Floats, items: Ints) -> Floats:
        """Return the (B, C) cosine of each profile and each of its (B, C) items, -1 padded."""
        if not self.width:
            return np.zeros(items.shape, np.float32)
        n = len(self.stamps)
        items = np.where(items < n, items, -1)
        is_met = np.zeros(n + 1, np.bool_)  # the last place stands for -1
        is_met[items] = True
        met = np.flatnonzero(is_met[:n])
        column = np.zeros(n + 1, np.int64)
        column[met] = np.arange(len(met))
        column[-1] = len(met)
        product = np.pad(profiles @ self.vectors_of(met).T, ((0, 0), (0, 1)))  # padding's is zero
        likeness: Floats = np.take_along_axis(product, column[items], 1)
        return likeness

    def vectors_of(self, items: npt.NDArray[np.integer]) -> Floats:
        """Return the (..., V) vectors of item indexes, zero for padding and where none is known."""
        if not self.width:
            return np.zeros((*items.shape, 0), np.float32)
        is_known = (items >= 0) & (items < len(self.stamps))
        vectors: Floats = self.vectors[np.where(is_known, items, 0)].astype(np.float32)
        return vectors * is_known[..., None]

    def _reserve(self, n: int, width: int) -> None:
        """Make room for item indexes below ``n``, doubling so that growth is cheap."""
        if not self.width:
            self.vectors = np.zeros((len(self.stamps), width), np.float16)
        if n <= len(self.stamps):
            return
        more = max(n, 2 * len(self.stamps)) - len(self.stamps)
        self.vectors = np.pad(self.vectors, ((0, more), (0, 0)))
        self.stamps, self.arrived = (np.pad(a, (0, more)) for a in (self.stamps, self.arrived))

    # ------------------------------------------------------------------- deltas and checkpoints

    def snapshot(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return all that is known."""
        return self._rows(np.flatnonzero(self.stamps))

    def take_delta(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return what changed since the last call, and forget that it did."""
        changed = np.array(sorted(self._changed), np.int64)
        self._changed = set()
        return self._rows(changed)

    def apply_delta(self, delta: dict[str, npt.NDArray[np.generic]]) -> None:
        """Take over changed values; applying the same delta again changes nothing."""
        self.put(
            delta["items"].astype(np.int32),
            delta["vectors"].astype(np.float16),
            delta["stamps"].astype(np.int64),
            delta["arrived"].astype(np.int64),
        )
        self._changed = set()

    def _rows(self, indexes: Longs) -> dict[str, npt.NDArray[np.generic]]:
        return {
            "items": indexes.astype(np.int32),
            "vectors": self.vectors[indexes],
            "stamps": self.stamps[indexes],
            "arrived": self.arrived[indexes],
        }


def _unit(vectors: Floats) -> Floats:
    """Return the (n, V) vectors with length 1; zero stays zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Floats = (vectors / np.maximum(lengths, 1e-6)).astype(np.float32)
    return unit
