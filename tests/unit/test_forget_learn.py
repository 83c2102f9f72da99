"""Forgetting in the learn role: what is gone at once, with the next version, and what stays."""

from collections.abc import Sequence

import numpy as np
import pytest
from stream_samples import PlainLearner, Triple, batches, drawn, event, learned, small

from headrace.model.counts.signals import ALL_TIME
from headrace.model.learning.outer_loop import OuterLoop
from headrace.streams.actions import FORGET
from headrace.streams.learn.forgetting import owner_of
from headrace.streams.learn.learner import Learner
from headrace.streams.learn.learner_state import pack_learner, restore
from headrace.streams.records import Event, Item
from headrace.streams.versions.publication import pack_model

STREAM = drawn(200)
ONLY = "only-anns-item"


def asks(user: str, offset: int) -> Triple:
    """Return an event that asks to forget its user."""
    return user, offset, Event(user=user, item="", action=FORGET, time_ms=0)


def visits(user: str, *items: str, first: int = 0) -> list[Triple]:
    """Return a user's events, a minute apart."""
    return [(user, first + at, event(user, item, first + at)) for at, item in enumerate(items)]


def with_ann(stream: Sequence[Triple]) -> list[Triple]:
    """Return the stream and what ann did among it: items of all, and one of her own."""
    half = len(stream) // 2
    return [
        *stream[:half],
        *visits("ann", "item-0", ONLY, "item-1", ONLY, "item-2", first=1_000),
        *stream[half:],
    ]


def files(learner: Learner) -> bytes:
    """Return both files of a version, one behind the other."""
    model, state = pack_model(learner.recommender, learner.vocabulary), pack_learner(learner, {})
    return bytes(model) + bytes(state)


def next_version(learner: Learner) -> bytes:
    """Do what a version does, and return its files."""
    learner.assortment.make_room()
    learner.serve_version()
    return files(learner)


def owners_of(loop: OuterLoop) -> set[int]:
    """Return whose tasks are kept for rehearsal."""
    kept = loop._rehearsal
    return {int(o) for replay in (kept._lists, kept._sequences) for o in replay._owners if o}


def test_later_versions_hold_neither_the_user_nor_an_item_only_they_took() -> None:
    learner = learned(with_ann(STREAM))
    before = files(learner)
    assert b"ann" in before
    assert ONLY.encode() in before
    learner.learn([asks("ann", 2_000)])
    after = next_version(learner)
    assert b"ann" not in after
    assert ONLY.encode() not in after
    assert b"item-0" in after  # others took it


def test_nothing_of_the_user_is_rehearsed_or_owed() -> None:
    learner = learned(with_ann(STREAM))
    assert owner_of("ann") in owners_of(learner.outer_loop)
    n_tasks = learner.outer_loop.n_rehearsed
    learner.learn([asks("ann", 2_000)])
    assert owner_of("ann") not in owners_of(learner.outer_loop)
    # None of ann's visits repeats the last item.
    assert learner.outer_loop.n_rehearsed == n_tasks - 5
    assert {owner_of(f"user-{i}") for i in range(7)} <= owners_of(learner.outer_loop)
    gone = learner.vocabulary.index(ONLY)
    histories, *_, targets, _ = learner.outer_loop._rehearsal._sequences._columns
    assert gone not in histories[: learner.outer_loop.n_rehearsed]
    assert gone not in targets[: learner.outer_loop.n_rehearsed]


def test_who_owed_all_that_was_due_can_be_forgotten_before_the_version() -> None:
    learner = Learner(small())
    learner.learn(visits("ann", "tea", "milk", "soap"))
    learner.learn([asks("ann", 3)])
    learner.serve_version()
    assert learner.outer_loop.n_rehearsed == 0


def test_what_the_user_did_before_asking_in_the_same_batch_is_not_learned_from() -> None:
    learner = Learner(small())
    step = learner.learn(
        [*visits("ann", "tea", ONLY), asks("ann", 2), *visits("ann", "milk", first=3)]
    )
    assert (step.n_events, step.n_forgotten) == (1, 1)
    assert learner.vocabulary.ids == ["milk"]
    assert (learner.users["ann"].items, learner.users["ann"].n_events) == (["milk"], 1)


def test_others_and_what_is_counted_stay() -> None:
    learner = learned(with_ann(STREAM))
    learner.learn([asks("ann", 2_000)])
    next_version(learner)
    assert set(learner.users) == {f"user-{i}" for i in range(7)}
    index = learner.vocabulary.index("item-0")
    taken = sum(e.item == "item-0" for _, _, e in with_ann(STREAM))
    assert learner.signals.arrays.popularity[index, ALL_TIME] == taken  # ann's once among them


def test_an_item_that_somebody_took_meanwhile_stays() -> None:
    learner = learned(with_ann(STREAM))
    learner.learn([asks("ann", 2_000)])
    learner.learn(visits("bob", ONLY, first=3_000))
    assert ONLY.encode() in next_version(learner)


def test_an_item_that_only_forgotten_users_took_goes_with_the_last_of_them() -> None:
    learner = learned([*visits("ann", ONLY, "tea"), *visits("bob", ONLY), *visits("cem", "tea")])
    learner.learn([asks("ann", 5), asks("bob", 6)])
    after = next_version(learner)
    assert ONLY.encode() not in after
    assert b"tea" in after


