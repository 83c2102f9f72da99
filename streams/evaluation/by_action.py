"""By action: what a list made for one action is worth on the events of each."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from headrace.model.arrays import Longs
from headrace.model.ranking_metrics import UNSCORED, Ranks, gains_at, hr_at, ndcg_at
from headrace.model.significance import paired_difference
from headrace.streams.actions import ACTIONS, index_of
from headrace.streams.evaluation.report import K

PREFIX = "for_"


def numbers_of(events: pl.DataFrame) -> Longs:
    """Return the (n,) numbers of the events' actions."""
    numbers = {action: index_of(action) for action in events["action"].unique()}
    return events["action"].replace_strict(numbers, return_dtype=pl.Int64).to_numpy()


def names(actions: Sequence[int]) -> list[str]:
    """Return what the lists for each action are called."""
    return [PREFIX + ACTIONS[action] for action in actions]


def parted(ranks: Ranks) -> tuple[dict[str, Longs], dict[str, Longs]]:
    """Return the ranks in the lists for each action, and those of the other contenders."""
    own = {name: r for name, r in ranks.items() if name.startswith(PREFIX)}
    return own, {name: r for name, r in ranks.items() if name not in own}


def summarise(ranks: Ranks, actions: Longs, users: Longs) -> dict[str, Any]:
    """Return what the second half says of each action's events, under the lists for each.

    ``ranks`` are those of ``adapted`` and of the lists for each; nothing is said without these.
    ``gain`` is NDCG@10 of the list for the action itself less that of the list for another, with a
    95 % interval from drawing users.
    """
    if ranks.keys() == {"adapted"}:
        return {}
    n = len(actions)
    is_scored = (ranks["adapted"] != UNSCORED) & (np.arange(n) >= n // 2)
    told = {}
    for action in np.unique(actions[is_scored]):
        name = ACTIONS[action]
        rows = is_scored & (actions == action)
        own = gains_at(ranks[PREFIX + name][rows], K)
        told[name] = {"events": int(rows.sum())} | {
            contender: {
                f"hr{K}": round(hr_at(r[rows], K), 5),
                f"ndcg{K}": round(ndcg_at(r[rows], K), 5),
                "gain": paired_difference(own, gains_at(r[rows], K), users[rows]).told(),
            }
            for contender, r in ranks.items()
        }
    return told
