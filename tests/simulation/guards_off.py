"""Every guard of the delivery code, and how to switch it off: mostly, by what stock Faust does."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import faust
from faust.transport.consumer import Consumer as StockConsumer
from faust.transport.drivers import aiokafka as driver
from faust.types.tuples import TP
from schedules import Mix, mixed
from simulated_worker import Worker

from headrace.streams.adapt import delivery
from headrace.streams.adapt.delivery import Delivery
from headrace.streams.adapt.user_states import UserStates
from headrace.streams.adapt.writer import Writer
from headrace.streams.guards import PauseGuard
from headrace.streams.kafka import topics
from headrace.streams.kafka.batches import GapCheck, Watermarks
from headrace.streams.kafka.faust_app import IntakeApp, StateStore
from headrace.streams.kafka.intake import IntakeConsumer
from headrace.streams.kafka.lease import Lease
from headrace.streams.state import StateKey, UserState

Off = tuple[Any, str, Any]  # owner, attribute, what stands there instead


@dataclass(frozen=True, kw_only=True)
class Guard:
    """A guard, the mix in which it matters, and what must be off as well if it is a second line."""

    name: str
    off: Sequence[Off]
    mix: Mix
    first_seed: int  # where a search begins: it finds a violation within seconds
    given: Sequence[Off] = ()

    def __str__(self) -> str:
        return self.name


def nothing(*_: Any) -> None:
    """Do nothing."""


async def nothing_soon(*_: Any) -> None:
    """Do nothing."""


def accept(*_: Any) -> bool:
    """Find everything right."""
    return True


# ------------------------------------------------------------------ taking batches in (intake.py)


async def seek_as_faust(self: Any) -> None:
    """Leave the position where nothing, or 0, is committed."""
    self._open_epoch()
    self._watermarks.forget()
    epoch = self.epoch
    await StockConsumer.perform_seek(self)
    if epoch == self.epoch:
        self._positioned.update(self._intake_partitions())


async def fetch_as_faust(self: Any, active_partitions: Any, timeout: float) -> Any:
    """Take what was fetched for fetched now."""
    records = await driver.Consumer._getmany(self, active_partitions, timeout)
    self._fetch_epoch = self.epoch
    return records


async def drop_below_last_seen(self: Any, timeout: float) -> AsyncIterator[Any]:
    """Remember the last offset seen, across seeks."""
    messages = GETMANY(self, timeout)
    while True:
        seen = dict(self._read_offset)
        try:
            tp, message = await anext(messages)
        except StopAsyncIteration:
            return
        self._read_offset[tp] = seen.get(tp)
        yield tp, message


GETMANY = IntakeConsumer.getmany


def commit_over_gaps(self: Any, tp: TP) -> int | None:
    """Commit up to the last batch that is done."""
    run = self._receipts[tp]
    n_done = max((at for at, receipt in enumerate(run, 1) if receipt.acknowledged), default=0)
    offset = None
    for _ in range(n_done):
        offset = run.popleft().next_offset
    return offset


def with_any_done(self: Any) -> list[TP]:
    """Return where a batch is done, be it the first or not."""
    return [tp for tp, run in self._receipts.items() if any(r.acknowledged for r in run)]


def end_as_tansu(self: Any, tp: TP) -> int:
    """List the first offset of the last batch, plus one."""
    return min(self.world.broker.last_base[tp] + 1, self.world.broker.end(tp))


# ------------------------------------------------------- from batches to writes (delivery.py)


async def enter_at_once(self: Any, epoch: int) -> None:
    """Pass no barrier."""
    self._epoch = epoch


def read_table_only(self: Any, key: StateKey) -> UserState:
    """Return what is written, not what is computed."""
    encoded = self._table.get(key)
    return UserState() if encoded is None else UserState.decode(encoded)


def read_without_offset(self: Any, key: StateKey) -> UserState:
    """Forget which events are in."""
    state = READ(self, key)
    state.last_offset = -1
    return state


READ = UserStates.read


async def write_as_faust(self: Any, *args: Any, **kwargs: Any) -> None:
    """Send, and do not wait for the brokers."""
    asyncio.get_running_loop().create_task(WRITE(self, *args, **kwargs))


WRITE = Writer.write


async def send_no_dead_letter(*_: Any) -> Any:
    """Drop a bad record without a word."""
    return asyncio.sleep(0)


async def stamp_at_once(self: Any, _: Any) -> int:
    """Stamp without asking whether the group still counts this worker in."""
    return int(self._wall_clock() * 1000)


BUFFER = (IntakeApp, "FlowControlQueue", faust.App.FlowControlQueue)
SEQUENCE = (GapCheck, "check", nothing)
WATERMARK = (
    (Watermarks, "take", commit_over_gaps),
    (Watermarks, "partitions", with_any_done),
)
UNREAD = (IntakeConsumer, "_unread", nothing_soon)
SEEK = (IntakeConsumer, "perform_seek", seek_as_faust)
LEASE = (Lease, "stamp_ms", stamp_at_once)

slow = mixed(slow=1, n_moves=4)


def slow_at(*kinds: str) -> Mix:
    """Return a mix in which these take long."""
    return mixed(slow=1, kinds=kinds, n_moves=4)


behind = mixed(backlog=1, kinds=("committed",), n_moves=2)
silent = mixed(take_over=1, slow=0.5, kinds=("produce",), n_moves=4)

GUARDS = [
    Guard(name="a buffer that keeps batches when flow resumes (faust-streaming #596)",
          off=[BUFFER], mix=behind, first_seed=6),
    Guard(name="every batch arrives, or the worker ends; behind the buffer",
          off=[BUFFER, SEQUENCE], mix=behind, first_seed=6),
    Guard(name="a commit passes no gap (faust-streaming #606); behind the buffer and the count",
          off=[BUFFER, SEQUENCE, *WATERMARK], mix=behind, first_seed=82),
    Guard(name="what was fetched and not delivered is fetched again",
          off=[UNREAD], mix=slow_at("hop", "fetch", "ends"), first_seed=0),
    Guard(name="a partition without a commit is read from its beginning; behind fetching again",
          off=[UNREAD, SEEK], mix=slow_at("hop", "fetch", "committed"), first_seed=0),
    Guard(name="the epoch is that of before the fetch",
          off=[(IntakeConsumer, "_getmany", fetch_as_faust)],
          mix=slow_at("hop", "compute"), first_seed=12),
    Guard(name="what is below the last offset seen is delivered after a seek back",
          off=[(IntakeConsumer, "getmany", drop_below_last_seen)],
          mix=slow_at("compute", "committed"), first_seed=2),
    Guard(name="recovery reads to the end, whatever ListOffsets says",
          given=[(Worker, "listed_end", end_as_tansu)],
          off=[(IntakeConsumer, "highwaters", driver.Consumer.highwaters)],
          mix=mixed(produce=2, go_on=2, crash=2, n_moves=8), first_seed=37),
    Guard(name="a new epoch starts from what is written: the barrier",
          off=[(Delivery, "_enter_epoch", enter_at_once)],
          mix=slow_at("compute", "computed", "committed", "hop"), first_seed=4),
    Guard(name="nothing of an old epoch is written",
          off=[(Delivery, "_owns", accept)], mix=slow_at("compute", "computed"), first_seed=6),
    Guard(name="partitions are given up after the running write",
          off=[(Delivery, "settle", nothing_soon)], mix=slow_at("produce"), first_seed=6),
    Guard(name="a micro-batch sees the states of the one before",
          off=[(UserStates, "read", read_table_only)], mix=slow, first_seed=0),
    Guard(name="an event that is in a state is not applied again",
          off=[(UserStates, "read", read_without_offset)],
          mix=mixed(crash=1, n_moves=3), first_seed=2),
    Guard(name="a batch is acknowledged after the brokers have",
          off=[(Writer, "write", write_as_faust)], mix=slow_at("produce"), first_seed=0),
    Guard(name="a bad record is a dead letter",
          off=[(Writer, "_send_dead_letter", send_no_dead_letter)], mix=slow, first_seed=1),
    Guard(name="so many micro-batches are in flight and no more",
          off=[(delivery, "IN_FLIGHT", 100)],
          mix=mixed(stall=1, produce=4, go_on=4, kinds=("produce",), n_moves=30), first_seed=1),
    Guard(name="a worker that was cut off asks before it writes: the lease",
          off=[LEASE], mix=silent, first_seed=23),
    Guard(name="brokers refuse what was long on its way",
          off=[(topics, "LEASED", topics.COMPACTED)], mix=silent, first_seed=23),
    Guard(name="recovery keeps the state with the larger offset; behind the lease",
          off=[LEASE, (StateStore, "_is_newer", accept)], mix=silent, first_seed=12),
    Guard(name="a process that stood still ends; before the lease",
          off=[LEASE, (PauseGuard, "check", nothing)],
          mix=mixed(stand_still=1, n_moves=3), first_seed=20),
]  # fmt: skip
