"""A publisher that keeps a ledger: what it sent, and what of it is bad."""

import random
import time
from typing import Any

import msgpack
from confluent_kafka import Producer

from headrace.streams.records import Event
from headrace.streams.settings import Settings
from headrace.streams.wire import encode

N_USERS = 80
N_ITEMS = 40
BAD_SHARE = 0.01
NUMBER = "ledger"  # the header with a record's number
SEND_LIMIT_S = 120.0  # a broker that is lost and a leader that is elected are no lost event


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
        self.events: dict[int, bytes] = {}  # by the number that each record carries
        self.bad: set[int] = set()
        self._n_taken = 0
        self._settings = settings
        self._chance = random.Random(seed)
        self._at = [self._chance.randrange(N_ITEMS) for _ in range(N_USERS)]
        self._failed: list[str] = []
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "enable.idempotence": True,  # else a lost broker doubles and reorders what is sent
                # And so it does with several on their way, while leaders change (librdkafka #4953).
                "max.in.flight": 1,
                "partitioner": "murmur2_random",  # as Java's clients
                "delivery.timeout.ms": int(SEND_LIMIT_S * 1000),
                "log_level": 0,
            }
        )

    @property
    def n_sent(self) -> int:
        """Return how many records were sent."""
        return len(self.events)

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
                action=self._chance.choice(["click", "purchase", "impression", "refresh"]),
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
                headers={NUMBER: str(self.n_sent)},
                on_delivery=self._note,
            )
            if is_bad:
                self.bad.add(self.n_sent)
            self.events[self.n_sent] = value or b""
        self._producer.poll(0)

    def flush(self) -> None:
        """Wait for every answer; every record must have been taken."""
        left = self._producer.flush(SEND_LIMIT_S)
        assert not left, f"{left} were never answered"
        assert not self._failed, f"refused: {self._failed[:5]}"
        assert self._n_taken == self.n_sent

    def _note(self, error: Any, _: Any) -> None:
        # Not where the broker put it: a record that was taken twice is answered without its place.
        if error is not None:
            self._failed.append(str(error))
        else:
            self._n_taken += 1
