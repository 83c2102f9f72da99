"""aiokafka in memory: a consumer and a producer whose every request waits for the simulation."""

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from aiokafka import TopicPartition
from aiokafka.errors import IllegalStateError
from faust.types.tuples import TP
from simulated_broker import Broker, Group, Record

NO_GENERATION = -1
FETCHED_RECORDS = 4  # of each partition at once


class Consumer:
    """Behaves as AIOKafkaConsumer does, with its surprises, for one worker."""

    _closed = False
    _max_poll_records = None

    def __init__(self, worker: Any, broker: Broker, group: Group) -> None:
        self._worker = worker
        self._broker = broker
        self._group = group
        self._listener: Any = None
        self._positions: dict[TP, int] = {}
        self._fetched_ends: dict[TP, int] = {}
        self._is_reassigning = True
        self._coordinator = SimpleNamespace(generation=NO_GENERATION)
        self._fetcher = self
        self._records: dict[TP, Any] = {}  # whatever is fetched is taken at once
        self._subscriptions = self

    # ---------------------------------------------------------------------------- the group

    def subscribe(self, topics: Iterable[str], listener: Any) -> None:
        """Begin to take part in the group."""
        self._topics, self._listener = sorted(topics), listener
        self._worker.loop.create_task(self._coordinate())

    async def _coordinate(self) -> None:
        """Revoke, join, assign, and wait to hear of the next rebalance, for ever."""
        while True:
            self._worker.heard = self._worker.loop.create_future()
            self._is_reassigning = True
            await self._listener.on_partitions_revoked(self.assignment())
            generation, partitions = await self._worker.join()
            self._coordinator.generation = generation
            tps = [TP(topic, p) for topic in self._topics for p in partitions]
            # A new assignment starts at the committed offsets, or at the earliest.
            self._positions = {tp: self._group.committed.get(tp, 0) for tp in tps}
            self._fetched_ends.clear()
            self._is_reassigning = False
            self._worker.assigned = partitions
            await self._listener.on_partitions_assigned(self.assignment())
            if await self._worker.heard == "expelled":
                self._coordinator.generation = NO_GENERATION

    def assignment(self) -> list[TopicPartition]:
        """Return what is assigned, or was until the rebalance that is under way."""
        return [TopicPartition(*tp) for tp in self._positions]

    def _require(self, tp: Any) -> TP:
        if tp not in self._positions:
            raise IllegalStateError(f"Partition {tp} is not assigned")
        return TP(*tp)

    async def commit(self, offsets: Mapping[TP, Any]) -> None:
        """Send the offsets with the generation known now."""
        plain = {self._require(tp): getattr(at, "offset", at) for tp, at in offsets.items()}
        generation = self._coordinator.generation
        await self._worker.request(
            "commit", lambda: self._group.commit(self._worker, generation, plain)
        )

    async def committed(self, tp: Any) -> int | None:
        """Ask for a committed offset."""
        return await self._worker.request("committed", lambda: self._group.committed.get(tp))

    # ---------------------------------------------------------------------------- positions

    def seek(self, tp: Any, offset: int) -> None:
        """Set where the next fetch begins."""
        self._positions[self._require(tp)] = offset

    async def seek_to_beginning(self, *tps: Any) -> None:
        """Set the next fetch to the earliest record."""
        for tp in tps:
            self._positions[self._require(tp)] = 0

    async def seek_to_committed(self) -> dict[TP, int | None]:
        """Seek to the committed offsets: where there is none, or 0, the position stays."""
        offsets: dict[TP, int | None] = {}
        for tp in list(self._positions):
            offset = offsets[tp] = await self.committed(tp)
            if offset:
                self.seek(tp, offset)
        return offsets

    async def position(self, tp: Any) -> int:
        """Return where the next fetch begins."""
        return self._positions[self._require(tp)]

    @property
    def _subscription(self) -> Any:
        """Stand for aiokafka's own state, of which the intake looks at positions."""

        def state_value(tp: Any) -> SimpleNamespace | None:
            at = self._positions.get(TP(*tp))
            return None if at is None else SimpleNamespace(position=at)

        assignment = SimpleNamespace(state_value=state_value)
        return SimpleNamespace(subscription=SimpleNamespace(assignment=assignment))

    async def beginning_offsets(self, tps: Iterable[TP]) -> dict[TP, int]:
        """Ask for the earliest offsets."""
        return await self._worker.request("earliest", lambda: dict.fromkeys(tps, 0))

    async def end_offsets(self, tps: Iterable[TP]) -> dict[TP, int]:
        """Ask for the end offsets."""
        tps = list(tps)
        return await self._worker.request(
            "ends", lambda: {tp: self._worker.listed_end(tp) for tp in tps}
        )

    def highwater(self, tp: Any) -> int | None:
        """Return the end offset that came with the last fetch; each partition is being fetched."""
        self._require(tp)
        return self._broker.end(tp)

    # ---------------------------------------------------------------------------- fetching

    @contextmanager
    def fetch_context(self) -> Iterator[None]:
        """Count as active."""
        yield

    async def fetched_records(
        self, partitions: set[TP], timeout: float, **_: Any
    ) -> dict[TP, list[Record]]:
        """Return records once there are some, and move the positions beyond them."""
        return await self._worker.request(
            "fetch",
            lambda: self._consume(partitions),
            is_possible=lambda: self._has_records(partitions),
            otherwise=(timeout, {}),
        )

    def _has_records(self, partitions: set[TP]) -> bool:
        return not self._is_reassigning and any(
            self._broker.end(tp) > position
            for tp, position in self._positions.items()
            if not partitions or tp in partitions
        )

    def _consume(self, partitions: set[TP]) -> dict[TP, list[Record]]:
        drained = {}
        for tp, position in self._positions.items():
            # aiokafka takes an empty set for all; Faust's set changes while a fetch waits.
            if partitions and tp not in partitions:
                continue
            records = self._broker.read(tp, position, FETCHED_RECORDS)
            if records:
                drained[TopicPartition(*tp)] = records
                self._positions[tp] = records[-1].offset + 1
        return drained


class Batch:
    """Records on their way to one partition."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, bytes | None, bytes | None, Any]] = []

    def append(self, *, timestamp: int, key: bytes | None, value: bytes | None) -> object:
        """Add one; there is always room."""
        self.rows.append((timestamp, key, value, ()))
        return self


class Producer:
    """Behaves as AIOKafkaProducer does for one worker."""

    def __init__(self, worker: Any, broker: Broker) -> None:
        self._worker = worker
        self._broker = broker

    async def start(self) -> None:
        """Be started."""

    def create_batch(self) -> Batch:
        """Return an empty batch."""
        return Batch()

    async def send_batch(
        self, batch: Batch, topic: str, *, partition: int
    ) -> "asyncio.Future[None]":
        """Put a batch on its way; return what says that the broker took it."""
        return self._send(TP(topic, partition), batch.rows)

    async def send(
        self, topic: str, *, key: bytes | None, value: bytes | None, headers: Any
    ) -> "asyncio.Future[None]":
        """Put one record on its way."""
        return self._send(TP(topic, 0), [(int(self._worker.now_s() * 1000), key, value, headers)])

    def _send(self, tp: TP, rows: list[Any]) -> "asyncio.Future[None]":
        return self._worker.send(tp, lambda: self._broker.append(tp, rows, self._worker.now_s()))

    async def flush(self) -> None:
        """Wait for nothing: whoever writes awaits its own futures."""
