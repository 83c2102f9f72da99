"""Outer loop: what it keeps to rehearse, over a restart, and as items come."""

import copy
import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from model_samples import count_alone
from outer_loop_samples import (
    N_ITEMS,
    PLAIN,
    USERS,
    are_equal,
    assert_equal,
    new_loop,
    new_tasks,
    parameters,
    two_candidates,
    with_gradients,
)
from torch import nn

from headrace.model.counts.signals import ItemSignals
from headrace.model.learning.outer_loop import OuterLoop
from headrace.model.recommender import Recommender

# -------------------------------------------------------------------------------------- rehearsal


@pytest.mark.parametrize(("rehearse", "steps"), [(True, 4), (False, 1)])
def test_rehearsal_takes_as_many_steps_more_as_configured(rehearse: bool, steps: int) -> None:
    # Eight new tasks make one batch; with three rehearsed for each new one, they make four.
    loop = new_loop(replace(PLAIN, replay_batches=3, batch_tasks=8))
    loop.learn(new_tasks(loop, [[1, 2]] * 8), n_items=N_ITEMS, rehearse=rehearse)
    state = loop.state()
    assert state["scorer.0.step"] == state["encoder.0.step"] == steps
    assert (loop.n_tasks, loop.n_rehearsed) == (8, 8)


def test_no_step_is_due_before_a_batch_is_new() -> None:
    loop = new_loop(replace(PLAIN, replay_batches=1, batch_tasks=8))
    before = parameters(loop)
    assert math.isnan(loop.learn(new_tasks(loop, [[1, 2]] * 3), n_items=N_ITEMS))
    assert_equal(parameters(loop), before)
    assert math.isfinite(loop.learn(new_tasks(loop, [[1, 2]] * 1), n_items=N_ITEMS))
    assert not are_equal(parameters(loop), before)


def test_version_takes_the_step_that_is_not_due_yet_and_no_other() -> None:
    loop = new_loop(replace(PLAIN, batch_tasks=8))
    loop.learn(new_tasks(loop, [[1, 2]] * 3), n_items=N_ITEMS, rehearse=False)
    before = parameters(loop)
    loop.serve_version(N_ITEMS)
    after = parameters(loop)
    assert not are_equal(after, before)
    loop.serve_version(N_ITEMS)
    assert_equal(parameters(loop), after)


def test_what_is_published_moves_with_deltas_and_versions_only() -> None:
    loop = new_loop()
    before = loop.served.meta.state_dict()
    learn = partial(loop.learn, n_items=N_ITEMS, rehearse=False)
    learn(new_tasks(loop))
    torch.testing.assert_close(loop.served.meta.state_dict(), before)
    loop.serve_delta()
    torch.testing.assert_close(loop.served.meta.small_state(), loop.meta.small_state())
    assert not torch.equal(loop.served.meta.encoder.items, loop.meta.encoder.items)
    loop.serve_version(N_ITEMS)
    torch.testing.assert_close(loop.served.meta.state_dict(), loop.meta.state_dict())


def test_scorer_learns_from_inputs_as_they_were_judged() -> None:
    # What the encoder has learned since must not change what the scorer is told of old tasks.
    losses = []
    for value in (0.0, 3.0):
        loop = new_loop()
        tasks = new_tasks(loop)
        nn.init.constant_(loop.meta.encoder.bias, value)
        nn.init.normal_(loop.meta.encoder.items, std=1 + value)
        losses.append(loop.learn(tasks, n_items=N_ITEMS, rehearse=False))
    assert losses[0] == losses[1]


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
    loop = new_loop(replace(PLAIN, batch_tasks=len(USERS)))
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


def test_an_item_at_the_index_of_another_does_not_go_on_where_that_one_was_led() -> None:
    loop = new_loop(replace(PLAIN, batch_tasks=len(USERS)))
    tasks = new_tasks(loop)
    loop.learn(tasks, n_items=N_ITEMS, rehearse=False)
    index, other = int(tasks.targets[0]), int(tasks.targets[-1])
    assert index != other
    optimiser = loop._optimisers["encoder"]
    moments = [
        optimiser.state[rows][name]
        for rows in (loop.meta.encoder.items, loop.meta.encoder.bias)
        for name in ("exp_avg", "exp_avg_sq")
    ]
    assert all(moment[index].any() and moment[other].any() for moment in moments)
    loop.start_anew(np.array([index]))
    assert not any(moment[index].any() for moment in moments)
    assert all(moment[other].any() for moment in moments)


# -------------------------------------------------------------------------------------- negatives


def test_half_of_the_negatives_are_drawn_by_popularity_and_half_evenly() -> None:
    loop = new_loop()
    loop.recommender.signals = ItemSignals(4, capacity=N_ITEMS)
    count_alone(loop.recommender.signals, 7, times=3)
    loop.serve_version(N_ITEMS)
    negatives = loop.meta.negatives.tolist()
    assert negatives[:4] == [7] * 4
    assert len(set(negatives[4:])) > 1
    assert all(0 <= item < N_ITEMS for item in negatives)


def test_negatives_have_an_embedding() -> None:
    loop = new_loop()
    loop.recommender.signals.reserve(10 * N_ITEMS)
    loop.serve_version(10 * N_ITEMS)  # more items are in use than there are embeddings
    assert loop.meta.negatives.max() < N_ITEMS
    assert loop.meta.n_items == N_ITEMS


def test_version_takes_the_residuals_over() -> None:
    loop = new_loop()
    tasks = new_tasks(loop, [[1, 2]] * 3)
    loop.learn(tasks, n_items=N_ITEMS, rehearse=False)
    assert not loop.meta.residual.any()
    loop.serve_version(N_ITEMS)
    residual = loop.meta.residual
    taken = int(tasks.targets[0])
    p = float(tasks.probabilities[0, tasks.positions[0]])
    assert residual[taken].item() == pytest.approx(math.log((0.5 + 3) / (0.5 + 3 * p)), rel=1e-3)
    others = [item for item in tasks.items[0].tolist() if item not in (-1, taken)]
    assert (residual[others] < 0).all()


def test_negatives_stay_while_there_are_no_items() -> None:
    loop = new_loop()
    loop.serve_version(0)
    assert loop.meta.negatives.tolist() == list(range(8))


def test_forgotten_item_leaves_neither_embedding_nor_rehearsal_to_the_next() -> None:
    loop = new_loop()
    loop.learn(new_tasks(loop), n_items=N_ITEMS)
    loop.meta.encoder.bias.data += 1.0
    before = loop.meta.encoder.items.detach().clone()
    loop.forget(np.array([2, N_ITEMS + 5]), n_items=N_ITEMS)  # the second never had an embedding
    changed = (loop.meta.encoder.items != before).any(1)
    assert changed.nonzero().flatten().tolist() == [2]
    assert (loop.meta.encoder.bias == 0).nonzero().flatten().tolist() == [2]
    assert loop.n_rehearsed == 0
