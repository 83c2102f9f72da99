"""Columns: they read as the lists they stand for, and are written as msgpack's arrays."""

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.streams.column import Column

LIMIT = 20  # beyond 15, msgpack says the length of an array in another way
texts = st.text(max_size=3)


@given(st.lists(texts | st.text(min_size=30, max_size=300), max_size=40), texts)
def test_column_reads_as_the_latest_of_what_was_appended(values: list[str], other: str) -> None:
    column = Column[str]()
    for value in values:
        column.append(value, limit=LIMIT)
    latest = values[-LIMIT:]
    assert column == latest
    assert column.array == msgpack.packb(latest)
    assert (len(column), list(column), list(reversed(column))) == (
        len(latest),
        latest,
        latest[::-1],
    )
    assert column[-5:] == latest[-5:]
    assert (other in column) == (other in latest)
    assert column.ends_with(other) == (latest[-1:] == [other])


@given(st.lists(st.integers(0, 2**63 - 1), max_size=30))
def test_numbers_are_kept_too(values: list[int]) -> None:
    assert list(Column.of(values)) == values
    assert Column.of(values) == Column(msgpack.packb(values))


def test_bytes_of_one_value_within_another_are_not_that_value() -> None:
    # "á" is C3 A1 in UTF-8, and A1 62 is how msgpack writes "b".
    column = Column.of(["áb"])
    assert msgpack.packb("b") in column.array
    assert "b" not in column
    assert not column.ends_with("b")
    assert column.ends_with("áb")


@pytest.mark.parametrize("n", [0, 15, 16, 65_535, 65_536])
def test_length_is_known_in_each_of_msgpacks_forms(n: int) -> None:
    column = Column.of(["i"] * n)
    assert len(column) == n
    column.append("j", limit=n + 1)
    assert column.array == msgpack.packb(["i"] * n + ["j"])
    assert column.ends_with("j")


def test_a_smaller_limit_holds_from_the_next_value_on() -> None:
    column = Column.of([f"value-{i}" for i in range(30)])
    column.append("last", limit=5)
    assert column.array == msgpack.packb(["value-26", "value-27", "value-28", "value-29", "last"])
