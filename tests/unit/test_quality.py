"""The window of judged events: means that a reader can redo."""

import numpy as np
import pytest
from prometheus_client import REGISTRY

from headrace.model.ranking_metrics import MISS
from headrace.streams.adapt.quality import Window

CONTENDERS = ("adapted", "frozen", "popularity")


def gauge(name: str, contender: str | None = None) -> float | None:
    """Return what Prometheus would read."""
    return REGISTRY.get_sample_value(
        f"headrace_{name}", {} if contender is None else {"contender": contender}
    )


def ranks(adapted: list[int], frozen: list[int], popularity: list[int]) -> dict[str, np.ndarray]:
    """Return the ranks of one micro-batch."""
    return {
        name: np.array(r) for name, r in zip(CONTENDERS, (adapted, frozen, popularity), strict=True)
    }


def test_ratios_are_means_over_the_judged_events() -> None:
    window = Window()
    window.add(ranks([1, 3, 11, MISS], [2, 10, 12, MISS], [MISS, MISS, MISS, 1]))
    window.publish(CONTENDERS)
    assert gauge("prequential_hit_ratio", "adapted") == pytest.approx(2 / 4)
    assert gauge("prequential_hit_ratio", "frozen") == pytest.approx(2 / 4)
    assert gauge("prequential_hit_ratio", "popularity") == pytest.approx(1 / 4)
    # 1 / log2(rank + 1): rank 1 gains 1, rank 3 gains 1/2, those beyond the tenth nothing.
    assert gauge("prequential_ndcg", "adapted") == pytest.approx((1 + 1 / 2) / 4)
    assert gauge("prequential_ndcg", "popularity") == pytest.approx(1 / 4)
    assert gauge("candidate_recall") == pytest.approx(3 / 4)  # one was no candidate
    assert gauge("prequential_events") == 4


def test_the_oldest_events_leave_the_window() -> None:
    window = Window(size=3)
    window.add(ranks([1, 1], [1, 1], [1, 1]))
    window.add(ranks([MISS, MISS], [11, MISS], [1, 1]))
    window.publish(CONTENDERS)
    assert len(window) == 3
    assert gauge("prequential_hit_ratio", "adapted") == pytest.approx(1 / 3)
    assert gauge("prequential_hit_ratio", "popularity") == 1
    assert gauge("candidate_recall") == pytest.approx(2 / 3)


def test_of_a_micro_batch_larger_than_the_window_the_last_events_stay() -> None:
    window = Window(size=2)
    window.add(ranks([MISS, 1, 1], [1, 1, 1], [1, 1, MISS]))
    window.publish(CONTENDERS)
    assert len(window) == 2
    assert gauge("prequential_hit_ratio", "adapted") == 1
    assert gauge("prequential_hit_ratio", "popularity") == pytest.approx(1 / 2)


def test_a_window_without_events_says_nothing_new() -> None:
    full = Window()
    full.add(ranks([1], [1], [1]))
    full.publish(CONTENDERS)
    Window().publish(CONTENDERS)
    assert gauge("prequential_hit_ratio", "adapted") == 1
