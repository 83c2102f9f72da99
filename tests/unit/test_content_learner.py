"""Content in the learn role: items are known before anyone took them, and what is known travels."""

import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from stream_samples import drawn, event, folded, learned, small

from headrace.model.vocabulary import Vocabulary
from headrace.streams import metrics, schema
from headrace.streams.errors import CheckpointError, MalformedRecordError
from headrace.streams.guards import EXIT_FAILED
from headrace.streams.learn import catalogue_reader
from headrace.streams.learn.assortment import Assortment
from headrace.streams.learn.catalogue_reader import WAITING_ITEMS, CatalogueReader
from headrace.streams.learn.content import MAX_WIDTH
from headrace.streams.learn.learner import Learner
from headrace.streams.learn.learner_state import pack_learner, restore
from headrace.streams.state import UserState
from headrace.streams.versions.blobs import pack, unpack
from headrace.streams.versions.publication import apply_delta, pack_delta, pack_model, unpack_model
from headrace.streams.wire import Item, encode


def note(learner: Learner, *items: Item) -> None:
    """Take catalogue records over and place them all."""
    for item in items:
        learner.assortment.note(item)
    while learner.assortment.place():
        pass


def shop(n: int, *, first: int = 0) -> list[Item]:
    return [Item(item=f"new-{i}", title=f"tea {i}") for i in range(first, first + n)]


def cold(learner: Learner) -> list[str]:
    """Return the cold items, newest first."""
    return [learner.vocabulary.ids[index] for index in learner.signals.content.cold]


def take(learner: Learner, *items: str, user: str = "ann", first: int = 10_000) -> None:
    learner.learn([(user, first + at, event(user, item, at)) for at, item in enumerate(items)])


def contents(learner: Learner) -> dict[str, bytes]:
    """Return each item's vector by its id."""
    content = learner.signals.content.snapshot()
    return {
        learner.vocabulary.ids[index]: vector.tobytes()
        for index, vector in zip(content["items"], content["vectors"], strict=True)
    }


def test_an_item_has_an_index_once_its_record_comes_and_is_cold_until_its_third_event() -> None:
    learner = Learner(small())
    note(learner, *shop(2))
    assert cold(learner) == ["new-1", "new-0"]
    for user, left in zip("abc", [2, 2, 1], strict=True):
        take(learner, "new-0", user=user)
        assert len(cold(learner)) == left


def test_a_new_item_is_a_candidate_for_users_of_items_like_it() -> None:
    learner = learned(drawn(100, n_items=10))
    note(
        learner,
        Item(item="item-3", title="green tea"),
        Item(item="black", title="black tea"),
        *(Item(item=f"oil-{i}", title=f"engine oil {i}") for i in range(30)),
    )
    learner.serve_version()
    rows = folded(learner, [UserState()], [(0, 0, event("ann", "item-3"))])
    found = learner.served.gather(rows.after).items[0]
    assert learner.vocabulary.index("black") in found


def test_records_without_anything_to_say_take_no_index() -> None:
    learner = Learner(small())
    note(learner, Item(item="bare"), Item(item="gone", title="tea", active=False))
    assert len(learner.vocabulary) == 0


def test_switched_off_records_only_give_categories() -> None:
    learner = Learner(small(content="off"))
    note(learner, Item(item="new", title="tea", categories=("hot",)))
    take(learner, "new")
    assert learner.signals.arrays.category[learner.vocabulary.index("new")] == 0
    assert contents(learner) == {}


def test_untaken_items_give_way_to_newer_ones_and_to_those_that_are_taken() -> None:
    learner = Learner(small(max_items=16))
    note(learner, *shop(20))  # half of the vocabulary is for items that nobody took
    assert cold(learner) == [f"new-{i}" for i in range(19, 11, -1)]
    note(learner, *shop(1, first=20))
    assert cold(learner)[0] == "new-20"
    assert learner.vocabulary.n_items == 8
    take(learner, *(f"item-{i}" for i in range(14)), "new-20")
    assert learner.vocabulary.n_items == 16
    assert cold(learner)[:2] == ["new-20", "new-19"]  # the oldest went
    assert all(learner.vocabulary.index(f"item-{i}") >= 0 for i in range(14))


