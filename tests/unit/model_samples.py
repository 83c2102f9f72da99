"""Small histories, signals and tasks that the tests of the model share."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from headrace.model.arrays import Longs
from headrace.model.counts.candidate_signals import SIGNALS
from headrace.model.counts.candidates import Candidates, Gatherer
from headrace.model.counts.signals import ItemSignals
from headrace.model.features import MAX_FEATURES
from headrace.model.histories import Histories

NOW_S = 1_000_000


def raw(value: float) -> float:
    """Return what softplus turns into ``value``: how positive meta-parameters are kept."""
    return math.log(math.expm1(value))


def histories(*users: Sequence[int], width: int = 8, minutes: float = 1) -> Histories:
    """Return what users did, each given newest first and ``minutes`` apart, the newest now."""
    items = np.full((len(users), width), -1, np.int32)
    times_s = np.zeros((len(users), width), np.int64)
    for row, user in enumerate(users):
        items[row, : len(user)] = user
        times_s[row, : len(user)] = NOW_S - 60 * minutes * np.arange(len(user))
    n_events = np.array([len(user) for user in users], np.int64)
    features = np.full((len(users), MAX_FEATURES), -1, np.int32)
    actions = np.zeros_like(items)
    return Histories(items, times_s, actions, n_events, np.zeros_like(n_events), features)


def count_user(signals: ItemSignals, items: Sequence[int], *, times_s: Sequence[int] = ()) -> None:
    """Count what one new user did, oldest first; a minute apart unless times are given."""
    times = np.array(times_s or [60 * i for i in range(len(items))], np.int64)
    width = max(1, len(items))
    had = np.full((len(items), width), -1, np.int32)
    had_times_s = np.zeros((len(items), width), np.int64)
    for i in range(1, len(items)):
        had[i, :i] = items[:i][::-1]
        had_times_s[i, :i] = times[:i][::-1]
    signals.count(np.array(items, np.int32), times, had, had_times_s, np.arange(len(items)))


def count_alone(signals: ItemSignals, item: int, *, times: int) -> None:
    """Count an item for as many users without a history: its popularity, and no neighbours."""
    nobody = np.full((times, 1), -1, np.int32)
    nothing: Longs = np.zeros((times, 1), np.int64)
    zeros = np.zeros(times, np.int64)
    signals.count(np.full(times, item, np.int32), zeros, nobody, nothing, zeros)


def relation_of(signals: ItemSignals, relation: int, n_items: int) -> npt.NDArray[np.float32]:
    """Return the (n, n) weights of one relation as readers see them, from row to column."""
    dense = np.zeros((n_items, n_items), np.float32)
    a = signals.arrays
    for item in range(n_items):
        for place in range(a.filled[item]):
            dense[item, a.ids[item, place]] = a.weights[item, place, relation]
    return dense


def link(
    signals: ItemSignals,
    item: int,
    others: Sequence[int],
    relation: int,
    weights: Sequence[float] | float,
) -> None:
    """Give an item neighbours in one relation; their weights are all that was counted of it."""
    a, n = signals.arrays, len(others)
    a.ids[item, :n] = others
    a.weights[item, :n, relation] = weights
    a.totals[item, relation] = a.weights[item, :n, relation].sum()
    a.filled[item] = n


def gather(signals: ItemSignals, *users: Sequence[int], width: int = 8) -> Candidates:
    """Gather for users given newest first."""
    return Gatherer().gather(signals, histories(*users, width=width))


def items_of(found: Candidates, row: int = 0) -> list[int]:
    """Return a user's candidates without the padding."""
    items = found.items[row]
    return [item for item in items.tolist() if item >= 0]


def signal(found: Candidates, item: int, name: str, row: int = 0) -> float:
    """Return one signal of one candidate."""
    place = items_of(found, row).index(item)
    return float(found.signals[row, place, SIGNALS.index(name)])
