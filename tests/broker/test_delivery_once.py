"""One worker: an event in gives the right list out, and a bad record stops nothing."""

from pathlib import Path

from confluent_kafka import Producer
from harness import Fleet, Watcher, deploy, java_publisher

from headrace.streams.records import Event
from headrace.streams.settings import Settings
from headrace.streams.wire import encode

POISON = {
    "undecodable": b"\xc1 is never used in msgpack",
    "empty": None,
    "wrong_type": b"\x93\x01\x02\x03",  # a msgpack list
    "missing_field": b'{"user": "ann"}',
    "unknown_schema": b'{"v": 99, "user": "ann", "item": "tea"}',
}


def test_each_event_gives_its_users_list_in_its_own_partition(
    settings: Settings, tmp_path: Path
) -> None:
    settings = deploy(settings)
    with (
        Watcher(settings) as watcher,
        java_publisher(settings, ["ann", "bob", "cem"]) as publisher,
        Fleet(settings, tmp_path) as fleet,
    ):
        worker = fleet.start()
        publisher.publish(9)
        watcher.until_answered(9)
        assert worker.stop() == 0
        watcher.assert_nothing_lost_or_doubled()
        watcher.assert_partitions_are_committed()
        by_user = {r.user: r.items for r in watcher.last_lists().values()}
    # ann did events 0, 3 and 6, bob 1, 4 and 7, cem 2, 5 and 8; the newest comes first.
    assert by_user["ann"] == ("item-6", "item-3", "item-0")
    assert by_user["cem"] == ("item-8", "item-5", "item-2")


def publish_poison_and_good(settings: Settings) -> None:
    """Publish, to partition 1 and for each poison, the poison and then a good event."""
    producer = Producer({"bootstrap.servers": settings.bootstrap})
    topic = settings.topic("events")
    for reason, value in POISON.items():
        headers = [("of", reason.encode()), ("null", None)]
        producer.produce(topic, key=b"ann", value=value, partition=1, headers=headers)
        good = Event(user="ann", item=f"after {reason}", time_ms=1_000)
        producer.produce(topic, key=b"ann", value=encode(good), partition=1)
    producer.flush()


def test_bad_records_are_set_aside_as_they_came_and_the_rest_goes_on(
    settings: Settings, tmp_path: Path
) -> None:
    settings = deploy(settings)
    publish_poison_and_good(settings)
    with Watcher(settings) as watcher, Fleet(settings, tmp_path) as fleet:
        worker = fleet.start()
        watcher.until(
            lambda: len(watcher.dead_letters) == len(POISON) and bool(watcher.lists),
            "a dead letter for each poison, and a list",
        )
        assert worker.stop() == 0
        state = watcher.written()[1, b"ann"]
    assert (state.n_events, state.last_offset) == (len(POISON), 2 * len(POISON) - 1)
    letters = {dict(r.headers())["of"].decode(): r for r in watcher.dead_letters}
    for position, (reason, value) in enumerate(POISON.items()):
        letter, headers = letters[reason], dict(letters[reason].headers())
        assert (letter.key(), letter.value()) == (b"ann", value)
        assert headers.pop("headrace.detail")
        assert int(headers.pop("headrace.time_ms")) > 0
        assert headers == {
            "of": reason.encode(),
            "null": None,
            "headrace.reason": reason.encode(),
            "headrace.topic": settings.topic("events").encode(),
            "headrace.partition": b"1",
            "headrace.offset": str(2 * position).encode(),
        }
