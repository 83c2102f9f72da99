"""The other ways to adapt that `headrace bench adapt` compares with do the same work."""

import numpy as np
import pytest
import torch
from stream_samples import small

from headrace.model.recommender import Recommender
from headrace.streams.bench import adapt
from headrace.streams.bench.adapt import Batch, batch_of
from headrace.streams.bench.shop import open_shop, states_of
from headrace.streams.prequential import histories_of

N_ITEMS, N_USERS = 60, 12


@pytest.fixture(scope="module")
def learned() -> tuple[Recommender, Batch]:
    """Return the model of a small shop and some of its users."""
    shop = open_shop(small(), n_items=N_ITEMS, n_users=N_USERS, n_events=0)
    states = list(states_of(shop.learner).values())
    model = shop.learner.served
    torch.nn.init.normal_(model.meta.user_loop.raw_step, std=2.0)  # steps of different lengths
    return model, batch_of(model, histories_of(states, shop.learner.vocabulary), states)


def test_one_user_at_a_time_gives_the_same_scores(learned: tuple[Recommender, Batch]) -> None:
    model, batch = learned
    ours, _ = adapt.adapt_and_rank(model, batch)
    torch.testing.assert_close(adapt.one_at_a_time(model, batch), ours, rtol=1e-3, atol=1e-4)


def test_vmap_over_users_gives_the_same_scores(learned: tuple[Recommender, Batch]) -> None:
    model, batch = learned
    ours, _ = adapt.adapt_and_rank(model, batch)
    torch.testing.assert_close(adapt.mapped(model, batch), ours, rtol=1e-3, atol=1e-4)


def test_part_of_a_batch_is_those_users(learned: tuple[Recommender, Batch]) -> None:
    model, batch = learned
    few = Batch(*(adapt.part_of(part, slice(2, 5)) for part in batch))
    scores, _ = adapt.adapt_and_rank(model, batch)
    torch.testing.assert_close(adapt.adapt_and_rank(model, few)[0], scores[2:5])


def test_users_of_the_shop_have_full_histories_in_sessions(
    learned: tuple[Recommender, Batch],
) -> None:
    _, batch = learned
    assert ((batch.histories.items >= 0).sum(1) == 60).all()
    gaps_s = -np.diff(batch.histories.times_s[:, :60], axis=1)
    assert ((gaps_s > 3600).sum(1) == 5).all()  # six sessions of ten


def test_every_size_has_a_row_with_its_floors() -> None:
    done: list[int] = []
    rows = adapt.measure(
        small(), n_items=N_ITEMS, sizes=[1, 3], repeats=1, n_users=N_USERS, on_progress=done.append
    )
    assert [row["users"] for row in rows] == ["1", "3"]
    assert len(done) == 2
    for row in rows:
        assert all(not isinstance(v, float) or v > 0 for v in row.values())
