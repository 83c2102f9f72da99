"""What is in a list, what stays out of it, and why an item is there."""

import numpy as np
import pytest
import torch
from stream_samples import copies, drawn, event, folded, learned, small, state_of

from headrace.model.networks.scorer import INPUTS
from headrace.model.recommender import Recommender
from headrace.streams.actions import index_of
from headrace.streams.adapt.engine import UserWork
from headrace.streams.adapt.lists import ListMaker, Ranked, left_out, recommendation
from headrace.streams.learn.learner import Learner
from headrace.streams.prequential import gradient_sums
from headrace.streams.records import Source
from headrace.streams.state import UserState


@pytest.fixture(scope="module")
def learner() -> Learner:
    """Return a learner of 20 items, of which low ones are popular."""
    return learned(drawn(300))


def ranked(learner: Learner, maker: ListMaker, *states: UserState) -> list[Ranked]:
    """Return the lists of users as the adapt role makes them."""
    recommender, own = learner.recommender, copies(states)
    histories = folded(learner, own, []).after
    with torch.no_grad():
        prepared = recommender.prepare(histories)
        adapted = recommender.adapt(prepared, gradient_sums(recommender, own))
    return maker.rank(recommender, learner.vocabulary, histories, prepared, adapted, own).ranked


def history(*items: str, actions: tuple[str, ...] = ()) -> UserState:
    """Return a user who did this, oldest first."""
    actions = actions or ("click",) * len(items)
    return state_of(
        *(
            event("ann", item, at, action=action)
            for at, (item, action) in enumerate(zip(items, actions, strict=True))
        )
    )


ANN = history("item-3", "item-5", "item-0")


# -------------------------------------------------------------------------------------- contents


def test_a_list_has_the_asked_length_and_falls_in_score(learner: Learner) -> None:
    (one,) = ranked(learner, ListMaker(small(list_length=7)), ANN)
    assert len(one.items) == len(set(one.items)) == len(one.reasons) == 7
    assert list(one.scores) == sorted(one.scores, reverse=True)


def test_diversity_keeps_the_first_item_and_reorders_the_rest(learner: Learner) -> None:
    (plain,) = ranked(learner, ListMaker(small(list_length=10)), ANN)
    (diverse,) = ranked(learner, ListMaker(small(list_length=10, diversity=0.9)), ANN)
    assert diverse.items[0] == plain.items[0]
    assert diverse.items != plain.items
    assert len(set(diverse.items)) == 10


def test_a_list_is_shorter_where_there_are_fewer_items(learner: Learner) -> None:
    (one,) = ranked(learner, ListMaker(small(list_length=200)), ANN)
    assert set(one.items) == set(learner.vocabulary.ids) - {"item-0"}


def test_what_the_user_took_last_is_never_in_the_list(learner: Learner) -> None:
    first, second = ranked(
        learner, ListMaker(small(list_length=200)), ANN, history("item-0", "item-3")
    )
    assert "item-0" not in first.items
    assert "item-3" in first.items
    assert "item-3" not in second.items
    assert "item-0" in second.items


def test_someone_new_gets_what_is_popular(learner: Learner) -> None:
    (one,) = ranked(learner, ListMaker(small(list_length=200)), UserState())
    assert set(one.items) == set(learner.vocabulary.ids)


def test_before_anything_was_counted_lists_are_empty() -> None:
    (one,) = ranked(learned([]), ListMaker(small()), ANN)
    assert one == Ranked((), (), ())


# -------------------------------------------------------------------------------------- left out


DID = history("a", "b", "a", "c", actions=("purchase", "click", "purchase", "purchase"))


@pytest.mark.parametrize(
    ("rules", "out"),
    [
        ({}, set()),
        ({"purchase": 1}, {"c"}),
        ({"purchase": 2}, {"c", "a"}),
        ({"purchase": -1}, {"c", "a"}),
        ({"click": -1}, {"b"}),
        ({"purchase": 1, "click": 5}, {"c", "b"}),
        ({"purchase": 0, "view": 3}, set()),
    ],
)
def test_rules_keep_out_the_latest_so_many_of_each_action(
    rules: dict[str, int], out: set[str]
) -> None:
    assert left_out(DID, rules) == out


def test_an_item_that_was_taken_again_and_again_is_one() -> None:
    did = history(
        "a", "b", "c", "b", "b", "b", actions=("purchase",) * 2 + ("click",) * 3 + ("purchase",)
    )
    assert left_out(did, {"purchase": 2}) == {"a", "b"}
    assert left_out(did, {"click": 2}) == {"b", "c"}


@pytest.mark.parametrize("rule", ["add_to_cart", "cart"])
def test_rules_hold_for_an_action_under_both_of_its_names(rule: str) -> None:
    did = history("a", "b", "c", "d", actions=("cart", "wish", "add_to_cart", "other"))
    assert left_out(did, {rule: -1}) == {"a", "c"}
    assert left_out(did, {rule: 1}) == {"c"}
    assert left_out(did, {"wish": -1}) == {"b"}  # told from other words nobody foresaw


