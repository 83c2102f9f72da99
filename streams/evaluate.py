"""Evaluate a recorded stream prequentially: the service's model and passes, without Kafka.

Each event is ranked, then applied, then learned from. Users' own state moves at once; what all
users share reaches the ranking side as late as in a service with 200 events a second.
"""

import resource
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from headrace.model.baselines import baseline_ranks
from headrace.model.candidates import Candidates, stack
from headrace.model.outer_loop import Tasks
from headrace.model.recommender import Recommender
from headrace.model.signals import Ints, Longs
from headrace.streams.drift import Drift, tell
from headrace.streams.learner import Learner
from headrace.streams.list_statistics import ListStatistics, likeliest
from headrace.streams.prequential import Folded, judge, served
from headrace.streams.publication import pack_model
from headrace.streams.report import UNSCORED, Bools, Judged, K, summarise
from headrace.streams.settings import Settings
from headrace.streams.state import NOT_ENGAGED
from headrace.streams.transfer import start_from
from headrace.streams.twin import Twin, placebo_ranks
from headrace.streams.wire import Event, Item

Progress = Callable[[int], None]
Block = list[tuple[str, int, Event]]  # (user, position in the stream, event)

CONTENDERS = ("adapted", "frozen", "twin", "placebo")
LISTED = ("adapted", "frozen", "twin")  # those whose lists are described
EVENTS_PER_DELTA = 200  # a second of a service with 200 events a second
EVENTS_PER_VERSION = 10_000


class Evaluation:
    """A learner and the recommender that serves what it published, beside a twin and a placebo."""

    def __init__(
        self,
        settings: Settings,
        *,
        events_per_delta: int = EVENTS_PER_DELTA,
        events_per_version: int = EVENTS_PER_VERSION,
        has_lag: bool = True,
    ) -> None:
        self.learner = Learner(settings)
        self.events_per_delta = events_per_delta
        self.events_per_version = events_per_version
        self.has_lag = has_lag
        self.seconds = 0.0  # of the model alone, without what it is measured against
        self.n_earlier: list[Longs] = []  # of each block, each event's user's interactions before
        self._twin = Twin(self.learner)
        if settings.start_from:
            self._twin.start_from(start_from(self.learner, settings.start_from))
        self._lists = {name: ListStatistics() for name in LISTED}
        self._first_scored = 0  # position in the stream
        self._since_version = 0

    @property
    def served(self) -> Recommender:
        """What ranks."""
        return self.learner.published

    def know(self, items: Sequence[Item]) -> None:
        """Take over the catalogue."""
        for item in items:
            self.learner.note(item)
        while self.learner.place():
            pass

    def run(
        self, events: pl.DataFrame, *, on_progress: Progress = lambda _: None
    ) -> dict[str, Longs]:
        """Return the (n,) ranks of each contender: MISS, UNSCORED, or 1 and more."""
        self._first_scored = len(events) // 2
        blocks = []
        for block in _blocks(events, self.events_per_delta):
            blocks.append(self._block(block))
            on_progress(len(block))
        return {name: np.concatenate([b[name] for b in blocks]) for name in blocks[0]}

    def _block(self, block: Block) -> dict[str, Longs]:
        """Rank, apply and learn the events between two deltas, then publish."""
        started = time.perf_counter()
        learner = self.learner
        learner.admit([event for _, _, event in block])
        states, folded = learner.fold(block)
        self.n_earlier.append(folded.before.n_events)
        candidates = None if self.has_lag else self._gather_at_once(folded)
        judged = judge(self.served, folded, states, candidates=candidates)
        ranks = {name: np.full(len(block), UNSCORED, np.int64) for name in CONTENDERS}
        if judged is not None:
            settings = learner.settings
            shown = served(
                self.served, judged, length=settings.list_length, diversity=settings.diversity
            )
            ranks["adapted"][folded.is_task] = shown.ranks
            ranks["frozen"][folded.is_task] = judged.judgement.ranks
        self.seconds += time.perf_counter() - started
        twin_tasks = None
        if judged is not None:  # before anything of the block is counted or learned
            owners = folded.owners[folded.is_task]
            ranks["placebo"][folded.is_task] = placebo_ranks(self.served, judged, owners)
            ranks["twin"][folded.is_task], twin_tasks = self._twin.rank(judged)
            positions = np.array([position for _, position, _ in block])[folded.is_task]
            is_scored = positions >= self._first_scored
            self._describe(is_scored, shown.items[:, :K], judged.tasks, twin_tasks)
        started = time.perf_counter()
        learner.absorb(folded, judged.tasks if judged else None, is_counted=not self.has_lag)
        is_version = self._is_version_due(len(block))
        if is_version:
            learner.publish_version()
        learner.outer_loop.publish_delta()
        self.seconds += time.perf_counter() - started
        if twin_tasks is not None:
            self._twin.outer_loop.learn(twin_tasks, n_items=len(learner.vocabulary))
        if is_version:
            self._twin.publish_version()
        self._twin.outer_loop.publish_delta()
        return ranks

    def _describe(self, is_scored: Bools, adapted: Ints, frozen: Tasks, twin: Tasks) -> None:
        """Count each contender's lists of a block's scored tasks, all by the served embeddings."""
        if not is_scored.any():
            return
        lists = {
            "adapted": adapted,
            "frozen": likeliest(frozen.items, frozen.probabilities, K),
            "twin": likeliest(twin.items, twin.probabilities, K),
        }
        for name, made in lists.items():
            self._lists[name].add(made[is_scored], self.served)

    def describe_lists(self) -> dict[str, dict[str, float]]:
        """Return what each contender's lists of the scored events are like."""
        n_items = self.learner.vocabulary.n_items
        return {name: counted.summary(n_items=n_items) for name, counted in self._lists.items()}

    def _gather_at_once(self, folded: Folded) -> Candidates:
        """Gather each task's candidates with every event before it counted."""
        found: list[Candidates] = []
        for i in range(len(folded.targets)):
            row = slice(i, i + 1)
            if folded.is_task[i]:
                found.append(self.served.gather(folded.before.rows(row)))
            self.learner.count(folded, row)
        return stack(found) if found else self.served.gather(folded.tasks_before())

    def _is_version_due(self, n_events: int) -> bool:
        """Count events towards the next version; without lag everything is served at once."""
        self._since_version += n_events
        is_due = self._since_version >= self.events_per_version
        if is_due:
            self._since_version = 0
        return is_due or not self.has_lag


