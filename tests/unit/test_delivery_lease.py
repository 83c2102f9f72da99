"""The lease: what a write may be stamped with, and when the coordinator must be asked before."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from headrace.streams.guards import EXIT_PAUSED
from headrace.streams.kafka.lease import CLOCKS_DIFFER_S, STALE_AFTER_S, Lease
from headrace.streams.kafka.topics import topics_of, users_changelog
from headrace.streams.settings import Settings

SESSION_S = 10.0
LIMIT_S = SESSION_S - STALE_AFTER_S - CLOCKS_DIFFER_S
BEGAN_S = 1_700_000_000.0  # Unix, where the clock stands at 0


@dataclass
class Coordinator:
    """Stands for the group's coordinator: whether it counts us in, and how slowly it says so."""

    is_member: bool = True
    now_s: float = 0.0
    takes_s: list[float] = field(default_factory=list)  # of each answer; 0 if none is left
    asked_at: list[float] = field(default_factory=list)

    async def ask(self, oldest: object) -> bool:
        assert oldest == "oldest"
        self.asked_at.append(self.now_s)
        self.now_s += self.takes_s.pop(0) if self.takes_s else 0.0
        return self.is_member

    async def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def with_lease(
    check: Callable[[Coordinator, Callable[[], Awaitable[int]]], Awaitable[None]],
    *,
    is_static: bool = False,
) -> list[int]:
    """Run ``check`` with a coordinator and what stamps; return how the process was ended."""
    coordinator, ended = Coordinator(), list[int]()
    lease = Lease(
        SESSION_S,
        is_static=is_static,
        ask=coordinator.ask,
        clock=lambda: coordinator.now_s,
        wall_clock=lambda: BEGAN_S + coordinator.now_s,
        end=ended.append,
        sleep=coordinator.sleep,
    )
    oldest: Any = "oldest"

    async def stamp_s() -> float:
        return await lease.stamp_ms(oldest) / 1000 - BEGAN_S

    asyncio.run(check(coordinator, stamp_s))
    return ended


def test_the_coordinator_is_asked_at_first_and_when_the_limit_is_over() -> None:
    async def check(coordinator: Coordinator, stamp_s: Callable[[], Awaitable[int]]) -> None:
        assert await stamp_s() == 0
        coordinator.now_s = LIMIT_S
        assert await stamp_s() == LIMIT_S  # still by the first answer
        coordinator.now_s = LIMIT_S + 0.5
        assert await stamp_s() == LIMIT_S + 0.5
        assert coordinator.asked_at == [0, LIMIT_S + 0.5]

    assert with_lease(check) == []


def test_a_lease_counts_from_the_question_not_from_the_answer() -> None:
    async def check(coordinator: Coordinator, stamp_s: Callable[[], Awaitable[int]]) -> None:
        coordinator.takes_s = [LIMIT_S]
        assert await stamp_s() == LIMIT_S
        coordinator.now_s += 0.5
        await stamp_s()
        assert coordinator.asked_at == [0, LIMIT_S + 0.5]

    assert with_lease(check) == []


def test_an_answer_that_took_too_long_is_no_lease() -> None:
    async def check(coordinator: Coordinator, stamp_s: Callable[[], Awaitable[int]]) -> None:
        coordinator.takes_s = [30.0, 1.0]  # the network was cut while the question was on its way
        assert await stamp_s() == 31.0
        assert coordinator.asked_at == [0, 30.0]

    assert with_lease(check) == []


def test_a_worker_that_was_replaced_is_ended_before_it_writes() -> None:
    async def check(coordinator: Coordinator, stamp_s: Callable[[], Awaitable[int]]) -> None:
        await stamp_s()
        coordinator.is_member = False
        coordinator.now_s = SESSION_S
        await stamp_s()

    assert with_lease(check) == [EXIT_PAUSED]


def test_who_comes_back_under_its_name_waits_for_what_its_predecessor_sent() -> None:
    async def check(coordinator: Coordinator, stamp_s: Callable[[], Awaitable[int]]) -> None:
        # What was sent just before is refused from then on, by the slowest of clocks.
        assert await stamp_s() == STALE_AFTER_S + CLOCKS_DIFFER_S
        coordinator.now_s += 0.5
        assert await stamp_s() == STALE_AFTER_S + CLOCKS_DIFFER_S + 0.5

    assert with_lease(check, is_static=True) == []


def test_the_last_stamp_is_refused_before_the_session_is_over() -> None:
    settings = Settings(session_timeout_s=SESSION_S)
    leased = {
        topic.name: (
            int(topic.configs["message.timestamp.before.max.ms"]) / 1000,
            int(topic.configs["message.timestamp.after.max.ms"]) / 1000,
        )
        for topic in topics_of(settings)
        if "message.timestamp.before.max.ms" in topic.configs
    }
    assert set(leased) == {settings.topic("recommendations"), users_changelog(settings)}
    for before_s, after_s in leased.values():
        assert LIMIT_S + before_s + after_s == SESSION_S


def test_the_shortest_session_leaves_time_to_write() -> None:
    shortest_s = 6.0
    Settings(session_timeout_s=shortest_s)
    assert shortest_s - STALE_AFTER_S - CLOCKS_DIFFER_S >= 1.0
