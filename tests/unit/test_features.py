"""Features: an event's context as hashed numbers, and first lists that know of it."""

import numpy as np
import polars as pl
import pytest
from stream_samples import event, folded, learned, small, state_of

from headrace.model.features import MAX_FEATURES, N_FEATURES, features_of
from headrace.model.ranking_metrics import ndcg_at
from headrace.streams.actions import REFRESH
from headrace.streams.evaluation.evaluate import Evaluation
from headrace.streams.state import UserState


def test_names_and_values_make_numbers_that_do_not_change() -> None:
    context = {"country": "FR", "device": "mobile", "page": 3, "member": True}
    numbers = features_of(context)
    assert numbers == features_of(dict(reversed(context.items())))
    assert len(set(numbers)) == 4
    assert all(0 <= number < N_FEATURES for number in numbers)
    assert numbers != features_of(context | {"country": "DE"})
    assert features_of({"country": "FR"}) == [features_of({"country": "FR", "zone": None})[0]]


def test_what_is_no_word_or_whole_number_says_nothing() -> None:
    assert features_of({"price": 3.5, "basket": ["tea"], "none": None, "deep": {"a": 1}}) == []


def test_no_event_has_more_than_so_many() -> None:
    assert len(features_of({f"name-{i}": i for i in range(50)})) == MAX_FEATURES


def test_state_keeps_those_of_the_latest_interaction() -> None:
    state = state_of(
        event("ann", "tea", 0, context={"country": "FR"}),
        event("ann", "milk", 1, context={"country": "DE"}),
        event("ann", "milk", 2, action="impression", context={"country": "IT"}),
    )
    assert state.features == features_of({"country": "DE"})
    assert UserState.decode(state.encode()).features == state.features


def test_state_keeps_where_a_refresh_was_asked_for_if_it_says() -> None:
    bought = event("ann", "tea", 0, context={"country": "FR"})
    silent = event("ann", "", 1, action=REFRESH)
    told = event("ann", "", 2, action=REFRESH, context={"country": "DE"})
    assert state_of(bought, silent).features == features_of({"country": "FR"})
    assert state_of(bought, silent, told).features == features_of({"country": "DE"})
    assert state_of(told).features == features_of({"country": "DE"})


def test_history_before_an_event_has_the_features_before_it() -> None:
    first, second = ({"country": name} for name in ("FR", "DE"))
    events = [
        (0, at, event("ann", item, at, context=context))
        for at, (item, context) in enumerate([("tea", first), ("milk", second)])
    ]
    result = folded(learned([]), [UserState()], events)
    none = [-1] * MAX_FEATURES
    assert result.before.features.tolist() == [none, features_of(first) + none[1:]]
    assert result.after.features.tolist() == [features_of(second) + none[1:]]


@pytest.mark.parametrize(("item", "action"), [("tea", "click"), ("", REFRESH)])
def test_first_list_of_a_new_user_knows_where_they_come_from(item: str, action: str) -> None:
    # Everyone takes tea, or asks for a list, and then takes what those of their country do; nobody
    # is ever seen again.
    random = np.random.default_rng(0)
    rows = []
    for user in range(1_500):
        country = int(random.integers(2))
        rows.append((f"user-{user}", item, action, country))
        theirs = f"item-{8 * country + random.integers(8)}"
        rows.append((f"user-{user}", theirs, "click", country))
    columns = ["user", "item", "action", "country"]
    events = pl.DataFrame(rows, schema=columns, orient="row").with_columns(
        (pl.int_range(pl.len()) * 60_000).alias("time_ms"),
        pl.struct("country").alias("context"),
    )

    def found(table: pl.DataFrame) -> float:
        evaluation = Evaluation(small(replay_batches=8), events_per_version=400, has_twin=False)
        second = evaluation.run(table)["adapted"][1::2]
        return ndcg_at(second[len(second) // 2 :], 10)

    assert found(events) > found(events.drop("context")) + 0.02
