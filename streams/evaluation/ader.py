"""The continual-learning protocol of ADER: learn a period, test the next, learn that, and so on.

Every prefix of a session predicts its next item, repeats of the previous item too. What all users
share stands still while a period is tested; only the session's own events tell something of it.
Items never seen before the period are left out of its sessions, then sessions of one event. All
items seen before compete; one that is no candidate of ours is a miss.

Source: Mi et al. 2020, ADER (arXiv:2007.12000), section 4.
"""

import resource
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch

from headrace.model.arrays import Longs
from headrace.model.ranking_metrics import MISS, hr_at, mrr_at
from headrace.streams.errors import InputFileError
from headrace.streams.evaluation.ader_baselines import Baselines
from headrace.streams.evaluation.evaluate import (
    EVENTS_PER_DELTA,
    EVENTS_PER_VERSION,
    Block,
    Progress,
    blocks_of,
    lists_by,
)
from headrace.streams.evaluation.twin import frozen
from headrace.streams.learn.learner import Learner
from headrace.streams.learn.transfer import start_from
from headrace.streams.prequential import judge
from headrace.streams.settings import Settings
from headrace.streams.state import UserState
from headrace.streams.tools.files import interactions

Measured = dict[str, dict[str, float]]  # contender to measure to value

K = 20
EVENTS_PER_TEST = 1024  # judged at once


class Round(NamedTuple):
    """What is learned, and the test that follows."""

    learned: pl.DataFrame  # a period
    period: int  # the next one
    tests: pl.DataFrame  # its sessions


class Tested(NamedTuple):
    """What the test of a period found."""

    period: int
    ranks: dict[str, Longs]  # contender to (n,) MISS, or 1 and more


def rounds_of(events: pl.DataFrame, name: str) -> list[Round]:
    """Cut a stream with a column ``period``, read from ``name``, into rounds.

    Raises:
        InputFileError: a period is no whole number, or there is only one.
    """
    events = interactions(events)
    given = events["period"]
    whole = given.cast(pl.Int64, strict=False)
    if given.dtype.is_float():
        whole = whole.set(whole != given, None)
    events = events.with_columns(whole)
    if n_bad := events["period"].null_count():
        raise InputFileError(f"{name}: in {n_bad} rows the period is no whole number")
    periods = events["period"].unique().sort().to_list()
    if len(periods) < 2:
        raise InputFileError(f"{name}: one period to learn and one to test are needed")
    by_period = {period: events.filter(pl.col("period") == period) for period in periods}
    first_of_item = events.group_by("item").agg(first=pl.col("period").min())
    rounds = []
    for before, period in pairwise(periods):
        seen = first_of_item.filter(pl.col("first") < period)
        tests = by_period[period].join(seen, on="item", how="semi", maintain_order="left")
        rounds.append(Round(by_period[before], period, tests.filter(pl.len().over("user") > 1)))
    return rounds


def n_steps(rounds: Sequence[Round]) -> int:
    """Return how many events are learned or tested."""
    return sum(len(each.learned) + len(each.tests) for each in rounds)


