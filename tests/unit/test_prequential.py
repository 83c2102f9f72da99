"""Judging before applying: each event sees exactly what came before it, however it is batched."""

import numpy as np
import pytest
import torch
from stream_samples import copies, drawn, event, folded, learned, state_of

from headrace.model.config import MOST_REMEMBERED, REMEMBERED
from headrace.model.networks.inner_loop import GRADIENT_DECAYS, N_DECAYS
from headrace.model.ranking_metrics import MISS
from headrace.model.recommender import Judgement
from headrace.model.vocabulary import Vocabulary
from headrace.streams.actions import ACTIONS
from headrace.streams.learn.learner import Learner
from headrace.streams.prequential import (
    accumulate,
    fold,
    gradient_sums,
    histories_of,
    judge,
    lists_for,
    prepare,
)
from headrace.streams.records import Event
from headrace.streams.state import UserState

A, B, C = range(3)
VOCABULARY = Vocabulary(16, ["a", "b", "c"])
SHORT, LONG = GRADIENT_DECAYS


@pytest.fixture(scope="module")
def learner() -> Learner:
    """Return a learner that has seen some users."""
    return learned(drawn(300))


def new_events(n_users: int) -> list[tuple[int, int, Event]]:
    """Return several events of each user, interleaved, in the order of a micro-batch."""
    stream = drawn(40, n_users=n_users, seed=1)
    return [(int(key.split("-")[1]), 1000 + offset, one) for key, offset, one in stream]


# ------------------------------------------------------------------------------------------ fold


def test_each_event_of_a_micro_batch_has_the_history_before_it() -> None:
    states = [UserState(), state_of(event("bob", "c", 0))]
    events = [
        (0, 5, event("ann", "a", 1)),
        (1, 6, event("bob", "b", 2)),
        (0, 7, event("ann", "b", 3)),
        (0, 8, event("ann", "c", 4)),
    ]
    result = fold(states, events, VOCABULARY, history_length=100)
    assert result.before.items[:, :3].tolist() == [
        [-1, -1, -1],
        [C, -1, -1],
        [A, -1, -1],
        [B, A, -1],
    ]
    assert result.before.n_events.tolist() == [0, 1, 1, 2]
    assert result.after.items[:, :3].tolist() == [[C, B, A], [B, C, -1]]
    assert result.targets.tolist() == [A, B, B, C]
    assert result.owners.tolist() == [0, 1, 0, 0]
    assert np.diff(result.times_s).tolist() == [60, 60, 60]
    assert [state.last_offset for state in states] == [8, 6]


@pytest.mark.parametrize("action", ["impression", "return", "refresh"])
def test_what_was_shown_or_undone_is_no_interaction(action: str) -> None:
    state = state_of(event("ann", "a"))
    events = [(0, 5, event("ann", "b", 1, action=action)), (0, 6, event("ann", "c", 2))]
    result = fold([state], events, VOCABULARY, history_length=100)
    assert result.targets.tolist() == [-1, C]
    assert result.is_task.tolist() == [False, True]
    assert result.before.items[:, 0].tolist() == [A, A]
    assert (state.items, state.n_events, state.last_offset) == (["a", "c"], 2, 6)


def test_what_was_published_twice_under_its_id_is_one_interaction_and_one_task() -> None:
    state, took = state_of(event("ann", "a")), event("ann", "b", 1, event_id="e1")
    events = [(0, 5, took), (0, 6, event("ann", "c", 2)), (0, 7, took)]
    result = fold([state], events, VOCABULARY, history_length=100)
    assert result.targets.tolist() == [B, C, -1]
    assert result.is_task.tolist() == [True, True, False]
    assert result.after.items[0, :4].tolist() == [C, B, A, -1]
    assert (result.after.n_events.tolist(), state.last_offset) == ([3], 7)


