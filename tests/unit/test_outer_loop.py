"""Outer loop: its steps, its rehearsal, and how it goes on after a restart."""

import copy
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from model_samples import count_alone, count_user, histories
from torch import Tensor, nn
from torch.nn import functional as F

from headrace.model.candidates import N_CONTEXTS, N_SIGNALS, Candidates
from headrace.model.config import ModelConfig
from headrace.model.inner_loop import N_DECAYS, GradientSums, n_scorer_weights
from headrace.model.outer_loop import STANDARDISE_EVERY, OuterLoop, OuterLoopConfig, Replay, Tasks
from headrace.model.recommender import MetaParameters, Recommender, position_of
from headrace.model.signals import ItemSignals

CONFIG = ModelConfig(width=4, heads=2, length=6, hidden=5, inner_steps=2, negatives=8)
P = n_scorer_weights(CONFIG)
N_ITEMS = 30
USERS = ([3, 1, 4, 1, 5], [2, 8], [9, 2, 6], [5, 3, 5], [7, 7, 1])
# One task, one step: nothing drawn at random, and inputs that are not standardised meanwhile.
PLAIN = OuterLoopConfig(gradient_dropout=0, standardise_until=0)


def new_loop(config: OuterLoopConfig = PLAIN, *, seed: int = 0) -> OuterLoop:
    """Return an outer loop over a stream drawn at random; equal seeds make equal loops."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(0)
    signals = ItemSignals(8, capacity=N_ITEMS)
    for _ in range(20):
        count_user(signals, rng.integers(0, N_ITEMS, 6).tolist())
    meta = MetaParameters(CONFIG, capacity=N_ITEMS)
    nn.init.normal_(meta.scorer_loop.write.weight, std=0.1)
    meta.negatives.copy_(torch.arange(8))
    return OuterLoop(Recommender(meta, signals), config, seed=seed)


def new_tasks(loop: OuterLoop, users: Sequence[Sequence[int]] = USERS, *, place: int = 1) -> Tasks:
    """Return a task for each user: the event is of the candidate in that place."""
    had = histories(*users)
    candidates = loop.recommender.gather(had)
    targets = candidates.items[:, place].copy()
    n = len(users)
    return Tasks(
        had,
        candidates,
        targets,
        position_of(candidates.items, targets).astype(np.int32),
        np.zeros((n, N_DECAYS, P), np.float32),
        np.zeros((n, N_DECAYS), np.float32),
    )


def with_gradients(tasks: Tasks) -> Tasks:
    """Return the tasks of users of whom five events were judged before."""
    rng = np.random.default_rng(0)
    sums = rng.normal(size=tasks.gradient_sums.shape).astype(np.float32)
    counts = np.full_like(tasks.gradient_counts, 5)
    return replace(tasks, gradient_sums=sums, gradient_counts=counts)


def two_candidates(*signals: float) -> Tasks:
    """Return one task of which the second item is the event's; they differ in the first signal."""
    values = np.zeros((1, 2, N_SIGNALS), np.float32)
    values[0, :, 0] = signals
    items = np.array([[0, 1]], np.int32)
    return Tasks(
        histories([2]),
        Candidates(items, values, np.zeros((1, N_CONTEXTS), np.float32), np.full_like(items, -1)),
        np.array([1], np.int32),
        np.array([1], np.int32),
        np.zeros((1, N_DECAYS, P), np.float32),
        np.zeros((1, N_DECAYS), np.float32),
    )


def item_loss(loop: OuterLoop, tasks: Tasks) -> float:
    """Return the cross-entropy of the adapted users' vectors over all items, in nats."""
    recommender, encoder = loop.recommender, loop.meta.encoder
    with torch.no_grad():
        prepared = recommender.prepare(tasks.histories, tasks.candidates)
        sums = GradientSums(*map(torch.from_numpy, (tasks.gradient_sums, tasks.gradient_counts)))
        user = prepared.encoded.latest + recommender.adapt(prepared, sums).user
        logits = user @ encoder.items.T + encoder.bias
        return float(F.cross_entropy(logits, torch.from_numpy(tasks.targets).long()))


