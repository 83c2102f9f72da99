"""Every signal has words, and the words name the item that spoke."""

import pytest

from headrace.model.networks.scorer import INPUTS
from headrace.streams.records import Reason
from headrace.streams.tools.reasons import WORDS, phrase


def test_every_input_of_the_scorer_has_words_and_no_other() -> None:
    assert set(WORDS) == set(INPUTS)


@pytest.mark.parametrize(
    ("because", "titles", "words"),
    [
        ("i1", {"i1": "Green tea"}, "goes with Green tea"),
        ("i1", {}, "goes with i1"),
        (None, {"i1": "Green tea"}, "goes with what was taken before"),
        ("i{}", {"i{}": "{because}"}, "goes with {because}"),  # a title is no template
    ],
)
def test_a_reason_names_the_item_by_its_title(
    because: str | None, titles: dict[str, str], words: str
) -> None:
    assert phrase(Reason(signal="session", share=0.5, because=because), titles) == words


def test_a_signal_of_a_newer_writer_is_shown_by_its_name() -> None:
    assert phrase(Reason(signal="weather", share=0.5, because=None), {}) == "weather"
