"""What a producer can do to a worker through the broker: compress, inflate, mangle, outsize."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer
from confluent_kafka import Producer
from harness import Fleet, Watcher, Worker, deploy
from kafka import KafkaProducer

from headrace.streams.kafka.record_batches import MAX_HEADERS
from headrace.streams.records import Event
from headrace.streams.settings import Settings
from headrace.streams.wire import encode

# 11 ms to read, and five bytes to send of so many that follow each other.
SLOW = b"\x82\xa4item\xa1i\xa1x\xdc\x54\xa2" + 21_666 * b"\xd4\x05\x01"
CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
BOMB = bytes(300_000_000)  # a hundredth of it goes over the wire, or less
ROOM_BYTES = 200_000_000  # for a batch inflated up to its limit, and what is made of it


class Mangled(str):
    """A header's name that is no UTF-8 on the wire."""

    __slots__ = ()

    def encode(self, *_: str) -> bytes:  # type: ignore[override] # it is what a client calls
        return b"na\xffme"


def good(name: str) -> bytes:
    """Return an event of the one user of these tests."""
    return encode(Event(user="ann", item=name, time_ms=1_000))


def producer(settings: Settings, codec: str) -> Producer:
    """Return a producer that compresses, and sends what it is told to, however large."""
    return Producer(
        {
            "bootstrap.servers": settings.bootstrap,
            "compression.type": codec,
            "message.max.bytes": 2 * len(BOMB),
        }
    )


async def send_headers(settings: Settings, topic: str, *, n_records: int) -> None:
    """Send a batch of records with as many empty headers as one may have; it compresses well."""
    async with AIOKafkaProducer(
        bootstrap_servers=settings.bootstrap,
        compression_type="zstd",
        max_batch_size=2**26,
        max_request_size=2**26,
    ) as sender:
        batch = sender.create_batch()
        headers = [("", None)] * MAX_HEADERS
        for _ in range(n_records):
            assert batch.append(timestamp=None, key=None, value=None, headers=headers)
        await (await sender.send_batch(batch, topic, partition=1))


def resident_bytes(pid: int, field: str) -> int:
    """Return what a process holds (VmRSS), or the most it has held (VmHWM)."""
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(status.split(f"{field}:")[1].split()[0])


@contextmanager
def at_work(settings: Settings, folder: Path) -> Iterator[tuple[Watcher, Worker, Producer, int]]:
    """Yield a worker that has made a list, who watches it, a producer, and the bytes it holds."""
    with Watcher(settings, reads_events=False) as watcher, Fleet(settings, folder) as fleet:
        worker = fleet.start()
        sender = producer(settings, "zstd")
        sender.produce(settings.topic("events"), key=b"ann", value=good("first"), partition=1)
        sender.flush()
        watcher.until(lambda: bool(watcher.lists), "the first list")
        yield watcher, worker, sender, resident_bytes(worker.process.pid, "VmRSS")


@pytest.mark.parametrize("codec", CODECS)
def test_events_are_read_however_they_were_compressed(
    settings: Settings, tmp_path: Path, codec: str
) -> None:
    settings = deploy(settings)
    sender = producer(settings, codec)
    for number in range(100):
        sender.produce(settings.topic("events"), key=b"ann", value=good(f"i{number}"), partition=1)
    sender.flush()
    with Watcher(settings) as watcher, Fleet(settings, tmp_path) as fleet:
        fleet.start()
        watcher.until_answered(100)
        watcher.assert_nothing_lost_or_doubled()
        assert watcher.dead_letters == []


def test_hostile_records_are_set_aside_and_the_worker_goes_on_within_its_memory(
    settings: Settings, tmp_path: Path
) -> None:
    settings = deploy(settings)
    topic = settings.topic("events")
    with at_work(settings, tmp_path) as (watcher, worker, sender, at_rest):
        sender.produce(topic, key=b"ann", value=BOMB, partition=1)
        sender.flush()
        sender.produce(topic, key=b"k" * 3_000_000, value=b"{}", partition=1)
        sender.flush()
        sender.produce(topic, b"{}", b"ann", 1, headers={"h": bytes(3_000_000)})
        sender.flush()
        mangler = KafkaProducer(bootstrap_servers=settings.bootstrap)
        mangler.send(topic, good("mangled"), b"ann", [(Mangled("name"), b"")], 1).get(10)
        mangler.close()
        sender.produce(topic, key=None, value=None, partition=1)
        sender.produce(topic, key=b"ann", value=good("last"), partition=1)
        sender.flush()

        watcher.until(lambda: len(watcher.dead_letters) == 5, "a dead letter for each")
        watcher.until(
            lambda: watcher.last_lists()[1, b"ann"].items == ("last", "first"), "the last list"
        )
        assert resident_bytes(worker.process.pid, "VmHWM") - at_rest < ROOM_BYTES
        assert worker.stop() == 0
    told = [dict(letter.headers()) for letter in watcher.dead_letters]
    assert {(t["headrace.offset"], t["headrace.reason"]) for t in told} == {
        (b"1", b"too_large"),
        (b"2", b"too_large"),
        (b"3", b"missing_field"),
        (b"4", b"undecodable"),
        (b"5", b"empty"),
    }
    omitted = {t["headrace.offset"]: t.get("headrace.omitted") for t in told}
    assert omitted == {b"1": None, b"2": b"key", b"3": b"headers", b"4": None, b"5": None}


def test_records_that_take_long_or_much_to_read_neither_stop_the_worker_nor_fill_it(
    settings: Settings, tmp_path: Path
) -> None:
    settings = deploy(settings)
    topic = settings.topic("events")
    with at_work(settings, tmp_path) as (watcher, worker, sender, at_rest):
        for _ in range(300):  # 3.3 s, and who stands still for 2 s ends itself
            sender.produce(topic, key=b"bob", value=SLOW, partition=1)
        sender.flush()
        asyncio.run(send_headers(settings, topic, n_records=16_000))
        sender.produce(topic, key=b"ann", value=good("last"), partition=1)
        sender.flush()
        watcher.until(
            lambda: watcher.last_lists()[1, b"ann"].items == ("last", "first"), "the last list"
        )
        # With as many headers as are made into objects at once, of records that wait.
        assert resident_bytes(worker.process.pid, "VmHWM") - at_rest < 2 * ROOM_BYTES
        assert worker.stop() == 0