def test_a_repeat_of_the_last_item_is_counted_but_is_no_task() -> None:
    events = [(0, at, event("ann", item, at)) for at, item in enumerate("aaba")]
    result = fold([UserState()], events, VOCABULARY, history_length=100)
    assert result.targets.tolist() == [A, A, B, A]
    assert result.is_task.tolist() == [True, False, True, True]
    assert result.after.n_repeats.tolist() == [2]


def test_a_repeat_is_a_task_where_repeats_are_judged() -> None:
    events = [(0, at, event("ann", item, at)) for at, item in enumerate("aaba")]
    result = fold([UserState()], events, VOCABULARY, history_length=100, with_repeats=True)
    assert result.is_task.tolist() == [True, True, True, True]


def test_only_the_latest_of_many_events_of_one_user_are_tasks() -> None:
    states = [UserState(), UserState()]
    events = [(0, at, event("bot", item, at)) for at, item in enumerate("abcab")]
    events.insert(2, (1, 9, event("ann", "c", 2)))
    result = fold(states, events, VOCABULARY, history_length=100, most_tasks=2)
    assert result.owners.tolist() == [0, 0, 1, 0, 0, 0]
    assert result.is_task.tolist() == [False, False, True, False, True, True]
    assert result.after.n_events.tolist() == [5, 1]


def test_items_without_an_index_are_unknown_in_targets_and_histories() -> None:
    events = [(0, 0, event("ann", "new")), (0, 1, event("ann", "a", 1))]
    result = fold([UserState()], events, VOCABULARY, history_length=100)
    assert result.targets.tolist() == [-1, A]
    assert result.is_task.tolist() == [True, True]
    assert result.after.items[0, :3].tolist() == [A, -1, -1]


def test_actions_are_known_by_position_and_unknown_ones_are_other() -> None:
    actions = ["cart", "purchase", "waved"]
    events = [(0, at, event("ann", "a", at, action=act)) for at, act in enumerate(actions)]
    result = fold([UserState()], events, VOCABULARY, history_length=100)
    assert [ACTIONS[i] for i in result.after.actions[0, :3]] == ["other", "purchase", "add_to_cart"]


def test_the_model_sees_the_newest_of_a_longer_history() -> None:
    n = MOST_REMEMBERED
    long = state_of(*(event("ann", "a", at) for at in range(n)), event("ann", "b", n), length=2 * n)
    short = state_of(event("bob", "c", 0))
    events = [(0, n + 1, event("ann", "c", n + 1)), (1, n + 2, event("bob", "a", n + 2))]
    result = fold([long, short], events, VOCABULARY, history_length=2 * n)
    assert result.before.items[0].tolist() == [B] + [A] * (n - 1)
    assert result.after.items.tolist() == [
        [C, B] + [A] * (n - 2),
        [A, C] + [-1] * (n - 2),
    ]
    assert result.after.n_events.tolist() == [n + 2, 2]


def test_histories_are_as_wide_as_usual_until_one_is_longer() -> None:
    widths = []
    usual, most = REMEMBERED, MOST_REMEMBERED
    for n, length in (
        (1, most),
        (usual, usual),
        (usual, most),
        (usual + 5, most),
        (most, 2 * most),
    ):
        state = state_of(*(event("ann", "a", at) for at in range(n)), length=length)
        result = fold([state], [(0, n, event("ann", "b", n))], VOCABULARY, history_length=length)
        assert result.before.items.shape == result.after.items.shape
        widths.append(result.after.items.shape[1])
    assert widths == [usual, usual, usual + 1, usual + 6, most]


def test_histories_of_several_users_are_as_wide_as_the_longest() -> None:
    n = REMEMBERED + 5
    long = state_of(*(event("ann", "a", at) for at in range(n)), length=MOST_REMEMBERED)
    short = state_of(event("bob", "c", 0))
    for states in ([long, short], [short, long, short]):
        assert histories_of(states, VOCABULARY).items.shape == (len(states), n)


