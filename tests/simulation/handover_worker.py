"""A worker of a handover: the real Delivery, Writer and Lease on a loop of its own, no Faust."""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from types import SimpleNamespace
from typing import Any

from aiokafka.errors import InvalidTimestampError
from rules_log import N_RECORDS, Folding
from simulated_loop import SimulatedLoop
from simulated_worker import EndedError

from headrace.streams.adapt.delivery import Delivery
from headrace.streams.adapt.user_states import UserStates
from headrace.streams.adapt.writer import Writer
from headrace.streams.guards import PauseGuard
from headrace.streams.kafka.batches import RecordBatch, Watermarks
from headrace.streams.kafka.faust_app import StateStore
from headrace.streams.kafka.intake import IntakeConsumer
from headrace.streams.kafka.lease import Lease
from headrace.streams.settings import Settings
from headrace.streams.state import StateKey

SETTINGS = Settings(micro_batch_events=3)
SESSION_S = SETTINGS.session_timeout_s


class Sent:
    """A producer's batch: records on their way."""

    def __init__(self, answer: "asyncio.Future[None]") -> None:
        self.rows: list[tuple[StateKey, bytes | None]] = []
        self.stamp_s = 0.0
        self.answer = answer

    def append(self, *, timestamp: int, key: bytes, value: bytes | None) -> object:
        """Add one; there is always room."""
        self.rows.append(((0, key), value))
        self.stamp_s = timestamp / 1000
        return self


class Worker:
    """A process: its delivery, and what that takes for its intake, its producer and its group."""

    is_current = IntakeConsumer.is_current
    acknowledge = IntakeConsumer.acknowledge
    _open_epoch = IntakeConsumer._open_epoch

    def __init__(self, world: Any) -> None:
        self.world = world
        self.failure: BaseException | None = None
        self.loop = SimulatedLoop(world.now_s, compute=self._compute, failed=self._failed)
        self.epoch, self._is_revoking, self._positioned = 0, True, set[Any]()
        self.is_alive, self.is_free = True, True
        self.is_behind = True  # what is written is not recovered
        self.network, self.serving = asyncio.Event(), asyncio.Event()
        self.network.set()
        self.watermarks, self.position = Watermarks(), 0
        self.delivered: asyncio.Queue[RecordBatch] = asyncio.Queue(1)
        self.sent: deque[Sent] = deque()
        self.to_compute: deque[Callable[[], None]] = deque()
        self.computed: deque[Callable[[], None]] = deque()
        self.store = StateStore.__new__(StateStore)
        self.store.__post_init__()
        app: Any = SimpleNamespace(intake=self, serving=self.serving)
        times: Any = {"clock": world.now_s, "end": self._end}
        self.delivery = Delivery(
            SETTINGS,
            app,
            Folding(),
            states=UserStates(self.store.data, max_users=world.max_users),
            writer=Writer(lambda: self, lists="lists", changelog="users", dead_letters="bad"),
            guard=PauseGuard(1.0, **times),
            lease=Lease(SESSION_S, ask=self._ask, wall_clock=world.now_s, **times),
        )
        for work in (self.delivery.submit_forever(), self.delivery.finish_forever(), self._take()):
            self.begin(work)

    async def require_end(self, tp: Any, read: int) -> None:
        """Be asked about replays: what a state holds was read from the log."""
        assert read <= N_RECORDS, f"{tp} was not read to {read}"

    def begin(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Begin some work."""
        task = self.loop.create_task(work)
        task.add_done_callback(self._worked)
        return task

    def _worked(self, task: "asyncio.Task[None]") -> None:
        if task.cancelled() or isinstance(failure := task.exception(), EndedError | None):
            return
        if isinstance(failure, InvalidTimestampError):  # brokers found every attempt too old
            raise EndedError(0)
        self.failure = failure  # nothing else may fail

    def _failed(self, context: dict[str, Any]) -> None:
        self.failure = context["exception"]

    def turn(self) -> None:
        """Do all that needs no answer."""
        if self.is_alive:
            try:
                self.loop.run_ready()
            except EndedError:
                self.crash()
        if self.failure:
            raise self.failure

    def crash(self) -> None:
        """Be gone; what was sent may still arrive."""
        self.is_alive = False
        self.world.under_way += self.sent
        self.loop.kill()

    # ------------------------------------------------------------ what the delivery works with

    def _end(self, _: int) -> None:
        assert self.world.owner is not self, "a worker ended that its group counts in"
        raise EndedError(0)

    async def _ask(self, _: RecordBatch) -> bool:
        await self.network.wait()
        return self.world.owner is self

    async def _take(self) -> None:
        while True:
            await self.delivery.take(await self.delivered.get())

    def _compute(self, function: Callable[[], Any]) -> Any:
        future = self.loop.create_future()
        self.to_compute.append(lambda: self.computed.append(partial(future.set_result, function())))
        return future

    def create_batch(self) -> Sent:
        """Return an empty batch."""
        return Sent(self.loop.create_future())

    async def send_batch(self, sent: Sent, *_: Any, **__: Any) -> Any:
        """Put a batch on its way."""
        self.sent.append(sent)
        return sent.answer

    # ------------------------------------------------------------------------- its partition

    def assign(self) -> None:
        """Own the partition, and read on from the commit."""
        self._open_epoch()
        self.watermarks.forget()
        self._is_revoking, self.is_free, self.is_behind = False, False, True
        self.position = self.world.committed

    def recover(self) -> None:
        """Read the changelog, and serve."""
        self.store.data.clear()
        records = [
            SimpleNamespace(topic="users", partition=0, offset=at, key=key[1], value=value)
            for at, (key, value) in enumerate(self.world.changelog)
        ]
        message = SimpleNamespace(batch=SimpleNamespace(records=records))
        self.store.apply_changelog_batch([SimpleNamespace(message=message)], None, None)
        self.is_behind = False
        self.serving.set()

    async def revoke(self) -> None:
        """Give the partition up, as the intake does."""
        self._is_revoking = True
        self.serving.clear()
        self._open_epoch()
        await self.delivery.settle()
        self.commit()
        if self.world.owner is self:
            self.world.owner = None
        self.is_free = True

    def commit(self) -> None:
        """Commit, if the group counts this worker in."""
        for tp in self.watermarks.partitions():
            offset = self.watermarks.take(tp)
            if self.world.owner is self and self.network.is_set():
                self.world.commit_to(offset)
