"""Task clusters: one is plain MAML; two learn to tell two populations apart."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from outer_loop_samples import (
    CONFIG,
    N_ITEMS,
    PLAIN,
    USERS,
    assert_equal,
    new_loop,
    new_tasks,
    parameters,
    with_gradients,
)
from stream_samples import PlainLearner, drawn, learned, small
from torch import nn

from headrace.model.config import MetaLearning, OuterLoopConfig
from headrace.model.learning.outer_loop import OuterLoop
from headrace.model.networks.clusters import mean_moves
from headrace.model.networks.inner_loop import UserLoop
from headrace.streams.errors import SettingsError
from headrace.streams.learn.learner_state import pack_learner, restore
from headrace.streams.versions.publication import pack_model

TWO = replace(CONFIG, clusters=2)


def test_only_cluster_has_everyone_and_learns_nothing_but_the_users_start() -> None:
    loop = new_loop()
    tasks = with_gradients(new_tasks(loop))
    before = parameters(loop, "user_loop", "scorer_loop")
    loop.learn(tasks, n_items=N_ITEMS, rehearse=False)
    assert (tasks.shares == 1).all()
    after = parameters(loop, "user_loop", "scorer_loop")
    own = {"user_loop.prototypes", "scorer_loop.start"}
    assert_equal({k: after[k] for k in own}, {k: before[k] for k in own})
    assert not any(after[k].any() for k in own)


def test_clusters_that_start_alike_adapt_as_one() -> None:
    one, two = new_loop(), new_loop(model=TWO)
    nn.init.normal_(one.meta.user_loop.start)
    state = one.meta.state_dict()
    state["user_loop.start"] = one.meta.user_loop.start.detach().expand(2, -1)
    state["scorer_loop.start"] = one.meta.scorer_loop.start.detach().expand(2, -1)
    del state["user_loop.prototypes"]
    two.meta.load_state_dict(state, strict=False)
    np.testing.assert_allclose(new_tasks(two).inputs, new_tasks(one).inputs, rtol=1e-5, atol=1e-6)


def test_share_is_the_softmax_over_the_prototypes() -> None:
    loop = UserLoop(replace(TWO, width=2))
    loop.prototypes = nn.Parameter(torch.eye(2))
    latest = torch.tensor([[2.0, 1.0], [0.0, 0.0]])
    p = 1 / (1 + np.exp(-1))  # logits 2 and 1; nobody's are 0 and 0
    expected = torch.tensor([[p, 1 - p], [0.5, 0.5]]).float()
    torch.testing.assert_close(loop.shares(latest), expected)


def test_mean_move_of_a_cluster_is_that_of_its_users_by_share() -> None:
    start = torch.tensor([[1.0], [5.0]])
    shares = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    # The users start at 1 and 3 and move by 3 and 6: cluster 0 by (1 * 3 + 0.5 * 6) / 1.5 = 4,
    # cluster 1, to which only the second belongs, by 6.
    moves = mean_moves(start, torch.tensor([[4.0], [9.0]]), shares, shares.sum(0))
    torch.testing.assert_close(moves, torch.tensor([[4.0], [6.0]]))


def test_everyone_is_ranked_from_where_they_start_before_any_step() -> None:
    loop = new_loop(model=TWO)
    meta = loop.meta
    nn.init.normal_(meta.user_loop.start)
    nn.init.normal_(meta.scorer_loop.start)
    prepared = loop.recommender.prepare(new_tasks(loop).histories)
    frozen = loop.recommender.initial(prepared)
    shares = prepared.shares
    assert shares.shape == (len(prepared.items), 2)
    shift = torch.cat([frozen.linear, frozen.hidden], 1)
    torch.testing.assert_close(shift, shares @ meta.scorer_loop.start)
    torch.testing.assert_close(
        frozen.inputs, loop.recommender.inputs(prepared, shares @ meta.user_loop.start)
    )


def test_a_cluster_that_nobody_belongs_to_does_not_move() -> None:
    shares = torch.tensor([[1.0, 0.0]])
    moves = mean_moves(torch.tensor([[1.0], [8.0]]), torch.tensor([[4.0]]), shares, shares.sum(0))
    assert moves.tolist() == [[3.0], [0.0]]


@pytest.mark.parametrize("meta_learning", ["fomaml", "reptile"])
def test_steps_move_the_starts_apart(meta_learning: MetaLearning) -> None:
    loop = new_loop(
        replace(PLAIN, encoder_lr=0.02, batch_tasks=len(USERS)),
        model=replace(TWO, meta_learning=meta_learning),
    )
    for _ in range(3):
        loop.learn(with_gradients(new_tasks(loop)), n_items=N_ITEMS, rehearse=False)
    for start in (loop.meta.user_loop.start, loop.meta.scorer_loop.start):
        assert (start[0] - start[1]).abs().max() > 1e-5


@pytest.mark.parametrize("meta_learning", ["fomaml", "reptile"])
def test_who_belongs_to_which_cluster_is_learned_once_their_starts_differ(
    meta_learning: MetaLearning,
) -> None:
    loop = new_loop(
        replace(PLAIN, encoder_lr=0.02, batch_tasks=len(USERS)),
        model=replace(TWO, meta_learning=meta_learning),
    )
    nn.init.normal_(loop.meta.user_loop.start)
    before = loop.meta.user_loop.prototypes.detach().clone()
    loop.learn(with_gradients(new_tasks(loop)), n_items=N_ITEMS, rehearse=False)
    assert ((loop.meta.user_loop.prototypes - before).abs() > 1e-3).all()


def test_scorer_learns_from_shares_as_they_were_judged() -> None:
    losses = []
    for value in (0.0, 3.0):
        loop = new_loop(model=TWO)
        nn.init.normal_(loop.meta.scorer_loop.start)
        tasks = new_tasks(loop)
        nn.init.constant_(loop.meta.user_loop.prototypes[0], value)  # learned since
        losses.append(loop.learn(tasks, n_items=N_ITEMS, rehearse=False))
    assert losses[0] == losses[1]


def two_populations(n: int, random: np.random.Generator) -> tuple[list[list[int]], list[int]]:
    """Return histories of users who take items below 15 or others, and the population of each."""
    population = random.integers(0, 2, n)
    users = [(15 * p + random.integers(0, 15, 5)).tolist() for p in population]
    return users, population.tolist()


def separation(loop: OuterLoop, users: list[list[int]], population: list[int]) -> float:
    """Return how much more one population belongs to cluster 0 than the other: 1 is perfectly."""
    share, of = new_tasks(loop, users).shares[:, 0], np.array(population)
    return abs(float(share[of == 0].mean() - share[of == 1].mean()))


def test_two_clusters_learn_to_tell_two_populations_apart() -> None:
    random = np.random.default_rng(0)
    config = OuterLoopConfig(batch_tasks=64, replay_batches=0, encoder_lr=0.01)
    loop = new_loop(config, model=TWO)
    held_out = two_populations(64, random)
    before = separation(loop, *held_out)
    for _ in range(60):
        users, population = two_populations(64, random)
        tasks = new_tasks(loop, users)
        targets = (15 * np.array(population) + random.integers(0, 15, 64)).astype(np.int32)
        missed = np.full_like(targets, -1)  # the scorer is not what is looked at here
        loop.learn(replace(tasks, targets=targets, positions=missed), n_items=N_ITEMS)
    assert before < 0.3
    assert separation(loop, *held_out) > 0.9


def test_checkpoint_of_as_many_clusters_goes_on_and_of_others_is_refused() -> None:
    learner = learned(drawn(64), clusters=3)
    blobs = pack_model(learner.recommender, learner.vocabulary), pack_learner(learner, {0: 1})
    same = PlainLearner(small(clusters=3))
    restore(same, *blobs)
    assert_equal(parameters(same.outer_loop), parameters(learner.outer_loop))
    with pytest.raises(SettingsError, match="clusters is 3, the settings ask for 2"):
        restore(PlainLearner(small(clusters=2)), *blobs)