def test_the_model_sees_no_more_than_the_state_keeps() -> None:
    state = state_of(event("ann", "a", 0), event("ann", "b", 1))
    events = [(0, n, event("ann", item, n)) for n, item in enumerate("cab", 2)]
    result = fold([state], events, VOCABULARY, history_length=2)
    assert result.before.items[:, :3].tolist() == [[B, A, -1], [C, B, -1], [A, C, -1]]
    assert result.after.items[:, :3].tolist() == [[B, A, -1]]
    assert state.items == ["a", "b"]


def test_nothing_folded_is_nothing_to_judge(learner: Learner) -> None:
    states = [UserState()]
    result = folded(learner, states, [])
    assert judge(learner.recommender, result, states) is None
    assert result.after.n_events.tolist() == [0]


# ----------------------------------------------------------------------------------------- judge


def hand_made(*ranks: int) -> Judgement:
    """Return a judgement whose first gradient is 1, whose second is 2 and so on."""
    gradients = np.arange(1, len(ranks) + 1, dtype=np.float32)[:, None]
    gradients[np.array(ranks) == MISS] = 0
    n = len(ranks)
    return Judgement(np.array(ranks), np.zeros(n, np.int64), np.ones((n, 1), np.float32), gradients)


def test_each_task_has_the_sums_of_exactly_the_events_before_it() -> None:
    states, owners = [UserState(), UserState()], np.array([0, 1, 0, 0])
    sums, counts = accumulate(states, owners, hand_made(1, 1, 1, 1))
    before_last = [1 * SHORT + 3, 1 * LONG + 3]  # gradients 1 and 3 are the first user's
    np.testing.assert_allclose(sums[..., 0], [[0, 0], [0, 0], [1, 1], before_last], rtol=1e-6)
    np.testing.assert_allclose(counts, [[0, 0], [0, 0], [1, 1], [SHORT + 1, LONG + 1]], rtol=1e-6)
    after = [before_last[0] * SHORT + 4, before_last[1] * LONG + 4]
    assert states[0].gradients is not None
    np.testing.assert_allclose(states[0].gradients[:, 0], after, rtol=1e-6)
    np.testing.assert_allclose(states[1].gradients, np.full((N_DECAYS, 1), 2.0))


def test_a_miss_leaves_the_sums_as_they_are() -> None:
    state = UserState()
    _, counts = accumulate([state], np.array([0, 0, 0]), hand_made(1, MISS, 1))
    assert counts[1].tolist() == counts[2].tolist() == [1, 1]
    np.testing.assert_allclose(state.n_judged, [SHORT + 1, LONG + 1], rtol=1e-6)


