"""What the learner counts, in batches of any size, and what it forgets."""

import math

import numpy as np
import pytest
import torch
from stream_samples import MINUTE_MS, START_MS, Triple, batches, drawn, event, learned, small

from headrace.model.counts.signals import ALL_TIME, RECENT_LIFE
from headrace.streams import metrics
from headrace.streams.errors import SettingsError
from headrace.streams.learn.learner import Learner
from headrace.streams.model_settings import model_config, pick_device
from headrace.streams.records import Item


def counts_of(learner: Learner) -> dict[str, bytes]:
    """Return all that was counted, to the bit."""
    snapshot = learner.signals.snapshot(len(learner.vocabulary))
    return {name: array.tobytes() for name, array in snapshot.items()}


def popularity_of(learner: Learner) -> dict[str, float]:
    """Return how often each item was taken."""
    popularity = learner.signals.popularity_now(len(learner.vocabulary))[:, ALL_TIME]
    return {
        item: float(popularity[learner.vocabulary.index(item)]) for item in learner.vocabulary.ids
    }


def visits(*items: str, user: str = "ann") -> list[Triple]:
    """Return what one user did, a minute apart."""
    return [(user, at, event(user, item, at)) for at, item in enumerate(items)]


@pytest.mark.parametrize("size", [7, 200])
@pytest.mark.parametrize("max_items", [16, 200])  # with too little room for the items, or enough
def test_batches_of_any_size_give_the_same_counts(size: int, max_items: int) -> None:
    stream = drawn(120, n_items=30)
    one, other = (learned(stream, size=s, max_items=max_items) for s in (1, size))
    assert counts_of(one) == counts_of(other)
    assert one.vocabulary.ids == other.vocabulary.ids
    assert one.n_events == other.n_events == 120
    histories = [{k: (s.items, s.n_events) for k, s in x.users.items()} for x in (one, other)]
    assert histories[0] == histories[1]


def test_every_interaction_is_counted_once() -> None:
    learner = learned(visits("tea", "milk", "tea", "tea"))
    assert popularity_of(learner) == {"tea": 3, "milk": 1}
    assert learner.users["ann"].items == ["tea", "milk", "tea", "tea"]
    assert learner.signals.now_s == (START_MS + 3 * MINUTE_MS) // 1000


def test_what_was_shown_or_undone_gets_no_index_and_no_count() -> None:
    learner = Learner(small())
    shown = ("ann", 0, event("ann", "tea", action="impression"))
    returned = ("ann", 1, event("ann", "milk", 1, action="return"))
    step = learner.learn([shown, returned])
    assert (step.n_events, step.n_tasks) == (2, 0)
    assert math.isnan(step.query_loss)
    assert (len(learner.vocabulary), learner.signals.clock) == (0, 0)
    assert learner.users["ann"].last_offset == 1


def test_what_was_published_twice_under_its_id_is_learned_once() -> None:
    learner, took = Learner(small()), event("ann", "tea", event_id="e1")
    steps = [learner.learn([("ann", offset, took)]) for offset in (0, 1)]
    assert [(step.n_events, step.n_tasks) for step in steps] == [(1, 1), (1, 0)]
    assert learner.signals.arrays.popularity[0, ALL_TIME] == 1
    assert (learner.users["ann"].n_events, learner.users["ann"].last_offset) == (1, 1)


def test_a_step_tells_events_and_tasks() -> None:
    step = Learner(small()).learn(visits("tea", "milk", "milk"))
    assert (step.n_events, step.n_tasks) == (3, 2)  # the repeat of the last item is no task


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_all_is_counted_and_a_share_of_the_users_learned_from_while_behind(share: float) -> None:
    stream = drawn(300, n_users=60)
    whole, part = Learner(small()), Learner(small(behind_share=share))
    n_whole = n_part = 0
    for some in batches(stream, 32):
        n_whole += whole.learn(some).n_tasks
        n_part += part.learn(some, is_behind=True).n_tasks
    assert (0 < n_part < n_whole) if share else n_part == 0
    assert counts_of(part) == counts_of(whole)
    for key, state in part.users.items():  # all of a user's events were judged, or none
        if state.gradients is not None:
            np.testing.assert_array_equal(state.n_judged, whole.users[key].n_judged)


