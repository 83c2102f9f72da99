"""Guards that end the process, and the life of a role's process around them."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import errors

from headrace.streams import process
from headrace.streams.errors import (
    BrokerRefusedError,
    BrokerUnreachableError,
    StoreError,
    StreamsError,
    TopicMismatchError,
)
from headrace.streams.guards import (
    EXIT_FAILED,
    EXIT_PAUSED,
    EXIT_REFUSED,
    EXIT_STUCK,
    EXIT_UNAVAILABLE,
    EXIT_WRONG,
    PauseGuard,
    Watchdog,
    now_s,
)
from headrace.streams.process import Readiness, Role, run_role

LIMIT_S = 60.0


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_gap_between_ticks_beyond_the_limit_ends_the_process() -> None:
    clock, ended = Clock(), list[int]()
    guard = PauseGuard(2.0, clock=clock, end=ended.append)
    clock.now = 90.0
    guard.check()  # it has not begun
    clock.now = 100.0
    guard.tick()
    clock.now = 102.0
    guard.tick()  # just within the limit
    clock.now = 103.9
    guard.check()
    assert ended == []
    clock.now = 104.1
    guard.check()
    assert ended == [EXIT_PAUSED]
    guard.tick()
    assert ended == [EXIT_PAUSED, EXIT_PAUSED]


def test_a_rebalance_beyond_the_limit_ends_the_process() -> None:
    clock, ended = Clock(), list[int]()
    watchdog = Watchdog(60.0, clock=clock, end=ended.append)
    clock.now = 159.0
    watchdog.tick(is_serving=False)
    clock.now = 159.5
    watchdog.tick(is_serving=True)  # the limit counts from here
    clock.now = 219.0
    watchdog.tick(is_serving=False)
    assert ended == []
    clock.now = 220.0
    watchdog.tick(is_serving=False)
    assert ended == [EXIT_STUCK]


def test_the_guards_clock_goes_forward() -> None:
    before = now_s()
    assert now_s() >= before > 0


# ----------------------------------------------------------------------------------- the process


class EndedError(BaseException):
    """Raised in place of leaving the process."""


@dataclass
class FakeApp:
    """Stands for the Faust app; notes what it was asked, in order."""

    log: list[str] = field(default_factory=list)
    serving: asyncio.Event = field(default_factory=asyncio.Event)
    crashed: bool = False
    crash_reason: Exception | None = None
    start_error: Exception | None = None
    is_connected: bool = True

    @property
    def intake(self) -> Any:
        return SimpleNamespace(commit=self._commit, is_connected=lambda: self.is_connected)

    async def _commit(self) -> None:
        self.log.append("committed")

    async def start(self) -> None:
        if self.start_error:
            raise self.start_error
        self.serving.set()

    async def stop(self) -> None:
        self.log.append("left the group")


async def _nothing() -> None:
    """Be done at once."""


def live(
    app: FakeApp,
    work: Callable[[], Awaitable[None]],
    *,
    monkeypatch: pytest.MonkeyPatch,
    readiness: Readiness | None = None,
    in_flight: Callable[[], Awaitable[object]] = _nothing,
    drain_limit_s: float = LIMIT_S,
    guard: PauseGuard | None = None,
    watchdog: Any = None,
) -> list[int]:
    """Run a role and return the codes it ended itself with."""
    ended: list[int] = []

    def end(code: int) -> None:
        ended.append(code)
        raise EndedError

    async def drain() -> None:
        await in_flight()
        app.log.append("drained")

    async def main() -> None:
        anything: Any = app
        role = Role(
            app=anything,
            work=[work()],  # type: ignore[list-item] # a coroutine of any kind will do
            drain=drain,
            update_gauges=lambda: None,
            guard=guard or PauseGuard(LIMIT_S),
            watchdog=watchdog or Watchdog(LIMIT_S),
            readiness=readiness or Readiness(),
            drain_limit_s=drain_limit_s,
        )
        async with asyncio.timeout(LIMIT_S):
            await run_role(role)

    monkeypatch.setattr(process, "end_process", end)
    try:
        asyncio.run(main())
    except EndedError:
        assert ended
    return ended


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_commits_and_leaves_the_group(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = FakeApp()

    async def work() -> None:
        await app.serving.wait()
        os.kill(os.getpid(), number)
        await asyncio.Event().wait()

    assert live(app, work, monkeypatch=monkeypatch) == []
    assert app.log == ["drained", "committed", "left the group"]


def test_with_work_in_flight_the_process_ends_without_leaving_the_group(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = FakeApp()

    async def work() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.Event().wait()

    ended = live(
        app, work, monkeypatch=monkeypatch, in_flight=asyncio.Event().wait, drain_limit_s=0.01
    )
    assert ended == [0]
    assert app.log == []


@pytest.mark.parametrize("is_in_vain", [True, False])
def test_work_that_fails_while_it_is_waited_for_is_told_and_ends_the_process_as_any_other(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, *, is_in_vain: bool
) -> None:
    app = FakeApp()
    is_draining = asyncio.Event()

    async def work() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await is_draining.wait()
        raise ValueError("a record was refused")

    async def wait_for_work() -> None:
        is_draining.set()
        await (asyncio.Event().wait() if is_in_vain else asyncio.sleep(0.01))

    ended = live(app, work, monkeypatch=monkeypatch, in_flight=wait_for_work, drain_limit_s=0.1)
    assert ended == [EXIT_FAILED]
    assert "committed" not in app.log
    assert "a record was refused" in caplog.text


def test_a_slow_start_is_no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    app, clock, gaps_s = FakeApp(), Clock(), list[float]()

    class SlowTicks:
        """Ten seconds pass with every tick; the role serves with the third."""

        n_ticks = 0

        def tick(self, *, is_serving: bool) -> None:
            self.n_ticks += 1
            assert is_serving == (self.n_ticks > 3)
            if self.n_ticks == 3:
                app.serving.set()
            clock.now += 10.0

    def end(_: int) -> None:
        gaps_s.append(clock.now)
        raise EndedError

    async def work() -> None:
        app.serving.clear()
        await asyncio.Event().wait()

    monkeypatch.setattr(process, "TICK_S", 0.0)
    guard = PauseGuard(2.0, clock=clock, end=end)
    live(app, work, monkeypatch=monkeypatch, guard=guard, watchdog=SlowTicks())
    assert gaps_s == [100.0 + 4 * 10.0]  # the fourth tick began it, the fifth found the gap


@pytest.mark.parametrize("is_stopping", [False, True])
@pytest.mark.parametrize(
    ("failure", "status"),
    [
        (ValueError("a defect"), EXIT_FAILED),
        (TopicMismatchError("the topic was recreated"), EXIT_WRONG),  # no start mends that
        (StoreError("no space left"), EXIT_FAILED),
        (BrokerRefusedError("no rights"), EXIT_REFUSED),
        (BrokerUnreachableError("nobody answers"), EXIT_UNAVAILABLE),
    ],
)
def test_a_failure_ends_the_process_without_a_commit(
    failure: Exception,
    status: int,
    is_stopping: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = FakeApp()

    async def fail() -> None:
        raise failure

    async def be_told_to_stop() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.Event().wait()

    work, in_flight = (be_told_to_stop, fail) if is_stopping else (fail, _nothing)
    assert live(app, work, monkeypatch=monkeypatch, in_flight=in_flight) == [status]
    assert app.log == []
    assert str(failure) in caplog.text
    # What an operator can mend is a line.
    assert isinstance(failure, StreamsError) != ("Traceback" in caplog.text)


@pytest.mark.parametrize(
    ("failure", "status", "told"),
    [
        (errors.KafkaConnectionError(), EXIT_UNAVAILABLE, "no broker answers any more"),
        (errors.TopicAuthorizationFailedError(), EXIT_FAILED, "`headrace acls` prints"),
        (errors.GroupAuthorizationFailedError(), EXIT_FAILED, "`headrace acls` prints"),
        (errors.MessageSizeTooLargeError(), EXIT_WRONG, "`headrace topics` says which"),
        (errors.InvalidTimestampError(), EXIT_FAILED, "clocks of workers and brokers must agree"),
        (errors.UnknownTopicOrPartitionError(), EXIT_FAILED, "a topic that the role needs is gone"),
    ],
)
@pytest.mark.parametrize("why", [None, TimeoutError()])  # that aiokafka gives some of them
@pytest.mark.parametrize("is_crash", [False, True])
def test_what_a_broker_refuses_is_told_in_a_line(
    failure: Exception,
    status: int,
    told: str,
    is_crash: bool,
    why: Exception | None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    failure.__cause__ = why

    async def fail() -> None:
        raise failure

    coordination = errors.KafkaError("Unexpected error during coordination")
    coordination.__cause__ = failure
    app = FakeApp(crashed=True, crash_reason=coordination) if is_crash else FakeApp()
    work = asyncio.Event().wait if is_crash else fail
    assert live(app, work, monkeypatch=monkeypatch) == [status]
    assert told in caplog.text
    assert type(failure).__name__ in caplog.text
    assert "Traceback" not in caplog.text


def test_an_error_is_not_taken_for_the_one_it_came_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail() -> None:
        raise ValueError("a defect") from errors.MessageSizeTooLargeError()

    assert live(FakeApp(), fail, monkeypatch=monkeypatch) == [EXIT_FAILED]
    assert "Traceback" in caplog.text


def test_a_crash_of_faust_ends_the_process_without_a_commit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = FakeApp(crashed=True, crash_reason=OSError("the consumer thread failed"))
    assert live(app, asyncio.Event().wait, monkeypatch=monkeypatch) == [EXIT_FAILED]
    assert app.log == []


def test_an_app_that_cannot_start_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    app = FakeApp(start_error=OSError("no broker"))
    assert live(app, asyncio.Event().wait, monkeypatch=monkeypatch) == [EXIT_FAILED]


def test_a_role_is_live_from_its_first_tick_and_ready_with_states_a_model_and_a_broker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app, has_model, answers = FakeApp(), [False], list[bool]()
    readiness = Readiness(is_model_ready=lambda: has_model[0])
    assert not readiness.is_live()  # what is restored and compiled before has a probe of its own
    assert not readiness()

    async def work() -> None:
        await app.serving.wait()
        answers.append(readiness())
        has_model[0] = True
        answers.append(readiness())
        app.is_connected = False
        answers.append(readiness())
        app.is_connected = True
        app.serving.clear()
        answers.append(readiness())
        assert readiness.is_live()
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.Event().wait()

    live(app, work, monkeypatch=monkeypatch, readiness=readiness)
    assert answers == [False, True, False, False]
