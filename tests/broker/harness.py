"""Workers, publishers and a watcher for the delivery tests; the expectation is a plain fold.

What a worker must have written is computed from the events topic itself: every state is the fold
of the user's events in one partition, and the last list answers the last of them.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from confluent_kafka import Consumer, Producer, TopicPartition
from kafka import KafkaProducer

from headrace.streams.actions import FORGET
from headrace.streams.kafka.topics import create_topics, users_changelog
from headrace.streams.records import Event, Recommendation
from headrace.streams.settings import Settings
from headrace.streams.state import UserState
from headrace.streams.wire import decode_event, decode_recommendation, encode

WORKER = Path(__file__).parent / "worker.py"
WAIT_LIMIT_S = 60.0  # two session time-outs, two joins and a busy machine
STOP_LIMIT_S = 60.0
LOG_TAIL_LINES = 40

StateKey = tuple[int, bytes]  # partition, user


class Worker:
    """One adapt worker in its own process."""

    def __init__(
        self,
        settings: Settings,
        log: Path,
        *,
        slow_s: float = 0.0,
        slow_calls: int = 0,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self._log = log
        fields = settings.model_dump(include=set(settings.model_fields_set))
        arguments = [f"{name}={value}" for name, value in fields.items()]
        with log.open("a") as stderr:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    str(WORKER),
                    *arguments,
                    f"slow_s={slow_s}",
                    f"slow_calls={slow_calls}",
                ],
                stderr=stderr,
                env={name: value for name, value in environment.items() if "HEADRACE" not in name},
            )

    def kill(self) -> None:
        """End it as a power failure would."""
        self.process.kill()
        self.process.wait(STOP_LIMIT_S)

    def pause(self) -> None:
        """Let it stand still until ``resume``."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> int:
        """Ask it to end and return its exit code."""
        self.process.terminate()
        return self.wait()

    def wait(self) -> int:
        """Return its exit code once it has ended."""
        return self.process.wait(STOP_LIMIT_S)

    def until_logged(self, text: str, *, limit_s: float = WAIT_LIMIT_S) -> None:
        """Wait for a line of its log."""
        deadline = time.monotonic() + limit_s
        while text not in self.log():
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise AssertionError(f"not logged within {limit_s:.0f} s: {text}")
            time.sleep(0.05)  # a file offers nothing to wait for

    def log(self) -> str:
        """Return what it has logged so far."""
        return self._log.read_text()

    def log_tail(self) -> str:
        """Return the last lines of its log."""
        return "\n".join(self.log().splitlines()[-LOG_TAIL_LINES:])


def deploy(settings: Settings, **changes: Any) -> Settings:
    """Create the topics of a deployment and return its settings."""
    settings = settings.model_copy(update=changes)
    create_topics(settings)
    return settings


@dataclass
class Fleet:
    """The workers of one test, in one fresh group; whatever still runs is killed at the end."""

    settings: Settings
    folder: Path
    workers: list[Worker] = field(default_factory=list)

    def start(self, **options: Any) -> Worker:
        """Start another worker; the options are its own."""
        log = self.folder / f"worker-{len(self.workers)}.log"
        self.workers.append(Worker(self.settings, log, **options))
        return self.workers[-1]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.kill()
        if exc is not None:
            for number, worker in enumerate(self.workers):
                code = worker.process.returncode
                print(f"--- worker {number}, exit code {code}\n{worker.log_tail()}")


