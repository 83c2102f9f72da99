"""The learn role's pipeline: each event is learned once, and committed offsets catch up."""

import asyncio
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from faust.types.tuples import TP
from serving_samples import metric

from headrace.streams.errors import TopicMismatchError
from headrace.streams.guards import EXIT_FAILED, EXIT_PAUSED, EXIT_WRONG, PauseGuard
from headrace.streams.kafka.batches import LostBatchError, Receipt, RecordBatch
from headrace.streams.learn import role as learn
from headrace.streams.learn.learner import Learned
from headrace.streams.learn.learner_state import Positions
from headrace.streams.learn.role import (
    LOOK_EVERY_S,
    WAITING_CHUNKS,
    Backlog,
    Learning,
)
from headrace.streams.records import Event
from headrace.streams.settings import Settings
from headrace.streams.wire import encode

P0 = TP("headrace.events", 0)
LIMIT_S = 60.0
END = 1_000  # of the partition


@dataclass
class FakeLearner:
    """Remembers what it was given."""

    offsets: list[int] = field(default_factory=list)
    behind: list[bool] = field(default_factory=list)
    may_learn: threading.Event = field(default_factory=threading.Event)

    def learn(self, events: list[tuple[str, int, Event]], *, is_behind: bool) -> Learned:
        assert self.may_learn.wait(LIMIT_S)
        self.behind.append(is_behind)
        self.offsets += [offset for _, offset, _ in events]
        return Learned(len(events), 0, 0.0)


@dataclass
class Rig:
    """The pipeline between fakes."""

    learning: Learning
    learner: FakeLearner
    positions: Positions
    acknowledged: list[tuple[int, int]]  # epoch, next offset
    sequences: Counter[int] = field(default_factory=Counter)  # batches so far of each epoch
    observed: list[Learned] = field(default_factory=list)  # what has been through

    async def take(self, *offsets: int, epoch: int = 1) -> None:
        """Hand over a batch and wait until it has been through."""
        n_before = len(self.observed)
        await self.hand_over(*offsets, epoch=epoch)
        async with asyncio.timeout(LIMIT_S):
            while len(self.observed) == n_before:
                await asyncio.sleep(0.001)

    async def hand_over(self, *offsets: int, epoch: int = 1) -> None:
        """Hand over a batch."""
        records = [
            SimpleNamespace(
                offset=offset,
                key=None,
                timestamp=1_000,
                value=encode(Event(user="ann", item=f"i{offset}", time_ms=offset)),
                headers=(),
            )
            for offset in offsets
        ]
        sequence = self.sequences[epoch]
        self.sequences[epoch] += 1
        receipt = Receipt(P0, offsets[-1] + 1, epoch, sequence)
        await self.learning.take(RecordBatch(records, receipt))


def run(
    check: Callable[[Rig], Awaitable[None]], *, saved: Positions | None = None, **settings: Any
) -> None:
    """Run ``check`` beside a pipeline that goes on from a version with these offsets."""

    async def main() -> None:
        learner, acknowledged = FakeLearner(), list[tuple[int, int]]()
        learner.may_learn.set()

        async def require_end(tp: TP, read: int) -> None:
            if read > END:
                raise TopicMismatchError(f"{tp} ends before {read}")

        intake = SimpleNamespace(
            acknowledge=lambda receipt: acknowledged.append((receipt.epoch, receipt.next_offset)),
            require_end=require_end,
            ends=lambda: {P0: END},
        )
        app: Any = SimpleNamespace(intake=intake)
        anything: Any = learner
        positions = Positions(saved or {})
        with ThreadPoolExecutor(1) as thread:
            learning = Learning(Settings(**settings), app, anything, thread, positions)
            rig = Rig(learning, learner, positions, acknowledged)
            learning._observe = rig.observed.append
            work = asyncio.ensure_future(learning.learn_forever())
            await check(rig)
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    asyncio.run(main())