def test_an_item_that_gave_way_has_its_content_again_when_it_is_taken() -> None:
    learner = Learner(small(max_items=16))
    note(learner, *shop(12))
    assert learner.vocabulary.index("new-0") < 0
    take(learner, "new-0")
    assert "new-0" in contents(learner)


def test_a_full_vocabulary_evicts_an_item_that_was_taken_and_none_that_nobody_took() -> None:
    learner = Learner(small(max_items=20))
    note(learner, *shop(8))
    taken = [f"item-{i}" for i in range(12)]
    take(learner, *taken, *taken[1:])
    assert learner.assortment.make_room()
    left = {*(f"new-{i}" for i in range(8)), *taken[1:]}
    assert set(learner.vocabulary.ids) == {"", *left}


def test_a_vocabulary_full_of_items_that_nobody_took_holds_the_newer_half() -> None:
    learner = Learner(small(max_items=32))
    note(learner, *shop(16))
    learner.vocabulary.max_items = 16  # as after a restart with another setting
    assert learner.assortment.make_room()
    assert learner.vocabulary.n_items == 15
    assert {f"new-{i}" for i in range(8, 16)} < set(learner.vocabulary.ids)


def test_an_item_that_found_no_room_is_placed_when_its_record_comes_again() -> None:
    learner = Learner(small(max_items=16))
    take(learner, *(f"item-{i}" for i in range(16)))
    note(learner, *shop(1))
    assert learner.vocabulary.index("new-0") < 0
    learner.assortment.make_room()
    note(learner, *shop(1))
    assert "new-0" in cold(learner)


def test_records_that_come_again_unchanged_take_no_newer_items_place() -> None:
    learner = Learner(small(max_items=16))
    for _ in range(2):
        note(learner, *shop(12))
        assert cold(learner) == [f"new-{i}" for i in range(11, 3, -1)]


def test_a_role_that_starts_again_and_reads_all_records_keeps_the_newest() -> None:
    settings, records = small(max_items=16), list(enumerate(shop(12), 1_700_000_000_000))
    learner = Learner(settings)
    for night in range(3):
        if night:  # and who published all of them anew since, in another order, made none newer
            records = list(enumerate(reversed(shop(12)), 1_800_000_000_000))
            for time_ms, item in records:
                learner.assortment.note(item, time_ms=time_ms)
            model = pack_model(learner.recommender, learner.vocabulary)
            state, learner = pack_learner(learner, {}), Learner(settings)
            restore(learner, model, state)
        for time_ms, item in records:
            learner.assortment.note(item, time_ms=time_ms)
        assert not learner.assortment.place()
        assert cold(learner) == [f"new-{i}" for i in range(11, 3, -1)]


def test_a_reused_index_has_nothing_of_the_item_before() -> None:
    learner = Learner(small(max_items=16))
    note(learner, *(Item(item=f"a-{i}", title="tea", categories=("hot",)) for i in range(8)))
    encoder = learner.recommender.meta.encoder
    learner.outer_loop.start_items(torch.arange(8), torch.ones(8, encoder.items.shape[1] + 1))
    note(learner, *(Item(item=f"b-{i}", title=f"milk {i}") for i in range(8)))
    assert set(learner.vocabulary.ids) == {f"b-{i}" for i in range(8)}
    assert set(learner.signals.arrays.category[:8]) == {-1}
    assert not (encoder.items[:8] == 1).any()
    assert not encoder.bias[:8].any()


def test_a_withdrawn_item_is_no_longer_cold() -> None:
    learner = Learner(small())
    note(learner, *shop(2))
    note(learner, Item(item="new-1", active=False))
    assert cold(learner) == ["new-0"]


def test_a_withdrawn_item_that_nobody_took_gives_its_index_up() -> None:
    learner = Learner(small(max_items=16))
    note(learner, *shop(3))
    take(learner, "new-0")
    note(learner, *(Item(item=f"new-{i}", active=False) for i in range(2)))
    assert {*learner.vocabulary.ids} - {""} == {"new-0", "new-2"}
    for night in range(1, 20):  # nor does what comes and goes push others out
        note(learner, *shop(4, first=4 * night))
        note(learner, *(replace(item, active=False) for item in shop(4, first=4 * night)))
    assert {*learner.vocabulary.ids} - {""} == {"new-0", "new-2"}


