"""Outer loop: its steps, whose gradients they see, and how inputs are standardised."""

import math
from dataclasses import replace

import numpy as np
import pytest
from outer_loop_samples import (
    N_ITEMS,
    PLAIN,
    USERS,
    are_equal,
    assert_equal,
    item_loss,
    new_loop,
    new_tasks,
    parameters,
    two_candidates,
    with_gradients,
)
from torch import Tensor, nn

from headrace.model.counts.tenure import N_TENURE_SIGNALS
from headrace.model.learning.outer_loop import (
    LATE_MEASUREMENTS,
    LEAST_STD,
    STANDARDISE_EVERY,
    OuterLoop,
)
from headrace.model.networks.scorer import Scorer

SCORER = ("scorer", "scorer_loop")


def gradient_norm(loop: OuterLoop, part: str) -> float:
    """Return the norm of the latest gradient of a part of the meta-parameters."""
    module = loop.meta.get_submodule(part)
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    return math.hypot(*(gradient.norm().item() for gradient in gradients))


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


def test_what_stood_first_teaches_the_scorer_too() -> None:
    loop = new_loop()
    nn.init.zeros_(loop.meta.encoder.items)
    first = np.zeros(1, np.int32)
    tasks = replace(two_candidates(2, 0), targets=first, positions=first)
    loss = loop.learn(tasks, n_items=N_ITEMS, rehearse=False)
    assert loss == pytest.approx(math.log1p(math.exp(-0.2)), rel=1e-5)


def test_a_gradient_that_is_not_finite_moves_nothing_and_the_next_one_does() -> None:
    loop = new_loop()
    tasks = with_gradients(new_tasks(loop))
    before = parameters(loop, *SCORER)
    leaf = loop.meta.scorer.last.weight
    hook = leaf.register_hook(lambda gradient: gradient * math.inf)
    assert math.isfinite(loop.learn(tasks, n_items=N_ITEMS, rehearse=False))
    assert leaf.grad is not None
    assert not leaf.grad.isfinite().all()
    assert are_equal(before, parameters(loop, *SCORER))
    hook.remove()
    loop.learn(tasks, n_items=N_ITEMS, rehearse=False)
    assert not are_equal(before, parameters(loop, *SCORER))
    assert leaf.isfinite().all()


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


def test_only_missed_items_leave_the_scorer_and_teach_the_encoder() -> None:
    loop = new_loop()
    tasks = replace(new_tasks(loop), positions=np.full(len(USERS), -1, np.int32))
    scorer, encoder = parameters(loop, *SCORER), parameters(loop, "encoder")
    assert math.isnan(loop.learn(tasks, n_items=N_ITEMS, rehearse=False))
    assert_equal(parameters(loop, *SCORER), scorer)
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


def test_item_too_new_for_an_embedding_teaches_the_encoder_nothing() -> None:
    loop = new_loop()
    new = np.full(len(USERS), N_ITEMS + 5, np.int32)
    before = parameters(loop, "encoder", "user_loop")
    loop.learn(replace(new_tasks(loop), targets=new), n_items=N_ITEMS + 10, rehearse=False)
    assert_equal(parameters(loop, "encoder", "user_loop"), before)


def test_gradients_of_a_step_are_clipped_to_a_norm() -> None:
    free, clipped = new_loop(), new_loop(replace(PLAIN, max_gradient_norm=0.01))
    for loop in (free, clipped):
        loop.learn(new_tasks(loop), n_items=N_ITEMS, rehearse=False)
    for part in ("scorer", "encoder"):
        assert gradient_norm(free, part) > 0.02
        assert gradient_norm(clipped, part) <= 0.01


def test_sample_of_a_large_catalogue_lowers_the_loss_over_all_of_it() -> None:
    loop = new_loop(replace(PLAIN, softmax_items=8, encoder_lr=0.01))
    tasks = new_tasks(loop)
    before = item_loss(loop, tasks)
    for _ in range(30):
        loop.learn(tasks, n_items=N_ITEMS, rehearse=False)
    assert item_loss(loop, tasks) < before - 0.5


def test_sampled_item_stands_for_its_share_of_the_others() -> None:
    loop = new_loop(replace(PLAIN, softmax_items=2, encoder_lr=0))
    nn.init.zeros_(loop.meta.encoder.items)  # logits of 0
    drawn = set()
    for _ in range(20):
        loop.learn(two_candidates(0, 0), n_items=4, rehearse=False)
        gradient = loop.meta.encoder.bias.grad
        assert gradient is not None
        # One of three others is drawn for all, so its e^0 counts three times.
        assert gradient[1].item() == pytest.approx(1 / (1 + 3) - 1)
        assert gradient.max().item() == pytest.approx(3 / (1 + 3))
        drawn.add(int(gradient.argmax()))
    assert drawn == {0, 2, 3}


# --------------------------------------------------------------------------- dropout of gradients


def step_with(dropout: float, *, has_gradients: bool) -> dict[str, Tensor]:
    """Return the scorer after one step on users with judged events, or as if they had none."""
    loop = new_loop(replace(PLAIN, gradient_dropout=dropout))
    tasks = new_tasks(loop)
    loop.learn(with_gradients(tasks) if has_gradients else tasks, n_items=N_ITEMS, rehearse=False)
    return parameters(loop, *SCORER)


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


def test_an_input_that_begins_late_is_standardised_as_it_is_then() -> None:
    def learn(late: float, n_measurements: int) -> Scorer:
        tasks = two_candidates(4, 2)  # what is known already stays as it was measured
        tasks.inputs[0, 0, N_TENURE_SIGNALS + 1] = late
        for _ in range(n_measurements * STANDARDISE_EVERY):
            loop.learn(tasks, n_items=N_ITEMS, rehearse=False)
        return loop.meta.scorer

    loop = new_loop(replace(PLAIN, standardise_until=1, replay_tasks=4))
    loop.learn(two_candidates(2, 0), n_items=N_ITEMS, rehearse=False)
    for value, n_measurements, mean in [
        (0, 2, 0),  # silent still
        (3, LATE_MEASUREMENTS - 1, 1.5),
        (9, 1, 4.5),
        (0, 5, 4.5),  # and so for good
    ]:
        scorer = learn(value, n_measurements)
        assert scorer.mean[1] == pytest.approx(mean, rel=0.2)
        assert scorer.std[1] == pytest.approx(max(LEAST_STD, mean), rel=0.2)
    assert scorer.mean[0] == pytest.approx(1)
    assert scorer.std[0] == pytest.approx(1, rel=0.01)


def test_mean_stands_still_between_and_after() -> None:
    loop = new_loop(replace(PLAIN, standardise_until=STANDARDISE_EVERY))
    for signal in (2, *[4] * STANDARDISE_EVERY):
        loop.learn(two_candidates(signal, 0), n_items=N_ITEMS, rehearse=False)
        assert loop.meta.scorer.mean[0] == pytest.approx(1)  # of the first step, as task 1 of 20
    assert loop.n_tasks == STANDARDISE_EVERY + 1