def test_new_items_are_told_once_and_in_their_order() -> None:
    learner = learned(visits("tea", "milk", "tea", "soap"), size=3)
    assert learner.assortment.new_items == [(0, "tea"), (1, "milk"), (2, "soap")]


def test_more_items_than_the_arrays_hold_make_them_grow() -> None:
    learner = Learner(small())
    learner.assortment.admit([event("ann", f"item-{i}") for i in range(1025)])
    assert learner.signals.capacity >= 1025
    assert learner.recommender.meta.capacity == learner.signals.capacity
    learner.learn(visits("item-0", "item-1024", "item-0"))
    learner.serve_version()
    assert learner.served.meta.n_items == 1025


def test_the_least_recent_users_are_forgotten_beyond_the_bound() -> None:
    learner = Learner(small(learn_users=2))
    for user in ("ann", "bob", "ann", "cem"):
        learner.learn([(user, 0 if user != "ann" else len(learner.users), event(user, "tea"))])
    learner.forget_users()
    assert list(learner.users) == ["ann", "cem"]


# ------------------------------------------------------------------------------------ categories


def category_of(learner: Learner, item: str) -> str | None:
    """Return the category that the item signals know of an item."""
    number = int(learner.signals.arrays.category[learner.vocabulary.index(item)])
    return None if number < 0 else learner.assortment.categories.names()[number]


def test_an_item_gets_its_finest_category_before_or_after_it_is_admitted() -> None:
    learner = Learner(small())
    learner.assortment.note(Item(item="tea", categories=("drinks", "hot")))
    learner.learn(visits("tea", "milk", "soap"))
    learner.assortment.note(Item(item="milk", categories=("drinks", "cold")))
    learner.assortment.note(Item(item="soap", categories=()))
    assert [category_of(learner, item) for item in ("tea", "milk", "soap")] == ["hot", "cold", None]


def test_a_change_of_category_travels_with_the_next_delta() -> None:
    learner = learned(visits("tea", "milk"))
    learner.signals.take_delta()
    learner.assortment.note(Item(item="milk", categories=("cold",)))
    assert learner.signals.take_delta()["items"].tolist() == [learner.vocabulary.index("milk")]


def test_restored_categories_keep_their_numbers() -> None:
    learner = Learner(small())
    learner.assortment.categories.restore(["cold", "hot"])
    learner.learn(visits("tea"))
    learner.assortment.note(Item(item="tea", categories=("hot",)))
    assert learner.signals.arrays.category[0] == 1


# ---------------------------------------------------------------------------------- making room


def full_learner() -> Learner:
    """Return a learner of 20 items, the most it may have: all but the first taken twice."""
    items = [f"item-{i}" for i in range(20)]
    return learned(visits(*items, *items[1:]), max_items=20)


def test_a_vocabulary_with_room_evicts_nothing() -> None:
    learner = learned(visits("tea", "milk"), max_items=20)
    assert not learner.assortment.make_room()
    assert learner.vocabulary.ids == ["tea", "milk"]


def test_a_full_vocabulary_evicts_the_least_popular_and_forgets_all_about_it() -> None:
    learner = full_learner()
    assert learner.assortment.make_room()
    assert learner.vocabulary.index("item-0") == -1
    assert learner.vocabulary.n_items == 19  # a twentieth of 20 is one
    assert 0 not in learner.signals.popular
    assert not np.isin(learner.signals.arrays.ids, 0).any()
    learner.learn(visits("new", user="bob"))
    assert learner.vocabulary.index("new") == 0
    assert popularity_of(learner)["new"] == 1


def test_a_version_without_a_checkpoint_evicts_nothing() -> None:
    learner = full_learner()
    assert not learner.assortment.make_room(with_checkpoint=False)
    assert learner.vocabulary.n_items == 20


def test_twice_what_found_no_room_is_evicted_once_and_a_quarter_at_most() -> None:
    def evicted(n_refused: int) -> int:
        learner = full_learner()
        news = visits(*(f"new-{i}" for i in range(n_refused)), user="bob")
        learner.learn([*news, *news])  # each is one, however often it is taken
        before = metrics.ITEMS_EVICTED._value.get()
        assert learner.assortment.make_room()
        gone = 20 - learner.vocabulary.n_items
        assert metrics.ITEMS_EVICTED._value.get() == before + gone
        learner.learn(visits(*(f"newer-{i}" for i in range(gone)), user="bob"))
        assert learner.assortment.make_room()  # nothing was refused this time
        assert learner.vocabulary.n_items == 19
        return gone

    assert [evicted(n) for n in (0, 1, 2, 3, 9)] == [1, 2, 4, 5, 5]


