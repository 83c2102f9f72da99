"""What the learn role publishes, at the pace it is asked to."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from publisher_rig import GUARD, Sent, publishing
from serving_samples import metric
from stream_samples import drawn, learned, small

from headrace.streams.learn import publisher as publisher_module
from headrace.streams.learn.learner_state import Positions
from headrace.streams.learn.publisher import Publisher
from headrace.streams.versions.store import ModelStore, StoredFile


def test_a_role_that_starts_publishes_a_version_at_once_acknowledges_and_tells_when(
    tmp_path: Path,
) -> None:
    settings = small(model_store=str(tmp_path), delta_interval_s=60)
    acknowledged: list[Positions] = []

    async def start(publisher: Publisher) -> None:
        async with publishing(publisher, sent.send, acknowledged.append), asyncio.timeout(60):
            while not acknowledged:
                await asyncio.sleep(0.001)

    sent, before_s = Sent(), time.time()
    with ThreadPoolExecutor(1) as thread:
        asyncio.run(start(Publisher(settings, learned(drawn(60)), thread, {0: 60})))
    assert [one.version for one in sent.announced] == [1]
    assert acknowledged == [{0: 60}]
    assert before_s - 0.001 <= metric("model_published_timestamp_seconds") <= time.time()
    assert metric("model_version") == 1


def test_the_last_version_waits_for_the_one_that_is_being_published(tmp_path: Path) -> None:
    settings = small(model_store=str(tmp_path), delta_interval_s=0.001, version_events=1)
    learner, sent = learned(drawn(60)), Sent()
    announced = sent.announced

    async def send(topic: str, key: bytes | None, value: bytes) -> int:
        await asyncio.sleep(0.01)  # as long as a broker takes
        return await sent.send(topic, key, value)

    async def stop_while_publishing(publisher: Publisher, n_before: int) -> None:
        acknowledged: list[Positions] = []
        async with publishing(publisher, send, acknowledged.append):
            while len(announced) < n_before:
                await asyncio.sleep(0.001)
                learner.n_events += 1  # so that another is due
            await publisher.publish_version(send, GUARD)

    with ThreadPoolExecutor(1) as thread:
        for n_before in range(4):
            publisher = Publisher(settings, learner, thread, {})
            publisher.version = max([0, *(one.version for one in announced)])
            asyncio.run(stop_while_publishing(publisher, len(announced) + n_before))

    versions = [one.version for one in announced]
    assert versions == list(range(1, len(versions) + 1))
    store = ModelStore(settings.store_url, keep=settings.versions_kept)
    for one in announced[-settings.versions_kept :]:
        store.read(one.model)
        store.read(one.learner)


def test_a_checkpoint_that_takes_long_comes_with_some_versions_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher_module, "CHECKPOINT_SHARE", 1e-9)  # one is for years
    settings = small(model_store=str(tmp_path), delta_interval_s=0.001, version_events=1)
    learner, positions = learned(drawn(60)), {0: 60}
    sent = Sent()
    announced, acknowledged = sent.announced, list[Positions]()

    async def publish(publisher: Publisher) -> None:
        async def until_announced(n: int) -> None:
            while len(acknowledged) < n:
                await asyncio.sleep(0.001)

        async with publishing(publisher, sent.send, acknowledged.append):
            for n_announced in (1, 2, 3):
                await until_announced(n_announced)
                learner.n_events += 1  # so that another is due
                positions[0] += 1
            await until_announced(4)
            publisher._next_checkpoint_s = 0.0  # the years have passed
            await until_announced(5)  # and nothing was learned
            before = len(sent.fragments)
            while len(sent.fragments) < before + 5:
                await asyncio.sleep(0.001)

    with ThreadPoolExecutor(1) as thread:
        publisher = Publisher(settings, learner, thread, positions)
        asyncio.run(publish(publisher))
        monkeypatch.setattr(learner.assortment, "make_room", lambda **_: True)
        asyncio.run(publisher.publish_version(sent.send, GUARD, with_checkpoint=False))

        for n_announced, read_to in ((4, 60), (5, 63)):  # a role that is started again
            newest_first = announced[:n_announced][::-1]
            monkeypatch.setattr(publisher_module, "announcements", lambda _, a=newest_first: a)
            resumed: Positions = {}
            Publisher(settings, learned([]), thread, resumed).restore()
            assert resumed == {0: read_to}

    checkpoints = [one.model.name for one in announced]
    first, fifth, sixth = (f"v0000000{n}.model.safetensors" for n in (1, 5, 6))
    assert checkpoints == [first] * 4 + [fifth, sixth]  # replicas must reload: the last has its own
    assert len({one.epoch for one in announced[:5]}) == 1
    assert announced[5].epoch > announced[4].epoch  # by which they know
    assert acknowledged == [{0: 60}] * 4 + [{0: 63}]
    assert len({one.weights for one in announced}) == 6
    assert len({(one.delta_offset, one.delta_sequence) for one in announced}) == 3
    # A version has in it what was learned until it was packed, its checkpoint or not.
    assert [one.learned_to for one in announced] == [(60,), (61,), (62,), (63,), (63,), (63,)]
    assert sent.fragments[-1].learned_to == (63,)
    store = ModelStore(settings.store_url, keep=settings.versions_kept)
    for one in announced[1:]:
        assert one.weights
        for file in (one.model, one.learner, one.weights):
            store.read(file)


def test_deltas_go_on_while_a_checkpoint_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = small(model_store=str(tmp_path), delta_interval_s=0.001, version_events=1)
    sent, write, learner = Sent(), ModelStore.write, learned(drawn(60))
    is_slow, gate = False, threading.Event()

    def write_slowly(store: ModelStore, version: int, kind: str, blob: memoryview) -> StoredFile:
        if is_slow and kind == "model":
            gate.wait()
        return write(store, version, kind, blob)

    async def publish(publisher: Publisher) -> int:
        nonlocal is_slow
        async with publishing(publisher, sent.send, lambda _: None):
            while not sent.announced:
                await asyncio.sleep(0.001)
            is_slow, before = True, len(sent.fragments)
            publisher._next_checkpoint_s, learner.n_events = 0.0, learner.n_events + 1
            while len(sent.fragments) < before + 20:
                await asyncio.sleep(0.001)
            meanwhile = len(sent.fragments)
            gate.set()
            while len({one.model for one in sent.announced}) < 2:
                await asyncio.sleep(0.001)
        return meanwhile

    monkeypatch.setattr(ModelStore, "write", write_slowly)
    with ThreadPoolExecutor(1) as thread:
        meanwhile = asyncio.run(publish(Publisher(settings, learner, thread, {})))
    of_checkpoint = sent.announced[-1]
    assert of_checkpoint.delta_sequence
    assert of_checkpoint.delta_sequence < meanwhile - 10
    assert (
        of_checkpoint.delta_offset == of_checkpoint.delta_sequence + 1
    )  # a delta is a record here
    sequences = [fragment.sequence for fragment in sent.fragments]
    assert sequences == list(range(1, len(sequences) + 1))


def test_a_version_is_due_now_and_then_though_nothing_came(tmp_path: Path) -> None:
    settings = small(model_store=str(tmp_path))

    with ThreadPoolExecutor(1) as thread:
        publisher = Publisher(settings, learned(drawn(60)), thread, {})
        asyncio.run(publisher.publish_version(Sent().send, GUARD))
        publisher._published_at_s -= 3_500
        assert not publisher._is_due()
        publisher._published_at_s -= 100
        assert publisher._is_due()


def test_records_of_which_nothing_is_learned_make_a_version_due_once(tmp_path: Path) -> None:
    settings = small(model_store=str(tmp_path), version_interval_s=1e-9)
    positions: Positions = {0: 7}
    acknowledged: list[Positions] = []

    with ThreadPoolExecutor(1) as thread:
        publisher = Publisher(settings, learned(drawn(60)), thread, positions)

        def publish() -> None:
            acknowledged.append(asyncio.run(publisher.publish_version(Sent().send, GUARD)))

        publish()
        assert not publisher._is_due()
        for partition in (0, 1):  # all of them undecodable, the second partition's the first there
            positions[partition] = 9
            assert publisher._is_due()
            publish()
            assert not publisher._is_due()
    assert acknowledged == [{0: 7}, {0: 9}, {0: 9, 1: 9}]


def test_an_old_file_that_cannot_be_removed_is_no_reason_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: ModelStore) -> None:
        raise OSError("503 Slow Down")

    monkeypatch.setattr(ModelStore, "prune", fail)
    sent = Sent()
    with ThreadPoolExecutor(1) as thread:
        settings = small(model_store=str(tmp_path))
        publisher = Publisher(settings, learned(drawn(60)), thread, {0: 60})
        assert asyncio.run(publisher.publish_version(sent.send, GUARD)) == {0: 60}
    assert [one.version for one in sent.announced] == [1]
    assert "old versions stay in the store until the next one: 503 Slow Down" in caplog.text
