"""The learn role's rules alone: every event is in a version once, whatever is saved, lost or late.

The real ``Learning`` on an event loop that turns once a move; a counter stands for the model, and
what a version holds is a copy of it with the offsets, as the publisher packs both.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from types import SimpleNamespace
from typing import Any

import pytest
from faust.types.tuples import TP
from guards_off import Off

from headrace.streams.kafka.batches import RecordBatch, Watermarks
from headrace.streams.learn.learner import Learned
from headrace.streams.learn.learner_state import Positions
from headrace.streams.learn.role import Learning
from headrace.streams.records import Event
from headrace.streams.settings import Settings
from headrace.streams.wire import encode

N_RECORDS = 10  # of each partition
N_MOVES = 40
SEEDS = range(300)  # enough to miss each rule, should a change of the code make other seeds find it
KEPT = 2  # versions: the newest may be damaged
PARTITIONS = (TP("headrace.events", 0), TP("headrace.events", 1))
LOG = {
    tp: [
        SimpleNamespace(
            offset=offset,
            timestamp=1_000,
            key=None,
            value=encode(Event(user="ann", item="i", time_ms=offset)) if offset % 4 else b"bad",
            headers=(),
        )
        for offset in range(N_RECORDS)
    ]
    for tp in PARTITIONS
}
EXPECTED = Counter((tp.partition, r.offset) for tp in PARTITIONS for r in LOG[tp] if r.offset % 4)

Version = tuple[Counter[tuple[int, int]], Positions]


class Now(Executor):
    """A compute thread that is never busy."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(fn(*args, **kwargs))
        return done


class Counting:
    """Counts each event it learns."""

    outer_loop = SimpleNamespace(n_rehearsed=0)
    vocabulary = SimpleNamespace(n_items=0)

    def __init__(self, learned: Counter[tuple[int, int]]) -> None:
        self.learned = learned

    def learn(self, events: Sequence[tuple[str, int, Event]], *, is_behind: bool) -> Learned:  # noqa: ARG002
        self.learned.update((int(key.split("/")[0]), offset) for key, offset, _ in events)
        return Learned(len(events), 0, float("nan"))


