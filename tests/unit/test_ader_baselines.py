"""Baselines of the ADER protocol: counted before a period, still while it is tested."""

import polars as pl

from headrace.model.ranking_metrics import MISS
from headrace.streams.evaluation.ader_baselines import Baselines


def clicks(*sessions: tuple[str, str]) -> pl.DataFrame:
    """Return the events of (user, items) sessions, one item a letter, a minute apart."""
    rows = [(user, item) for user, items in sessions for item in items]
    return pl.DataFrame(
        [(user, item, 60_000 * at) for at, (user, item) in enumerate(rows)],
        schema={"user": pl.String, "item": pl.String, "time_ms": pl.Int64},
        orient="row",
    )


LEARNED = clicks(("ann", "AB"), ("bob", "AB"), ("cat", "ACCC"))


def ranks(*tests: tuple[str, str], name: str) -> list[int]:
    """Return a baseline's ranks after what was learned."""
    asked = clicks(*tests)
    baselines = Baselines(pl.concat([LEARNED, asked]))
    baselines.learn(LEARNED)
    once, again = (baselines.test(asked)[name].tolist() for _ in range(2))
    assert once == again  # nothing is learned from a test
    return once


def test_followers_are_ordered_by_count() -> None:
    tests = [("dan", "AB"), ("eve", "AC"), ("fay", "AA"), ("gil", "BA")]
    assert ranks(*tests, name="covisitation") == [1, 2, MISS, MISS]


def test_an_item_that_follows_itself_is_a_follower() -> None:
    assert ranks(("dan", "CC"), name="covisitation") == [1]


def test_of_equal_followers_the_first_comes_first() -> None:
    learned = clicks(("ann", "AC"), ("bob", "AB"))
    asked = clicks(("dan", "AB"), ("eve", "AC"))
    baselines = Baselines(pl.concat([learned, asked]))
    baselines.learn(learned)
    assert baselines.test(asked)["covisitation"].tolist() == [2, 1]


def test_neighbours_stand_behind_the_previous_item() -> None:
    tests = [("dan", "AB"), ("eve", "AC"), ("fay", "AA"), ("gil", "AD")]
    assert ranks(*tests, name="session_knn") == [2, 3, 1, MISS]


def test_interleaved_sessions_keep_their_places() -> None:
    asked = clicks(("dan", "A"), ("eve", "C"), ("eve", "C"), ("dan", "B"))
    baselines = Baselines(pl.concat([LEARNED, asked]))
    baselines.learn(LEARNED)
    assert baselines.test(asked)["session_knn"].tolist() == [1, 2]


def test_periods_add_up() -> None:
    asked = clicks(("dan", "AC"))
    more = clicks(("fay", "AC"), ("gil", "AC"))
    baselines = Baselines(pl.concat([LEARNED, more, asked]))
    baselines.learn(LEARNED)
    assert baselines.test(asked)["covisitation"].tolist() == [2]
    baselines.learn(more)
    assert baselines.test(asked)["covisitation"].tolist() == [1]