def test_a_batch_is_acknowledged_once_a_version_holds_it() -> None:
    async def check(rig: Rig) -> None:
        await rig.take(0, 1)
        await rig.take(2, 3)
        assert (rig.learner.offsets, rig.positions) == ([0, 1, 2, 3], {0: 4})
        rig.learning.acknowledge({0: 2})
        assert rig.acknowledged == [(1, 2)]
        rig.learning.acknowledge({0: 4})
        assert rig.acknowledged == [(1, 2), (1, 4)]

    run(check)


def test_what_is_read_again_is_passed_over_and_acknowledged_without_another_version() -> None:
    async def check(rig: Rig) -> None:
        await rig.take(0, 1, 2, 3)
        rig.learning.acknowledge({0: 4})
        # The commit was lost with the membership of the group, and no event comes after.
        await rig.take(0, 1, epoch=2)
        await rig.take(2, 3, epoch=2)
        assert rig.learner.offsets == [0, 1, 2, 3]
        assert rig.positions == {0: 4}  # they never go back
        assert rig.acknowledged == [(1, 4), (2, 2), (2, 4)]

    run(check)


def test_a_batch_that_went_missing_ends_the_role() -> None:
    async def check(rig: Rig) -> None:
        await rig.take(0, 1)
        rig.sequences[1] += 1  # 2 and 3, fetched and lost on their way
        with pytest.raises(LostBatchError):
            await rig.take(4, 5)
        assert rig.learner.offsets == [0, 1]

    run(check)


def test_after_a_restart_what_the_version_holds_is_acknowledged_as_it_is_read_again() -> None:
    async def check(rig: Rig) -> None:
        assert rig.learning.position_of(P0) == 4
        await rig.take(2, 3)
        assert rig.acknowledged == [(1, 4)]
        await rig.take(4, 5)
        assert (rig.learner.offsets, rig.positions) == ([4, 5], {0: 6})
        assert rig.acknowledged == [(1, 4)]  # the rest is for the next version

    run(check, saved={0: 4})


@pytest.mark.parametrize("is_to_shrink", [True, False])
def test_the_learner_is_told_while_as_much_waits_as_may_and_more_comes(
    monkeypatch: pytest.MonkeyPatch, is_to_shrink: bool
) -> None:
    unread: list[int] = []
    monkeypatch.setattr(Backlog, "is_to_shrink", lambda _, n: unread.append(n) or is_to_shrink)

    async def check(rig: Rig) -> None:
        rig.learner.may_learn.clear()
        for offset in range(1 + WAITING_CHUNKS):  # one is being learned, and the others wait
            await rig.hand_over(offset)
            await asyncio.sleep(0)
        rig.learner.may_learn.set()
        async with asyncio.timeout(LIMIT_S):
            while len(rig.learner.offsets) < 1 + WAITING_CHUNKS:
                await asyncio.sleep(0.001)
        assert rig.learner.behind == [False, is_to_shrink, *[False] * (WAITING_CHUNKS - 1)]
        assert unread == [END - 1 - WAITING_CHUNKS]

    run(check, micro_batch_events=1)


@pytest.mark.parametrize(
    ("unread", "expected"),
    [
        ([500, 400, 400], [False, False, False]),  # all of it was there: a file, or an outage
        ([500, 501, 251, 250, 249], [False, True, True, False, False]),
        ([500, 501, 250, 260, 126, 125], [False, True, False, True, True, False]),
        ([0, 900, 900, 1], [False, True, True, True]),
    ],
)
def test_a_backlog_that_has_grown_is_to_shrink_to_half(
    monkeypatch: pytest.MonkeyPatch, unread: list[int], expected: list[bool]
) -> None:
    now_s, backlog, told = 0.0, Backlog(), []
    monkeypatch.setattr(learn.time, "monotonic", lambda: now_s)
    for n_unread in unread:
        told.append(backlog.is_to_shrink(n_unread))
        now_s += LOOK_EVERY_S / 2
        assert backlog.is_to_shrink(10**6) == told[-1]  # not before it is time
        now_s += LOOK_EVERY_S / 2
    assert told == expected
    now_s += 2 * LOOK_EVERY_S  # in which nobody asked, for there was room
    assert not backlog.is_to_shrink(10**6)