class Rules:
    """One learn role after another. Each public method is a move."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.tasks: list[asyncio.Task[None]] = []
        self.versions: list[Version] = [(Counter(), Positions())]
        self.committed = dict.fromkeys(PARTITIONS, 0)
        self.begin()

    def begin(self, is_damaged: int = 0) -> None:
        """Start, after a crash perhaps, from the newest version that can be read."""
        self.end()
        if is_damaged and len(self.versions) > 1:
            self.versions.pop()
        learned, positions = self.versions[-1]
        self.positions = Positions(positions)
        self.model = Counting(learned.copy())
        self.watermarks, self.epoch = Watermarks(), 0
        app: Any = SimpleNamespace(intake=self)
        settings = Settings(micro_batch_events=3)
        self.learning = Learning(settings, app, self.model, Now(), self.positions)  # type: ignore[arg-type]
        self.packed: Version | None = None
        self.saved = Positions(positions)
        self.tasks = [self.loop.create_task(self.learning.learn_forever())]
        self.assign()

    def end(self) -> None:
        """Drop what was under way."""
        for task in self.tasks:
            task.cancel()
        self.turn(2)

    def assign(self, _: int = 0) -> None:
        """Position after a rebalance, as the intake does: where it may, before what is taken."""
        self.epoch += 1
        self.watermarks.forget()
        self.at = {
            tp: min(
                self.committed[tp] if (taken := self.learning.position_of(tp)) is None else taken,
                self.committed[tp],
            )
            for tp in PARTITIONS
        }

    def deliver(self, n: int) -> None:
        """Deliver the next records of a partition, one batch at a time."""
        tp = PARTITIONS[n % 2]
        records = LOG[tp][self.at[tp] : self.at[tp] + 1 + n % 3]
        if records and all(task.done() for task in self.tasks[1:]):
            for task in self.tasks[1:]:
                task.result()  # a batch that could not be taken would be missed later, without why
            self.at[tp] += len(records)
            receipt = self.watermarks.deliver(tp, self.at[tp], self.epoch)
            self.tasks.append(
                self.loop.create_task(self.learning.take(RecordBatch(records, receipt)))
            )
            self.turn()

    def turn(self, n: int = 1) -> None:
        """Let the event loop turn."""
        for _ in range(n):
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()

    def pack(self, _: int = 0) -> None:
        """Copy the model and its offsets on the compute thread."""
        self.packed = self.model.learned.copy(), Positions(self.positions)

    def announce(self, _: int = 0) -> None:
        """Let the version be there."""
        if self.packed is not None:
            self.versions = [*self.versions, self.packed][-KEPT:]
            self.saved, self.packed = self.packed[1], None

    def save(self, _: int = 0) -> None:
        """Tell what is saved."""
        self.learning.acknowledge(self.saved)

    def acknowledge(self, receipt: Any) -> None:
        """Be the intake."""
        receipt.acknowledged = True

    def ends(self) -> dict[TP, int]:
        """Be the intake."""
        return {tp: len(LOG[tp]) for tp in PARTITIONS}

    async def require_end(self, tp: TP, read: int) -> None:
        """Be the intake of a topic that nobody made anew."""
        assert read <= len(LOG[tp])

    def commit(self, _: int = 0) -> None:
        """Commit what is acknowledged; all below must be in a version."""
        for tp in self.watermarks.partitions():
            self.committed[tp] = self.watermarks.take(tp) or self.committed[tp]
            ever = max(positions.get(tp.partition, 0) for _, positions in self.versions)
            assert self.committed[tp] <= ever, f"{self.committed[tp]} is in no version"

    def finish(self) -> None:
        """Let everything run, then see what a new role would start from."""
        for n in range(200):
            if all(at == N_RECORDS for at in self.committed.values()):
                break
            for move in (self.deliver, self.turn, self.pack, self.announce, self.save, self.commit):
                move(n)
        self.end()
        learned, positions = self.versions[-1]
        assert positions == {tp.partition: N_RECORDS for tp in PARTITIONS}
        assert learned == EXPECTED


def play(loop: asyncio.AbstractEventLoop, seed: int) -> None:
    """Play the schedule of a seed."""
    chance, rules = random.Random(seed), Rules(loop)
    saving = [rules.pack, rules.announce, rules.save, rules.commit]
    often = [rules.deliver, rules.turn, *saving]
    moves = [*often, *often, rules.deliver, rules.turn, rules.assign, rules.begin]
    try:
        for _ in range(N_MOVES):
            chance.choice(moves)(chance.randrange(6))
        rules.finish()
    finally:
        rules.end()


def play_all(seeds: range) -> None:
    """Play the schedules of all seeds."""
    with asyncio.Runner() as runner:
        for seed in seeds:
            play(runner.get_loop(), seed)


def test_every_event_is_in_a_version_once(rule_seeds: range) -> None:
    play_all(rule_seeds)


def _nothing_is_taken(self: Learning, _: TP) -> None:
    """Go on from what is committed alone."""


def _all(self: Learning, positions: Positions) -> None:  # noqa: ARG001
    """Acknowledge what no version holds."""
    for receipt in self._unsaved:
        self._app.intake.acknowledge(receipt)


async def _twice(self: Learning, batch: RecordBatch) -> None:
    self._taken.clear()
    await take(self, batch)


take = Learning.take


@pytest.mark.parametrize(
    "off",
    [
        pytest.param((Learning, "position_of", _nothing_is_taken), id="no later than learned"),
        pytest.param((Learning, "acknowledge", _all), id="only what is saved is acknowledged"),
        pytest.param((Learning, "take", _twice), id="what was taken is passed over"),
    ],
)
def test_a_rule_that_is_off_is_missed(off: Off, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*off)
    with pytest.raises(AssertionError):
        play_all(SEEDS)
