"""What a delta must be like to be taken over: checked whole, before any of it is applied.

Half a delta would leave signals that nobody counted, and the compiled loops over the item signals
do not check an index: one that is out of range reads foreign memory.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch

from headrace.model.counts.content import Content
from headrace.model.counts.item_regression import N_REGRESSORS, Coefficients
from headrace.model.counts.signals import ItemSignals
from headrace.model.networks.meta_parameters import MetaParameters
from headrace.streams.versions.blobs import Arrays

_OF_NEIGHBOURS = ("rows", "slots", "ids", "weights")  # one entry for each changed neighbour
_CLOCKS = ("clock", "now_s")  # all other arrays have one entry for each changed item


def checked_items(new_items: Iterable[Any], *, max_items: int) -> list[tuple[int, str]]:
    """Return the new items of a delta.

    Raises:
        ValueError: an index is out of range, or an id is no text.
        TypeError: it is no list of pairs.
    """
    items = [(index, item) for index, item in new_items]
    for index, item in items:
        if type(index) is not int or not 0 <= index < max_items:
            raise ValueError(f"item index {index!r} is not from 0 to {max_items - 1}")
        if not isinstance(item, str) or not item:
            raise ValueError(f"the id of item {index} is no text")
    return items


def check_weights(given: Mapping[str, torch.Tensor], meta: MetaParameters) -> None:
    """Check the small scoring network against the model it is for.

    Raises:
        ValueError: another set of weights, another shape, or a weight that is not finite.
    """
    own = meta.small_state()
    if given.keys() != own.keys():
        raise ValueError(f"weights that only one side has: {sorted(given.keys() ^ own.keys())}")
    for name, weights in given.items():
        if (weights.shape, weights.dtype) != (own[name].shape, own[name].dtype):
            raise ValueError(f"{name} is {weights.dtype} {tuple(weights.shape)}")
        check_values(name, weights)


def check_values(name: str, weights: torch.Tensor) -> None:
    """Check what one of the meta-parameters holds.

    Raises:
        ValueError: a number that is not finite, or would make others so.
    """
    if not weights.isfinite().all():
        raise ValueError(f"{name} is not finite")
    if name == "scorer.std" and not (weights > 0).all():
        raise ValueError(f"{name} is not all above zero")
    if name == "targets.seen" and (weights < 0).any():
        raise ValueError(f"{name} is below zero")


def check_signals(delta: Arrays, signals: ItemSignals, *, n_items: int) -> None:
    """Check changed item signals against those they are for, once the vocabulary has ``n_items``.

    Raises:
        ValueError: a type, shape, count or index that does not fit.
        KeyError: an array is missing.
    """
    lengths = dict.fromkeys(_OF_NEIGHBOURS, len(delta["rows"]))
    for name, like in signals.snapshot(0).items():  # every array as it must be, without entries
        array = delta[name]
        n = len(like) if name in _CLOCKS else lengths.get(name, len(delta["items"]))
        if array.dtype != like.dtype or array.shape != (n, *like.shape[1:]):
            raise ValueError(f"{name} is {array.dtype} {array.shape}")
        if array.dtype.kind == "f" and not ((array >= 0) & (array < np.inf)).all():
            raise ValueError(f"{name} is no count: negative or not finite")
    for name, first, end in (
        ("items", 0, n_items),
        ("rows", 0, n_items),
        ("slots", 0, signals.neighbours),
        ("ids", -1, n_items),  # -1: no neighbour
        ("filled", 0, signals.neighbours + 1),
    ):
        array = delta[name]
        if ((array < first) | (array >= end)).any():
            raise ValueError(f"{name} are not all from {first} to {end - 1}")
    clock, landmark = delta["clock"]
    if any((ticks > clock).any() for ticks in (landmark, delta["first"], delta["touched"])):
        raise ValueError("something was counted after the clock")
    _check_neighbours(delta, signals, n_items)


def _check_neighbours(delta: Arrays, signals: ItemSignals, n_items: int) -> None:
    """Check that all neighbours that are counted come with the delta or are there already.

    They are not where the delta that brought them is missing: what is read is then no index.
    """
    items, rows = delta["items"], delta["rows"]
    if (np.diff(items) <= 0).any():
        raise ValueError("items are not in order, or one comes twice")
    place = np.full(n_items, -1, np.int32)  # of a changed item in the delta
    place[items] = np.arange(len(items))
    if (place[rows] < 0).any():
        raise ValueError("rows are of no changed item")
    is_there = np.zeros((len(items), signals.neighbours), np.bool_)
    known = items[items < signals.capacity]  # the first: they are in order
    is_there[: len(known)] = signals.arrays.ids[known] >= 0
    is_there[place[rows], delta["slots"]] = delta["ids"] >= 0
    is_counted = np.arange(signals.neighbours) < delta["filled"][:, None]
    if (is_counted & ~is_there).any():
        raise ValueError("neighbours are counted that are not there")


def check_content(delta: Arrays, content: Content, *, n_items: int) -> None:
    """Check changed content vectors against those they join.

    Raises:
        ValueError: a type, shape, width, value or index that does not fit.
        KeyError: an array is missing.
    """
    items, vectors = delta["items"], delta["vectors"]
    for name, like in content.snapshot().items():
        array = delta[name]
        if array.dtype != like.dtype or array.ndim != like.ndim or len(array) != len(items):
            raise ValueError(f"content {name} is {array.dtype} {array.shape}")
    if len(items) and content.width not in (0, vectors.shape[1]):
        raise ValueError(f"content vectors are {vectors.shape[1]} wide, not {content.width}")
    if not np.isfinite(vectors).all():
        raise ValueError("content vectors are not finite")
    if ((items < 0) | (items >= n_items)).any():
        raise ValueError(f"content items are not all from 0 to {n_items - 1}")


def check_regression(delta: Arrays, *, n_items: int) -> None:
    """Check changed coefficients of the item regression.

    Raises:
        ValueError: a type, shape, number, value or index that does not fit.
        KeyError: an array is missing.
    """
    fitted, regressors, items = delta["fitted"], delta["regressors"], delta["items"]
    for name, like in Coefficients().snapshot().items():
        array = delta[name]
        n = len(fitted) if name in ("fitted", "regressors") else len(items)
        if array.dtype != like.dtype or array.shape != (n,):
            raise ValueError(f"regression {name} is {array.dtype} {array.shape}")
    if ((regressors < 0) | (regressors > N_REGRESSORS)).any() or regressors.sum() != len(items):
        raise ValueError("the regressors are not as many as their numbers say")
    for name, array in (("fitted", fitted), ("items", items)):
        if ((array < 0) | (array >= n_items)).any():
            raise ValueError(f"regression {name} are not all from 0 to {n_items - 1}")
    if not np.isfinite(delta["weights"]).all():
        raise ValueError("regression weights are not finite")
