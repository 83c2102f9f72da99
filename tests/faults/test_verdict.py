"""A verdict that finds what is missing, what is too much, and what is different."""

from verdict import Verdict


def test_equal_maps_are_no_difference_and_are_counted() -> None:
    verdict = Verdict()
    verdict.compare("states", {"ann": 1, "bob": 2}, {"bob": 2, "ann": 1})
    assert verdict.differences == []
    assert verdict.notes == {"states compared": 2}


def test_what_is_missing_too_much_or_different_is_named() -> None:
    verdict = Verdict()
    verdict.compare("states", {"ann": 1, "bob": 2, "eve": 9}, {"ann": 1, "bob": 3, "cid": 4})
    assert verdict.differences == [
        "3 of 3 states differ: bob: 2 instead of 3; cid: None instead of 4; eve: 9 instead of None"
    ]


def test_something_where_nothing_should_be_is_a_difference() -> None:
    verdict = Verdict()
    verdict.compare("states that went back", {"ann": 1}, {})
    assert verdict.differences == ["1 of 0 states that went back differ: ann: 1 instead of None"]
