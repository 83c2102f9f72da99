"""What `headrace bench growth` measures is what it says, at sizes that take seconds."""

import numpy as np
import pytest
from stream_samples import small

from headrace.streams.bench import growth, probes, stage
from headrace.streams.bench.measuring import Figure
from headrace.streams.bench.shop import open_shop, stock
from headrace.streams.learn.learner import Learner
from headrace.streams.settings import Settings

N_ITEMS, REPEATS = 300, 2


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Return small settings, for small probes."""
    monkeypatch.setattr(probes, "N_ITEMS", N_ITEMS)
    monkeypatch.setattr(probes, "N_USERS", 16)
    monkeypatch.setattr(probes, "LONGEST", 40)
    monkeypatch.setattr(probes, "TOUCHED", 10)
    return small()


def probed(name: str, settings: Settings, size: int) -> probes.Found:
    """Return what a probe found, which is the same figures as often as is right."""
    with stage.on_its_own(settings, has_topics=False) as own:
        found = probes.PROBES[name](own, size, REPEATS)
    assert {len(values) for values in found.values()} <= {1, REPEATS}
    return found


def test_a_stocked_learner_has_full_rows_and_nothing_to_tell() -> None:
    learner = Learner(small())
    stock(learner, N_ITEMS)
    arrays = learner.signals.arrays
    assert len(learner.vocabulary) == N_ITEMS
    assert (arrays.filled[:N_ITEMS] == 8).all()
    assert (arrays.ids[:N_ITEMS] >= 0).all()
    assert (arrays.ids[:N_ITEMS] < N_ITEMS).all()
    np.testing.assert_allclose(arrays.totals, arrays.weights.sum(1), rtol=1e-5)
    assert len(learner.recommender.coefficients.snapshot()["fitted"]) == N_ITEMS
    assert len(learner.signals.take_delta()["items"]) == 0
    assert len(learner.recommender.coefficients.take_delta()["fitted"]) == 0


def test_a_shop_may_open_on_what_was_stocked() -> None:
    settings = small()
    learner = Learner(settings)
    stock(learner, N_ITEMS)
    shop = open_shop(settings, n_items=N_ITEMS, n_users=4, n_events=8, n_before=30, learner=learner)
    assert shop.learner is learner
    assert len(learner.vocabulary) == N_ITEMS
    assert [len(state.items) for state in learner.users.values()] == [30] * 4
    assert len(shop.events) == 8


def test_every_figure_of_a_table_of_users_is_there(settings: Settings) -> None:
    found = probed("users", settings, 1_000)
    assert found["bytes encoded"][0] > 60 * len("i100")  # the items of a history, and more
    for what in ("us to read one", "us to write one", "ms a user"):
        assert min(found[what]) > 0, what


def test_more_items_make_a_larger_checkpoint(settings: Settings) -> None:
    few, many = (probed("items", settings, n) for n in (N_ITEMS, 4 * N_ITEMS))
    assert few["checkpoint MB"][0] < many["checkpoint MB"][0]
    whole, weights = ("s to publish", "s to load"), ("ms to publish weights", "ms to load weights")
    for what in (*whole, *weights, "delta kB", "ms a learned event", "ms a user"):
        assert min(many[what]) > 0, what


def test_a_longer_history_is_a_larger_state_by_its_interactions(settings: Settings) -> None:
    short, long = (probed("history", settings, n)["bytes encoded"][0] for n in (10, 30))
    # An interaction is an item of up to 5 bytes, "click" (6) and a time (9).
    assert 20 * (3 + 6 + 5) < long - short < 20 * (5 + 6 + 9)


def test_sizes_go_up_to_what_was_asked_for() -> None:
    assert growth.sizes(users=50_000, items=1_000) == {
        "users": [10_000, 50_000],
        "items": [1_000],
        "history": [25, 50, 100, 200, 400],
    }


def test_each_size_is_measured_in_a_process_of_its_own() -> None:
    done: list[int] = []
    tables = growth.measure(small(), sizes={"users": [20_000]}, repeats=1, on_progress=done.append)
    (row,) = tables["users"]
    assert row["users"] == "20,000"
    assert len(done) == 1
    encoded, resident = row["bytes encoded"], row["bytes resident"]
    assert isinstance(encoded, Figure)
    assert isinstance(resident, Figure)
    assert encoded.median < resident.median < 3 * encoded.median