def test_events_of_a_topic_that_was_made_anew_are_not_passed_over_as_if_they_were_learned() -> None:
    async def check(rig: Rig) -> None:
        with pytest.raises(TopicMismatchError, match="ends before 5000"):
            await rig.take(0, 1)

    run(check, saved={0: 5_000})


@dataclass
class FakePublisher:
    """Notes what it is asked to publish."""

    published: list[str] = field(default_factory=list)

    async def publish_forever(self, *_: Any) -> None:
        self.published.append("from here on")

    async def publish_version(self, *_: Any) -> Positions:
        self.published.append("the last version")
        return Positions({0: 4})


class EndedError(BaseException):
    """Raised in place of leaving the process."""


def end(code: int) -> None:
    raise EndedError(code)


def owner_of(n: int) -> Any:
    """Return an intake that owns so many partitions."""
    return SimpleNamespace(
        assignment=lambda: {TP("headrace.events", number) for number in range(n)},
        lag=dict,
        is_there=lambda _: True,
    )


def published(
    how: Callable[[Learning, Any, PauseGuard], Awaitable[None]],
    *,
    owned: int,
    is_serving: bool = True,
) -> Any:
    """Return what a role publishes that owns so many of its four partitions."""
    publisher: Any = FakePublisher()
    intake = owner_of(owned)

    async def main() -> None:
        app: Any = SimpleNamespace(serving=asyncio.Event(), intake=intake)
        if is_serving:
            app.serving.set()
        held = {"vocabulary": {"n_items": 7}, "outer_loop": {"n_rehearsed": 9}}
        parts = {name: SimpleNamespace(**numbers) for name, numbers in held.items()}
        nobody: Any = SimpleNamespace(users=(), **parts)
        with ThreadPoolExecutor(1) as thread:
            learning = Learning(Settings(partitions=4), app, nobody, thread, Positions())
            await how(learning, publisher, PauseGuard(60))

    asyncio.run(main())
    return publisher.published


def test_a_second_learn_role_ends_for_good_before_it_announces_anything(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(learn, "end_process", end)
    monkeypatch.setattr(learn, "SETTLE_S", 0.0)
    assert published(Learning.publish, owned=4) == ["from here on"]

    async def publish_in_a_rebalance(learning: Learning, *others: Any) -> None:
        publishing = asyncio.ensure_future(learning.publish(*others))
        await asyncio.sleep(0)
        learning._app.intake = owner_of(4)
        await publishing

    assert published(publish_in_a_rebalance, owned=0) == ["from here on"]
    with pytest.raises(EndedError, match=f"^{EXIT_WRONG}$"):
        published(Learning.publish, owned=2)
    assert "another learn role is in group headrace-learn" in caplog.text


def test_a_learn_role_that_another_joins_ends_to_be_started_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(learn, "end_process", end)

    async def go_on(learning: Learning, *others: Any) -> None:
        learning.update_gauges()  # it has not begun: `publish` has the say
        learning._app.intake = owner_of(4)
        await learning.publish(*others)
        learning.update_gauges()
        learning._app.intake = owner_of(2)
        with pytest.raises(EndedError, match=f"^{EXIT_PAUSED}$"):
            learning.update_gauges()

    assert published(go_on, owned=2) == ["from here on"]
    assert (metric("items"), metric("replay_tasks")) == (7, 9)  # no event has come
    assert "another learn role has joined group headrace-learn" in caplog.text


def test_a_learn_role_whose_topic_is_gone_blames_no_other(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(learn, "end_process", end)

    async def lose_the_topic(learning: Learning, *others: Any) -> None:
        await learning.publish(*others)
        learning._app.intake = owner_of(0)
        learning._app.intake.is_there = lambda _: False
        with pytest.raises(EndedError, match=f"^{EXIT_FAILED}$"):
            learning.update_gauges()

    published(lose_the_topic, owned=4)
    assert "topic headrace.events is gone" in caplog.text
    assert "another learn role" not in caplog.text


def test_a_role_that_is_not_the_only_writer_stops_without_a_last_version() -> None:
    assert published(Learning.publish_last, owned=4) == ["the last version"]
    assert published(Learning.publish_last, owned=2) == []
    assert published(Learning.publish_last, owned=4, is_serving=False) == []
