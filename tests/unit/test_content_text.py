"""Content of catalogue records: vectors of text, given vectors, and what is refused."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from headrace.model.arrays import Floats
from headrace.streams import metrics
from headrace.streams.learn.catalogue import Catalogue
from headrace.streams.learn.content import (
    MAX_WIDTH,
    SENTENCE_PACKAGE,
    HashedWords,
    SentenceModel,
    given_vector,
    pick_embedder,
    text_of,
    unit,
)
from headrace.streams.records import Item


def embedded(*texts: str) -> Floats:
    return unit(HashedWords().embed(texts)).astype(np.float32)


def refused(reason: str) -> float:
    """Return how many records were refused for the reason so far."""
    return metrics.CONTENT_REFUSED.labels(reason)._value.get()


def catalogue(*, max_items: int = 10, is_on: bool = True) -> Catalogue:
    return Catalogue(HashedWords(), max_items=max_items, is_on=is_on)


@pytest.mark.parametrize("text", ["green tea", "grüner Tee", "зелёный чай", "緑茶 抹茶"])
def test_texts_of_the_same_words_are_alike_in_any_script(text: str) -> None:
    other = " / ".join(reversed(text.upper().split()))
    one, same, different = embedded(text, other, "engine oil")
    assert one @ same == pytest.approx(1, abs=1e-3)
    assert abs(one @ different) < 0.5


def test_half_of_the_words_in_common_is_a_cosine_of_a_half() -> None:
    one, other = embedded("green tea", "black tea")
    assert one @ other == pytest.approx(0.5, abs=1e-3)


def test_a_text_without_words_has_no_direction() -> None:
    assert not embedded("?!").any()


def test_title_categories_and_text_are_all_read() -> None:
    item = Item(item="1", title="Tea", categories=("drinks", "hot"), text="green")
    assert text_of(item) == "Tea drinks hot green"


def test_given_vectors_stand_one_behind_the_other_by_name() -> None:
    item = Item(item="1", vectors={"text": (3.0,), "image": (1.0, 2.0)})
    assert given_vector(item) == pytest.approx([1 / 3, 2 / 3, 1])


def test_wide_vectors_are_narrowed_and_keep_their_cosines() -> None:
    wide = np.random.default_rng(1).normal(size=(2, 2000)).astype(np.float32)
    wide[1] = 0.6 * wide[0] + 0.8 * wide[1]  # a cosine of 0.6: at random they are at right angles
    narrow = unit(wide).astype(np.float32)
    assert narrow.shape == (2, MAX_WIDTH)
    assert narrow[0] @ narrow[1] == pytest.approx(0.6, abs=0.12)


@pytest.mark.parametrize("size", [1e308, 5.0, 1e-299])
def test_the_largest_and_smallest_numbers_keep_their_direction(size: float) -> None:
    vector = given_vector(Item(item="1", vectors={"image": (size, -size, size, size)}))
    assert unit(vector[None])[0] == pytest.approx([0.5, -0.5, 0.5, 0.5])


def test_the_sentence_model_is_used_where_its_package_is(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def encode_texts(texts: list[str], **_: object) -> Floats:
        asked.append(texts)
        return np.ones((len(texts), 384), np.float32)

    package = SimpleNamespace(
        load_model=lambda **_: SimpleNamespace(encode=encode_texts), __spec__=SimpleNamespace()
    )
    monkeypatch.setitem(sys.modules, SENTENCE_PACKAGE, package)
    embedder = pick_embedder()
    assert isinstance(embedder, SentenceModel)
    assert embedder.embed(["tea", "milk"]).shape == (2, 384)
    assert asked == [["tea", "milk"]]


# -------------------------------------------------------------------------------- the catalogue


def test_a_record_without_anything_to_say_has_no_content() -> None:
    noted = catalogue()
    noted.note(Item(item="1", vectors={"image": (0.0, 0.0)}))
    assert noted.source_of("1") is None
    assert noted.space == ""


def test_the_same_content_keeps_its_stamp_and_other_content_has_another() -> None:
    noted = catalogue()
    assert noted.note(Item(item="1", title="tea"))
    stamp = noted.source_of("1")
    assert not noted.note(Item(item="1", title="tea", price=5.0))
    assert noted.note(Item(item="1", title="milk"))
    assert stamp is not None
    assert stamp.stamp != noted.source_of("1").stamp  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        (Item(item="2", vectors={"image": (1.0, 2.0, 3.0)}), "width"),
        (Item(item="2", title="tea"), "kind"),
    ],
)
def test_content_that_cannot_be_compared_is_counted_and_the_item_keeps_none(
    second: Item, reason: str
) -> None:
    noted, before = catalogue(), refused(reason)
    noted.note(Item(item="1", vectors={"image": (1.0, 2.0)}))
    noted.note(Item(item="2", vectors={"image": (2.0, 2.0)}))
    noted.note(second)
    assert refused(reason) == before + 1
    assert (noted.source_of("1") is None, noted.source_of("2") is None) == (False, True)


def test_among_texts_a_record_with_a_vector_counts_by_its_text() -> None:
    noted = catalogue()
    noted.note(Item(item="1", title="tea"))
    noted.note(Item(item="2", title="milk", vectors={"image": (1.0,)}))
    source = noted.source_of("2")
    assert source is not None
    assert source.content == "milk"


def test_withdrawn_items_and_the_oldest_beyond_the_bound_are_dropped() -> None:
    noted = catalogue(max_items=2)
    for item in ("1", "2", "3"):
        noted.note(Item(item=item, title="tea"))
    noted.note(Item(item="3", title="tea", active=False))
    assert [noted.source_of(item) is not None for item in ("1", "2", "3")] == [False, True, False]


def test_switched_off_it_keeps_nothing() -> None:
    noted = catalogue(is_on=False)
    assert not noted.note(Item(item="1", title="tea"))
    assert noted.source_of("1") is None


def test_it_goes_on_only_in_a_space_that_it_still_fills() -> None:
    assert catalogue().restore(HashedWords.name, 7)
    assert catalogue().restore("given/512", 7)
    assert not catalogue().restore("minilm/384", 7)
    assert not catalogue(is_on=False).restore(HashedWords.name, 7)
