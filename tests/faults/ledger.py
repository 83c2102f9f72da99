"""A publisher that keeps a ledger: what it sent, where the broker put it, and what of it is bad."""

import random
import time
from collections.abc import Callable
from typing import Any

import msgpack
from confluent_kafka import Producer

from headrace.streams.settings import Settings
from headrace.streams.wire import Event, encode

N_USERS = 80
N_ITEMS = 40
BAD_SHARE = 0.01
SEND_LIMIT_S = 120.0  # a broker that is lost and a leader that is elected are no lost event

Place = tuple[int, int]  # partition, offset


def _bad_values(value: bytes) -> list[bytes | None]:
    """Return what no decoder may take: each is a dead letter for a reason of its own."""
    return [
        None,
        b"",
        b"\xff\xff",
        value[: len(value) // 2],
        msgpack.packb([1, 2, 3]),
        msgpack.packb({"user": "u", "item": 7.5}),
        b'{"user": "u", "item": "i", "time_ms": NaN}',
    ]


class Ledger:
    """Publishes events of users who go round a ring of items; a few records are bad."""

    def __init__(self, settings: Settings, bootstrap: str, *, seed: int) -> None:
        self.events: dict[Place, bytes] = {}
        self.bad: set[Place] = set()
        self.n_sent = 0
        self._settings = settings
        self._chance = random.Random(seed)
        self._at = [self._chance.randrange(N_ITEMS) for _ in range(N_USERS)]
        self._failed: list[str] = []
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "enable.idempotence": True,  # else a lost broker doubles and reorders what is sent
                "partitioner": "murmur2_random",  # as Java's clients
                "delivery.timeout.ms": int(SEND_LIMIT_S * 1000),
                "log_level": 0,
            }
        )

    def publish(self, n_events: int) -> None:
        """Send some events; the broker's answers are noted now and later."""
        now_ms = int(time.time() * 1000)
        for _ in range(n_events):
            user = self._chance.randrange(N_USERS)
            step = 1 if self._chance.random() < 0.8 else self._chance.randrange(N_ITEMS)
            self._at[user] = (self._at[user] + step) % N_ITEMS
            event = Event(
                user=f"user-{user}",
                item=f"item-{self._at[user]}",
                action=self._chance.choice(["click", "purchase", "impression"]),
                time_ms=now_ms,
            )
            value: bytes | None = encode(event)
            is_bad = self._chance.random() < BAD_SHARE
            if is_bad:
                value = self._chance.choice(_bad_values(encode(event)))
            self._producer.produce(
                self._settings.topic("events"),
                key=event.user.encode(),
                value=value,
                on_delivery=self._noted(value, is_bad=is_bad),
            )
            self.n_sent += 1
        self._producer.poll(0)

    def close(self) -> None:
        """Wait for every answer; each record must have found its place."""
        left = self._producer.flush(SEND_LIMIT_S)
        assert not left, f"{left} were never answered"
        assert not self._failed, f"refused: {self._failed[:5]}"
        assert len(self.events) == self.n_sent

    def _noted(self, value: bytes | None, *, is_bad: bool) -> Callable[[Any, Any], None]:
        def note(error: Any, record: Any) -> None:
            if error is not None:
                self._failed.append(str(error))
                return
            place = record.partition(), record.offset()
            assert place not in self.events, f"two records at {place}"
            self.events[place] = value or b""
            if is_bad:
                self.bad.add(place)

        return note
