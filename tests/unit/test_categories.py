"""Categories: numbers that stay, and bounds."""

import pytest

from headrace.streams.learn import categories
from headrace.streams.learn.categories import Categories


def test_the_finest_category_counts_and_keeps_its_number() -> None:
    known = Categories()
    for item, path in (("tea", ("drinks", "hot")), ("milk", ("drinks", "cold")), ("soap", ())):
        known.note(item, path)
    known.note("cocoa", ("hot",))
    assert [known.of(item) for item in ("tea", "milk", "soap", "cocoa")] == [0, 1, None, 0]
    assert known.names() == ["hot", "cold"]


def test_beyond_the_bounds_the_oldest_items_go_and_no_category_is_new(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(categories, "MAX_CATEGORIES", 2)
    monkeypatch.setattr(categories, "MAX_ITEMS", 2)
    known = Categories()
    known.note("tea", ("hot",))
    known.note("milk", ("cold",))
    known.note("milk", ("soft",))  # one category too many
    known.note("tea", ("cold",))
    known.note("soap", ("cold",))  # one item too many: milk was noted before tea was again
    assert [known.of(item) for item in ("tea", "milk", "soap")] == [1, None, 1]
    assert known.names() == ["hot", "cold"]
