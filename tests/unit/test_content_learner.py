"""Content in the learn role: items are known before anyone took them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from content_rig import cold, contents, note, shop, take
from stream_samples import drawn, event, folded, learned, small

from headrace.streams.learn.assortment import Assortment
from headrace.streams.learn.content import MAX_WIDTH
from headrace.streams.learn.learner import Learner
from headrace.streams.learn.learner_state import pack_learner, restore
from headrace.streams.prequential import judge
from headrace.streams.records import Item
from headrace.streams.state import UserState
from headrace.streams.versions.publication import pack_model


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


def test_of_items_that_nobody_took_for_long_those_taken_least_go_first() -> None:
    learner = Learner(small(max_items=20))
    taken = [f"item-{i}" for i in range(20)]
    take(learner, *taken, *taken[:12])
    learner.signals.clock += 3_000_000  # by then the popularity of each is zero, as a float32
    assert learner.assortment.make_room()
    gone = set(taken) - set(learner.vocabulary.ids)
    assert gone <= set(taken[12:])
    assert gone


def test_a_withdrawn_item_leaves_its_place_among_the_categories_kept() -> None:
    learner = Learner(small())
    note(learner, Item(item="tea", categories=("hot",)))
    assert learner.assortment.categories.of("tea") == 0
    note(learner, Item(item="tea", categories=("hot",), active=False))
    assert learner.assortment.categories.of("tea") is None


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


def test_a_withdrawn_item_is_marked_whether_it_is_known_before_or_after() -> None:
    def marked(learner: Learner) -> set[str]:
        return {learner.vocabulary.ids[i] for i in np.flatnonzero(learner.signals.arrays.is_out)}

    learner = Learner(small(max_items=16))
    take(learner, "tea", "milk")
    note(learner, Item(item="tea", active=False), Item(item="new", active=False))
    assert marked(learner) == {"tea"}
    take(learner, "new", user="bob")
    assert marked(learner) == {"tea", "new"}
    note(learner, Item(item="tea"))
    assert marked(learner) == {"new"}
    take(learner, *(f"item-{i}" for i in range(13)), user="cleo")
    take(learner, *(["tea", "milk"] + [f"item-{i}" for i in range(13)]) * 2, user="dan")
    assert learner.assortment.make_room()  # it is the least used
    assert learner.vocabulary.index("new") < 0
    assert marked(learner) == set()


def test_what_is_withdrawn_is_learned_from_and_not_learned_to_be_ranked() -> None:
    learner = learned(drawn(100, n_items=10))
    took = event("ann", "item-3")
    states = [UserState()]
    rows = folded(learner, states, [(0, 0, event("ann", "item-5")), (0, 1, took)])
    before = judge(learner.served, rows, states)
    assert before
    note(learner, *(Item(item=f"item-{i}", active=False) for i in (3, 4)))
    after = judge(learner.served, rows, states)
    assert after
    found, left = ({*judged.tasks.items[1].tolist()} - {-1} for judged in (before, after))
    assert found - left == {learner.vocabulary.index("item-4")}
    assert (after.judgement.positions >= 0).tolist() == (before.judgement.positions >= 0).tolist()


def test_a_withdrawn_item_still_says_what_those_who_took_it_like() -> None:
    learner = learned(drawn(100, n_items=10))
    note(learner, Item(item="item-3", title="green tea"), Item(item="black", title="black tea"))
    content, index = learner.signals.content, learner.vocabulary.index("item-3")
    vector = contents(learner)["item-3"]
    note(learner, Item(item="item-3", active=False), Item(item="white", title="white tea"))
    assert contents(learner)["item-3"] == vector
    nearest = content.nearest(content.profiles(np.array([[index]], np.int32)))[0]
    assert {learner.vocabulary.ids[i] for i in nearest} == {"black", "white"}


def test_a_withdrawn_item_that_comes_back_is_cold_again() -> None:
    learner = Learner(small())
    note(learner, *shop(2))
    take(learner, "new-0", "new-1")
    note(learner, *(replace(item, active=False) for item in shop(2)))
    assert cold(learner) == []
    content = learner.signals.content
    assert content.take_delta()["items"].tolist() == [0, 1]
    note(learner, *(replace(item, active=False) for item in shop(2)))  # as after a restart
    assert content.take_delta()["items"].tolist() == []
    note(learner, *shop(1))
    assert cold(learner) == ["new-0"]


def test_an_item_that_is_not_withdrawn_and_has_nothing_to_say_any_more_has_no_content() -> None:
    learner = Learner(small())
    note(learner, *shop(1))
    take(learner, "new-0")
    note(learner, Item(item="new-0"))
    assert contents(learner) == {}


def test_withdrawn_items_that_nobody_took_push_no_others_out() -> None:
    learner = Learner(small(max_items=16))
    note(learner, *shop(3))
    take(learner, "new-0")
    note(learner, *(Item(item=f"new-{i}", active=False) for i in range(2)))
    for night in range(1, 20):
        note(learner, *shop(4, first=4 * night))
        note(learner, *(replace(item, active=False) for item in shop(4, first=4 * night)))
        assert cold(learner) == ["new-2"]
        assert {"new-0", "new-2"} < {*learner.vocabulary.ids}
    assert learner.vocabulary.n_items == 1 + 8


def test_a_withdrawal_that_is_read_before_the_purchase_takes_no_vector_away() -> None:
    learner = Learner(small(max_items=16))
    note(learner, *shop(8))  # all that are held of those that nobody took
    vector = contents(learner)["new-3"]
    note(learner, Item(item="new-3", active=False))
    take(learner, "new-3")
    assert contents(learner)["new-3"] == vector
    assert "new-3" not in cold(learner)
    note(learner, *shop(1, first=8))
    assert {f"new-{i}" for i in range(9)} == {*learner.vocabulary.ids}


def test_what_is_withdrawn_makes_room_for_what_comes_with_it() -> None:
    learner = Learner(small(max_items=16))
    note(learner, *shop(8))  # all that are held of those that nobody took
    learner.assortment.note(Item(item="another", title="milk"))
    learner.assortment.note(Item(item="new-3", active=False))
    learner.assortment.place()  # others came earlier, and stay
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
    gone = Item(item="gone", vectors={"image": (1.0,) * 4})
    note(learner, gone)
    take(learner, "gone")
    note(learner, replace(gone, active=False))  # what is left of it decides nothing
    published(learner, 4)
    published(learner, 6)
    assert contents(learner).keys() == {"gone"}
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