class Watcher:
    """Reads topics from their beginning, without a group, as long as a test waits."""

    def __init__(self, settings: Settings, *, reads_events: bool = True) -> None:
        self.settings = settings
        self.events: list[Any] = []
        self.lists: list[Any] = []
        self.states: list[Any] = []
        self.dead_letters: list[Any] = []
        self._sink = {
            settings.topic("events"): self.events,
            settings.topic("recommendations"): self.lists,
            settings.topic("dead-letters"): self.dead_letters,
            users_changelog(settings): self.states,
        }
        if not reads_events:  # its client gives up at what a worker passes over
            del self._sink[settings.topic("events")]
        self._consumer = Consumer(
            {
                "bootstrap.servers": settings.bootstrap,
                "group.id": f"{settings.group}-watcher",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
            }
        )
        self._consumer.assign(
            [
                TopicPartition(topic, partition, 0)
                for topic in self._sink
                for partition in range(settings.partitions)
            ]
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._consumer.close()

    def until(
        self, is_met: Callable[[], bool], what: str, *, limit_s: float = WAIT_LIMIT_S
    ) -> None:
        """Read on until a condition holds."""
        deadline = time.monotonic() + limit_s
        while not is_met():
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {limit_s:.0f} s: {what}")
            for record in self._consumer.consume(5_000, 0.2):
                assert record.error() is None, record.error()
                self._sink[record.topic()].append(record)

    # --------------------------------------------------------------------------- expectations

    def expected(self) -> dict[StateKey, UserState]:
        """Fold the events topic: what every state must be in the end, none of those forgotten."""
        states: dict[StateKey, UserState] = {}
        for record in self.events:
            record_ms = record.timestamp()[1]
            event = decode_event(record.value(), key=record.key(), record_time_ms=record_ms)
            key = record.partition(), event.user.encode()
            if event.action == FORGET:
                states.pop(key, None)
                continue
            state = states.setdefault(key, UserState())
            state.apply(event, offset=record.offset(), history_length=self.settings.history_length)
        return states

    def written(self) -> dict[StateKey, UserState]:
        """Return the last state written for every user, none after a tombstone."""
        last = {(r.partition(), r.key()): r.value() for r in self.states}
        return {key: UserState.decode(value) for key, value in last.items() if value}

    def last_lists(self) -> dict[StateKey, Recommendation]:
        """Return the last list written for every user, none after a tombstone."""
        last = {(r.partition(), r.key()): r.value() for r in self.lists}
        return {key: decode_recommendation(value) for key, value in last.items() if value}

    def until_answered(self, n_events: int) -> None:
        """Read on until every user's last event so far is in a written state and a list.

        Of a user forgotten by then, nothing is left, save what a later event has led to.
        """
        self.until(lambda: len(self.events) >= n_events, f"{n_events} events on their topic")
        wanted = {key: state.last_offset for key, state in self.expected().items()}
        last = {(r.partition(), r.key()): r.offset() for r in self.events}
        forgotten = {key: offset for key, offset in last.items() if key not in wanted}

        def is_answered() -> bool:
            states = {key: state.last_offset for key, state in self.written().items()}
            lists = {key: answer.source.offset for key, answer in self.last_lists().items()}
            return all(
                min(states.get(key, -1), lists.get(key, -1)) >= offset
                for key, offset in wanted.items()
            ) and all(
                offset < min(states.get(key, offset + 1), lists.get(key, offset + 1))
                for key, offset in forgotten.items()
            )

        self.until(is_answered, f"{n_events} events answered")

    def assert_nothing_lost_or_doubled(self) -> None:
        """Compare every state and last list with the fold, user by user."""
        expected, written, lists = self.expected(), self.written(), self.last_lists()
        assert written == expected
        assert lists.keys() == expected.keys()
        for key, state in expected.items():
            assert lists[key].items == tuple(reversed(state.items[-5:]))
            assert lists[key].source.partition == key[0]

    def assert_no_state_went_back(self) -> None:
        """Check the changelog in its own order: older after newer is a stale write."""
        last: dict[StateKey, int] = {}
        for record in self.states:
            key = record.partition(), record.key()
            if record.value() is None:  # forgotten: what comes later is of a new user
                last.pop(key, None)
                continue
            offset = UserState.decode(record.value()).last_offset
            assert offset >= last.get(key, -1), f"stale write for {key} at {record.offset()}"
            last[key] = offset

    def assert_partitions_are_committed(self) -> None:
        """Check that the group has committed the end of every partition."""
        topic = self.settings.topic("events")
        ends: dict[int, int] = {}
        for record in self.events:
            ends[record.partition()] = max(ends.get(record.partition(), 0), record.offset() + 1)
        committed = committed_offsets(self.settings, [(topic, p) for p in ends])
        assert committed == ends


def committed_offsets(settings: Settings, partitions: list[tuple[str, int]]) -> dict[int, int]:
    """Return the adapt group's committed offsets."""
    consumer = Consumer(
        {"bootstrap.servers": settings.bootstrap, "group.id": f"{settings.group}-adapt"}
    )
    try:
        found = consumer.committed([TopicPartition(*tp) for tp in partitions], timeout=10)
        return {tp.partition: tp.offset for tp in found}
    finally:
        consumer.close()


class Publisher:
    """Publishes numbered events of some users from a thread, at a steady pace."""

    def __init__(
        self, send: Callable[[bytes, bytes], object], flush: Callable[[], object], users: list[str]
    ) -> None:
        self._send, self._flush, self._users = send, flush, users
        self._stopping = threading.Event()
        self.n_sent = 0

    def publish(self, n_events: int) -> None:
        """Publish that many at once."""
        for _ in range(n_events):
            user = self._users[self.n_sent % len(self._users)]
            event = Event(user=user, item=f"item-{self.n_sent}", time_ms=1_000 + self.n_sent)
            self._send(user.encode(), encode(event))
            self.n_sent += 1
        self._flush()

    @contextmanager
    def steadily(self, *, per_second: int = 200) -> Iterator[None]:
        """Publish in the background for the length of a ``with`` block."""

        def run() -> None:
            while not self._stopping.wait(0.1):  # the pace, not a synchronisation
                self.publish(per_second // 10)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            self._stopping.set()
            thread.join()


@contextmanager
def java_publisher(settings: Settings, users: list[str]) -> Iterator[Publisher]:
    """Publish with kafka-python, which places keys as Java clients do (murmur2)."""
    producer = KafkaProducer(bootstrap_servers=settings.bootstrap)
    topic = settings.topic("events")
    yield Publisher(
        lambda key, value: producer.send(topic, key=key, value=value), producer.flush, users
    )
    producer.close()


@contextmanager
def librdkafka_publisher(settings: Settings, users: list[str]) -> Iterator[Publisher]:
    """Publish with confluent-kafka as it comes: keys are placed by CRC-32."""
    producer = Producer({"bootstrap.servers": settings.bootstrap, "enable.idempotence": True})
    topic = settings.topic("events")
    yield Publisher(
        lambda key, value: producer.produce(topic, key=key, value=value), producer.flush, users
    )
    producer.flush()
