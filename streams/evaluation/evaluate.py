"""Evaluate a recorded stream prequentially: the service's model and passes, without Kafka.

Each event is ranked, then applied, then learned from. Users' own state moves at once; what all
users share reaches the ranking side as late as in a service with 200 events a second.
"""

import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import polars as pl
import torch

from headrace.model.ablation import remove
from headrace.model.arrays import Bools, Longs
from headrace.model.baselines.counting import baseline_ranks
from headrace.model.config import REMEMBERED
from headrace.model.counts.candidates import Candidates, stack
from headrace.model.ranking_metrics import UNSCORED
from headrace.model.recommender import Prepared, Recommender
from headrace.streams.actions import ACTIONS
from headrace.streams.errors import InputFileError
from headrace.streams.evaluation import by_action, report
from headrace.streams.evaluation.drift import Drift, tell
from headrace.streams.evaluation.list_statistics import ListStatistics
from headrace.streams.evaluation.report import K, summarise
from headrace.streams.evaluation.twin import Twin, frozen, placebo
from headrace.streams.learn.learner import Learner
from headrace.streams.learn.transfer import start_from
from headrace.streams.prequential import Folded, Judged, TaskLists, judge, lists_for
from headrace.streams.records import Event, Item
from headrace.streams.settings import Settings
from headrace.streams.tools.files import events_of, interactions

Progress = Callable[[int], None]
Block = list[tuple[str, int, Event]]  # (user, position in the stream, event)

CONTENDERS = ("adapted", "frozen", "twin", "placebo")
LISTED = ("adapted", "frozen", "twin")  # those whose lists are described
EVENTS_PER_DELTA = 200  # a second of a service with 200 events a second
EVENTS_PER_VERSION = 6_000  # half a minute of it