def test_a_micro_batch_is_judged_as_its_events_one_at_a_time(learner: Learner) -> None:
    states = copies(list(learner.users.values())[:3])
    alone, events = copies(states), new_events(3)
    together = judge(learner.recommender, folded(learner, states, events), states)
    singles = [judge(learner.recommender, folded(learner, alone, [one]), alone) for one in events]
    tasks = [single for single in singles if single is not None]
    assert together is not None
    assert len(together.tasks) == len(tasks) > 20
    assert together.judgement.ranks.tolist() == [int(t.judgement.ranks[0]) for t in tasks]
    np.testing.assert_allclose(
        together.tasks.gradient_sums,
        np.concatenate([t.tasks.gradient_sums for t in tasks]),
        rtol=1e-4,
        atol=1e-5,
    )
    for one, other in zip(states, alone, strict=True):
        assert one.gradients is not None
        assert one.n_judged is not None
        np.testing.assert_allclose(one.gradients, other.gradients, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(one.n_judged, other.n_judged, rtol=1e-6)


def test_one_pass_over_before_and_after_prepares_what_two_do(learner: Learner) -> None:
    kinds = [
        event("ann", "unheard of", 1),
        event("ann", "item-1", 2),
        event("ann", "item-1", 3),  # a repeat is no task
        event("bob", "item-2", 4, action="impression"),
    ]
    known = copies(list(learner.users.values())[:3])
    states = [*known, UserState(), UserState()]
    events = [*new_events(3), *((3 + (e.user == "bob"), 10**6 + i, e) for i, e in enumerate(kinds))]
    result = folded(learner, states, events)
    model = learner.recommender
    together = prepare(model, result)
    with torch.no_grad():
        apart = [model.prepare(h) for h in (result.tasks_before(), result.after)]
    assert not result.is_task.all()
    assert len(apart[0].items) > 20
    for one, other in zip(together, apart, strict=True):
        n = other.items.shape[1]
        assert (one.candidates.items[:, n:] == -1).all()
        np.testing.assert_array_equal(one.candidates.items[:, :n], other.candidates.items)
        torch.testing.assert_close(one.signals[:, :n], other.signals)
        torch.testing.assert_close(one.context, other.context)
        torch.testing.assert_close(one.encoded, other.encoded)
    given = judge(model, result, copies(states), together[0])
    alone = judge(model, result, copies(states))
    assert given is not None
    assert alone is not None
    np.testing.assert_allclose(given.judgement.gradients, alone.judgement.gradients, atol=1e-5)


def test_before_any_outer_step_the_adapted_user_ranks_as_the_frozen_one() -> None:
    untrained = Learner(learned([]).settings.model_copy(update={"inner_steps": 0}))
    stream = drawn(40)
    untrained.assortment.admit([one for _, _, one in stream])
    states, result = untrained.fold(stream)
    untrained.count(result, slice(None))
    judged = judge(untrained.recommender, result, states)
    assert judged is not None
    assert (
        lists_for(untrained.recommender, judged, length=20).ranks.tolist()
        == judged.judgement.ranks.tolist()
    )
    assert (judged.judgement.ranks < MISS).any()


def test_sums_of_a_model_of_another_shape_are_left_out(learner: Learner) -> None:
    fits = next(s for s in learner.users.values() if s.gradients is not None)
    other = UserState(
        gradients=np.ones((N_DECAYS, 3), np.float32), n_judged=np.ones(N_DECAYS, np.float32)
    )
    result = gradient_sums(learner.recommender, [other, fits, UserState()])
    assert result.counts[0].tolist() == result.counts[2].tolist() == [0, 0]
    assert result.counts[1].tolist() == pytest.approx(fits.n_judged)
    assert not result.sums[0].any()


def test_sums_of_a_model_of_another_shape_are_started_over() -> None:
    state = UserState(
        gradients=np.ones((N_DECAYS, 3), np.float32), n_judged=np.ones(N_DECAYS, np.float32)
    )
    gradients = np.full((1, 5), 2.0, np.float32)
    hit = Judgement(np.array([1]), np.array([0]), np.ones((1, 1), np.float32), gradients)
    sums, counts = accumulate([state], np.array([0]), hit)
    assert not sums.any()
    assert not counts.any()
    assert state.gradients is not None
    assert state.gradients.tolist() == [[2.0] * 5] * N_DECAYS


@pytest.mark.parametrize("diversity", [0.0, 0.6])
def test_an_event_stands_where_the_list_would_have_shown_its_item(diversity: float) -> None:
    learner = learned(drawn(200))
    stream = [(user, at + 1_000, one) for user, at, one in drawn(60, seed=1)]
    states, result = learner.fold(stream)
    judged = judge(learner.served, result, states)
    assert judged is not None
    lists = lists_for(learner.served, judged, length=5, diversity=diversity)
    shown = 0
    for target, rank, items in zip(judged.tasks.targets, lists.ranks, lists.items, strict=True):
        assert len(set(items.tolist())) == 5
        if target in items:
            assert items[rank - 1] == target
            shown += 1
        else:
            assert rank > 5
    assert 0 < shown < len(lists.ranks)
