"""Faust's transport without a thread and without a network: its own code on aiokafka in memory."""

import inspect
from collections.abc import Callable
from typing import Any

from faust.transport.drivers import aiokafka as driver
from faust.types.tuples import TP
from simulated_client import Producer

from headrace.streams.kafka.fetching import IntakeThread
from headrace.streams.kafka.intake import IntakeConsumer, IntakeTransport


class SimulatedThread(IntakeThread):
    """The consumer thread without a thread: Faust's own calls, on aiokafka in memory."""

    def __init__(self, consumer: Any, worker: Any) -> None:
        self._worker = worker
        super().__init__(
            consumer, loop=worker.loop, thread_loop=worker.loop, beacon=consumer.beacon
        )
        self._consumer = worker.kafka
        self.time_started = 0.0

    async def call_thread(self, fun: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call at once; what was fetched takes its time from thread to loop."""
        result = fun(*args, **kwargs)
        if inspect.isawaitable(result):
            result = await result
        if fun == self._fetch_records and result:
            await self._worker.request("hop", lambda: None)
        return result

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Hand over without the threads' queue."""
        await self.consumer.on_partitions_revoked(revoked)

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Hand over without the threads' queue."""
        await self.consumer.on_partitions_assigned(assigned, generation_id)

    def verify_recovery_event_path(self, now: float, tp: TP) -> None:
        """Complain about nothing: Faust would look into aiokafka, and log."""


class SimulatedConsumer(IntakeConsumer):
    """The real consumer, but for its thread."""

    def _new_consumer_thread(self) -> SimulatedThread:
        return SimulatedThread(self, self.transport.worker)


class SimulatedProducer(driver.Producer):
    """Faust's producer, on aiokafka's in memory; the topics are there."""

    def _new_producer(self, transactional_id: str | None = None) -> Producer:  # noqa: ARG002
        worker = self.transport.worker
        return Producer(worker, worker.world.broker)

    async def create_topic(self, *_: Any, **__: Any) -> None:
        """Create nothing."""


class SimulatedTransport(IntakeTransport):
    """Brings both in."""

    Consumer = SimulatedConsumer
    Producer = SimulatedProducer
    worker: Any
