"""Drift: how long a change of the world is felt, and what is kept of the old one.

A stream changes where another file follows, whose users and items are others, or where item ids
are permuted among themselves, so that from there on all that was counted of an item is wrong.

What the report says of each contender, all as NDCG@10 (repeats are left out, as elsewhere):

- ``before``: over the last 5,000 events before the change.
- ``after``: in windows of 1,000 events from the change on. ``fresh`` is the model that starts from
  nothing there.
- ``recovered``: events until the mean over 2,000 of them reaches 90 % of the reference, which is
  ``before`` for permuted ids. Another file may be harder or easier: the reference is then what the
  same contender reaches at the same place if it starts from nothing with that file.
- ``kept``, where a file comes back (it goes on behind the events it was left at): over the first
  5,000 events since, as it was (``returned``), as it is without anything in between
  (``undisturbed``), and from nothing (``fresh``). The old is kept as far as ``returned`` is above
  ``fresh`` and close to ``undisturbed``.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from headrace.model.arrays import Longs
from headrace.model.ranking_metrics import UNSCORED, Ranks, ndcg_at
from headrace.streams.errors import InputFileError
from headrace.streams.evaluation.report import K
from headrace.streams.tools.files import interactions

LEVEL = 5_000  # events
WINDOW = 1_000
MOVING = 2 * WINDOW  # some 1,500 of them scored: a mean of NDCG@10 is then within 0.01
RECOVERED = 0.9  # of the reference
PAUSE_MS = 1_000  # between the last event of one file and the first of the next


class Change(NamedTuple):
    """A place in the stream from which on, up to the next one, the world is another."""

    what: str
    start: int  # position of the first event
    end: int
    alone: pl.DataFrame | None = None  # another file's events
    undisturbed: pl.DataFrame | None = None  # of a file that comes back, all its events so far


class Drift(NamedTuple):
    """A stream and its changes."""

    events: pl.DataFrame
    changes: Sequence[Change]

    @property
    def n_more(self) -> int:
        """Return how many events are ranked beside the stream, for comparison."""
        tables = [t for c in self.changes for t in (c.alone, c.undisturbed) if t is not None]
        return sum(map(len, tables))


def permuted(events: pl.DataFrame, *, share: float, seed: int, n_events: int) -> Drift:
    """Return the first ``n_events`` interactions, items permuted from a share of them on."""
    events = interactions(events).head(n_events)
    start = int(len(events) * share)
    items = events["item"].unique(maintain_order=True)
    others = items.gather(np.random.default_rng(seed).permutation(len(items)))
    after = events[start:].with_columns(pl.col("item").replace_strict(items, others))
    return Drift(pl.concat([events[:start], after]), [Change("permuted", start, len(events))])


def followed(files: Sequence[tuple[str, pl.DataFrame]], *, n_events: int) -> Drift:
    """Return ``n_events`` interactions of each named file, one file's after the other's.

    A file that is named again goes on behind the events it was left at. Ids of the first file stay
    as they are, which is what a catalogue is about; the others' get a number before them.

    Raises:
        InputFileError: there are no events, or none left, in a file.
    """
    tables = _apart(files)
    kinds = {file: table.schema.get("context") for file, table in tables.items()}
    if len(set(kinds.values())) > 1:
        raise InputFileError(
            f"{', '.join(kinds)}: the context of events has other columns, or columns of another"
            " kind, in one than in another: leave it out of one file, or of all"
        )
    so_far: dict[str, pl.DataFrame] = {}
    parts: list[pl.DataFrame] = []
    changes: list[Change] = []
    start = time_ms = 0
    for file, _ in files:
        earlier = so_far.get(file, tables[file].clear())
        part = tables[file][len(earlier) :].head(n_events)
        if part.is_empty():
            raise InputFileError(f"{file}: there are no events left in it to go on with")
        so_far[file] = pl.concat([earlier, part])
        shift = time_ms - part["time_ms"][0] if parts else 0
        parts.append(part.with_columns(pl.col("time_ms") + shift))
        end, time_ms = start + len(part), parts[-1]["time_ms"][-1] + PAUSE_MS
        undisturbed = None if earlier.is_empty() else so_far[file]
        changes.append(Change(Path(file).name.split(".")[0], start, end, part, undisturbed))
        start = end
    return Drift(pl.concat(parts), changes[1:])


def _apart(files: Sequence[tuple[str, pl.DataFrame]]) -> dict[str, pl.DataFrame]:
    """Return each file's interactions, no user or item in two of them."""
    tables = {file: interactions(events) for file, events in files}
    for number, file in enumerate(tables):
        if number:
            ids = pl.col("user", "item").str.replace("^", f"{number}/")
            tables[file] = tables[file].with_columns(ids)
    return tables


def tell(drift: Drift, ranks: Ranks, rank: Callable[[pl.DataFrame], Ranks]) -> list[dict[str, Any]]:
    """Return what each change did to each contender's ranks.

    ``rank`` is to rank other events, starting from nothing.
    """
    return [_tell(change, ranks, rank) for change in drift.changes]


def _tell(change: Change, ranks: Ranks, rank: Callable[[pl.DataFrame], Ranks]) -> dict[str, Any]:
    before = {name: its[max(0, change.start - LEVEL) : change.start] for name, its in ranks.items()}
    after = {name: its[change.start : change.end] for name, its in ranks.items()}
    fresh = None if change.alone is None else rank(change.alone)
    told: dict[str, Any] = {"what": change.what, "start": change.start, "window": WINDOW}
    told["contenders"] = contenders = {}
    for name in ranks:
        moving, level = _levels(after[name], MOVING), _level(before[name])
        reference = _levels(fresh[name], MOVING) if fresh else [level] * len(moving)
        contenders[name] = {
            "before": level,
            "after": _levels(after[name], WINDOW),
            "recovered": _recovered(moving, reference),
        }
    if fresh:
        contenders["fresh"] = {"after": _levels(fresh["adapted"], WINDOW)}
    if fresh and change.undisturbed is not None:
        undisturbed = rank(change.undisturbed)
        told["kept"] = {
            name: {
                "returned": _level(after[name][:LEVEL]),
                "undisturbed": _level(undisturbed[name][-len(after[name]) :][:LEVEL]),
                "fresh": _level(fresh[name][:LEVEL]),
            }
            for name in ranks
        }
    return told


def _level(ranks: Longs) -> float:
    return round(ndcg_at(ranks[ranks != UNSCORED], K), 5)


def _levels(ranks: Longs, width: int) -> list[float]:
    """Return the level over the last ``width`` events at the end of each window."""
    ends = range(width, len(ranks) + 1, WINDOW)
    return [_level(ranks[end - width : end]) for end in ends]


def _recovered(moving: Sequence[float], reference: Sequence[float]) -> int | None:
    """Return after how many events the reference is nearly reached, None if it never is."""
    for i, (level, expected) in enumerate(zip(moving, reference, strict=True)):
        if 0 < RECOVERED * expected <= level:
            return MOVING + i * WINDOW
    return None
