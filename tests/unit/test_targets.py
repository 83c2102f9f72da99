"""Targets: one model lists what a user is likely to view next, and what to purchase."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from outer_loop_samples import CONFIG, PLAIN, assert_equal, new_loop, parameters, two_candidates

from headrace.model.config import OuterLoopConfig
from headrace.model.histories import Histories
from headrace.model.learning.outer_loop import OuterLoop
from headrace.model.learning.rehearsal import Tasks
from headrace.model.networks.targets import PATIENCE, Targets
from headrace.model.recommender import Adapted

VIEW, PURCHASE = 1, 4


def tasks_of(*events: tuple[int, int]) -> Tasks:
    """Return tasks with two candidates, of which only item 1 has a signal: (action, item taken)."""
    one, n = two_candidates(0, 1), len(events)
    actions, items = (np.array(column) for column in zip(*events, strict=True))
    taken = items.astype(np.int32)
    shared = ("items", "inputs", "context", "probabilities", "gradient_sums", "gradient_counts")
    repeated = {name: np.repeat(getattr(one, name), n, 0) for name in (*shared, "shares")}
    histories = Histories(*(np.repeat(column, n, 0) for column in one.histories))
    changed = {"actions": actions, "targets": taken, "positions": taken}
    return replace(one, histories=histories, **repeated, **changed)


def learned(tasks: Tasks, steps: int = 40, **config: object) -> OuterLoop:
    """Return an outer loop that took so many steps on the tasks."""
    loop = new_loop(replace(PLAIN, batch_tasks=len(tasks), **config))
    for _ in range(steps):
        loop.learn(tasks, n_items=2, rehearse=False)
    return loop


def preference(loop: OuterLoop, action: int | None = None) -> float:
    """Return by how much item 1 is scored above item 0, for an action or none in particular."""
    tasks = tasks_of((VIEW, 0))
    inputs, context = torch.from_numpy(tasks.inputs), torch.from_numpy(tasks.context)
    users = Adapted(inputs, *loop.meta.scorer_loop.initial(torch.ones(1, 1)))
    if action is not None:
        users = users.towards(loop.meta.targets, action)
    with torch.no_grad():
        scores = loop.meta.scorer(
            users.inputs, context, linear_shift=users.linear, hidden_shift=users.hidden
        )
    return float(scores[0, 1] - scores[0, 0])


BOTH = tasks_of(*[(VIEW, 0), (PURCHASE, 1)] * 32)


def test_nothing_is_told_apart_before_anything_is_learned() -> None:
    loop = new_loop()
    assert preference(loop, PURCHASE) == preference(loop, VIEW) == preference(loop)


def test_lists_for_an_action_follow_the_events_of_that_action() -> None:
    loop = learned(BOTH, scorer_lr=0.02)
    assert preference(loop, VIEW) < preference(loop) - 0.5
    assert preference(loop, PURCHASE) > preference(loop) + 0.5


def test_what_is_listed_for_no_action_does_not_know_of_any() -> None:
    loops = learned(BOTH), learned(replace(BOTH, actions=np.full(len(BOTH), VIEW)))
    assert_equal(*(parameters(loop, "scorer", "scorer_loop", "encoder") for loop in loops))
    assert not any(p.any() for p in parameters(loops[1], "targets.linear").values())


def test_action_that_is_rare_is_believed_less() -> None:
    targets = Targets(CONFIG)
    torch.nn.init.ones_(targets.linear)
    torch.nn.init.ones_(targets.hidden)
    targets.count(torch.tensor([VIEW] * PATIENCE))
    linear, hidden = targets(torch.tensor([VIEW, PURCHASE]))
    assert linear[0].tolist() == pytest.approx([0.5] * len(linear[0]))
    assert hidden[0].tolist() == pytest.approx([0.5] * len(hidden[0]))
    assert not linear[1].any()


def test_events_count_by_the_weight_of_their_action() -> None:
    heavy = [1.0] * 8
    heavy[PURCHASE] = 3.0
    even, weighed = learned(BOTH), learned(BOTH, action_weights=tuple(heavy))
    assert abs(preference(even)) < 0.05
    assert preference(weighed) > 0.2


def test_action_of_no_weight_teaches_nothing() -> None:
    none = tuple(float(i != PURCHASE) for i in range(8))
    tasks = replace(BOTH, actions=np.full(len(BOTH), PURCHASE))
    before = parameters(new_loop(replace(PLAIN, batch_tasks=len(tasks))), "scorer.")
    assert_equal(parameters(learned(tasks, action_weights=none), "scorer."), before)


def test_default_weighs_all_actions_alike() -> None:
    assert set(OuterLoopConfig().action_weights) == {1.0}