def test_what_is_withdrawn_makes_room_for_what_comes_with_it() -> None:
    learner = Learner(small(max_items=16))
    note(learner, *shop(8))  # all that are held of those that nobody took
    learner.assortment.note(Item(item="another", title="milk"))
    learner.assortment.note(Item(item="new-3", active=False))
    learner.assortment.place()
    kept = {f"new-{i}" for i in range(8) if i != 3}
    assert {*learner.vocabulary.ids} - {""} == kept | {"another"}


def test_an_item_that_is_described_anew_is_among_the_newest() -> None:
    learner = Learner(small(max_items=16))
    note(learner, *shop(8))  # all that are held of those that nobody took
    learner.assortment.note(Item(item="another", title="milk"))
    learner.assortment.note(Item(item="new-0", title="coffee"))
    learner.assortment.place()
    assert cold(learner)[0] == "new-0"
    assert learner.vocabulary.index("new-1") < 0
    note(learner, Item(item="new-5", title="milk"))  # nothing has to go for it
    assert learner.vocabulary.index("new-2") >= 0


def test_a_record_that_changes_nothing_has_nothing_placed(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = Learner(small())
    take(learner, "plain")
    note(learner, *shop(2))
    monkeypatch.delattr(Assortment, "_untaken")  # looking through all items takes milliseconds
    note(learner, Item(item="plain", price=2.0), *(replace(item, price=2.0) for item in shop(2)))
    assert cold(learner) == ["new-1", "new-0"]


def test_vectors_of_another_width_are_taken_from_a_restart_on_once_none_is_left() -> None:
    def published(learner: Learner, width: int) -> None:
        note(learner, *(Item(item=f"v-{i}", vectors={"image": (1.0,) * width}) for i in range(3)))

    learner, settings = Learner(small()), small()
    published(learner, 4)
    published(learner, 6)
    assert not contents(learner)
    model, state = pack_model(learner.recommender, learner.vocabulary), pack_learner(learner, {})
    again = Learner(settings)
    restore(again, model, state)
    published(again, 6)
    assert again.assortment.catalogue.space == "given/6"
    assert len(contents(again)) == 3


def test_wide_vectors_are_kept_as_the_model_takes_them() -> None:
    learner = Learner(small())
    note(learner, Item(item="wide", vectors={"image": tuple(range(8192))}))
    source = learner.assortment.catalogue.source_of("wide")
    assert source
    assert len(source.content) == MAX_WIDTH
    assert contents(learner)["wide"] == source.content.tobytes()


def test_placing_is_done_in_steps_newest_first() -> None:
    learner = Learner(small())
    for item in shop(5):
        learner.assortment.note(item)
    assert learner.assortment.place(limit=2)
    assert cold(learner) == ["new-4", "new-3"]
    assert learner.assortment.place(limit=2)
    assert not learner.assortment.place(limit=2)
    assert len(cold(learner)) == 5


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


def test_records_without_content_take_no_place_of_what_waits() -> None:
    learner = Learner(small(max_items=32))
    (old,) = shop(1)
    learner.assortment.note(old)
    learner.assortment.place()
    learner.assortment.note(replace(old, title="another"))
    for item in shop(40, first=1):
        learner.assortment.note(replace(item, active=False))
    learner.assortment.place()
    index = learner.vocabulary.index(old.item)
    source = learner.assortment.catalogue.source_of(old.item)
    assert source
    assert learner.signals.content.stamp_of(index) == source.stamp


def test_what_waits_to_be_placed_is_bounded_as_the_catalogue_is() -> None:
    learner = Learner(small(max_items=32))
    for item in shop(100):
        learner.assortment.note(item)
    assert len(learner.assortment._unplaced) == 32
    assert learner.assortment.place(limit=1)
    assert cold(learner) == ["new-99"]


# ---------------------------------------------------------------------------------- it travels


def test_a_worker_that_follows_deltas_knows_what_the_learner_knows() -> None:
    learner = learned(drawn(60, n_items=10), max_items=32)
    note(learner, *shop(3))
    recommender, vocabulary = unpack_model(
        pack_model(learner.recommender, learner.vocabulary), max_items=32, device="cpu"
    )
    learner.assortment.new_items = []
    pack_delta(learner.recommender, [])
    note(learner, *shop(40, first=3))
    take(learner, "new-40", "item-1")
    delta = pack_delta(learner.recommender, learner.assortment.new_items)
    for _ in range(2):  # the second time changes nothing
        apply_delta(delta, recommender, vocabulary)
        assert vocabulary.ids == learner.vocabulary.ids
        ours, theirs = learner.signals.content, recommender.signals.content
        for name, array in ours.snapshot().items():
            np.testing.assert_array_equal(theirs.snapshot()[name], array)
        np.testing.assert_array_equal(theirs.cold, ours.cold)


def test_an_item_is_judged_and_served_by_nothing_that_was_learned_of_its_index_before() -> None:
    learner = learned(drawn(60, n_items=10), max_items=16)
    note(learner, *shop(6))
    learner.serve_version()
    old = learner.vocabulary.index("new-0")
    for meta in (learner.recommender.meta, learner.served.meta):
        meta.residual[old] = 3.0
    worker, vocabulary = unpack_model(
        pack_model(learner.recommender, learner.vocabulary), max_items=16, device="cpu"
    )
    learner.assortment.new_items = []
    take(learner, "item-99")
    assert learner.vocabulary.index("item-99") == old
    apply_delta(pack_delta(learner.recommender, learner.assortment.new_items), worker, vocabulary)
    for meta in (learner.served.meta, worker.meta):
        assert (meta.residual[old], meta.encoder.bias[old]) == (0, 0)
        assert not meta.encoder.items[old].any()
        assert meta.encoder.items[: old - 1].any(1).all()  # of the others it is kept
    assert learner.recommender.meta.encoder.items[old].any()  # where it is learned from now on


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("items", np.array([999], np.int32)),
        ("items", np.array([-1], np.int32)),
        ("vectors", np.full((1, 256), np.nan, np.float16)),
        ("vectors", np.zeros((1, 5), np.float16)),
        ("vectors", np.zeros((1, 256), np.float32)),
        ("stamps", np.zeros(2, np.int64)),
    ],
)
def test_a_delta_whose_content_does_not_fit_is_refused_whole(
    name: str, value: np.ndarray[tuple[int, ...], np.dtype[np.generic]]
) -> None:
    learner = Learner(small())
    note(learner, *shop(1))
    recommender, vocabulary = unpack_model(
        pack_model(learner.recommender, learner.vocabulary), max_items=16, device="cpu"
    )
    delta = pack_delta(learner.recommender, learner.assortment.new_items)
    arrays, fields = unpack(zlib.decompress(delta), schema.DELTA)
    changed = pack(arrays | {f"content.{name}": value}, fields)
    with pytest.raises(CheckpointError, match="content"):
        apply_delta(zlib.compress(changed), recommender, Vocabulary(16))
    assert vocabulary.ids == ["new-0"]


def test_a_restarted_learner_knows_all_content_and_makes_no_vector_again() -> None:
    learner = learned(drawn(60, n_items=10))
    note(learner, *shop(5))
    learner.serve_version()
    blobs = pack_model(learner.recommender, learner.vocabulary), pack_learner(learner, {})
    resumed = Learner(small())
    restore(resumed, *blobs)
    resumed.signals.content.take_delta()
    note(resumed, *shop(5))  # the catalogue is read from its start
    assert contents(resumed) == contents(learner)
    assert len(resumed.signals.content.take_delta()["items"]) == 0
    note(resumed, *shop(1, first=5))
    assert cold(resumed)[0] == "new-5"  # newer than all before the restart


def test_a_learner_restarted_with_another_embedder_forgets_vectors_that_do_not_compare() -> None:
    learner = learned(drawn(60, n_items=10))
    note(learner, *shop(5))
    blobs = pack_model(learner.recommender, learner.vocabulary), pack_learner(learner, {})
    resumed = Learner(small(content="off"))
    restore(resumed, *blobs)
    assert contents(resumed) == {}
