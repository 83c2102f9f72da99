"""Who publishes in transactions: what is aborted was never said."""

from pathlib import Path

from confluent_kafka import Producer
from harness import Fleet, Watcher, committed_offsets, deploy
from test_roles_follower import following, take

from headrace.streams.records import Event, Item
from headrace.streams.settings import Settings
from headrace.streams.wire import encode

WHOLE_FETCH = 2_000  # records of an aborted transaction that fill polls of their own


def shop(settings: Settings) -> Producer:
    """Return a producer of transactions."""
    told = {"bootstrap.servers": settings.bootstrap, "transactional.id": settings.topic_prefix}
    producer = Producer(told)
    producer.init_transactions()
    return producer


def transact(producer: Producer, topic: str, *values: bytes, commit: bool) -> None:
    """Publish values of one key to the first partition, and commit them or not."""
    producer.begin_transaction()
    for value in values:
        producer.produce(topic, value, b"ann", 0)
    producer.flush()  # they reach the broker, whatever is made of them
    if commit:
        producer.commit_transaction()
    else:
        producer.abort_transaction()


def purchase(item: str) -> bytes:
    """Return an event of the one user."""
    return encode(Event(user="ann", item=item, time_ms=1_000, action="purchase"))


def test_an_event_that_was_aborted_and_published_again_counts_once(
    settings: Settings, tmp_path: Path
) -> None:
    settings = deploy(settings)
    topic = settings.topic("events")
    producer = shop(settings)
    with Watcher(settings, reads_events=False) as watcher, Fleet(settings, tmp_path) as fleet:
        transact(producer, topic, purchase("tea"), commit=False)
        transact(producer, topic, purchase("tea"), commit=True)
        worker = fleet.start()
        watcher.until(lambda: bool(watcher.states), "the state of one purchase")
        transact(producer, topic, *[purchase("junk")] * WHOLE_FETCH, commit=False)
        transact(producer, topic, purchase("cup"), commit=True)
        watcher.until(lambda: len(watcher.states) > 1, "the state of two")
        assert worker.stop() == 0
        (state,) = watcher.written().values()
        assert (state.n_events, list(state.items)) == (2, ["tea", "cup"])
    # Each of the four transactions ends in a marker, which is no record and takes an offset.
    last_record = (1 + 1) + (1 + 1) + (WHOLE_FETCH + 1)
    assert committed_offsets(settings, [(topic, 0)]) == {0: last_record + 1}


def test_a_catalogue_is_followed_without_what_was_aborted(settings: Settings) -> None:
    settings = deploy(settings)
    topic = settings.topic("items")
    junk, tea, cup = (encode(Item(item=item)) for item in ("junk", "tea", "cup"))
    producer = shop(settings)
    transact(producer, topic, junk, commit=False)
    transact(producer, topic, tea, commit=True)
    transact(producer, topic, *[junk] * WHOLE_FETCH, commit=False)  # the end, as it stands
    producer.begin_transaction()
    producer.produce(topic, cup, b"ann", 0)
    producer.flush()  # an open one is not waited for
    plain = Producer({"bootstrap.servers": settings.bootstrap})
    plain.produce(settings.topic("models"), b"version", b"announced", 0)
    plain.flush()
    with following(settings, "models", "items", first=("items",)) as read:
        assert take(read, 2) == [("items", tea), ("models", b"version")]
        producer.commit_transaction()
        assert take(read, 1) == [("items", cup)]
    assert read.empty()
