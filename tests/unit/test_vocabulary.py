"""Vocabulary: external item ids and dense indexes, one to one, bounded."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.model.vocabulary import UNKNOWN, Vocabulary


def assert_one_to_one(vocabulary: Vocabulary) -> None:
    """Every item in a place has that place's index, and there is no other index."""
    placed = {item: index for index, item in enumerate(vocabulary.ids) if item}
    assert {item: vocabulary.index(item) for item in placed} == placed
    assert vocabulary.n_items == len(placed) == sum(item != "" for item in vocabulary.ids)


def test_items_are_numbered_in_the_order_they_come() -> None:
    vocabulary = Vocabulary(10)
    assert [vocabulary.admit(item) for item in "abab"] == [0, 1, 0, 1]
    assert vocabulary.ids == ["a", "b"]
    assert vocabulary.n_items == len(vocabulary) == 2


def test_item_that_was_never_admitted_is_unknown() -> None:
    vocabulary = Vocabulary(10, ["a"])
    assert vocabulary.index("b") == UNKNOWN
    assert vocabulary.indexes(["b", "a"]) == [UNKNOWN, 0]


def test_full_vocabulary_knows_no_more_items_and_keeps_those_it_has() -> None:
    vocabulary = Vocabulary(2)
    assert [vocabulary.admit(item) for item in "abc"] == [0, 1, UNKNOWN]
    assert [vocabulary.admit(item) for item in "ab"] == [0, 1]
    assert len(vocabulary) == 2


def test_evicted_item_is_unknown_and_its_index_goes_to_the_next_item() -> None:
    vocabulary = Vocabulary(2, ["a", "b"])
    vocabulary.evict([0])
    assert vocabulary.index("a") == UNKNOWN
    assert (vocabulary.n_items, len(vocabulary)) == (1, 2)  # the arrays stay as wide
    assert vocabulary.admit("c") == 0
    assert vocabulary.admit("d") == UNKNOWN
    assert vocabulary.ids == ["c", "b"]


def test_free_places_of_stored_ids_are_given_out_before_new_ones() -> None:
    vocabulary = Vocabulary(3, ["a", "", "c"])
    assert vocabulary.n_items == 2
    assert [vocabulary.admit(item) for item in "de"] == [1, UNKNOWN]


def test_follower_places_items_where_the_writer_has_them() -> None:
    vocabulary = Vocabulary(10)
    vocabulary.place(2, "c")
    assert vocabulary.ids == ["", "", "c"]
    assert (vocabulary.index("c"), vocabulary.n_items) == (2, 1)


def test_placing_again_changes_nothing() -> None:
    vocabulary = Vocabulary(10, ["a", "b"])
    assert not vocabulary.place(1, "b")
    assert (vocabulary.ids, vocabulary.index("b")) == (["a", "b"], 1)


def test_placed_item_replaces_the_one_that_had_the_index() -> None:
    vocabulary = Vocabulary(10, ["a", "b"])
    assert vocabulary.place(0, "c")
    assert (vocabulary.ids, vocabulary.index("a")) == (["c", "b"], UNKNOWN)


def test_item_placed_elsewhere_leaves_its_old_index() -> None:
    vocabulary = Vocabulary(10, ["a", "b"])
    vocabulary.place(1, "a")
    assert (vocabulary.ids, vocabulary.index("a")) == (["", "a"], 1)
    assert not vocabulary.place(0, "c")
    assert vocabulary.index("a") == 1


@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from("abc"))))
def test_following_keeps_items_and_indexes_one_to_one(placed: list[tuple[int, str]]) -> None:
    vocabulary = Vocabulary(10)
    for index, item in placed:
        vocabulary.place(index, item)
        assert vocabulary.index(item) == index
    assert_one_to_one(vocabulary)


@given(st.lists(st.sampled_from("abcdef")), st.integers(1, 4))
def test_writer_keeps_items_and_indexes_one_to_one(items: list[str], max_items: int) -> None:
    vocabulary = Vocabulary(max_items)
    for item in items:
        if vocabulary.admit(item) == UNKNOWN:
            vocabulary.evict([0])
            assert vocabulary.admit(item) == 0
        assert len(vocabulary) <= max_items
    assert_one_to_one(vocabulary)


def test_index_without_an_item_cannot_be_evicted() -> None:
    vocabulary = Vocabulary(2, ["a"])
    vocabulary.evict([0])
    with pytest.raises(KeyError):
        vocabulary.evict([0])
