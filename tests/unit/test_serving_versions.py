"""Serving: which version is at work, and how it follows versions and deltas."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving_samples import CLICKS, NOW_MS, Shop, metric, work
from stream_samples import event

from headrace.model.counts.item_regression import N_REGRESSORS
from headrace.streams.adapt import refresh
from headrace.streams.adapt.engine import UserWork
from headrace.streams.adapt.serving import Serving
from headrace.streams.errors import CheckpointError
from headrace.streams.records import Recommendation
from headrace.streams.state import UserState
from headrace.streams.versions.publication import Announcement
from headrace.streams.versions.store import ModelStore, StoredFile

LIMIT_S = 60.0


def beginner(shop: Shop, announced: Announcement) -> Shop:
    """Return the shop with another worker, which begins with a version."""
    other = copy(shop)
    other.serving = Serving(shop.settings, device="cpu", now_ms=lambda: NOW_MS)
    assert announced.delta_sequence is not None
    other.sequence = announced.delta_sequence
    assert other.serving.serve(announced)
    return other


def until(holds: Callable[[], bool]) -> None:
    """Wait for what other threads do."""
    deadline_s = time.monotonic() + LIMIT_S
    while not holds():
        assert time.monotonic() < deadline_s
        time.sleep(0.001)


# ------------------------------------------------------------------------------------- versions


def test_the_compute_thread_waits_for_the_first_version(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    made: list[Recommendation] = []
    thread = threading.Thread(target=lambda: made.append(shop.answer(*CLICKS)))
    thread.start()
    assert not shop.serving.is_ready()
    shop.at_work()
    thread.join(LIMIT_S)
    assert not thread.is_alive()
    assert shop.serving.is_ready()
    assert [one.model_version for one in made] == [1]


def test_a_version_of_the_same_epoch_keeps_the_signals_that_moved_on(tmp_path: Path) -> None:
    shop = Shop(tmp_path).at_work()
    announced = shop.announce(2)
    shop.popularise("hot")
    shop.delta()
    assert not shop.serving.serve(announced)
    made = shop.answer(*CLICKS)
    assert made.model_version == 2
    assert "hot" in made.items


def test_events_that_any_part_of_the_model_may_know_are_known(tmp_path: Path) -> None:
    def known(offset: int) -> bool:
        with shop.serving._processing() as live:
            return live.knows(0, offset)

    shop = Shop(tmp_path)
    assert shop.serving.serve(replace(shop.announce(1), learned_to=(5,)))
    assert (known(4), known(5)) == (True, False)
    shop.delta(learned_to=(9, 2))
    assert (known(8), known(9)) == (True, False)
    assert not shop.serving.serve(replace(shop.announce(2), learned_to=(7, 2)))
    assert known(8)  # by what is counted, which has moved on since the weights were packed
    assert shop.serving.serve(replace(shop.announce(3, epoch=2), learned_to=(6, 2)))
    assert (known(5), known(6)) == (True, False)  # a learn role that went on from before


def test_a_version_of_a_new_epoch_replaces_the_signals(tmp_path: Path) -> None:
    shop = Shop(tmp_path).at_work()
    announced = shop.announce(2, epoch=2)
    shop.popularise("hot")
    shop.delta()
    assert "hot" in shop.answer(*CLICKS).items
    assert shop.serving.serve(announced)
    made = shop.answer(*CLICKS)
    assert made.model_version == 2
    assert "hot" not in made.items


def test_lists_are_kept_to_judge_by_while_items_have_the_same_indexes(tmp_path: Path) -> None:
    shop = Shop(tmp_path).at_work()
    state = UserState()
    shop.answer(*CLICKS, state=state)
    for epoch, is_kept in ((1, True), (2, False)):
        shop.serving.serve(shop.announce(epoch + 1, epoch=epoch))
        before = metric("judged_shown_total")
        shop.answer(event("ann", f"item-{epoch}", 10 + epoch), state=state)
        assert metric("judged_shown_total") - before == is_kept


def test_a_delta_brings_item_regressions_and_a_version_of_the_same_epoch_keeps_them(
    tmp_path: Path,
) -> None:
    shop = Shop(tmp_path).at_work()
    announced = shop.announce(2)
    *_, last = shop.answer(*CLICKS).items
    index = shop.learner.vocabulary.index
    items = np.full((1, N_REGRESSORS), -1, np.int32)
    weights = np.zeros((1, N_REGRESSORS), np.float32)
    items[0, 0], weights[0, 0] = index(CLICKS[0].item), 1_000
    shop.learner.recommender.coefficients.put(np.array([index(last)], np.int32), items, weights)
    shop.delta()
    assert shop.answer(*CLICKS).items[0] == last
    assert not shop.serving.serve(announced)  # packed before
    assert shop.answer(*CLICKS).items[0] == last


def test_a_version_with_the_checkpoint_at_work_takes_no_more_than_its_weights(
    tmp_path: Path,
) -> None:
    shop = Shop(tmp_path)
    first = shop.announce(1)
    assert shop.serving.serve(first)
    shop.popularise("hot")
    shop.learner.serve_version()
    shop.delta()
    announced = shop.announce(2, after=first)
    (tmp_path / first.model.name).unlink()
    assert not shop.serving.serve(announced)
    made = shop.answer(*CLICKS)
    assert made.model_version == 2
    assert "hot" in made.items
    assert made.items == beginner(shop, shop.announce(3)).answer(*CLICKS).items


def test_a_worker_that_begins_takes_the_checkpoint_the_weights_and_the_deltas_between(
    tmp_path: Path,
) -> None:
    shop = Shop(tmp_path)
    first = shop.announce(1)
    shop.popularise("hot")
    shop.learner.serve_version()
    delta = shop.take_delta()
    late = beginner(shop, shop.announce(2, after=first))
    assert late.answer(*CLICKS).model_version == 2
    assert "hot" not in late.answer(*CLICKS).items
    late.hand_over(delta)
    expected = beginner(shop, shop.announce(3)).answer(*CLICKS)
    assert "hot" in expected.items
    assert late.answer(*CLICKS).items == expected.items


def test_weights_may_make_way_for_newer_ones_while_the_checkpoint_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, read = Shop(tmp_path), ModelStore.read
    announced = shop.announce(1)
    assert announced.weights
    path = tmp_path / announced.weights.name

    def read_slowly(store: ModelStore, file: StoredFile) -> bytes:
        if file == announced.model:
            path.unlink()
        return read(store, file)

    monkeypatch.setattr(ModelStore, "read", read_slowly)
    assert shop.serving.serve(announced)
    assert not path.exists()


def test_a_version_without_weights_of_its_own_is_its_checkpoint(tmp_path: Path) -> None:
    shop = Shop(tmp_path)  # 0.1.0 writes such ones
    before = replace(shop.announce(1), weights=None, delta_sequence=None)
    assert shop.serving.serve(before)
    shop.popularise("hot")
    shop.learner.serve_version()
    shop.delta()
    after = shop.announce(2)
    assert not shop.serving.serve(replace(after, weights=None, delta_sequence=None))
    assert shop.answer(*CLICKS).items == beginner(shop, after).answer(*CLICKS).items


def test_damaged_weights_are_refused_counted_and_those_at_work_serve_on(tmp_path: Path) -> None:
    shop = Shop(tmp_path).at_work()
    before, n_refused = shop.answer(*CLICKS), metric("checkpoints_refused_total")
    announced = shop.announce(2)
    assert announced.weights
    path = tmp_path / announced.weights.name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="refused model version 2"):
        shop.serving.serve(announced)
    assert metric("checkpoints_refused_total") == n_refused + 1
    assert shop.answer(*CLICKS) == before


def test_going_back_is_serving_an_older_version(tmp_path: Path) -> None:
    shop = Shop(tmp_path).at_work()
    older = shop.announce(2)
    for announced in (shop.announce(3), older):
        shop.serving.serve(announced)
    assert shop.answer(*CLICKS).model_version == 2


def test_the_metrics_name_the_version_at_work(tmp_path: Path) -> None:
    Shop(tmp_path).at_work().serving.serve(Shop(tmp_path).announce(7))
    assert metric("model_version") == 7
    assert metric("model_published_timestamp_seconds") == (NOW_MS - 5_000) / 1000
    assert metric("items") == 20


@pytest.mark.parametrize("damage", ["missing", "cut", "checksum"])
def test_a_version_that_fails_a_check_is_refused_counted_and_the_old_one_serves_on(
    tmp_path: Path, damage: str
) -> None:
    shop = Shop(tmp_path).at_work()
    before, n_refused = shop.answer(*CLICKS), metric("checkpoints_refused_total")
    announced = shop.announce(2, epoch=2)
    path = tmp_path / announced.model.name
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        announced = replace(announced, model=replace(announced.model, sha256="0" * 64))
    with pytest.raises(CheckpointError, match="refused model version 2"):
        shop.serving.serve(announced)
    assert metric("checkpoints_refused_total") == n_refused + 1
    assert shop.answer(*CLICKS) == before


def test_a_refused_first_version_leaves_the_worker_waiting(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    announced = shop.announce(1)
    with pytest.raises(CheckpointError, match="none cannot be read"):
        shop.serving.serve(replace(announced, model=replace(announced.model, name="none")))
    assert not shop.serving.is_ready()
    assert shop.serving.serve(announced)


# --------------------------------------------------------------------------------------- deltas


def test_a_delta_changes_the_next_list_of_everybody(tmp_path: Path) -> None:
    shop = Shop(tmp_path).at_work()
    n_applied = metric("deltas_applied_total")
    assert "hot" not in shop.answer(*CLICKS).items
    shop.popularise("hot")
    shop.delta()
    assert "hot" in shop.answer(*CLICKS).items
    assert shop.answer(*CLICKS).model_version == 1
    assert metric("deltas_applied_total") == n_applied + 1
    assert metric("delta_age_seconds") == 0.25


def test_a_delta_waits_for_who_computes_and_goes_before_who_comes_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, gate, order = Shop(tmp_path).at_work(), threading.Event(), list[str]()
    refresher, follow = shop.serving._refresher, refresh.Live.follow
    inner = refresher.refresh

    def process(live: refresh.Live, users: Sequence[UserWork]) -> Any:
        order.append(users[0].user)
        assert gate.wait(LIMIT_S)
        refreshed = inner(live, users)
        order.append(f"{users[0].user} is answered")
        return refreshed

    def followed(live: refresh.Live) -> None:
        order.append("delta")
        follow(live)

    monkeypatch.setattr(refresher, "refresh", process)
    monkeypatch.setattr(refresh.Live, "follow", followed)
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(shop.serving.process, [work("ann", *CLICKS)])
        until(lambda: order == ["ann"])
        delta = pool.submit(shop.delta)
        until(lambda: shop.serving._n_changing == 1)
        second = pool.submit(shop.serving.process, [work("bob", *CLICKS)])
        until(second.running)
        assert not delta.done()
        gate.set()
        for each in (first, delta, second):
            each.result(LIMIT_S)
    assert order == ["ann", "ann is answered", "delta", "bob", "bob is answered"]


def test_deltas_before_the_first_version_and_of_another_epoch_are_left_out(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.hand_over(b"not even read")
    shop.at_work()
    shop.popularise("hot")
    shop.delta(epoch=2)
    assert "hot" not in shop.answer(*CLICKS).items


def test_a_damaged_delta_is_an_error_and_lists_go_on(tmp_path: Path) -> None:
    shop = Shop(tmp_path).at_work()
    before = shop.answer(*CLICKS)
    with pytest.raises(CheckpointError):
        shop.hand_over(b"damaged")
    assert shop.answer(*CLICKS) == before


def test_the_next_checkpoint_makes_up_for_a_refused_delta(tmp_path: Path) -> None:
    shop = Shop(tmp_path).at_work()
    shop.popularise("hot")
    n_refused = metric("deltas_refused_total")
    with pytest.raises(CheckpointError):
        shop.hand_over(b"damaged")
    assert metric("deltas_refused_total") == n_refused + 1
    shop.take_delta()  # what the damaged one carried
    n_applied = metric("deltas_applied_total")
    shop.delta()  # fits, and does not carry it again
    assert "hot" not in shop.answer(*CLICKS).items
    assert metric("deltas_applied_total") == n_applied
    assert shop.serving.serve(shop.announce(2))
    shop.popularise("hotter")
    shop.delta()
    assert "hotter" in shop.answer(*CLICKS).items
    assert "hot" in shop.answer(*CLICKS).items
    assert not shop.serving.serve(shop.announce(3))


def test_a_missing_delta_is_an_error_that_only_a_newer_checkpoint_makes_up_for(
    tmp_path: Path,
) -> None:
    shop = Shop(tmp_path)
    first = shop.announce(1)
    assert shop.serving.serve(first)
    shop.delta()
    before_it = shop.announce(2)
    shop.popularise("hot")
    shop.take_delta()
    shop.sequence += 1  # it came to nobody
    with pytest.raises(CheckpointError, match="delta 3 came after 1; those after it"):
        shop.delta()
    for lacks_it in (shop.announce(3, after=first), before_it):
        assert not shop.serving.serve(lacks_it)
    shop.delta()
    assert "hot" not in shop.answer(*CLICKS).items
    assert shop.serving.serve(shop.announce(4))
    assert "hot" in shop.answer(*CLICKS).items
    shop.popularise("hotter")
    shop.delta()
    assert "hotter" in shop.answer(*CLICKS).items


def test_the_first_delta_after_a_checkpoint_is_missed_too(tmp_path: Path) -> None:
    shop = Shop(tmp_path).at_work()
    shop.sequence += 1
    with pytest.raises(CheckpointError, match="delta 2 came after 0"):
        shop.delta()


def test_deltas_after_a_refused_one_are_passed_over_without_a_word(tmp_path: Path) -> None:
    shop = Shop(tmp_path).at_work()
    for item in ("hot", "hotter"):
        shop.popularise(item)
    with pytest.raises(CheckpointError, match="those after it are left out until a checkpoint"):
        shop.hand_over(b"damaged")
    before = shop.answer(*CLICKS)
    for _ in range(3):
        shop.hand_over(b"damaged")
    shop.delta()
    assert shop.answer(*CLICKS) == before


def test_a_version_of_another_group_is_not_served(tmp_path: Path) -> None:
    shop = Shop(tmp_path).at_work()
    with pytest.raises(CheckpointError, match="announced by the group b, not headrace"):
        shop.serving.serve(replace(shop.announce(2), group="b"))
    assert shop.answer(*CLICKS).model_version == 1
    assert shop.serving.serve(replace(shop.announce(3, epoch=2), group="headrace"))