@pytest.mark.parametrize("takers", [0, 3])
def test_what_was_evicted_is_not_evicted_again(takers: int) -> None:
    n_items = 40
    learner = PlainLearner(small(max_items=n_items + 1))
    learner.learn(visits("ann", *[ONLY] * 3))
    learner.learn([asks("ann", 3)])
    for at in range(4):
        learner.learn(visits(f"user-{at}", *(f"item-{i}" for i in range(n_items - 1))))
    assert learner.assortment.make_room()
    n_left = learner.vocabulary.n_items
    assert learner.vocabulary.index(ONLY) < 0
    for at in range(takers):
        learner.learn(visits(f"other-{at}", "in its place"))
    learner.assortment.make_room()
    assert learner.vocabulary.n_items == n_left + (takers > 0)
    assert (learner.vocabulary.index("in its place") >= 0) == (takers > 0)


def test_a_withdrawn_item_that_a_forgotten_user_had_uncounted_is_evicted_once() -> None:
    learner = PlainLearner(small(max_items=16))
    learner.learn(visits("bob", *(f"item-{i}" for i in range(16))))
    learner.learn(visits("ann", ONLY))  # a full vocabulary has no place for it: it is not counted
    learner.assortment.make_room()
    learner.assortment.note(Item(item=ONLY, title="tea"))
    learner.assortment.place()
    assert learner.vocabulary.index(ONLY) >= 0
    learner.learn([asks("ann", 1)])
    learner.assortment.note(Item(item=ONLY, active=False))
    learner.assortment.place()
    assert learner.assortment.make_room()
    assert learner.vocabulary.index(ONLY) < 0
    assert not learner.assortment.make_room()


def test_an_item_of_the_catalogue_comes_back_as_one_that_nobody_took() -> None:
    learner = learned(with_ann(STREAM))
    learner.assortment.note(Item(item=ONLY, vectors={"image": (1.0, 0.5)}))
    learner.assortment.place()
    learner.learn([asks("ann", 2_000)])
    assert ONLY.encode() in next_version(learner)
    index = learner.vocabulary.index(ONLY)
    assert learner.signals.arrays.popularity[index].tolist() == [0, 0, 0, 0]
    assert learner.signals.arrays.filled[index] == 0
    assert index not in learner.signals.arrays.ids[: len(learner.vocabulary)]


def test_an_item_that_others_took_since_it_was_evicted_once_stays() -> None:
    learner = PlainLearner(small(max_items=16))
    learner.learn(visits("ann", *[ONLY] * 3))
    for at in range(4):  # hers is the least popular of a full vocabulary
        learner.learn(visits(f"user-{at}", *(f"item-{i}" for i in range(15)), first=10))
    assert learner.assortment.make_room()
    assert learner.vocabulary.index(ONLY) < 0
    learner.learn([*visits("bob", ONLY, first=100), *visits("cem", ONLY, first=100)])
    learner.learn([asks("ann", 200)])
    assert not learner.forgetting.given_up().size


def test_all_of_many_items_of_the_catalogue_come_back() -> None:
    n = 3 * 64  # at a time, as records come
    learner = PlainLearner(small(max_items=1_000))
    items = [f"rare-{at}" for at in range(n)]
    for item in items:
        learner.assortment.note(Item(item=item, title=item))
    while learner.assortment.place():
        pass
    learner.learn(visits("ann", *items))
    learner.learn([asks("ann", n)])
    next_version(learner)
    assert learner.vocabulary.n_items == n


def test_replicas_reload_only_if_an_item_went() -> None:
    learner = learned(with_ann(STREAM))
    learner.learn([asks("user-0", 2_000)])
    assert not learner.assortment.make_room()
    learner.learn([asks("ann", 2_001)])
    # It would have to be written now.
    assert not learner.assortment.make_room(with_checkpoint=False)
    assert learner.assortment.make_room()
    assert not learner.assortment.make_room()


def test_a_users_number_is_the_same_in_every_process() -> None:
    assert owner_of("0/ann") == -2366250479831349454


@pytest.mark.parametrize("cut", [0, 60, 103, 150])
def test_a_learner_that_replays_from_an_older_version_forgets_again(cut: int) -> None:
    stream = [*with_ann(STREAM), asks("ann", 2_000), *visits("user-1", "item-3", first=3_000)]
    learner = learned(stream[:cut])
    resumed = PlainLearner(small())
    model = pack_model(learner.recommender, learner.vocabulary)
    restore(resumed, model, pack_learner(learner, {}))
    for batch in batches(stream[cut:], 16):
        resumed.learn(batch)
    after = next_version(resumed)
    assert b"ann" not in after
    assert ONLY.encode() not in after
    assert set(resumed.users) == {f"user-{i}" for i in range(7)}


def test_versions_stay_due_until_no_older_one_is_kept_over_a_restart_too() -> None:
    learner = learned(with_ann(STREAM), versions_kept=3)
    assert learner.forgetting.versions_due == 0
    learner.learn([asks("ann", 2_000)])
    assert learner.forgetting.versions_due == 3
    learner.forgetting.versions_due -= 1  # one was published
    resumed = PlainLearner(small(versions_kept=3))
    model = pack_model(learner.recommender, learner.vocabulary)
    restore(resumed, model, pack_learner(learner, {}))
    assert resumed.forgetting.versions_due == 2


def test_many_who_ask_at_once_are_all_forgotten() -> None:
    learner = learned(STREAM)
    learner.learn([asks(f"user-{i}", 2_000 + i) for i in range(7)])
    assert not learner.users
    assert learner.outer_loop.n_rehearsed == 0
    next_version(learner)
    assert learner.vocabulary.n_items == 0  # nobody else took any
    learner.learn(visits("bob", "tea", "milk", first=3_000))  # and it goes on
    assert np.isfinite(learner.signals.arrays.popularity).all()
    next_version(learner)
