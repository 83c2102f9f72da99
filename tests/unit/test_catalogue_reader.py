"""A catalogue reaches the learner's thread at the pace at which it is taken over."""

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from content_rig import cold, shop
from stream_samples import small

from headrace.streams import metrics
from headrace.streams.errors import MalformedRecordError
from headrace.streams.guards import EXIT_FAILED
from headrace.streams.learn import catalogue_reader
from headrace.streams.learn.assortment import Assortment
from headrace.streams.learn.catalogue_reader import WAITING_ITEMS, CatalogueReader
from headrace.streams.learn.learner import Learner
from headrace.streams.wire import encode


def test_records_that_come_fast_are_placed_together_on_the_learners_thread() -> None:
    class Counting(Assortment):
        n_calls = 0

        def place(self, limit: int = 8) -> bool:
            self.n_calls += 1
            return super().place(limit)

    learner, released = Learner(small()), threading.Event()
    learner.assortment = counting = Counting(learner)
    with ThreadPoolExecutor(1) as thread:
        reader = CatalogueReader(learner, thread)
        thread.submit(released.wait, 10)
        for item in shop(20):
            reader(SimpleNamespace(value=encode(item), key=None, offset=0, timestamp=1))
        refused = metrics.CONTENT_REFUSED.labels("malformed")._value
        n_before = refused.get()
        with pytest.raises(MalformedRecordError):
            reader(SimpleNamespace(value=b"none", key=None, offset=20, timestamp=1))
        assert refused.get() == n_before + 1
        assert counting.n_calls == 0
        released.set()
        for _ in range(50):  # longer than it takes
            thread.submit(lambda: None).result(10)
        reader.close()
    assert len(cold(learner)) == 20
    assert counting.n_calls <= 5


def test_a_catalogue_read_faster_than_it_is_taken_over_waits() -> None:
    learner, released = Learner(small()), threading.Event()
    items = shop(WAITING_ITEMS + 2)
    with ThreadPoolExecutor(1) as thread, ThreadPoolExecutor(1) as follower:
        reader = CatalogueReader(learner, thread)
        thread.submit(released.wait, 10)

        def follow() -> int:
            for number, item in enumerate(items):
                if released.is_set():
                    return number
                reader(SimpleNamespace(value=encode(item), key=None, offset=number, timestamp=1))
            return len(items)

        n_read = follower.submit(follow)
        with pytest.raises(TimeoutError):  # the last of these waits for room
            n_read.result(0.5)
        released.set()
        assert n_read.result(60) == WAITING_ITEMS + 1
        reader.close()


@pytest.mark.parametrize("step", ["note", "place"])
def test_a_record_that_the_learner_fails_at_ends_the_process(
    step: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> bool:
        raise ZeroDivisionError(step)

    statuses: list[int] = []
    monkeypatch.setattr(catalogue_reader, "end_process", statuses.append)
    monkeypatch.setattr(Assortment, step, fail)
    with ThreadPoolExecutor(1) as thread:
        reader = CatalogueReader(Learner(small()), thread)
        reader(SimpleNamespace(value=encode(shop(1)[0]), key=None, offset=0, timestamp=1))
        for _ in range(5):  # longer than it takes
            thread.submit(lambda: None).result(10)
    assert statuses == [EXIT_FAILED]
    assert "taking the catalogue over failed" in caplog.text
    assert f"ZeroDivisionError: {step}" in caplog.text


def test_a_catalogue_that_is_closed_places_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    statuses: list[int] = []
    monkeypatch.setattr(catalogue_reader, "end_process", statuses.append)
    learner, released = Learner(small()), threading.Event()
    with ThreadPoolExecutor(1) as thread:
        reader = CatalogueReader(learner, thread)
        thread.submit(released.wait, 10)
        reader(SimpleNamespace(value=encode(shop(1)[0]), key=None, offset=0, timestamp=1))
        reader.close()
        thread.shutdown(wait=False)  # as at a stop: what waits runs, and nothing new may come
        released.set()
    assert not statuses
    assert not cold(learner)
