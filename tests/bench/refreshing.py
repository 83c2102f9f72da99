"""What it is worth to ask for a user's list anew when they come back, by a `refresh` event.

    python tests/bench/refreshing.py --events 20000 tmall.tsv.gz ...

A worker's lists go out when users act, and are as old as that when they come back. Workers that
serve the same model take the same events, in micro-batches; one is never asked to refresh, the
others are as soon as a user comes who was away for longer than so many minutes, or is new, and just
before each event. An event is judged by the list that its user was shown. Counts and the scoring
network reach the workers every 200 events, the model every 6,000, as in `headrace evaluate`. One
JSON line for each stream: NDCG@10 over its second half, the gain over never refreshing with 95 %
intervals from drawing users, and how many lists were made for each that is made otherwise.
"""

import argparse
import json
from collections.abc import Iterator, Sequence

import numpy as np

from headrace.model.ranking_metrics import MISS, UNSCORED, gains_at
from headrace.model.significance import paired_difference
from headrace.streams.actions import REFRESH
from headrace.streams.adapt.engine import UserWork
from headrace.streams.adapt.refresh import Live, Refresher
from headrace.streams.evaluation.evaluate import (
    EVENTS_PER_DELTA,
    EVENTS_PER_VERSION,
    Block,
    blocks_of,
)
from headrace.streams.evaluation.report import K
from headrace.streams.learn.learner import Learner
from headrace.streams.records import Event, Source
from headrace.streams.settings import Settings, load
from headrace.streams.state import UserState
from headrace.streams.tools.files import interactions, load_events

NEVER = float("inf")
MANY = 100_000  # users: of whom no list is kept is judged by a new one


class Worker:
    """Refreshes users who come back after so many minutes, and keeps where their items stood."""

    def __init__(self, settings: Settings, away_minutes: float) -> None:
        self.ranks: list[int] = []
        self.n_lists = 0
        self._away_ms = away_minutes * 60_000
        self._refresher = Refresher(settings, lambda: 0)
        self._states: dict[str, UserState] = {}
        self._offset = 0

    def take(self, live: Live, events: Sequence[Event]) -> None:
        """Process a micro-batch in which users act once; refresh first those who were away."""
        back = [event for event in events if self._was_away(event)]
        self._process(
            live,
            [Event(user=e.user, item="", action=REFRESH, time_ms=e.time_ms) for e in back],
        )
        is_repeat = [self._state_of(event).items.ends_with(event.item) for event in events]
        ranks = self._process(live, events)
        self.ranks += np.where(is_repeat, UNSCORED, ranks).tolist()

    def _state_of(self, event: Event) -> UserState:
        return self._states.setdefault(event.user, UserState())

    def _was_away(self, event: Event) -> bool:
        times_ms = self._state_of(event).times_ms[-1:]
        return event.time_ms - (times_ms[0] if times_ms else -np.inf) >= self._away_ms

    def _process(self, live: Live, events: Sequence[Event]) -> list[int]:
        """Return where each event's item stood, MISS where it was not in the running."""
        work = []
        for event in events:
            self._offset += 1
            source = Source(topic="", partition=0, offset=self._offset, time_ms=event.time_ms)
            work.append(
                UserWork(event.user, self._state_of(event), [(self._offset, event)], source)
            )
        self.n_lists += len(work)
        results = self._refresher.refresh(live, work).results if work else []
        return [
            made.recommendation.judged.get("adapted", MISS) if made.recommendation else MISS
            for made in results
        ]


def micro_batches(block: Block, size: int) -> Iterator[list[Event]]:
    """Cut a block into micro-batches of at most so many events, none with two of one user."""
    batch: dict[str, Event] = {}
    for user, _, event in block:
        if user in batch or len(batch) == size:
            yield [*batch.values()]
            batch = {}
        batch[user] = event
    yield [*batch.values()]


def measure(
    file: str, n_events: int, away_minutes: Sequence[float], size: int
) -> dict[str, object]:
    """Return the figures of one stream."""
    settings = load({"shown_lists": MANY})
    events = interactions(load_events(file)).head(n_events)
    learner = Learner(settings)
    workers = [Worker(settings, minutes) for minutes in (NEVER, *away_minutes)]
    for number, block in enumerate(blocks_of(events, EVENTS_PER_DELTA), 1):
        live = Live(1, 1, learner.served, learner.vocabulary, sequence=0)
        live.follow()
        for batch in micro_batches(block, size):
            for worker in workers:
                worker.take(live, batch)
        learner.learn(block)
        if number * EVENTS_PER_DELTA % EVENTS_PER_VERSION == 0:
            learner.assortment.make_room()
            learner.serve_version()
        learner.serve_delta()
    ranks = np.array([worker.ranks for worker in workers])
    is_scored = (ranks[0] != UNSCORED) & (np.arange(len(events)) >= len(events) // 2)
    users = events["user"].rank("dense").to_numpy()[is_scored].astype(np.int64)
    gains = gains_at(ranks[:, is_scored], K)
    return {
        "stream": file,
        "events": len(events),
        "micro_batch": size,
        "never": round(float(gains[0].mean()), 4),
        "refreshed": [
            {
                "away_minutes": minutes,
                "ndcg": round(float(gain.mean()), 4),
                **paired_difference(gain, gains[0], users).told(),
                "lists": round(worker.n_lists / workers[0].n_lists, 3),
            }
            for minutes, gain, worker in zip(away_minutes, gains[1:], workers[1:], strict=True)
        ],
    }


def main() -> None:
    """Print a JSON line for each stream."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", nargs="+")
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--away-minutes", type=float, nargs="+", default=[30.0, 0.0])
    parser.add_argument("--micro-batch", type=int, default=16, help="events of it at most")
    asked = parser.parse_args()
    for file in asked.file:
        found = measure(file, asked.events, asked.away_minutes, asked.micro_batch)
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
