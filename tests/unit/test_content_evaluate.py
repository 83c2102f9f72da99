"""Cold items in the report of an evaluation, with the catalogue and without it."""

from typing import Any

import polars as pl
from stream_samples import small

from headrace.streams.evaluation.evaluate import evaluate
from headrace.streams.records import Item

KINDS = ("green", "black", "white", "herbal")
# Each user stays with one kind, and every pot is taken once: nothing counted leads to it.
ROWS = [(f"{kind}-{pot // 5}", f"{kind}-{pot}") for pot in range(50) for kind in KINDS]
EVENTS = pl.DataFrame(
    [(user, item, "click", 60_000 * at) for at, (user, item) in enumerate(ROWS)],
    schema=["user", "item", "action", "time_ms"],
    orient="row",
)
ITEMS = [Item(item=item, title=f"{item.split('-')[0]} tea") for _, item in ROWS]


def cold_items(events: pl.DataFrame, *, items: list[Item]) -> dict[str, Any]:
    report = evaluate(events, small(), stream="teas", n_events=len(events), items=items)
    told: dict[str, Any] = report["cold_items"]
    return told


def test_items_nobody_took_are_found_by_their_titles_and_only_by_them() -> None:
    told = cold_items(EVENTS, items=ITEMS)
    assert told["events"] == 100  # the second half
    assert told["popularity"] == 0
    # Pots of a kind are equal: the place is by chance among some 25 that are left, not among 100,
    # which would give 0.045.
    assert told["adapted"] > 0.1
    assert cold_items(EVENTS, items=[])["adapted"] == 0


def test_an_item_is_cold_for_its_first_three_events() -> None:
    rows = [(f"user-{at % 9}", f"pot-{at // 5}") for at in range(40)]
    events = pl.DataFrame(
        [(user, item, "click", 60_000 * at) for at, (user, item) in enumerate(rows)],
        schema=["user", "item", "action", "time_ms"],
        orient="row",
    )
    assert cold_items(events, items=[])["events"] == 3 * 4  # of the four pots of the second half


def test_a_stream_without_cold_items_says_so() -> None:
    events = EVENTS.with_columns(item=pl.lit("pot"), user=pl.format("u{}", pl.int_range(pl.len())))
    told = cold_items(events, items=[])
    assert (told["events"], told["adapted"]) == (0, None)
