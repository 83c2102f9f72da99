"""Serving: the state and the list that an event gives."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest
from prometheus_client import REGISTRY
from serving_samples import CLICKS, NOW_MS, Shop, list_of, metric, work
from stream_samples import event

from headrace.streams import metrics, prequential
from headrace.streams.actions import REFRESH
from headrace.streams.adapt import refresh
from headrace.streams.adapt.engine import UserResult
from headrace.streams.prequential import Judged
from headrace.streams.records import Item


def test_an_event_gives_a_state_and_a_list_that_answers_it(tmp_path: Path) -> None:
    shop = Shop(tmp_path).at_work()
    asked = work("ann", *CLICKS)
    (result,) = shop.serving.process([asked])
    made = list_of(result)
    assert (made.user, made.source, made.rec_id) == ("ann", asked.source, "ann-0-2")
    assert (made.model_version, made.generated_ms) == (1, NOW_MS)
    assert set(made.items) == set(shop.learner.vocabulary.ids) - {"item-0"}
    assert result.state.items == ["item-3", "item-5", "item-0"]
    assert result.state.last_offset == 2
    assert result.state.gradients is not None
    assert {reason["because"] for reason in made.reasons} & {"item-3", "item-5", "item-0"}


def test_what_a_list_takes_is_told(tmp_path: Path) -> None:
    shop = Shop(tmp_path).at_work()

    def seconds() -> list[float]:
        parts = [{"part": part} for part in ("fold", "model")]
        cpu = [REGISTRY.get_sample_value("headrace_cpu_seconds_total", part) for part in parts]
        return [*(s or 0.0 for s in cpu), metric("adapt_duration_seconds_sum")]

    begun_s, before = time.monotonic(), seconds()
    shop.answer(*CLICKS)
    most_s = time.monotonic() - begun_s + 0.01  # the clocks have ticks of their own
    assert all(0 < s - b <= most_s for s, b in zip(seconds(), before, strict=True))


def test_users_of_a_micro_batch_are_answered_as_if_each_were_alone(tmp_path: Path) -> None:
    shop = Shop(tmp_path).at_work()
    bobs = [event("bob", item, at) for at, item in enumerate(["item-9", "item-1"])]
    both = [list_of(r) for r in shop.serving.process([work("ann", *CLICKS), work("bob", *bobs)])]
    alone = [
        list_of(shop.serving.process([w])[0]) for w in (work("ann", *CLICKS), work("bob", *bobs))
    ]
    for one, other in zip(both, alone, strict=True):
        assert (one.user, one.items, one.reasons) == (other.user, other.items, other.reasons)
        assert one.scores == pytest.approx(other.scores, abs=2e-4)  # told to four digits


def test_threads_answer_at_once_as_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answered(threads: int) -> tuple[list[UserResult], float]:
        shop = Shop(tmp_path / str(threads)).at_work()
        all_at_once = Barrier(threads, timeout=60)

        def judge(*args: Any) -> Judged | None:
            all_at_once.wait()
            return prequential.judge(*args)

        monkeypatch.setattr(refresh, "judge", judge)
        items = [[f"item-{n * step % 17}" for step in (1, 2, 5)] for n in range(90)]
        users = [
            work(f"user-{n}", *(event("", item, at) for at, item in enumerate(own)))
            for n, own in enumerate(items)
        ]
        size = len(users) // threads
        parts = [users[start : start + size] for start in range(0, len(users), size)]
        with ThreadPoolExecutor(threads) as pool:
            results = list(chain(*pool.map(shop.serving.process, parts)))
        return results, metric("candidate_recall")

    (one, one_recall), (three, three_recall) = answered(1), answered(3)
    assert three_recall == one_recall > 0
    for alone, shared in zip(one, three, strict=True):
        assert list_of(shared).user == list_of(alone).user
        assert list_of(shared).judged == list_of(alone).judged
        assert list_of(shared).scores == pytest.approx(list_of(alone).scores, abs=2e-4)
        assert shared.state.items == alone.state.items
        np.testing.assert_allclose(shared.state.gradients, alone.state.gradients, atol=1e-5)


def test_a_user_who_does_very_much_is_judged_by_the_latest_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = Shop(tmp_path).at_work()
    seen: list[Judged] = []

    def judge(*args: Any) -> Judged | None:
        seen.append(prequential.judge(*args))
        return seen[-1]

    monkeypatch.setattr(refresh, "judge", judge)
    visits = [event("bot", f"item-{n % 9}", n) for n in range(refresh.MOST_TASKS + 20)]
    (result,) = shop.serving.process([work("bot", *visits)])
    assert seen[0].tasks.histories.n_events.tolist() == list(range(20, len(visits)))
    assert result.state.n_events == len(visits)
    assert list_of(result).source.offset == len(visits) - 1


def test_a_list_says_where_the_last_item_had_stood(tmp_path: Path) -> None:
    shop = Shop(tmp_path).at_work()
    (before,) = shop.serving.process([work("ann", *CLICKS[:2])])
    stood = list_of(before).items.index("item-0") + 1
    (after,) = shop.serving.process([work("ann", CLICKS[2], state=before.state)])
    judged = list_of(after).judged
    assert judged["adapted"] == stood
    assert set(judged) <= {"adapted", "frozen", "popularity"}
    assert judged["popularity"] <= 10


@pytest.mark.parametrize(("item", "action"), [("item-9", "impression"), ("item-7", "click")])
def test_a_list_says_nothing_of_an_event_before_the_one_it_answers(
    tmp_path: Path, item: str, action: str
) -> None:
    shop = Shop(tmp_path).at_work()
    (before,) = shop.serving.process([work("ann", *CLICKS)])
    seen, last = event("ann", "item-7", 10), event("ann", item, 11, action=action)
    (after,) = shop.serving.process([work("ann", seen, last, state=before.state)])
    assert list_of(after).judged == {}
    assert len(shop.serving._window) == len(CLICKS) + 1  # the gauges take all into account


@pytest.mark.parametrize("shown_lists", [0, 10])
def test_where_an_item_had_stood_is_not_told_of_an_event_that_the_model_knows(
    tmp_path: Path, shown_lists: int
) -> None:
    def answered(learned_to: tuple[int, ...]) -> UserResult:
        shop = Shop(tmp_path, shown_lists=shown_lists).at_work()
        (before,) = shop.serving.process([work("ann", *CLICKS[:2])])
        shop.delta(learned_to=learned_to)
        seen.append(len(shop.serving._window))
        (after,) = shop.serving.process([work("ann", CLICKS[2], state=before.state)])
        seen.append(len(shop.serving._window))
        return after

    seen: list[int] = []
    told, untold = answered((2,)), answered((3,))  # the event has the offset 2
    assert seen == [2, 3, 2, 2]
    assert list_of(told).judged
    assert list_of(untold).judged == {}
    # Adapted all the same, but by two models: how a sum is rounded depends on where memory lies.
    np.testing.assert_allclose(untold.state.gradients, told.state.gradients, rtol=1e-3, atol=1e-4)
    assert list_of(untold).items == list_of(told).items


def test_withdrawn_items_are_no_candidates_for_everybody(tmp_path: Path) -> None:
    shop = Shop(tmp_path).at_work()

    def popular() -> list[str]:
        assert shop.serving._live
        live = shop.serving._live
        return [live.vocabulary.ids[index] for index in live.recommender.signals.popular]

    best = popular()[:3]
    for item in best:
        shop.serving.note_item(Item(item=item, active=False))
    shop.delta()
    assert len(popular()) > 3
    assert not {*best} & {*popular()}
    shop.serving.note_item(Item(item=best[0]))
    shop.delta()
    assert popular()[0] == best[0]


def test_what_is_withdrawn_leaves_its_place_to_others_before_a_delta_comes(tmp_path: Path) -> None:
    shop = Shop(tmp_path).at_work()
    live = shop.serving._live
    assert live

    def popular() -> list[str]:
        return [live.vocabulary.ids[index] for index in live.recommender.signals.popular]

    shop.serving.process([])
    live.recommender.signals.refresh_popular(len(live.vocabulary), quotas=(3, 0, 0, 0))
    (gone, *_) = before = popular()
    shop.serving.note_item(Item(item="nobody took it", active=False))
    shop.serving.process([])
    assert popular() == before
    shop.serving.note_item(Item(item=gone, active=False))
    shop.serving.process([])
    assert len(popular()) > 3
    assert gone not in popular()


def test_of_a_version_nothing_is_popular_that_was_withdrawn_before_it(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.serving.note_item(Item(item="item-1", active=False))
    shop.at_work()
    shop.serving.process([])
    live = shop.serving._live
    assert live
    assert live.vocabulary.index("item-1") not in live.recommender.signals.popular


@pytest.mark.parametrize("action", ["impression", "return", "refresh"])
def test_what_was_shown_or_undone_changes_the_offset_and_not_the_list(
    tmp_path: Path, action: str
) -> None:
    shop = Shop(tmp_path).at_work()
    (before,) = shop.serving.process([work("ann", *CLICKS)])
    shown = event("ann", "item-7", 9, action=action)
    (after,) = shop.serving.process([work("ann", shown, state=before.state)])
    assert list_of(after).items == list_of(before).items
    assert list_of(after).judged == {}
    assert (after.state.last_offset, after.state.n_events) == (3, 3)


def test_an_event_published_twice_under_its_id_is_counted_and_changes_no_list(
    tmp_path: Path,
) -> None:
    shop, duplicates = Shop(tmp_path).at_work(), metric("duplicate_events_total")
    took = replace(CLICKS[-1], event_id="e1")
    (before,) = shop.serving.process([work("ann", *CLICKS[:-1], took)])
    (after,) = shop.serving.process([work("ann", took, took, state=before.state)])
    assert metric("duplicate_events_total") == duplicates + 2
    assert list_of(after).items == list_of(before).items
    assert (list_of(after).judged, after.state.n_events) == ({}, 3)


@pytest.mark.parametrize(
    ("rule", "is_told"),
    [({}, True), ({"diversity": 0.5}, False), ({"target_action": "purchase"}, False)],
)
def test_frozen_users_are_compared_only_where_lists_have_the_same_rules(
    tmp_path: Path, rule: dict[str, Any], is_told: bool
) -> None:
    metrics.NDCG.clear()
    Shop(tmp_path, **rule).at_work().answer(*CLICKS)
    told = [
        REGISTRY.get_sample_value("headrace_prequential_ndcg", {"contender": name}) is not None
        for name in ("adapted", "frozen")
    ]
    assert told == [True, is_told]


def test_what_nobody_took_is_not_popular(tmp_path: Path) -> None:
    shop = Shop(tmp_path, n_events=0).at_work()
    shop.learner.learn([("bob", 0, event("bob", "tea"))])
    for item in ("coffee", "milk"):
        shop.learner.assortment.note(Item(item=item, vectors={"image": (1.0, 0.5)}))
    shop.learner.assortment.place()
    shop.delta()
    with shop.serving._processing() as live:
        assert [live.vocabulary.ids[index] for index in live.popular] == ["tea"]
        assert live.vocabulary.n_items == 3


def test_a_user_without_a_history_gets_what_is_popular(tmp_path: Path) -> None:
    made = Shop(tmp_path).at_work().answer(event("ann", "item-0", action="impression"))
    assert "item-0" in made.items[:5]
    assert all(reason["because"] is None for reason in made.reasons)


def test_a_refresh_makes_a_list_of_what_all_share_by_now_and_the_next_event_is_judged_by_it(
    tmp_path: Path,
) -> None:
    shop = Shop(tmp_path).at_work()
    (old,) = shop.serving.process([work("ann", *CLICKS)])
    shop.popularise("hot")
    shop.delta()
    asks = event("ann", "", 9, action=REFRESH)
    (new,) = shop.serving.process([work("ann", asks, state=old.state)])
    assert "hot" not in list_of(old).items
    stood = list_of(new).items.index("hot") + 1
    took = shop.answer(event("ann", "hot", 10), state=new.state)
    assert took.judged["adapted"] == stood


def test_a_refresh_is_all_that_a_new_user_need_do_for_a_list(tmp_path: Path) -> None:
    made = Shop(tmp_path).at_work().answer(event("ann", "", action=REFRESH))
    assert "item-0" in made.items[:5]
    assert made.judged == {}


def test_an_event_of_an_unknown_item_is_a_miss_and_still_answered(tmp_path: Path) -> None:
    made = Shop(tmp_path).at_work().answer(event("ann", "unheard of"))
    assert made.judged == {}
    assert "item-0" in made.items
    assert "unheard of" not in made.items


def test_a_replay_without_new_events_is_answered_and_leaves_the_state(tmp_path: Path) -> None:
    shop = Shop(tmp_path).at_work()
    (first,) = shop.serving.process([work("ann", *CLICKS)])
    encoded = first.state.encode()
    (again,) = shop.serving.process([work("ann", state=first.state)])
    assert again.state.encode() == encoded
    assert list_of(again) == replace(list_of(first), judged={})


def test_nothing_to_do_is_done(tmp_path: Path) -> None:
    assert Shop(tmp_path).at_work().serving.process([]) == []


def test_rules_and_the_catalogue_hold_for_the_next_list(tmp_path: Path) -> None:
    shop = Shop(tmp_path, leave_out={"click": -1}).at_work()
    shop.serving.note_item(Item(item="item-1", active=False))
    assert not {"item-0", "item-1", "item-3", "item-5"} & set(shop.answer(*CLICKS).items)
    shop.serving.note_item(Item(item="item-1"))
    assert "item-1" in shop.answer(*CLICKS).items


def test_events_that_carry_the_id_of_a_list_are_counted_as_feedback(tmp_path: Path) -> None:
    shop = Shop(tmp_path).at_work()
    n_before = metric("attributed_events_total")
    shown = event("ann", "item-7", 9, action="impression", rec_id="ann-0-2")
    shop.answer(*CLICKS, shown, event("ann", "item-1", 10, rec_id="ann-0-2"))
    assert metric("attributed_events_total") == n_before + 1
