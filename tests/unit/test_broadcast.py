"""Broadcast: which announced version a worker takes when some of them are damaged."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kafka import TopicPartition
from serving_samples import CLICKS, Shop, metric

from headrace.streams.adapt.broadcast import Broadcast
from headrace.streams.errors import CheckpointError
from headrace.streams.kafka import clients, follower
from headrace.streams.kafka.follower import LATEST_HELD
from headrace.streams.settings import Settings
from headrace.streams.versions.publication import Announcement
from headrace.streams.versions.store import ModelStore, StoredFile

LIMIT_S = 60.0
MODELS = TopicPartition(Settings().topic("models"), 0)
DELTAS = TopicPartition(Settings().topic("deltas"), 0)


class FakeConsumer:
    """Brings the announcements poll by poll; stands for a kafka-python consumer."""

    def __init__(self, *polls: list[bytes]) -> None:
        offsets = iter(range(sum(map(len, polls))))
        self._polls = [
            [
                SimpleNamespace(topic=MODELS.topic, key=b"k", value=value, offset=next(offsets))
                for value in poll
            ]
            for poll in polls
        ]
        self._ends = Counter({MODELS: sum(map(len, polls))})
        self._positions: Counter[TopicPartition] = Counter()
        self.sought: list[tuple[TopicPartition, int]] = []
        self.is_read = threading.Event()
        self.is_left = threading.Event()

    def poll(self, timeout_ms: int) -> dict[TopicPartition, list[Any]]:
        if self._polls:
            records = self._polls.pop(0)
            self._positions[MODELS] += len(records)
            return {MODELS: records}
        self.is_read.set()  # who asks for more has handled what came
        self.is_left.wait(timeout_ms / 1000)
        return {}

    def position(self, tp: TopicPartition) -> int:
        return self._positions[tp]

    def highwater(self, tp: TopicPartition) -> int:
        return self._ends[tp]

    def assignment(self) -> set[TopicPartition]:
        return {MODELS, DELTAS}

    def end_offsets(self, _: list[TopicPartition]) -> dict[TopicPartition, int]:
        return {}

    def pause(self, *_: TopicPartition) -> None: ...

    def resume(self, *_: TopicPartition) -> None: ...

    def seek(self, tp: TopicPartition, offset: int) -> None:
        self.sought.append((tp, offset))


def follow(shop: Shop, monkeypatch: pytest.MonkeyPatch, *polls: list[bytes]) -> FakeConsumer:
    """Let a worker that starts follow the models topic to its end."""
    consumer = FakeConsumer(*polls)

    @contextmanager
    def connected(*_: object) -> Iterator[FakeConsumer]:
        yield consumer

    monkeypatch.setattr(clients, "broadcast_consumer", connected)
    thread = Broadcast(shop.settings, shop.serving).follower
    thread.start()
    try:
        assert consumer.is_read.wait(LIMIT_S)
    finally:
        consumer.is_left.set()
        thread.close()
    return consumer


def test_a_handler_that_hangs_is_not_waited_for_without_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    begun, hangs = threading.Event(), threading.Event()

    def load(_: Any) -> None:
        begun.set()
        hangs.wait()  # as a model store may that does not answer

    monkeypatch.setattr(clients, "broadcast_consumer", lambda *_: nullcontext(consumer))
    monkeypatch.setattr(follower, "STOP_LIMIT_S", 0.1)
    consumer = FakeConsumer([b"a version"])
    consumer.is_left.set()
    following = follower.Follower(Settings(), {MODELS.topic: load})
    following.start()
    assert begun.wait(LIMIT_S)
    closing = threading.Thread(target=following.close, daemon=True)
    closing.start()
    closing.join(LIMIT_S)
    has_closed = not closing.is_alive()
    hangs.set()
    following.join(LIMIT_S)
    assert has_closed
    assert f"stopped without waiting for the reader of {MODELS.topic} any longer" in caplog.text


def test_a_follower_that_is_closed_hands_nothing_more_over(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[bytes] = []
    begun, hangs = threading.Event(), threading.Event()

    def take(record: Any) -> None:
        taken.append(record.value)
        begun.set()
        hangs.wait(LIMIT_S)

    consumer = FakeConsumer([b"first", b"second"])
    consumer.is_left.set()
    monkeypatch.setattr(clients, "broadcast_consumer", lambda *_: nullcontext(consumer))
    monkeypatch.setattr(follower, "STOP_LIMIT_S", 0.1)
    following = follower.Follower(Settings(), {MODELS.topic: take})
    following.start()
    assert begun.wait(LIMIT_S)
    following.close()
    hangs.set()
    following.join(LIMIT_S)
    assert taken == [b"first"]


def damaged(announcement: Announcement) -> bytes:
    """Return an announcement of files with other checksums."""
    assert announcement.weights
    model, weights = (
        replace(file, sha256="0" * 64) for file in (announcement.model, announcement.weights)
    )
    return replace(announcement, model=model, weights=weights).encode()


def version_of(shop: Shop) -> int:
    """Return the version that answers; without one, answering would wait for it."""
    assert shop.serving.is_ready()
    return shop.answer(*CLICKS).model_version


def n_refused() -> float:
    """Return how many versions were refused."""
    return metric("checkpoints_refused_total")


def test_of_good_versions_the_newest_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, before = Shop(tmp_path), n_refused()
    follow(shop, monkeypatch, [damaged(shop.announce(1))], [shop.announce(2).encode()])
    assert version_of(shop) == 2
    assert n_refused() == before


@pytest.mark.parametrize("n_in_first_poll", [1, 2, 3])
def test_a_worker_that_starts_goes_back_from_damaged_versions_to_a_good_one(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    n_in_first_poll: int,
) -> None:
    shop, before = Shop(tmp_path), n_refused()
    good = replace(shop.announce(2), delta_offset=7).encode()
    records = [shop.announce(1).encode(), good, damaged(shop.announce(3)), b"no announcement"]
    consumer = follow(shop, monkeypatch, records[:n_in_first_poll], records[n_in_first_poll:])
    assert version_of(shop) == 2
    assert consumer.sought == [(DELTAS, 7)]
    assert n_refused() == before + 1
    assert "offset=2 key=b'k': refused model version 3: v00000003" in caplog.text
    assert "offset=3 key=b'k': undecodable" in caplog.text


def test_a_worker_at_work_stays_with_its_version_when_a_damaged_one_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = Shop(tmp_path).at_work()
    before = n_refused()
    consumer = follow(shop, monkeypatch, [damaged(shop.announce(2))])
    assert version_of(shop) == 1
    assert (n_refused(), consumer.sought) == (before + 1, [])


def test_a_worker_does_not_go_back_further_than_checkpoints_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, before = Shop(tmp_path), n_refused()
    good = shop.announce(1)
    follow(shop, monkeypatch, [good.encode()] + LATEST_HELD * [damaged(good)])
    assert not shop.serving.is_ready()
    assert n_refused() == before + LATEST_HELD


def test_of_versions_that_could_not_be_read_only_the_newest_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(follower, "RETRY_S", 0.0)
    shop = Shop(tmp_path)
    follow(shop, monkeypatch, [damaged(shop.announce(number)) for number in (1, 2, 3)])
    n_tried = [caplog.text.count(f"refused model version {number}:") for number in (1, 2, 3)]
    assert n_tried[:2] == [1, 1]
    assert n_tried[2] > 1


def test_where_no_version_can_be_read_the_store_is_asked_for_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shop = Shop(tmp_path)
    follow(shop, monkeypatch, [damaged(shop.announce(number)) for number in (1, 2, 3)])
    *each, last = (record.getMessage() for record in caplog.records if record.levelname == "ERROR")
    assert [told.split("refused ")[1].split(":")[0] for told in each] == [
        f"model version {number}" for number in (3, 2, 1)
    ]
    assert f"nothing at hand of {MODELS.topic} is of use" in last
    assert "".join([*each, last]).count("is model_store the one") == 1


def test_versions_that_could_not_be_read_are_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "RETRY_S", 0.0)
    shop, before = Shop(tmp_path), n_refused()
    good, read, failures = shop.announce(1), ModelStore.read, [OSError("503"), OSError("503")]

    def unreachable_at_first(store: ModelStore, file: StoredFile) -> memoryview:
        if failures:
            raise CheckpointError(str(failures.pop()))
        return read(store, file)

    monkeypatch.setattr(ModelStore, "read", unreachable_at_first)
    follow(shop, monkeypatch, [good.encode()], [], [])
    assert version_of(shop) == 1
    assert n_refused() == before + 2