class Continual:
    """A learner, and how well it ranks what it has not learned from yet."""

    def __init__(self, settings: Settings) -> None:
        self.learner = Learner(settings, with_repeats=True)
        self.learner.warm_up()  # which is not the model's time
        if settings.start_from:
            start_from(self.learner, settings.start_from)
        self._since_version = 0

    def learn(self, events: pl.DataFrame, *, on_progress: Progress = lambda _: None) -> None:
        """Learn a period as the service does, and end with a version."""
        # Positions go on: what is not behind a user's last one counts as applied already.
        for block in blocks_of(events, EVENTS_PER_DELTA, first=self.learner.n_events):
            self.learner.learn(block)
            self._since_version += len(block)
            if self._since_version >= EVENTS_PER_VERSION:
                self._serve_version()
            self.learner.serve_delta()
            on_progress(len(block))
        self._serve_version()

    def _serve_version(self) -> None:
        self._since_version = 0
        self.learner.next_version()

    def test(
        self, events: pl.DataFrame, *, on_progress: Progress = lambda _: None
    ) -> dict[str, Longs]:
        """Return the (n,) ranks of all events but the first of each user, by what is served.

        Users start without a history, and nothing is learned but their own state.
        """
        states: dict[str, UserState] = {}
        found = {name: [np.zeros(0, np.int64)] for name in ("adapted", "frozen")}
        for block in blocks_of(events, EVENTS_PER_TEST):
            for name, ranks in self._test(block, states).items():
                found[name].append(ranks)
            on_progress(len(block))
        return {name: np.concatenate(parts) for name, parts in found.items()}

    def _test(self, block: Block, states: dict[str, UserState]) -> dict[str, Longs]:
        """Rank a block's events, and apply them to their users' states."""
        recommender, lists_for = self.learner.served, lists_by(self.learner.settings)
        owners = {user: i for i, user in enumerate(dict.fromkeys(user for user, _, _ in block))}
        own = [states.setdefault(user, UserState()) for user in owners]
        folded = self.learner.fold_into(own, [(owners[user], at, e) for user, at, e in block])
        judged = judge(recommender, folded, own)
        if judged is None:
            return {}
        contenders = {"adapted": judged, "frozen": frozen(recommender, judged)}
        has_history = judged.tasks.histories.n_events > 0
        return {
            name: lists_for(recommender, contender).ranks[has_history]
            for name, contender in contenders.items()
        }


def walk(
    rounds: Sequence[Round], model: Continual, *, on_progress: Progress = lambda _: None
) -> Iterator[Tested]:
    """Learn and test, round after round."""
    for each in rounds:
        model.learn(each.learned, on_progress=on_progress)
        yield Tested(each.period, model.test(each.tests, on_progress=on_progress))


def evaluate(
    rounds: Sequence[Round],
    settings: Settings,
    *,
    stream: str,
    on_progress: Progress = lambda _: None,
    on_baselines: Progress = lambda _: None,
) -> dict[str, Any]:
    """Return the report of one stream: recall and MRR by period, and their means over periods.

    The model goes through it first, then the baselines do, and each pass tells its progress.

    Raises:
        InputFileError: there is nothing to test.
    """
    if all(each.tests.is_empty() for each in rounds):
        raise InputFileError(
            f"{stream}: no period after the first has a user with two events of items seen before"
        )
    torch.set_num_threads(settings.threads)
    model = Continual(settings)
    started = time.perf_counter()
    tested = list(walk(rounds, model, on_progress=on_progress))
    seconds = time.perf_counter() - started
    baselines = Baselines(pl.concat([*(each.learned for each in rounds), rounds[-1].tests]))
    by_period = []
    for each, (period, ranks) in zip(rounds, tested, strict=True):
        baselines.learn(each.learned)
        by_period.append(_summary(period, ranks | baselines.test(each.tests)))
        on_baselines(n_steps([each]))
    with_tests = [one for one in by_period if one["tested"]]
    return {
        "stream": stream,
        "protocol": "ader",
        "events": sum(len(each.learned) for each in rounds),
        "tested": sum(one["tested"] for one in by_period),
        "seed": settings.seed,
        "seconds": round(seconds, 1),
        "events_per_second": round(n_steps(rounds) / seconds, 1),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "candidate_recall": _mean([one["candidate_recall"] for one in with_tests]),
        "contenders": _over_periods([one["contenders"] for one in with_tests]),
        "by_period": by_period,
    }


def _summary(period: int, ranks: dict[str, Longs]) -> dict[str, Any]:
    if not len(ranks["frozen"]):  # nothing of it counts in the means
        return {"period": period, "tested": 0, "candidate_recall": None, "contenders": {}}
    return {
        "period": period,
        "tested": len(ranks["frozen"]),
        "candidate_recall": round(hr_at(ranks["frozen"], MISS - 1), 5),
        "contenders": {
            name: {f"recall{K}": round(hr_at(found, K), 5), f"mrr{K}": round(mrr_at(found, K), 5)}
            for name, found in ranks.items()
        },
    }


def _over_periods(contenders: Sequence[Measured]) -> Measured:
    """Return the means; each period weighs the same."""
    return {
        name: {measure: _mean([one[name][measure] for one in contenders]) for measure in measures}
        for name, measures in contenders[0].items()
    }


def _mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 5)
