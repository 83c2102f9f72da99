"""What was shown is kept, for so many users, and judges what they do next."""

from pathlib import Path

import numpy as np
import pytest
from serving_samples import CLICKS, Shop, list_of, metric, work
from stream_samples import event

from headrace.model.shown import Shown, stack
from headrace.streams.adapt.engine import UserResult
from headrace.streams.adapt.shown_lists import ShownLists
from headrace.streams.records import Recommendation
from headrace.streams.state import UserState

ANN, BOB, CARL = (0, "ann"), (0, "bob"), (1, "ann")


def shown(*n_candidates: int, length: int = 3) -> Shown:
    """Return lists of users with so many candidates, padded to four."""
    b = len(n_candidates)
    is_padding = np.arange(4) >= np.array(n_candidates)[:, None]
    return Shown(
        np.where(is_padding, -1, np.arange(4 * b).reshape(b, 4)).astype(np.int32),
        np.random.default_rng(0).random((b, 4, 5)).astype(np.float16),
        np.where(is_padding, -np.inf, np.arange(4, 0, -1)).astype(np.float32),
        np.tile(np.arange(length), (b, 1)),
        np.tile(np.arange(length, dtype=np.int32), (b, 1)),
        np.arange(2 * b, dtype=np.float32).reshape(b, 2),
        np.ones((b, 1), np.float32),
    )


def test_lists_that_were_kept_apart_come_together_again() -> None:
    whole = shown(3, 1, 4)
    for kept, again in zip(whole, stack(list(whole.users())), strict=True):
        if kept is whole.inputs:
            kept[whole.items < 0] = 0
        np.testing.assert_array_equal(again, kept)


def test_shorter_lists_show_no_place_twice() -> None:
    one, other = *shown(4, length=3).users(), *shown(2, length=1).users()
    whole = stack([one, other])
    assert whole.listed.tolist() == [[0, 1, 2], [0, 4, 4]]
    assert whole.popular.tolist() == [[0, 1, 2], [0, -1, -1]]


def test_what_is_kept_of_a_user_holds_nothing_of_the_others() -> None:
    for part in next(shown(3, 1).users()):
        assert part.base is None


def test_a_list_is_given_once_and_only_for_the_history_it_was_made_from() -> None:
    lists = ShownLists(10)
    lists.keep([(ANN, 4), (BOB, 5), (CARL, 6)], shown(3, 2, 1))
    taken = lists.take(ANN, 4)
    assert taken is not None
    assert len(taken.items) == 3
    assert lists.take(ANN, 4) is None
    assert lists.take(BOB, 4) is None, "it was made after another event"
    assert lists.take(BOB, 5) is None, "and nobody can come to it any more"
    assert lists.take((2, "ann"), 6) is None
    assert lists.take(CARL, 6) is not None


def test_who_came_longest_ago_is_let_go_first() -> None:
    lists = ShownLists(2)
    lists.keep([(ANN, 1), (BOB, 2)], shown(1, 1))
    lists.keep([(ANN, 3)], shown(1))
    lists.keep([(CARL, 4)], shown(1))
    assert len(lists) == 2
    assert lists.take(BOB, 2) is None
    assert lists.take(ANN, 3) is not None


# ------------------------------------------------------------------------------------- at work


def asked(shop: Shop, item: str, before: UserResult) -> tuple[Recommendation, UserState]:
    """Let the user of a result take an item; return the list it gets and the state."""
    state = UserState.decode(before.state.encode())
    (result,) = shop.serving.process([work("ann", event("ann", item, 9), state=state)])
    return list_of(result), result.state


@pytest.mark.parametrize("diversity", [0.0, 0.5])
@pytest.mark.parametrize("item", ["item-8", "item-4", "unheard of"])
def test_an_event_is_judged_by_what_was_shown_as_it_would_be_anew(
    tmp_path: Path, item: str, diversity: float
) -> None:
    kept, anew = (
        Shop(tmp_path / name, shown_lists=n, diversity=diversity, list_length=6).at_work()
        for name, n in (("kept", 10), ("anew", 0))
    )
    n_before = metric("judged_shown_total")
    made = []
    for shop in (kept, anew):
        (before,) = shop.serving.process([work("ann", *CLICKS)])
        made.append(asked(shop, item, before))
    assert metric("judged_shown_total") == n_before + 1
    (one, one_state), (other, other_state) = made
    assert one.judged == other.judged
    assert one.items == other.items
    np.testing.assert_allclose(one_state.gradients, other_state.gradients, atol=0.02)
    np.testing.assert_array_equal(one_state.n_judged, other_state.n_judged)


def test_it_is_the_list_of_then_that_judges(tmp_path: Path) -> None:
    shop = Shop(tmp_path).at_work()
    (before,) = shop.serving.process([work("ann", *CLICKS[:2])])
    stood = list_of(before).items.index("item-11") + 1
    shop.popularise("item-11")
    shop.delta()
    (moved,) = shop.serving.process([work("bob", *CLICKS[:2])])
    assert list_of(moved).items.index("item-11") + 1 < stood, "the counts have moved"
    answer, _ = asked(shop, "item-11", before)
    assert answer.judged["adapted"] == stood
    assert answer.judged["popularity"] > 5, "it is the first by now"


def test_after_items_may_have_other_indexes_nothing_is_judged_by_lists_of_before(
    tmp_path: Path,
) -> None:
    shop = Shop(tmp_path).at_work()
    (before,) = shop.serving.process([work("ann", *CLICKS)])
    shop.serving.serve(shop.announce(2, epoch=2))
    n_before = metric("judged_shown_total")
    answer, _ = asked(shop, "item-8", before)
    assert metric("judged_shown_total") == n_before
    assert answer.judged


@pytest.mark.parametrize("is_replaced", [False, True])
def test_after_a_delta_that_gives_an_index_to_another_item_neither(
    tmp_path: Path, is_replaced: bool
) -> None:
    shop = Shop(tmp_path).at_work()
    (before,) = shop.serving.process([work("ann", *CLICKS)])
    index = 3 if is_replaced else len(shop.learner.vocabulary)
    shop.learner.assortment.new_items = [(index, "brand new")]
    shop.delta()
    n_before = metric("judged_shown_total")
    answer, _ = asked(shop, "item-8", before)
    assert metric("judged_shown_total") == n_before + (not is_replaced)
    assert answer.judged


def test_of_who_is_forgotten_no_list_is_kept(tmp_path: Path) -> None:
    shop = Shop(tmp_path).at_work()
    (before,) = shop.serving.process([work("ann", *CLICKS)])
    shop.serving.forget([work("ann")])
    n_before = metric("judged_shown_total")
    asked(shop, "item-8", before)
    assert metric("judged_shown_total") == n_before


def test_of_several_events_at_once_each_is_judged_by_its_own_history(tmp_path: Path) -> None:
    results = []
    for n in (10, 0):
        shop = Shop(tmp_path / str(n), shown_lists=n).at_work()
        (before,) = shop.serving.process([work("ann", *CLICKS)])
        two = [event("ann", "item-8", 9), event("ann", "item-4", 10)]
        (after,) = shop.serving.process([work("ann", *two, state=before.state)])
        results.append(after)
    np.testing.assert_array_equal(results[0].state.gradients, results[1].state.gradients)
