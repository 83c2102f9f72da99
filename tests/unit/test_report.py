"""Reports by arithmetic: of which events, and of whom, a figure speaks."""

import json

import numpy as np
import pytest

from headrace.model.ranking_metrics import MISS, UNSCORED
from headrace.streams.evaluation.report import ScoredStream, summarise

# Forty events of two users in turn; each fifth repeats its user's last item.
N = 40
AT = np.arange(N)
REPEATS = AT % 5 == 4


def judged(adapted: np.ndarray, other: np.ndarray | None = None) -> ScoredStream:
    """Return the events with the adapted model's ranks, and those of everything else."""
    ranks = {name: np.full(N, MISS) if other is None else other for name in ("frozen", "twin")}
    ranks |= {"adapted": adapted, "placebo": np.full(N, MISS), "popularity": np.full(N, 11)}
    ranks = {name: np.where(REPEATS, UNSCORED, r) for name, r in ranks.items()}
    return ScoredStream(ranks, users=AT % 2, n_earlier=AT // 2, n_of_item=AT // 10)


def test_the_second_half_is_scored_without_repeats() -> None:
    told = summarise(judged(np.where(AT < 20, 1, 3)))
    assert told["scored"] == 16
    # Rank 3 of every event: 1/log2(4), 1/3, one of ten, and 2 * .1 * 1 / 1.1.
    assert told["contenders"]["adapted"] == {
        "hr10": 1, "ndcg10": 0.5, "mrr10": 0.33333, "precision10": 0.1, "f1_10": 0.18182,
    }  # fmt: skip
    assert set(told["contenders"]["popularity"].values()) == {0}


def test_recall_is_the_share_of_events_whose_item_was_a_candidate() -> None:
    told = summarise(judged(np.full(N, 1), np.where(AT % 2, 12, MISS)))
    assert told["candidate_recall"] == 0.5


def test_a_stream_of_which_nothing_can_be_scored_makes_a_report_all_the_same() -> None:
    nothing = np.full(N, UNSCORED)
    names = ("adapted", "frozen", "twin", "placebo", "popularity")
    alone = ScoredStream(
        dict.fromkeys(names, nothing), AT % 2, n_earlier=AT // 2, n_of_item=AT // 10
    )
    told = summarise(alone)
    assert (told["scored"], told["candidate_recall"]) == (0, None)
    assert told["contenders"].keys() == {*names}
    assert {each for found in told["contenders"].values() for each in found.values()} == {None}
    json.dumps(told, allow_nan=False)


def test_items_are_cold_for_their_first_three_events() -> None:
    # Items of the second half had two events before, and then three.
    told = summarise(judged(np.where(AT < 30, 1, MISS)))["cold_items"]
    assert told["events"] == 8
    assert told["adapted"] == 1


def test_events_are_told_apart_by_how_much_the_user_had_done() -> None:
    told = summarise(judged(np.where(AT < 32, 1, 20)))["by_history"]
    events = {span: found["events"] for span, found in told.items()}
    # Events 20 to 39 had 10 to 19 interactions before.
    assert events == {"0": 0, "1-2": 0, "3-4": 0, "5-9": 0, "10-20": 16, "21-50": 0, "51+": 0}
    assert told["10-20"]["adapted"]["hr10"] == pytest.approx(10 / 16)  # 20 to 31 but for 24 and 29
    assert told["0"]["adapted"] == {"hr10": None, "ndcg10": None}


def test_the_whole_stream_is_told_in_windows() -> None:
    told = summarise(judged(np.where(AT < 10, MISS, 1)))["over_stream"]
    assert told["events"] == list(range(2, 41, 2))
    assert told["adapted"] == [0] * 5 + [1] * 15


def test_a_window_in_which_nothing_is_judged_says_nothing() -> None:
    ranks = np.where(AT < 10, MISS, 1)
    told = summarise(judged(np.where(AT < 4, UNSCORED, ranks)))["over_stream"]
    assert told["adapted"] == [None] * 2 + [0] * 3 + [1] * 15


def test_what_adapting_adds_is_paired_with_each_other_contender() -> None:
    told = summarise(judged(np.full(N, 1), np.full(N, 3)))["adapting"]
    assert told["versus_twin"]["all"]["difference"] == 0.5
    assert told["versus_placebo"]["5_to_20"]["difference"] == 1
    assert told["versus_frozen"]["over_20"]["events"] == 0
