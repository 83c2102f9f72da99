"""Item regression: which of a user's items speak for an item, once what they share is taken out.

Counted neighbours all speak at once, however much they say the same. Here each item is regressed
on its neighbours: ridge regression over who took what, of which only counts of pairs are kept. A
new user's items then speak through coefficients, without anything to fit.

Sources: Steck 2019, EASE (arXiv:1905.03375), here over an item's own neighbours only, so that the
catalogue may be large; Ning and Karypis 2011, SLIM, which is as sparse.

Letters: B tasks, C candidates, H interactions, N items, K neighbours an item is regressed on.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from numba import njit

from headrace.model.arrays import Bools, Floats, Ints, Longs

N_REGRESSORS = 128  # K
RIDGE = 100.0  # users: what an item's neighbours must bring against chance
FADE = 0.9  # of a user's items, for each step further back
FIT_EVENTS = 2_000  # after so many new ones, some items are fitted anew
FIT_ITEMS = 1_024  # at a time, those with most new takers first
MAX_PLACES = 2**23  # of the table, at most half of them in use: 96 MB
_SMALLEST_TABLE = 2**16
_COUNT_PAIRS = 2**19  # at a time: a table that dropped half has room for them
_LONG_ROW = 4_096  # pairs of an item; those asked for are then looked up, not found by reading it
_SOLVE_ITEMS = 64  # systems solved together: 4 MB

INPUTS = ("regressed", "regressed_recent")


class Table(NamedTuple):
    """A hash table of pairs with open addressing; a place is free while its count is zero."""

    keys: Longs  # (M,) the lower item index, and the higher in the lower half
    counts: Floats  # (M,) users who took both


class Coefficients:
    """What the users' items say of each item; copies of a recommender share them."""

    def __init__(self) -> None:
        self.items: Ints = np.zeros((0, N_REGRESSORS), np.int32)  # (N, K) regressors, -1 padded
        self.weights: Floats = np.zeros((0, N_REGRESSORS), np.float32)  # (N, K)
        self._changed: set[int] = set()

    def put(self, fitted: Ints, items: Ints, weights: Floats) -> None:
        """Set the (n, K) regressors and weights of (n,) items."""
        highest = max(fitted.max(initial=-1), items.max(initial=-1))  # regressors have a row too
        more = int(highest) + 1 - len(self.items)
        if more > 0:
            rows = ((0, more + len(self.items) // 2), (0, 0))  # so that growth is cheap
            self.items = np.pad(self.items, rows, constant_values=-1)
            self.weights = np.pad(self.weights, rows)
        self.items[fitted], self.weights[fitted] = items, weights
        self._changed.update(fitted.tolist())

    def forget(self, indexes: npt.NDArray[np.integer]) -> None:
        """Forget items whose index is about to be given to others, and what they say of others."""
        gone = np.isin(self.items, indexes)
        gone[indexes[indexes < len(gone)]] = True
        rows = np.flatnonzero(gone.any(1)).astype(np.int32)
        # The order of what is left does not matter, only that no gap ends a row early.
        order = np.argsort(gone[rows], axis=1, kind="stable")
        items, weights = (
            np.take_along_axis(np.where(gone[rows], empty, array[rows]), order, 1)
            for array, empty in ((self.items, np.int32(-1)), (self.weights, np.float32(0)))
        )
        self.put(rows, items, weights)

    def inputs(self, candidates: Ints, histories: Ints, order: Longs | None = None) -> Floats:
        """Return what (B, H) histories say of (B, C) candidates, evenly and faded: (B, C, 2).

        ``order`` is as in ``Recommender.prepare``.
        """
        out = np.zeros((*candidates.shape, len(INPUTS)), np.float32)
        order = np.arange(len(candidates)) if order is None else order
        _apply(self.items, self.weights, candidates, histories, order, out)
        return out

    # ------------------------------------------------------------------- deltas and checkpoints

    def snapshot(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return all as one delta from nothing."""
        return self._rows(np.flatnonzero(self.items[:, 0] >= 0))

    def take_delta(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return what changed since the last call, and forget that it did."""
        changed = np.array(sorted(self._changed), np.int64)
        self._changed = set()
        return self._rows(changed)

    def apply_delta(self, delta: dict[str, npt.NDArray[np.generic]]) -> None:
        """Take over changed values; applying the same delta again changes nothing."""
        filled = np.arange(N_REGRESSORS) < delta["regressors"].astype(np.int64)[:, None]
        items = np.full(filled.shape, -1, np.int32)
        weights = np.zeros(filled.shape, np.float32)
        items[filled], weights[filled] = delta["items"], delta["weights"]
        self.put(delta["fitted"].astype(np.int32), items, weights)
        self._changed = set()

    def _rows(self, indexes: Longs) -> dict[str, npt.NDArray[np.generic]]:
        items = self.items[indexes]
        filled = items >= 0
        return {
            "fitted": indexes.astype(np.int32),
            "regressors": filled.sum(1).astype(np.int32),  # of each
            "items": items[filled],
            "weights": self.weights[indexes][filled].astype(np.float16),
        }


def _new_table(size: int) -> Table:
    return Table(np.zeros(size, np.int64), np.zeros(size, np.float32))


class PairCounts:
    """How many users took each item, and how many took both of a pair."""

    def __init__(self) -> None:
        self.table = _new_table(_SMALLEST_TABLE)
        self.takers: Floats = np.zeros(0, np.float32)  # (N,)
        self.new_takers: Floats = np.zeros(0, np.float32)  # (N,) since the item was last fitted
        self._n_pairs = 0

    def __len__(self) -> int:
        """Return how many pairs are counted."""
        return self._n_pairs

    def reserve(self, n_items: int) -> None:
        """Make room for item indexes below ``n_items``."""
        more = n_items - len(self.takers)
        if more > 0:
            more += len(self.takers) // 2  # so that growth is cheap
            self.takers = np.pad(self.takers, (0, more))
            self.new_takers = np.pad(self.new_takers, (0, more))

    def count(self, items: Ints, histories: Ints) -> None:
        """Count events in order: (n,) items, negative ones skipped, and (n, H) what came before."""
        self.reserve(int(max(items.max(initial=-1), histories.max(initial=-1))) + 1)
        step = max(1, _COUNT_PAIRS // max(1, histories.shape[1]))
        for start in range(0, len(items), step):
            rows = slice(start, start + step)
            self._make_room(int((histories[rows] >= 0).sum()))  # without the padding
            self._n_pairs += _count(
                self.table, self.takers, self.new_takers, items[rows], histories[rows]
            )

    def _make_room(self, n_pairs: int) -> None:
        """Keep the table at most half full; the largest forgets the pairs of fewest users."""
        needed = 2 * (self._n_pairs + n_pairs)
        if needed <= len(self.table.counts):
            return
        least = 0.0
        if needed > MAX_PLACES:
            least = float(np.quantile(self.table.counts[self.table.counts > 0], 0.5))
        size = max(needed, 2 * len(self.table.counts))
        self._rebuild(self.table.counts > least, min(MAX_PLACES, 1 << (size - 1).bit_length()))

    def _rebuild(self, keep: Bools, size: int) -> None:
        self._n_pairs = int(keep.sum())
        old, self.table = self.table, _new_table(size)
        _insert(self.table, old.keys[keep], old.counts[keep])

    def forget(self, indexes: npt.NDArray[np.integer]) -> None:
        """Forget items whose index is about to be given to others."""
        here = indexes[indexes < len(self.takers)]
        self.takers[here] = self.new_takers[here] = 0
        one, other = _items_of(self.table.keys)
        gone = np.isin(one, here) | np.isin(other, here)
        self._rebuild((self.table.counts > 0) & ~gone, len(self.table.counts))

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Return the counts, for a checkpoint."""
        filled = self.table.counts > 0
        return {
            "keys": self.table.keys[filled],
            "counts": self.table.counts[filled],
            "takers": self.takers,
            "new_takers": self.new_takers,
        }

    @classmethod
    def of(cls, state: dict[str, npt.NDArray[Any]]) -> "PairCounts":
        """Return counts that ``state`` returned."""
        pairs = cls()
        pairs._make_room(len(state["keys"]))
        _insert(pairs.table, state["keys"], state["counts"])
        pairs._n_pairs = len(state["keys"])
        pairs.takers, pairs.new_takers = state["takers"].copy(), state["new_takers"].copy()
        return pairs

    def fit(self, coefficients: Coefficients) -> None:
        """Fit those items anew that have most new takers."""
        due = np.flatnonzero(self.new_takers > 0)
        due = due[np.argsort(-self.new_takers[due], kind="stable")][:FIT_ITEMS]
        self.new_takers[due] = 0
        filled = self.table.counts > 0
        pairs = _items_of(self.table.keys[filled])
        rows = _rows(*pairs, self.table.counts[filled], len(self.takers))
        for start in range(0, len(due), _SOLVE_ITEMS):
            batch = due[start : start + _SOLVE_ITEMS]
            regressors, gram, shared = _systems(self.table, *rows, self.takers, batch)
            solved, failed = torch.linalg.solve_ex(torch.from_numpy(gram), torch.from_numpy(shared))
            # A user who goes round more items than are remembered is counted anew each time: no
            # system of users comes of that, and a solution may be anything. Such an item has none.
            is_sound = (failed == 0) & (solved.abs() <= 1).all(1)
            solved[~is_sound] = 0
            # As precise as a delta carries them.
            coefficients.put(batch.astype(np.int32), regressors, solved.half().float().numpy())


@njit(cache=True, nogil=True)
def _apply(
    regressors: Ints,
    weights: Floats,
    candidates: Ints,
    histories: Ints,
    order: Longs,
    out: Floats,
) -> None:
    """Write what (B, H) histories say of (B, C) candidates."""
    n = len(regressors)
    # By the item and one more, zero unless the user had it, so that padding is asked of too.
    fades = np.zeros(n + 1, np.float32)
    for b in order:
        had = histories[b]
        for k in range(len(had)):
            if 0 <= had[k] < n and fades[had[k] + 1] == 0:
                fades[had[k] + 1] = np.float32(FADE**k)
        for c in range(candidates.shape[1]):
            z = candidates[b, c]
            if 0 <= z < n:
                out[b, c, 0], out[b, c, 1] = _speak(regressors[z], weights[z], fades)
        for y in had:
            if 0 <= y < n:
                fades[y + 1] = 0


@njit(cache=True, nogil=True, fastmath={"reassoc", "nsz"})  # so that sums take several at once
def _speak(row: Ints, weights: Floats, fades: Floats) -> tuple[np.float32, np.float32]:
    """Return the sum of the weights of what the user had, evenly and faded.

    All are looked at, in order: asking first who speaks at all is slower, by wrong guesses and by
    weights that are then not fetched ahead.
    """
    evenly, faded = np.float32(0.0), np.float32(0.0)
    for k in range(np.uint32(len(row))):
        fade = fades[np.uint32(row[k] + 1)]
        faded += weights[k] * fade
        evenly += weights[k] * np.float32(fade > 0)
    return evenly, faded


def _items_of(keys: Longs) -> tuple[Ints, Ints]:
    return (keys >> 32).astype(np.int32), (keys & 0xFFFFFFFF).astype(np.int32)


@njit(cache=True, nogil=True)
def _key(x: int, y: int) -> np.int64:
    return (np.int64(min(x, y)) << 32) | np.int64(max(x, y))


@njit(cache=True, nogil=True)
def _place(table: Table, key: np.int64) -> int:
    """Return where a pair is, or the free place where it belongs."""
    last = len(table.keys) - 1  # the length is a power of two
    # The upper half of the product: the lower bits of a product depend on the lower bits alone, and
    # a few thousand items have few of those.
    mixed = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(32)
    place = int(np.int64(mixed & np.uint64(last)))
    while table.counts[place] > 0 and table.keys[place] != key:
        place = (place + 1) & last
    return place


@njit(cache=True, nogil=True)
def _insert(table: Table, keys: Longs, counts: Floats) -> None:
    for i in range(len(keys)):
        place = _place(table, keys[i])
        table.keys[place] = keys[i]
        table.counts[place] += counts[i]


@njit(cache=True, nogil=True)
def _count(table: Table, takers: Floats, new_takers: Floats, items: Ints, histories: Ints) -> int:
    """Count events; return how many pairs are new."""
    n_new = 0
    met = np.full(len(takers), -1, np.int64)  # the event that met an item last
    for i in range(len(items)):
        x, had = items[i], histories[i]
        if x < 0 or (had == x).any():
            continue
        takers[x] += 1
        new_takers[x] += 1
        for y in had:
            # Of an item that left the model and came back, earlier takers are not known.
            if y < 0 or met[y] == i or takers[y] == 0:
                continue
            met[y] = i
            key = _key(x, y)
            place = _place(table, key)
            n_new += table.counts[place] == 0
            table.keys[place] = key
            table.counts[place] += 1
    return n_new


@njit(cache=True, nogil=True)
def _rows(one: Ints, other: Ints, counts: Floats, n: int) -> tuple[Longs, Ints, Floats]:
    """Return each item's pairs as rows of a sparse symmetric matrix: ends, columns, values."""
    ends = np.zeros(n + 1, np.int64)
    for e in range(len(one)):
        ends[one[e] + 1] += 1
        ends[other[e] + 1] += 1
    ends = np.cumsum(ends)
    columns, values = np.empty(ends[n], np.int32), np.empty(ends[n], np.float32)
    at = ends[:n].copy()
    for e in range(len(one)):
        x, y = one[e], other[e]
        columns[at[x]], columns[at[y]] = y, x
        values[at[x]] = values[at[y]] = counts[e]
        at[x] += 1
        at[y] += 1
    return ends, columns, values


@njit(cache=True, nogil=True)
def _systems(
    table: Table, ends: Longs, columns: Ints, values: Floats, takers: Floats, batch: Longs
) -> tuple[Ints, Floats, Floats]:
    """Return for each item its regressors and the normal equations: (n, K), (n, K, K), (n, K)."""
    n = len(batch)
    regressors = np.full((n, N_REGRESSORS), -1, np.int32)
    gram = np.zeros((n, N_REGRESSORS, N_REGRESSORS), np.float32)
    shared = np.zeros((n, N_REGRESSORS), np.float32)
    place = np.full(len(takers), -1, np.int32)
    for i in range(n):
        row = slice(ends[batch[i]], ends[batch[i] + 1])
        nearness = values[row] / np.sqrt(takers[columns[row]] + 5)
        nearest = np.argsort(-nearness)[:N_REGRESSORS]
        for k in range(len(nearest)):
            y = columns[row][nearest[k]]
            regressors[i, k], place[y] = y, k
            shared[i, k] = values[row][nearest[k]]
        for k in range(N_REGRESSORS):
            y = regressors[i, k]
            if y < 0:
                gram[i, k, k] = 1  # padding: its coefficient is zero
                continue
            if ends[y + 1] - ends[y] > _LONG_ROW:
                for j in range(len(nearest)):
                    gram[i, k, j] = table.counts[_place(table, _key(y, regressors[i, j]))]
            else:
                for e in range(ends[y], ends[y + 1]):
                    if place[columns[e]] >= 0:
                        gram[i, k, place[columns[e]]] = values[e]
            gram[i, k, k] = takers[y] + RIDGE
        for y in regressors[i]:
            if y >= 0:
                place[y] = -1
    return regressors, gram, shared