def test_items_that_found_no_room_are_counted() -> None:
    learner = full_learner()
    before = metrics.ITEMS_REFUSED._value.get()
    learner.learn(visits("new-0", "new-1", "new-0", user="bob"))
    learner.learn(visits("new-1", "new-2", user="cleo"))
    assert metrics.ITEMS_REFUSED._value.get() == before + 3


def test_what_one_user_takes_pushes_out_no_more_than_half() -> None:
    learner = Learner(small(max_items=20))
    honest = [f"item-{i}" for i in range(8)]
    for user in ("ann", "bob"):
        learner.learn(visits(*honest, user=user))
    for night in range(20):
        learner.learn(visits(*(f"page-{night}-{i}" for i in range(20)), user="crawler"))
        assert learner.assortment.make_room()
    assert {*honest} < {*learner.vocabulary.ids}


def test_what_others_took_goes_too_where_it_leaves_nothing_for_what_is_new() -> None:
    learner = Learner(small(max_items=20))
    old = [f"item-{i}" for i in range(20)]
    for user in ("ann", "bob"):
        learner.learn(visits(*old, user=user))
    for night in range(4):
        learner.learn(visits(*(f"new-{night}-{i}" for i in range(20)), user="cleo"))
        assert learner.assortment.make_room()
    left = {*old} & {*learner.vocabulary.ids}
    assert left == {*old[20 - len(left) :]}  # the oldest went
    assert 10 <= len(left) < 20


def test_a_version_that_evicts_learns_first_what_it_is_about_to_forget() -> None:
    # The default batch is larger than this stream: no step was due while it was learned.
    learner = Learner(small(max_items=20))
    learner.learn(visits(*(f"item-{i}" for i in range(20))))
    before = learner.recommender.meta.encoder.positions.detach().clone()
    assert learner.assortment.make_room()
    learner.serve_version()
    assert not learner.recommender.meta.encoder.positions.equal(before)
    assert learner.outer_loop.n_rehearsed == 0


def test_after_an_eviction_no_delta_repeats_what_the_checkpoint_has() -> None:
    learner = full_learner()
    learner.pairs.fit(learner.recommender.coefficients)
    assert learner.recommender.coefficients._changed
    assert learner.assortment.make_room()
    assert not len(learner.recommender.coefficients.take_delta()["fitted"])


@pytest.mark.parametrize("is_full", [True, False])
def test_what_is_recent_is_counted_from_a_new_moment_before_it_outgrows_its_type(
    *, is_full: bool
) -> None:
    learner = full_learner() if is_full else learned(visits("tea", "milk"))
    signals = learner.signals
    signals.clock = signals.landmark + 100 * RECENT_LIFE
    assert learner.assortment.make_room()  # and replicas reload
    assert signals.landmark == signals.clock


def test_items_evicted_before_a_delta_told_them_are_not_told() -> None:
    # The version that follows carries all items: what still waited for a delta is out of date.
    learner = full_learner()
    learner.assortment.make_room()
    assert learner.assortment.new_items == []


# ------------------------------------------------------------------------------------- settings


def test_the_model_has_the_shape_that_the_settings_ask_for() -> None:
    config = model_config(small(encoder_width=12, encoder_heads=3, encoder_length=5, inner_steps=1))
    assert (config.width, config.heads, config.length, config.inner_steps) == (12, 3, 5, 1)


def test_a_named_device_is_taken_as_it_is_named() -> None:
    assert pick_device(small(device="cpu")) == "cpu"
    assert pick_device(small(device="auto")) in ("cpu", "cuda")


@pytest.mark.parametrize("device", ["cudaa", "cuda:99", "meta", ""])
def test_a_device_that_is_not_here_is_a_wrong_setting(device: str) -> None:
    with pytest.raises(SettingsError, match=f"device={device}: there is none here"):
        pick_device(small(device=device))


def test_learning_takes_as_many_threads_as_the_settings_say() -> None:
    Learner(small(threads=2))
    assert torch.get_num_threads() == 2
    Learner(small())
    assert torch.get_num_threads() == 1
