"""Item signals: what is counted about items, shared by all users.

For each item a bounded row of neighbours with one weight per relation, and its popularity over
several time constants. The learn role counts; adapt workers hold replicas that follow by deltas of
absolute values, so that a delta applied twice changes nothing.

Time is the event clock: one tick per counted event. A quiet night does not make a shop's items
old, and a replayed stream gives the same signals as the live one.

Letters: N items, K neighbours kept of an item, R relations, P popularities, S tenures, n events,
H interactions.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from headrace.model.arrays import Bools, Doubles, Floats, Ints, Longs
from headrace.model.counts.content import Content
from headrace.model.counts.tenure import N_TENURES, count_tenure

# Relations between an earlier item of a user and a later one.
NEXT, NEAR, SESSION, RECENT, ALSO, AROUND = range(6)
N_RELATIONS = 6
NEAR_WINDOW = 5  # NEAR and RECENT look this many interactions back
NEAR_FADE = 0.8  # and count a step further back this much less
SESSION_WINDOW = 20
SESSION_GAP_S = 3600  # an hour without an interaction ends a session
ALSO_WINDOW = 30  # ALSO and AROUND
AROUND_POWER = -0.8  # AROUND counts a step further back by the power law of session neighbours
RECENT_LIFE = 10_000.0  # ticks after which what RECENT counted weighs 1/e

# Popularity: all time, and decaying by 1/e over this many ticks.
POPULARITY_LIVES = np.array([np.inf, 20_000.0, 1_900.0, 225.0], np.float64)
ALL_TIME, SLOW, MEDIUM, FAST = range(4)
N_POPULARITIES = 4
POPULAR_QUOTAS = (60, 0, 60, 40)  # how many of each are candidates for everybody

_LANDMARK_LIMIT = 40.0  # e^40 keeps float32 far from overflow between two rebasings
_EXPONENT_LIMIT = 60.0  # where no version comes for long, RECENT fades no further: e^88 is infinite
_FADE, _FADED_AT = 0.03, 512  # places a newcomer; newcomers at once, for faded rows travel whole
_KNUTH = 2_654_435_761  # multiplicative hashing: 2^32 over the golden ratio
_MOST_COUNTED = 2.0**17  # beyond it float32 rounds away what AROUND adds; from 2^24 on, even ones


class ItemArrays(NamedTuple):
    """The counted arrays; a plain tuple so that compiled loops can take it whole."""

    ids: Ints  # (N, K) item index of each neighbour
    weights: Floats  # (N, K, R)
    filled: Ints  # (N,) neighbours in use
    totals: Floats  # (N, R) sum of the weights counted from this item, of replaced ones too
    popularity: Floats  # (N, P) decayed counts as of ``touched``
    touched: Doubles  # (N,) tick of the item's last event
    first: Doubles  # (N,) tick of its first event
    last_time_s: Longs  # (N,) event time of its last event
    repeats: Floats  # (N,) events of users who already had it
    tenures: Floats  # (N, S) events by their users' tenure (``tenure``)
    category: Ints  # (N,) finest category, -1 if unknown
    is_out: Bools  # (N,) offered no more: nobody's candidate; each replica is told by the catalogue
    dirty: Bools  # (N, K) neighbours changed since the last delta
    dirty_items: Bools  # (N,) items changed since the last delta


def _empty(n: int, k: int) -> ItemArrays:
    return ItemArrays(
        ids=np.full((n, k), -1, np.int32),
        weights=np.zeros((n, k, N_RELATIONS), np.float32),
        filled=np.zeros(n, np.int32),
        totals=np.zeros((n, N_RELATIONS), np.float32),
        popularity=np.zeros((n, N_POPULARITIES), np.float32),
        touched=np.zeros(n, np.float64),
        first=np.zeros(n, np.float64),
        last_time_s=np.zeros(n, np.int64),
        repeats=np.zeros(n, np.float32),
        tenures=np.zeros((n, N_TENURES), np.float32),
        category=np.full(n, -1, np.int32),
        is_out=np.zeros(n, np.bool_),
        dirty=np.zeros((n, k), np.bool_),
        dirty_items=np.zeros(n, np.bool_),
    )


# Travel with a delta or a checkpoint for each changed item, as they are.
_PER_ITEM = (
    "filled", "totals", "popularity", "touched", "first", "last_time_s", "repeats", "tenures",
    "category",
)  # fmt: skip


def most_popular(popularity: Floats, k: int) -> Longs:
    """Return the indexes of the ``k`` highest of (N,) counts, best first, less those of zero."""
    k = min(k, len(popularity))
    top = np.argpartition(-popularity, k - 1)[:k] if k else np.zeros(0, np.int64)
    top = top[np.argsort(-popularity[top], kind="stable")]
    return top[popularity[top] > 0]


class ItemSignals:
    """Counted signals of up to the vocabulary's items; grows as items come."""

    def __init__(self, neighbours: int, *, capacity: int = 1024) -> None:
        self.arrays = _empty(capacity, neighbours)
        self.clock = 0.0  # ticks: events counted so far
        self.landmark = 0.0  # tick at which a RECENT count weighs 1
        self.now_s = 0  # latest event time counted
        self.popular: Ints = np.zeros(0, np.int32)  # candidates for everybody, best first
        self.content = Content()

    @property
    def neighbours(self) -> int:
        """Return K."""
        return int(self.arrays.ids.shape[1])

    @property
    def capacity(self) -> int:
        """Return N, in use or not."""
        return len(self.arrays.filled)

    def reserve(self, n_items: int) -> None:
        """Make room for item indexes below ``n_items``, doubling so that growth is cheap."""
        if n_items <= self.capacity:
            return
        n, old = max(n_items, 2 * self.capacity), self.capacity
        grown = _empty(n, self.neighbours)
        for name in ItemArrays._fields:
            getattr(grown, name)[:old] = getattr(self.arrays, name)
        self.arrays = grown

    def count(
        self,
        items: Ints,
        times_s: Longs,
        history: Ints,
        history_times_s: Longs,
        n_earlier: Longs,
    ) -> None:
        """Count events in order.

        Args:
            items: (n,) item index of each event; negative ones are skipped.
            times_s: (n,) event time.
            history: (n, H) item indexes the user had before the event, newest first, -1 padded.
            history_times_s: (n, H) their event times.
            n_earlier: (n,) interactions the user ever had before.
        """
        self.clock = _count(
            self.arrays,
            self.clock,
            self.landmark,
            items,
            times_s,
            history,
            history_times_s,
            n_earlier,
        )
        if len(times_s):
            self.now_s = max(self.now_s, int(times_s.max()))

    def recent_scale(self) -> float:
        """Return the factor that turns stored RECENT weights into today's."""
        return float(np.exp(max((self.landmark - self.clock) / RECENT_LIFE, -_EXPONENT_LIMIT)))

    def popularity_now(self, n_items: int) -> Floats:
        """Return the (n, P) popularity of the first ``n_items`` items as of the clock."""
        age = self.clock - self.arrays.touched[:n_items, None]
        fade = np.exp(-age / POPULARITY_LIVES)
        return (self.arrays.popularity[:n_items] * fade).astype(np.float32)

    def log_popularity(self, n_items: int) -> npt.NDArray[np.float64]:
        """Return the (n,) logarithm of the first ``n_items`` items' slowly fading popularity.

        Of what nobody took for two million events the popularity itself is zero, as a float32.
        """
        taken = self.arrays.popularity[:n_items, SLOW]
        logs = np.full(n_items, -np.inf)
        np.log(taken, out=logs, where=taken > 0)
        logs -= (self.clock - self.arrays.touched[:n_items]) / POPULARITY_LIVES[SLOW]
        return logs

    def refresh_popular(
        self,
        n_items: int,
        *,
        quotas: tuple[int, ...] = POPULAR_QUOTAS,
    ) -> None:
        """Choose the candidates for everybody: the first of each popularity, without doubles."""
        offered = self.popularity_now(n_items) * ~self.arrays.is_out[:n_items, None]
        flat = np.concatenate(
            [most_popular(column, k) for column, k in zip(offered.T, quotas, strict=True)]
        )
        _, first_seen = np.unique(flat, return_index=True)
        self.popular = flat[np.sort(first_seen)].astype(np.int32)
        self.content.refresh(self.arrays.popularity[:, ALL_TIME])

    # ------------------------------------------------------------------- deltas and checkpoints

    def take_delta(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return what changed since the last call, as absolute values, and forget that it did."""
        a = self.arrays
        items = np.flatnonzero(a.dirty_items)
        rows, slots = np.nonzero(a.dirty[items])
        delta = self._values(items, items[rows], slots)
        a.dirty[items] = False
        a.dirty_items[items] = False
        return delta

    def apply_delta(self, delta: dict[str, npt.NDArray[np.generic]]) -> None:
        """Take over changed values; applying the same delta again changes nothing."""
        items = delta["items"].astype(np.int64)
        if len(items):
            self.reserve(int(items.max()) + 1)
        a = self.arrays
        rows, slots = delta["rows"].astype(np.int64), delta["slots"].astype(np.int64)
        a.ids[rows, slots] = delta["ids"]
        a.weights[rows, slots] = delta["weights"]
        for name in _PER_ITEM:
            getattr(a, name)[items] = delta[name]
        self.clock, self.landmark = (float(tick) for tick in delta["clock"])
        self.now_s = int(delta["now_s"][0])

    def snapshot(self, n_items: int) -> dict[str, npt.NDArray[np.generic]]:
        """Return everything as one delta from nothing: a checkpoint holds only filled places."""
        filled = self.arrays.filled[:n_items, None]
        rows, slots = np.nonzero(np.arange(self.neighbours) < filled)
        return self._values(np.arange(n_items), rows, slots)

    def _values(
        self, items: Longs, rows: Longs, slots: Longs
    ) -> dict[str, npt.NDArray[np.generic]]:
        """Return the values of some items, and of some (row, slot) places of theirs."""
        a = self.arrays
        return {
            "items": items.astype(np.int32),
            "rows": rows.astype(np.int32),
            "slots": slots.astype(np.int16),
            "ids": a.ids[rows, slots],
            "weights": a.weights[rows, slots],
            **{name: getattr(a, name)[items] for name in _PER_ITEM},
            "clock": np.array([self.clock, self.landmark], np.float64),
            "now_s": np.array([self.now_s], np.int64),
        }

    def rebase(self) -> bool:
        """Move the landmark if RECENT weights grew large; True if so: replicas must reload."""
        if (self.clock - self.landmark) / RECENT_LIFE < _LANDMARK_LIMIT:
            return False
        scale = np.float32(self.recent_scale())
        self.arrays.weights[:, :, RECENT] *= scale
        self.arrays.totals[:, RECENT] *= scale
        self.landmark = self.clock
        return True

    def forget(self, indexes: npt.NDArray[np.integer]) -> None:
        """Forget items whose index is about to be given to others: replicas must reload."""
        a = self.arrays
        _forget_neighbours(a, np.isin(np.arange(self.capacity), indexes))
        blank = _empty(1, self.neighbours)
        for name in ItemArrays._fields:
            getattr(a, name)[indexes] = getattr(blank, name)[0]
        self.content.forget(indexes)


@njit(cache=True, nogil=True)
def _add(a: ItemArrays, item: int, other: int, relation: int, amount: float) -> None:
    """Add to the weight of a neighbour, which takes the weakest one's place if the row is full."""
    ids = a.ids[item]
    place = -1
    for j in range(a.filled[item]):
        if ids[j] == other:
            place = j
            break
    if place < 0:
        if a.filled[item] < len(ids):
            place = a.filled[item]
            a.filled[item] += 1
        else:
            place = _weakest(a, item)
            # One of so many, as if by chance, and the same one where the same events are counted.
            mixed = (int(1000 * a.totals[item, AROUND]) ^ other) * _KNUTH
            if (mixed >> 16) % _FADED_AT == 0:
                _fade(a, item)
        ids[place] = other
        a.weights[item, place] = 0
    a.weights[item, place, relation] += amount
    a.totals[item, relation] += amount
    a.dirty[item, place] = True
    a.dirty_items[item] = True
    # Shares stay as they are. RECENT is rebased, and what ALSO counts is held against popularity.
    if a.totals[item, relation] > _MOST_COUNTED and relation not in (RECENT, ALSO):
        a.totals[item, relation] /= 2
        a.weights[item, :, relation] /= 2
        a.dirty[item, : a.filled[item]] = True


@njit(cache=True, nogil=True)
def _weakest(a: ItemArrays, item: int) -> int:
    """Return the place of an item's weakest neighbour, in a full row."""
    place, weakest = 0, np.inf
    for j in range(a.ids.shape[1]):
        w = a.weights[item, j]
        strength = w[NEXT] + w[NEAR] + 0.1 * w[ALSO]  # ALSO counts ten times as often
        if strength < weakest:
            place, weakest = j, strength
    return place


@njit(cache=True, nogil=True)
def _fade(a: ItemArrays, item: int) -> None:
    """Let a full row fade, by a thirtieth of a place for each newcomer.

    Who comes new has nothing, and would be the weakest when the next one comes: what the row held
    by then it would hold for good. Shares stay as they are.
    """
    n = a.ids.shape[1]
    left = np.float32(n / (n + _FADE * _FADED_AT))
    a.weights[item] *= left
    a.totals[item] *= left
    a.dirty[item] = True


@njit(cache=True, nogil=True)
def _touch(a: ItemArrays, item: int, clock: float, time_s: int) -> None:
    """Count one event of the item in its popularities."""
    if a.popularity[item, ALL_TIME] == 0:
        a.first[item] = clock
    for p in range(N_POPULARITIES):
        fade = np.exp((a.touched[item] - clock) / POPULARITY_LIVES[p])
        a.popularity[item, p] = a.popularity[item, p] * fade + 1
    a.touched[item] = clock
    a.last_time_s[item] = max(a.last_time_s[item], time_s)
    a.dirty_items[item] = True


@njit(cache=True, nogil=True)
def _count(
    a: ItemArrays,
    clock: float,
    landmark: float,
    items: Ints,
    times_s: Longs,
    history: Ints,
    history_times_s: Longs,
    n_earlier: Longs,
) -> float:
    for i in range(len(items)):
        x = items[i]
        if x < 0:
            continue
        had = history[i]
        if had[0] != x:  # a repeated click says nothing about neighbours
            recent = np.exp(min((clock - landmark) / RECENT_LIFE, _EXPONENT_LIMIT))
            _count_neighbours(a, x, times_s[i], had, history_times_s[i], recent)
        _touch(a, x, clock, times_s[i])
        count_tenure(a.tenures[x], n_earlier[i])
        clock += 1
    return clock


@njit(cache=True, nogil=True)
def _count_neighbours(
    a: ItemArrays, x: int, time_s: int, had: Ints, had_times_s: Longs, recent: float
) -> None:
    n = min(len(had), ALSO_WINDOW)
    is_repeat = False
    for k in range(n):
        is_repeat |= had[k] == x
    in_session = True
    later_s = time_s
    for k in range(n):
        y = had[k]
        if y < 0:
            continue
        in_session &= abs(later_s - had_times_s[k]) <= SESSION_GAP_S
        later_s = had_times_s[k]
        if y == x:
            continue
        if k == 0:
            _add(a, y, x, NEXT, 1.0)
        if k < NEAR_WINDOW:
            nearness = NEAR_FADE**k
            _add(a, y, x, NEAR, nearness)
            _add(a, x, y, NEAR, 0.5 * nearness)
            _add(a, y, x, RECENT, nearness * recent)
        if in_session and k < SESSION_WINDOW:
            _add(a, y, x, SESSION, 1.0)
            _add(a, x, y, SESSION, 1.0)
        if not is_repeat:
            _add(a, y, x, ALSO, 1.0)
            _add(a, x, y, ALSO, 1.0)
        around = (k + 1) ** AROUND_POWER
        _add(a, y, x, AROUND, around)
        _add(a, x, y, AROUND, 0.5 * around)
    if is_repeat:
        a.repeats[x] += 1


@njit(cache=True, nogil=True)
def _forget_neighbours(a: ItemArrays, is_gone: Bools) -> None:
    """Close the gaps that forgotten items leave in the rows of others."""
    for item in range(len(a.filled)):
        kept = 0
        for j in range(a.filled[item]):
            if not is_gone[a.ids[item, j]]:
                a.ids[item, kept] = a.ids[item, j]
                a.weights[item, kept] = a.weights[item, j]
                kept += 1
        for j in range(kept, a.filled[item]):
            a.ids[item, j] = -1
            a.weights[item, j] = 0
        a.filled[item] = kept