class Evaluation:
    """A learner and the recommender that ranks by it, beside a twin and a placebo."""

    def __init__(
        self,
        settings: Settings,
        *,
        events_per_delta: int = EVENTS_PER_DELTA,
        events_per_version: int = EVENTS_PER_VERSION,
        has_lag: bool = True,
        without: Sequence[str] = (),
        has_twin: bool = True,
    ) -> None:
        self.learner = Learner(settings)
        self.learner.warm_up()  # which is not the model's time
        self.events_per_delta = events_per_delta
        self.events_per_version = events_per_version
        self.has_lag = has_lag
        self.seconds = 0.0  # of the model alone, without what it is measured against
        self.n_earlier: list[Longs] = []  # of each block, each event's user's interactions before
        self._lists_for = lists_by(settings)
        self._twin = Twin(self.learner) if has_twin else None
        if settings.start_from:
            taken = start_from(self.learner, settings.start_from)
            if self._twin:
                self._twin.start_from(taken)
        remove(self.learner.outer_loop, without)
        if self._twin:
            remove(self._twin.outer_loop, without)
        self._lists = {name: ListStatistics() for name in LISTED}
        self._first_scored = 0  # position in the stream
        self._actions: list[int] = []  # of the stream, if there are several
        self._since_version = self.n_versions = 0

    @property
    def served(self) -> Recommender:
        """What ranks."""
        return self.learner.served

    def know(self, items: Sequence[Item]) -> None:
        """Take over the catalogue. What is withdrawn today was on offer when it was taken."""
        for item in items:
            self.learner.assortment.note(replace(item, active=True))
        while self.learner.assortment.place():
            pass

    def run(
        self, events: pl.DataFrame, *, on_progress: Progress = lambda _: None
    ) -> dict[str, Longs]:
        """Return the (n,) ranks of each contender: MISS, UNSCORED, or 1 and more.

        Of several actions, the adapted users' lists for each are among the contenders.
        """
        self._first_scored = len(events) // 2
        actions = np.unique(by_action.numbers_of(events)).tolist()
        self._actions = actions if len(actions) > 1 else []
        blocks = []
        for block in blocks_of(events, self.events_per_delta):
            blocks.append(self._block(block))
            on_progress(len(block))
        return {name: np.concatenate([b[name] for b in blocks]) for name in blocks[0]}

    def _block(self, block: Block) -> dict[str, Longs]:
        """Rank, apply and learn the events between two deltas, then publish."""
        started = time.perf_counter()
        learner = self.learner
        learner.assortment.admit([event for _, _, event in block])
        states, folded = learner.fold(block)
        self.n_earlier.append(folded.before.n_events)
        prepared = None if self.has_lag else self._prepare_at_once(folded)
        judged = judge(self.served, folded, states, prepared)
        contenders = [*CONTENDERS, *by_action.names(self._actions)]
        ranks = {name: np.full(len(block), UNSCORED, np.int64) for name in contenders}
        if judged is not None:
            lists = {"adapted": self._lists_for(self.served, judged)}
        self.seconds += time.perf_counter() - started
        if judged is not None:  # before anything of the block is counted
            lists |= self._others(judged)
            if self._twin:
                lists |= self._compare(self._twin, block, folded, judged, lists)
            for name, made in lists.items():
                ranks[name][folded.is_task] = made.ranks
        started = time.perf_counter()
        learner.absorb(folded, judged.tasks if judged else None, is_counted=not self.has_lag)
        is_version = self._is_version_due(len(block))
        if is_version:
            learner.next_version()
        learner.serve_delta()
        self.seconds += time.perf_counter() - started
        if self._twin:
            if is_version:
                self._twin.serve_version()
            self._twin.outer_loop.serve_delta()
        return ranks

    def _others(self, judged: Judged) -> dict[str, TaskLists]:
        """Return the lists of a block's tasks before adapting, and those for each action."""
        found = {"frozen": self._lists_for(self.served, frozen(self.served, judged))}
        for name, action in zip(by_action.names(self._actions), self._actions, strict=True):
            found[name] = self._lists_for(self.served, judged, target_action=ACTIONS[action])
        return found

    def _compare(
        self,
        twin: Twin,
        block: Block,
        folded: Folded,
        judged: Judged,
        lists: Mapping[str, TaskLists],
    ) -> dict[str, TaskLists]:
        """Return a block's lists by placebo and twin too, and let the twin learn from the tasks."""
        others = placebo(self.served, judged, folded.owners[folded.is_task])
        own = twin.judge(judged)
        found = {
            "placebo": self._lists_for(self.served, others),
            "twin": self._lists_for(twin.served, own),
        }
        positions = np.array([position for _, position, _ in block])[folded.is_task]
        self._describe(positions >= self._first_scored, {**lists, **found})
        twin.outer_loop.learn(own.tasks, n_items=len(self.learner.vocabulary))
        return found

    def _describe(self, is_scored: Bools, lists: Mapping[str, TaskLists]) -> None:
        """Count each contender's lists of a block's scored tasks, all by the served embeddings."""
        if is_scored.any():
            for name, counted in self._lists.items():
                items = lists[name].items[is_scored, :K]
                counted.add(items, self.served, self.learner.vocabulary)

    def describe_lists(self) -> dict[str, dict[str, float]]:
        """Return what each contender's lists of the scored events are like."""
        vocabulary = self.learner.vocabulary
        return {name: counted.summary(vocabulary) for name, counted in self._lists.items()}

    def _prepare_at_once(self, folded: Folded) -> Prepared:
        """Prepare the tasks, the candidates of each with every event before it counted."""
        found: list[Candidates] = []
        for i in range(len(folded.targets)):
            row = slice(i, i + 1)
            if folded.is_task[i]:
                found.append(self.served.gather(folded.before.rows(row)))
            self.learner.count(folded, row)
        with torch.no_grad():
            return self.served.prepare(folded.tasks_before(), stack(found) if found else None)

    def _is_version_due(self, n_events: int) -> bool:
        """Count events towards the next version; without lag everything is served at once."""
        self._since_version += n_events
        is_due = self._since_version >= self.events_per_version
        if is_due:
            self._since_version = 0
            self.n_versions += 1
        return is_due or not self.has_lag