def evaluate(
    events: pl.DataFrame,
    settings: Settings,
    *,
    stream: str,
    n_events: int,
    items: Sequence[Item] = (),
    has_lag: bool = True,
    on_progress: Progress = lambda _: None,
    save: str | None = None,
    drift: Drift | None = None,
) -> dict[str, Any]:
    """Return the report of one stream; ``events`` as read by ``files.read_events``.

    The first ``n_events`` interactions count; ``items`` is the catalogue. The model at the end is
    written to ``save``, for ``transfer.start_from``. With ``drift``, ``events`` are its events.
    """
    torch.set_num_threads(settings.threads)
    events = events.filter(~pl.col("action").is_in(list(NOT_ENGAGED))).head(n_events)

    def rank(part: pl.DataFrame) -> tuple[Evaluation, dict[str, Longs]]:
        evaluation = Evaluation(settings, has_lag=has_lag)
        evaluation.know(items)
        ranks = evaluation.run(part, on_progress=on_progress)
        return evaluation, ranks | _baselines(part, on_progress)

    evaluation, ranks = rank(events)
    if save:
        learner = evaluation.learner
        Path(save).write_bytes(
            pack_model(
                learner.recommender, learner.vocabulary, content_space=learner.catalogue.space
            )
        )
    n_of_item = events.select(pl.int_range(pl.len()).over("item")).to_series().to_numpy()
    users = events["user"].rank("dense").to_numpy()
    judged = Judged(ranks, users, np.concatenate(evaluation.n_earlier), n_of_item)
    report = {
        "stream": stream,
        "events": len(events),
        "items": events["item"].n_unique(),
        "seed": settings.seed,
        "lag": has_lag,
        "seconds": round(evaluation.seconds, 1),
        "events_per_second": round(len(events) / evaluation.seconds, 1),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        **summarise(judged),
        "lists": evaluation.describe_lists(),
    }
    if inheritance := evaluation.learner.inheritance:
        report["inherited_items"] = inheritance.n_matched
    if drift:
        report["drift"] = tell(drift, ranks, lambda part: rank(part)[1])
    return report


def _baselines(events: pl.DataFrame, on_progress: Progress) -> dict[str, Longs]:
    users, items = (events[name].rank("dense").to_numpy() for name in ("user", "item"))
    times_s = events["time_ms"].to_numpy() // 1000
    return baseline_ranks(users, items, times_s, on_progress=on_progress)


def _blocks(events: pl.DataFrame, size: int) -> Iterator[Block]:
    columns = [events[name].to_list() for name in ("user", "item", "action", "time_ms")]
    for start in range(0, len(events), size):
        rows = zip(*(column[start : start + size] for column in columns), strict=True)
        yield [
            (user, start + i, Event(user=user, item=item, action=action, time_ms=time_ms))
            for i, (user, item, action, time_ms) in enumerate(rows)
        ]