def test_rules_hold_for_each_user_by_their_own_history(learner: Learner) -> None:
    bought = history("item-3", "item-5", "item-0", actions=("purchase", "purchase", "click"))
    maker = ListMaker(small(list_length=200, leave_out={"purchase": -1}))
    of_buyer, of_clicker = ranked(learner, maker, bought, ANN)
    assert not {"item-3", "item-5"} & set(of_buyer.items)
    assert {"item-3", "item-5"} <= set(of_clicker.items)


def test_a_rule_for_a_misspelt_action_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    ListMaker(small(leave_out={"purchse": 5, "cart": 1, "wish": -1}))
    assert caplog.messages == [
        "leave_out names 'purchse', which is no known action: did you mean 'purchase'?"
    ]


def test_unknown_items_of_the_user_keep_nothing_else_out(learner: Learner) -> None:
    state = history("unheard of", "item-0")
    plain, ruled = (
        ranked(learner, ListMaker(small(list_length=200, leave_out=rules)), state)[0].items
        for rules in ({}, {"click": -1})
    )
    assert ruled == plain


def test_what_is_left_out_makes_room_for_the_next(learner: Learner) -> None:
    whole, ruled = (
        ranked(learner, ListMaker(small(list_length=n, leave_out=rules)), ANN)[0].items
        for n, rules in ((200, {}), (5, {"click": -1}))
    )
    assert ruled == tuple(item for item in whole if item not in ANN.items)[:5]
    assert ruled != whole[:5]


# --------------------------------------------------------------------------------------- reasons


def test_reasons_name_signals_and_items_of_the_users_own_history(learner: Learner) -> None:
    states = [ANN, history("item-7", "item-2"), UserState()]
    for state, one in zip(states, ranked(learner, ListMaker(small()), *states), strict=True):
        assert {reason["signal"] for reason in one.reasons} <= set(INPUTS)
        assert all(0 <= reason["share"] <= 1 for reason in one.reasons)
        named = {reason["because"] for reason in one.reasons} - {None}
        assert named <= set(state.items)
        assert bool(named) == bool(state.items)


def test_a_reason_has_its_signals_share_of_all_that_speaks(
    learner: Learner, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = torch.tensor([-1.0, 3.0, *[0.0] * (len(INPUTS) - 2)])
    monkeypatch.setattr(Recommender, "explain", lambda *_: shares.expand(1, 5, -1))
    (one,) = ranked(learner, ListMaker(small(list_length=5)), ANN)
    assert {(reason["signal"], reason["share"]) for reason in one.reasons} == {(INPUTS[1], 0.75)}


def test_an_item_of_the_own_history_is_there_because_of_itself(learner: Learner) -> None:
    (one,) = ranked(learner, ListMaker(small(list_length=200)), ANN)
    because = dict(zip(one.items, one.reasons, strict=True))
    assert because["item-3"]["because"] == "item-3"
    assert because["item-5"]["because"] == "item-5"


# ---------------------------------------------------------------------------------------- record


def id_of_list(source: Source, *, now_ms: int = 1, version: int = 7) -> str:
    """Return the id of a list that answers a record."""
    work = UserWork("ann", UserState(), [], source)
    made = Ranked(("tea",), (0.5,), ())
    one = recommendation(work, made, version, now_ms, {"adapted": 3})
    assert (one.user, one.items, one.source, one.judged) == (
        "ann",
        ("tea",),
        source,
        {"adapted": 3},
    )
    assert (one.model_version, one.generated_ms) == (version, now_ms)
    return one.rec_id


def test_a_list_for_the_same_record_has_the_same_id_whenever_it_is_made() -> None:
    source = Source(topic="events", partition=2, offset=9, time_ms=5)
    again = Source(topic="events", partition=2, offset=9, time_ms=5)
    other = Source(topic="events", partition=3, offset=9, time_ms=5)
    first = id_of_list(source)
    assert id_of_list(again, now_ms=99, version=8) == first
    assert id_of_list(other) != first


def test_scores_are_finite_numbers_of_python(learner: Learner) -> None:
    (one,) = ranked(learner, ListMaker(small(list_length=200)), ANN)
    assert all(type(score) is float and np.isfinite(score) for score in one.scores)


def test_list_is_for_the_action_that_is_asked_for() -> None:
    learner = learned(drawn(300))
    targets = learner.recommender.meta.targets
    torch.nn.init.normal_(targets.linear[index_of("purchase")])
    targets.seen.fill_(1_000)
    (plain,) = ranked(learner, ListMaker(small()), ANN)
    (click,) = ranked(learner, ListMaker(small(target_action="click")), ANN)
    (purchase,) = ranked(learner, ListMaker(small(target_action="purchase")), ANN)
    assert click == plain
    assert purchase.scores != plain.scores