def parameters(loop: OuterLoop, *parts: str) -> dict[str, Tensor]:
    """Return a copy of the meta-parameters, of some parts or of all."""
    return {
        name: value.detach().clone()
        for name, value in loop.meta.named_parameters()
        if not parts or name.split(".")[0] in parts
    }


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    """Equal to the bit."""
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def are_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Return whether no parameter differs."""
    return all(torch.equal(value, other[name]) for name, value in one.items())


# ------------------------------------------------------------------------------------------ steps


def test_first_step_moves_a_weight_by_the_learning_rate_towards_what_was_chosen() -> None:
    # The other candidate had more of the first signal, so its weight falls: Adam's first step is
    # the learning rate. No other signal tells the two apart.
    loop = new_loop(replace(PLAIN, scorer_lr=0.25))
    nn.init.zeros_(loop.meta.encoder.items)  # nor does the affinity
    before = loop.meta.scorer.linear.tolist()
    loop.learn(two_candidates(2, 0), n_items=N_ITEMS, rehearse=False)
    moved = [after - b for after, b in zip(loop.meta.scorer.linear.tolist(), before, strict=True)]
    assert moved == pytest.approx([-0.25] + [0] * (len(before) - 1), abs=1e-6)


def test_query_loss_is_that_before_the_step() -> None:
    loop = new_loop()
    nn.init.zeros_(loop.meta.encoder.items)
    # Scores 0.2 and 0: the event's item had the probability 1 / (1 + e^0.2).
    loss = loop.learn(two_candidates(2, 0), n_items=N_ITEMS, rehearse=False)
    assert loss == pytest.approx(math.log1p(math.exp(0.2)), rel=1e-5)


def test_each_step_on_a_repeated_batch_lowers_both_losses() -> None:
    loop = new_loop()
    tasks = with_gradients(new_tasks(loop))
    item_losses, query_losses = [item_loss(loop, tasks)], []
    for _ in range(8):
        query_losses.append(loop.learn(tasks, n_items=N_ITEMS, rehearse=False))
        item_losses.append(item_loss(loop, tasks))
    assert query_losses == sorted(query_losses, reverse=True)
    assert item_losses == sorted(item_losses, reverse=True)
    assert query_losses[-1] < query_losses[0] - 0.01


def test_orders_take_different_steps_of_the_encoder_and_the_same_of_the_scorer() -> None:
    loops = [new_loop(replace(PLAIN, first_order=first_order)) for first_order in (True, False)]
    for loop in loops:
        loop.learn(with_gradients(new_tasks(loop)), n_items=N_ITEMS, rehearse=False)
    first, second = (loop.meta.encoder.items.grad for loop in loops)
    assert first is not None
    assert second is not None
    assert (first - second).abs().max() > 0.01 * first.abs().max()
    scorers = [parameters(loop, "scorer", "scorer_loop") for loop in loops]
    assert_equal(*scorers)


def test_only_missed_items_leave_the_scorer_and_teach_the_encoder() -> None:
    loop = new_loop()
    tasks = replace(new_tasks(loop), positions=np.full(len(USERS), -1, np.int32))
    scorer, encoder = parameters(loop, "scorer", "scorer_loop"), parameters(loop, "encoder")
    assert math.isnan(loop.learn(tasks, n_items=N_ITEMS, rehearse=False))
    assert_equal(parameters(loop, "scorer", "scorer_loop"), scorer)
    assert not are_equal(parameters(loop, "encoder"), encoder)


@pytest.mark.parametrize("users", [[[], []], [[-1, 4], [-1]]])
def test_user_without_a_known_last_item_teaches_the_encoder_nothing(
    users: list[list[int]],
) -> None:
    loop = new_loop()
    loop.recommender.signals.refresh_popular(N_ITEMS)
    before = parameters(loop, "encoder", "user_loop")
    loss = loop.learn(new_tasks(loop, users), n_items=N_ITEMS, rehearse=False)
    assert math.isfinite(loss)
    assert_equal(parameters(loop, "encoder", "user_loop"), before)


def test_unknown_item_teaches_nothing() -> None:
    loop = new_loop()
    unknown = np.full(len(USERS), -1, np.int32)
    before = parameters(loop)
    tasks = replace(new_tasks(loop), targets=unknown, positions=unknown)
    loop.learn(tasks, n_items=N_ITEMS, rehearse=False)
    assert_equal(parameters(loop), before)


def test_sample_of_a_large_catalogue_lowers_the_loss_over_all_of_it() -> None:
    loop = new_loop(replace(PLAIN, full_softmax_items=8, encoder_lr=0.01))
    tasks = new_tasks(loop)
    before = item_loss(loop, tasks)
    for _ in range(30):
        loop.learn(tasks, n_items=N_ITEMS, rehearse=False)
    assert item_loss(loop, tasks) < before - 0.5


# --------------------------------------------------------------------------- dropout of gradients


def step_with(dropout: float, *, has_gradients: bool) -> dict[str, Tensor]:
    """Return the scorer after one step on users with judged events, or as if they had none."""
    loop = new_loop(replace(PLAIN, gradient_dropout=dropout))
    tasks = new_tasks(loop)
    loop.learn(with_gradients(tasks) if has_gradients else tasks, n_items=N_ITEMS, rehearse=False)
    return parameters(loop, "scorer", "scorer_loop")


def test_dropped_gradients_train_as_if_the_users_were_new() -> None:
    assert_equal(step_with(1, has_gradients=True), step_with(0, has_gradients=False))


def test_kept_gradients_change_the_step() -> None:
    kept, none = step_with(0, has_gradients=True), step_with(0, has_gradients=False)
    assert not are_equal(kept, none)
    assert not are_equal(step_with(0.5, has_gradients=True), kept)


# --------------------------------------------------------------------------------- standardisation


def test_inputs_are_standardised_by_the_tasks_kept() -> None:
    loop = new_loop(replace(PLAIN, standardise_until=100))
    loop.learn(two_candidates(2, 0), n_items=N_ITEMS, rehearse=False)
    mean, std = loop.meta.scorer.mean, loop.meta.scorer.std
    assert mean[0] == pytest.approx(1)
    assert std[0] == pytest.approx(1, rel=0.01)  # of a sample of 256, half of it 2, half 0
    assert mean[1] == 0
    assert std[1] == pytest.approx(0.05)  # never less: what never varied must not explode


def test_mean_stands_still_between_and_after() -> None:
    loop = new_loop(replace(PLAIN, standardise_until=STANDARDISE_EVERY))
    for signal in (2, *[4] * STANDARDISE_EVERY):
        loop.learn(two_candidates(signal, 0), n_items=N_ITEMS, rehearse=False)
        assert loop.meta.scorer.mean[0] == pytest.approx(1)  # of the first step, as task 1 of 20
    assert loop.n_tasks == STANDARDISE_EVERY + 1


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
