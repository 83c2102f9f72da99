"""Baselines of the ADER protocol: counted up to a period, standing still while it is tested."""

import numpy as np
import polars as pl

from headrace.model.arrays import Ints, Longs
from headrace.model.baselines.session_neighbours import learn_stream, new_sequences, standing_ranks
from headrace.model.ranking_metrics import MISS


class Baselines:
    """First-order co-visitation and session neighbours."""

    def __init__(self, events: pl.DataFrame) -> None:
        """``events`` are all that will be learned or tested: room is made for them."""
        self._users, self._items = (pl.Enum(events[name].unique()) for name in ("user", "item"))
        users, items, _ = self._columns(events)
        ends = np.cumsum(np.bincount(users))
        self._sequences = new_sequences(np.append(0, ends), int(items.max()) + 1)
        self._successions = successions(events.clear())

    def learn(self, events: pl.DataFrame) -> None:
        """Count a period."""
        self._successions = pl.concat([self._successions, successions(events)])
        learn_stream(self._sequences, *self._columns(events))

    def test(self, events: pl.DataFrame) -> dict[str, Longs]:
        """Return the (n,) ranks of all events but the first of each user."""
        users, items, times_s = self._columns(events)
        order = np.argsort(users, kind="stable")
        ranks = np.zeros(len(users), np.int64)
        ranks[order] = standing_ranks(self._sequences, users[order], items[order], times_s[order])
        return {
            "covisitation": follower_ranks(self._successions, successions(events)),
            "session_knn": ranks[ranks > 0],
        }

    def _columns(self, events: pl.DataFrame) -> tuple[Ints, Ints, Longs]:
        """Return the user indexes, item indexes and times in seconds."""
        numbers = events.select(
            pl.col("user").cast(self._users).to_physical().cast(pl.Int32),
            pl.col("item").cast(self._items).to_physical().cast(pl.Int32),
            pl.col("time_ms") // 1000,
        )
        users, items, times_s = (column.to_numpy() for column in numbers.iter_columns())
        return users, items, times_s


def successions(events: pl.DataFrame) -> pl.DataFrame:
    """Return (previous item, item) of all events but the first of each user."""
    previous = pl.col("item").shift(1).over("user").alias("previous")
    return events.select(previous, "item").drop_nulls()


def follower_ranks(learned: pl.DataFrame, asked: pl.DataFrame) -> Longs:
    """Rank each item among the followers of the one before, of equal counts the first one first."""
    counts = learned.group_by("previous", "item", maintain_order=True).len()
    ranked = counts.sort("len", descending=True, maintain_order=True).with_columns(
        rank=pl.int_range(1, pl.len() + 1).over("previous")
    )
    found = asked.join(ranked, on=["previous", "item"], how="left", maintain_order="left")
    return found["rank"].fill_null(MISS).to_numpy()