def evaluate(
    events: pl.DataFrame,
    settings: Settings,
    *,
    stream: str,
    n_events: int,
    items: Sequence[Item] = (),
    has_lag: bool = True,
    without: Sequence[str] = (),
    on_progress: Progress = lambda _: None,
    on_baselines: Progress = lambda _: None,
    on_learned: Callable[[Learner], None] = lambda _: None,
    drift: Drift | None = None,
) -> dict[str, Any]:
    """Return the report of one stream; ``events`` as read by ``files.read_events``.

    The first ``n_events`` interactions count; ``items`` is the catalogue. The model is one
    ``without`` some parts (``ablation.PARTS``), and at the end of the stream is given to
    ``on_learned``. With ``drift``, ``events`` are its events. The model ranks them first, then the
    baselines do, and each pass tells its progress.

    Raises:
        InputFileError: there is no interaction among the events.
    """
    torch.set_num_threads(settings.threads)
    events = interactions(events).head(n_events)
    if events.is_empty():
        raise InputFileError(f"{stream} has no interactions, which are what lists are judged by")

    def rank(part: pl.DataFrame) -> tuple[Evaluation, dict[str, Longs]]:
        evaluation = Evaluation(settings, has_lag=has_lag, without=without)
        evaluation.know(items)
        ranks = evaluation.run(part, on_progress=on_progress)
        # Baselines remember as much as the model does, and no less than its default.
        n_own = max(REMEMBERED, settings.history_length)
        ranks |= _baselines(part, n_own, on_baselines)
        # A user who made room for others took nothing before, to the model alone.
        is_scored = np.all([of_one != UNSCORED for of_one in ranks.values()], axis=0)
        return evaluation, {
            name: np.where(is_scored, of_one, UNSCORED) for name, of_one in ranks.items()
        }

    evaluation, ranks = rank(events)
    on_learned(evaluation.learner)
    n_of_item = events.select(pl.int_range(pl.len()).over("item")).to_series().to_numpy()
    users = events["user"].rank("dense").to_numpy()
    for_each, ranks = by_action.parted(ranks)
    judged = report.ScoredStream(ranks, users, np.concatenate(evaluation.n_earlier), n_of_item)
    told = {
        "stream": stream,
        "events": len(events),
        "items": events["item"].n_unique(),
        "seed": settings.seed,
        "lag": has_lag,
        "without": list(without),
        "versions": evaluation.n_versions,
        "seconds": round(evaluation.seconds, 1),
        "events_per_second": round(len(events) / evaluation.seconds, 1),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        **summarise(judged),
        "by_action": by_action.summarise(
            {"adapted": ranks["adapted"]} | for_each, by_action.numbers_of(events), users
        ),
        "lists": evaluation.describe_lists(),
    }
    if inheritance := evaluation.learner.assortment.inheritance:
        told["inherited_items"] = inheritance.n_matched
    if drift:
        told["drift"] = tell(drift, ranks, lambda part: by_action.parted(rank(part)[1])[1])
    return told


def _baselines(events: pl.DataFrame, n_own: int, on_progress: Progress) -> dict[str, Longs]:
    users, items = (events[name].rank("dense").to_numpy() for name in ("user", "item"))
    times_s = events["time_ms"].to_numpy() // 1000
    return baseline_ranks(users, items, times_s, n_own=n_own, on_progress=on_progress)


def lists_by(settings: Settings) -> partial[TaskLists]:
    """Return ``lists_for`` by the shop's rules: whatever contender is ranked, they are the same."""
    return partial(
        lists_for,
        length=settings.list_length,
        diversity=settings.diversity,
        target_action=settings.target_action,
    )


def blocks_of(events: pl.DataFrame, size: int, *, first: int = 0) -> Iterator[Block]:
    """Cut a stream, or what of it starts at position ``first``, into blocks of so many events."""
    for start in range(0, len(events), size):
        rows = events_of(events[start : start + size])
        yield [(event.user, first + start + i, event) for i, event in enumerate(rows)]
