"""Outer loop: what it keeps to rehearse, over a restart, and as items come."""

import copy
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from model_samples import count_alone, histories
from outer_loop_samples import (
    N_ITEMS,
    PLAIN,
    USERS,
    P,
    are_equal,
    assert_equal,
    new_loop,
    new_tasks,
    parameters,
    two_candidates,
    with_gradients,
)

from headrace.model.inner_loop import N_DECAYS
from headrace.model.outer_loop import OuterLoop, Replay, Tasks
from headrace.model.recommender import Recommender
from headrace.model.signals import ItemSignals

# ----------------------------------------------------------------------------------------- replay


def numbered(loop: OuterLoop, numbers: Sequence[int]) -> Tasks:
    """Return a task for each number, which stands in every part of it."""
    n = len(numbers)
    had = histories(*[[number % N_ITEMS] for number in numbers])
    had.n_events[:] = numbers
    candidates = loop.recommender.gather(had)
    signals = np.array(numbers, np.float32)[:, None, None] / 8  # exact in half precision
    return Tasks(
        had,
        candidates._replace(signals=np.broadcast_to(signals, candidates.signals.shape)),
        np.array(numbers, np.int32),
        np.array(numbers, np.int32),
        np.broadcast_to(signals, (n, N_DECAYS, P)).astype(np.float32),
        np.broadcast_to(signals[:, 0], (n, N_DECAYS)).astype(np.float32),
    )


@pytest.mark.parametrize(
    ("batches", "kept"),
    [
        ([range(3)], {0, 1, 2}),
        ([range(3), range(3, 6)], {2, 3, 4, 5}),
        ([range(3), range(3, 6), range(6, 9), range(9, 12)], {8, 9, 10, 11}),
        ([range(10)], {6, 7, 8, 9}),  # more than there is room for
    ],
)
def test_replay_keeps_the_latest_tasks_and_no_more(batches: list[range], kept: set[int]) -> None:
    loop, replay = new_loop(), Replay(4, P)
    for batch in batches:
        replay.add(numbered(loop, batch))
    assert replay.filled == len(kept)
    drawn = replay.sample(200, np.random.default_rng(0))
    assert set(drawn.targets.tolist()) == kept


def test_replayed_task_comes_back_whole() -> None:
    loop, replay = new_loop(), Replay(8, P)
    replay.add(numbered(loop, range(5)))
    drawn = replay.sample(50, np.random.default_rng(0))
    expected = numbered(loop, drawn.targets.tolist())
    for name, values in expected.histories._asdict().items():
        np.testing.assert_array_equal(getattr(drawn.histories, name), values, err_msg=name)
    np.testing.assert_array_equal(drawn.candidates.items, expected.candidates.items)
    np.testing.assert_array_equal(drawn.candidates.because, expected.candidates.because)
    np.testing.assert_array_equal(drawn.candidates.context, expected.candidates.context)
    is_candidate = drawn.candidates.items >= 0
    np.testing.assert_array_equal(
        drawn.candidates.signals[is_candidate], expected.candidates.signals[is_candidate]
    )
    np.testing.assert_array_equal(drawn.positions, expected.positions)
    np.testing.assert_array_equal(drawn.gradient_sums, expected.gradient_sums)
    np.testing.assert_array_equal(drawn.gradient_counts, expected.gradient_counts)


@pytest.mark.parametrize(("rehearse", "steps"), [(True, 1 + 3), (False, 1)])
def test_rehearsal_takes_as_many_steps_more_as_configured(rehearse: bool, steps: int) -> None:
    loop = new_loop(replace(PLAIN, replay_batches=3))
    loop.learn(new_tasks(loop), n_items=N_ITEMS, rehearse=rehearse)
    state = loop.state()
    assert state["scorer.0.step"] == state["encoder.0.step"] == steps
    assert (loop.n_tasks, loop.n_replay) == (5, 5)


# -------------------------------------------------------------------------------- restart, growth


def test_loop_restored_from_its_state_goes_on_exactly() -> None:
    loop = new_loop()
    for place in range(3):
        loop.learn(with_gradients(new_tasks(loop, place=place)), n_items=N_ITEMS, rehearse=False)
    meta = copy.deepcopy(loop.meta)
    state = {name: value.clone() for name, value in loop.state().items()}
    restored, forgetful = (
        OuterLoop(Recommender(copy.deepcopy(meta), loop.recommender.signals), PLAIN, seed=0)
        for _ in range(2)
    )
    restored.load_state(state)
    assert restored.n_tasks == loop.n_tasks == 3 * len(USERS)
    tasks = with_gradients(new_tasks(loop, place=3))
    for each in (loop, restored, forgetful):
        each.learn(tasks, n_items=N_ITEMS, rehearse=False)
    assert_equal(parameters(restored), parameters(loop))
    assert not are_equal(parameters(forgetful), parameters(loop))  # the moments matter


def test_restart_keeps_the_mean_of_what_is_no_longer_in_the_replay() -> None:
    young = replace(PLAIN, standardise_until=100)
    loop = new_loop(young)
    loop.learn(two_candidates(2, 0), n_items=N_ITEMS, rehearse=False)
    restored = OuterLoop(loop.recommender, young, seed=0)
    restored.load_state(loop.state())
    restored.learn(two_candidates(8, 0), n_items=N_ITEMS, rehearse=False)
    assert restored.meta.scorer.mean[0] == pytest.approx(1)  # of 2 and 0; the second step's is 4


def test_state_of_a_loop_that_took_no_step_can_be_restored() -> None:
    loop = new_loop()
    loop.load_state(new_loop().state())
    assert loop.n_tasks == 0
    assert math.isfinite(loop.learn(new_tasks(loop), n_items=N_ITEMS))


def test_growth_keeps_old_embeddings_and_teaches_the_new_ones() -> None:
    loop = new_loop()
    loop.learn(new_tasks(loop), n_items=N_ITEMS)
    items, bias = loop.meta.encoder.items.detach().clone(), loop.meta.encoder.bias.detach().clone()
    loop.grow(N_ITEMS + 10)
    assert loop.meta.capacity == N_ITEMS + 10
    assert torch.equal(loop.meta.encoder.items[:N_ITEMS], items)
    assert torch.equal(loop.meta.encoder.bias[:N_ITEMS], bias)
    new = np.full(len(USERS), N_ITEMS + 3, np.int32)
    tasks = replace(new_tasks(loop), targets=new, positions=np.full_like(new, -1))
    loop.learn(tasks, n_items=N_ITEMS + 10, rehearse=False)
    # Adam's first step is the learning rate; the loss falls with the bias of the event's item.
    assert loop.meta.encoder.bias[N_ITEMS + 3].item() == pytest.approx(PLAIN.encoder_lr, rel=1e-3)


# -------------------------------------------------------------------------------------- negatives


def test_half_of_the_negatives_are_drawn_by_popularity_and_half_evenly() -> None:
    loop = new_loop()
    loop.recommender.signals = ItemSignals(4, capacity=N_ITEMS)
    count_alone(loop.recommender.signals, 7, times=3)
    loop.choose_negatives(N_ITEMS)
    negatives = loop.meta.negatives.tolist()
    assert negatives[:4] == [7] * 4
    assert len(set(negatives[4:])) > 1
    assert all(0 <= item < N_ITEMS for item in negatives)


def test_negatives_have_an_embedding() -> None:
    loop = new_loop()
    loop.recommender.signals.reserve(10 * N_ITEMS)
    loop.choose_negatives(10 * N_ITEMS)  # more items are in use than there are embeddings
    assert loop.meta.negatives.max() == N_ITEMS - 1


def test_negatives_stay_while_there_are_no_items() -> None:
    loop = new_loop()
    loop.choose_negatives(0)
    assert loop.meta.negatives.tolist() == list(range(8))


def test_forgotten_item_leaves_neither_embedding_nor_rehearsal_to_the_next() -> None:
    loop = new_loop()
    loop.learn(new_tasks(loop), n_items=N_ITEMS)
    loop.meta.encoder.bias.data += 1.0
    before = loop.meta.encoder.items.detach().clone()
    loop.forget(np.array([2, N_ITEMS + 5]))  # the second never had an embedding
    changed = (loop.meta.encoder.items != before).any(1)
    assert changed.nonzero().flatten().tolist() == [2]
    assert (loop.meta.encoder.bias == 0).nonzero().flatten().tolist() == [2]
    assert loop.n_replay == 0
