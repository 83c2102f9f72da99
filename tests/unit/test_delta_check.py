"""A delta is taken over whole or not at all: every damage that still decodes leaves no trace."""

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from model_samples import count_alone, count_user
from stream_samples import drawn, learned

from headrace.model.counts.signals import RECENT_LIFE, ItemSignals
from headrace.model.recommender import Recommender
from headrace.model.vocabulary import Vocabulary
from headrace.streams import schema
from headrace.streams.errors import CheckpointError
from headrace.streams.versions import publication
from headrace.streams.versions.blobs import Arrays, pack, unpack
from headrace.streams.versions.delta_check import check_signals
from headrace.streams.versions.publication import apply_delta, pack_delta, pack_model, unpack_model

MAX_ITEMS = 100
Worker = tuple[Recommender, Vocabulary]
Damage = Callable[[Arrays, dict[str, Any]], object]


@pytest.fixture(scope="module")
def published() -> tuple[bytes, bytes]:
    """Return a version, and the delta of what was learned after it, with new items."""
    stream = drawn(300, n_items=60)
    learner = learned(stream[:100], max_items=MAX_ITEMS)
    version = pack_model(learner.recommender, learner.vocabulary)
    learner.signals.take_delta()
    learner.assortment.new_items = []
    learner.learn(stream[100:])
    learner.pairs.fit(learner.recommender.coefficients)
    assert learner.assortment.new_items
    return version, pack_delta(learner.recommender, learner.assortment.new_items)


@pytest.fixture
def worker(published: tuple[bytes, bytes]) -> Worker:
    """Return what a worker serves that loaded the version."""
    return unpack_model(published[0], max_items=MAX_ITEMS, device="cpu")


def served(worker: Worker) -> dict[str, Any]:
    """Return a copy of everything that a delta may change."""
    recommender, vocabulary = worker
    signals = recommender.signals
    numbers = {name: array.copy() for name, array in signals.arrays._asdict().items()}
    numbers |= {name: t.clone().numpy() for name, t in recommender.meta.state_dict().items()}
    numbers |= {"popular": signals.popular.copy()}
    numbers |= {f"regression.{k}": a for k, a in recommender.coefficients.snapshot().items()}
    numbers |= {"clocks": np.array([signals.clock, signals.landmark, signals.now_s])}
    indexes = {item: vocabulary.index(item) for item in vocabulary.ids}
    return {"numbers": numbers, "ids": list(vocabulary.ids), "indexes": indexes}


def refused(delta: bytes, worker: Worker) -> str:
    """Check that a delta is refused without a trace; return why."""
    before = served(worker)
    with pytest.raises(CheckpointError) as refusal:
        apply_delta(delta, *worker)
    after = served(worker)
    assert (after["ids"], after["indexes"]) == (before["ids"], before["indexes"])
    for name, array in before["numbers"].items():
        np.testing.assert_array_equal(after["numbers"][name], array, err_msg=name)
    return str(refusal.value)


def put(name: str, value: float, place: int = -1) -> Damage:
    """Return the damage of one number of an array."""

    def damage(arrays: Arrays, _: dict[str, Any]) -> None:
        arrays[name] = arrays[name].copy()
        arrays[name].reshape(-1)[place] = value

    return damage


def turn(name: str, change: Callable[[Any], Any]) -> Damage:
    """Return the damage of a whole array."""
    return lambda arrays, _: arrays.update({name: np.ascontiguousarray(change(arrays[name]))})


def lose(name: str) -> Damage:
    """Return the damage of an array that is missing."""
    return lambda arrays, _: arrays.pop(name)


def place(*new_item: Any) -> Damage:
    """Return the damage of one more new item."""
    return lambda _, fields: fields["new_items"].append(new_item)


DAMAGES: dict[str, Damage] = {
    "an item index beyond the vocabulary": put("signals.items", MAX_ITEMS),
    "an item index below zero": put("signals.items", -1),
    "a row beyond the vocabulary": put("signals.rows", MAX_ITEMS),
    "a slot beyond the neighbours": put("signals.slots", 8),
    "a slot below zero": put("signals.slots", -1),
    "a neighbour beyond the vocabulary": put("signals.ids", MAX_ITEMS),
    "a neighbour below none": put("signals.ids", -2),
    "more neighbours in use than there are": put("signals.filled", 9),
    "neighbours in use that are not there": turn("signals.ids", lambda a: np.full_like(a, -1)),
    "a weight that is no number": put("signals.weights", np.nan),
    "a count below zero": put("signals.popularity", -1),
    "an endless clock": put("signals.clock", np.inf),
    "a missing array": lose("signals.repeats"),
    "a missing clock": lose("signals.now_s"),
    "a clock too few": turn("signals.clock", lambda a: a[:1]),
    "an item too few": turn("signals.category", lambda a: a[:-1]),
    "a neighbour too few": turn("signals.weights", lambda a: a[:-1]),
    "a relation too few": turn("signals.weights", lambda a: a[:, :-1]),
    "another type": turn("signals.filled", lambda a: a.astype(np.float32)),
    "an index without a length": turn("signals.items", lambda a: a[:1].reshape(())),
    "a fitted item beyond the vocabulary": put("regression.fitted", MAX_ITEMS),
    "a regressor beyond the vocabulary": put("regression.items", MAX_ITEMS),
    "a regressor below zero": put("regression.items", -1),
    "more regressors than there are": put("regression.regressors", 99),
    "fewer regressors than none": put("regression.regressors", -1),
    "a coefficient that is no number": put("regression.weights", np.nan),
    "a coefficient too few": turn("regression.weights", lambda a: a[:-1]),
    "regressors without numbers": lose("regression.regressors"),
    "coefficients of another type": turn("regression.weights", lambda a: a.astype(np.float32)),
    "a missing small weight": lose("meta.scorer.linear"),
    "a weight of the encoder": lambda arrays, _: arrays.update({"meta.encoder.bias": np.ones(3)}),
    "a small weight of another shape": turn("meta.scorer.linear", lambda a: a[:-1]),
    "a small weight of another type": turn("meta.scorer.linear", lambda a: a.astype(np.float64)),
    "a small weight that is no number": put("meta.scorer.linear", np.nan),
    "an endless small weight": put("meta.scorer.first.weight", np.inf),
    "no new items": lambda _, fields: fields.pop("new_items"),
    "new items that are none": lambda _, fields: fields.update(new_items=3),
    "an id without an index": place("tea"),
    "an id that is a number": place(1, 7),
    "an id that is empty": place(1, ""),
    "an index that is text": place("1", "tea"),
    "an index that is a truth": place(True, "tea"),
    "an index beyond the bound": place(MAX_ITEMS, "tea"),
    "an index below the first": place(-1, "tea"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_delta_with_one_damage_leaves_everything_as_it_was(
    damage: Damage, published: tuple[bytes, bytes], worker: Worker
) -> None:
    arrays, fields = unpack(zlib.decompress(published[1]), schema.DELTA)
    damage(arrays, fields)
    assert refused(zlib.compress(pack(arrays, fields)), worker).startswith("a delta does not fit")


def test_the_same_delta_without_damage_is_taken_over(
    published: tuple[bytes, bytes], worker: Worker
) -> None:
    arrays, fields = unpack(zlib.decompress(published[1]), schema.DELTA)
    apply_delta(zlib.compress(pack(arrays, fields)), *worker)
    recommender, vocabulary = worker
    items = arrays["signals.items"]
    np.testing.assert_array_equal(
        recommender.signals.arrays.filled[items], arrays["signals.filled"]
    )
    assert [vocabulary.ids[index] for index, _ in fields["new_items"]] == [
        item for _, item in fields["new_items"]
    ]
    torch.testing.assert_close(
        recommender.meta.scorer.linear.detach(), torch.tensor(arrays["meta.scorer.linear"])
    )
    for name, array in recommender.coefficients.snapshot().items():
        np.testing.assert_array_equal(array, arrays[f"regression.{name}"])


@pytest.mark.parametrize(
    "cut",
    [
        lambda _: b"",
        lambda delta: delta[:-1],
        lambda delta: delta[:100] + bytes([delta[100] ^ 1]) + delta[101:],
        lambda _: zlib.compress(b"no safetensors"),
        lambda _: zlib.compress(pack({}, {"new_items": []})),
    ],
    ids=["empty", "cut off", "flipped", "foreign", "without arrays"],
)
def test_bytes_that_are_no_delta_leave_everything_as_it_was(
    cut: Callable[[bytes], bytes], published: tuple[bytes, bytes], worker: Worker
) -> None:
    refused(cut(published[1]), worker)


def test_a_delta_is_decompressed_up_to_a_limit(
    published: tuple[bytes, bytes], worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_bytes = len(zlib.decompress(published[1]))
    monkeypatch.setattr(publication, "DELTA_LIMIT_BYTES", n_bytes - 1)
    assert f"larger than {n_bytes - 1} bytes" in refused(published[1], worker)
    monkeypatch.setattr(publication, "DELTA_LIMIT_BYTES", n_bytes)
    apply_delta(published[1], *worker)


# ---------------------------------------------------------------------------- deltas in sequence


A, B, C = range(3)
N_ITEMS = 30


def take_over(delta: Arrays, replica: ItemSignals) -> None:
    """Check a delta or a version, and apply it."""
    check_signals(delta, replica, n_items=N_ITEMS)
    replica.apply_delta(delta)


def test_a_delta_that_counts_a_neighbour_of_a_missing_one_is_refused() -> None:
    signals, replica = ItemSignals(4), ItemSignals(4)
    count_user(signals, [A, B])
    signals.take_delta()  # is missing
    count_user(signals, [A, C])
    with pytest.raises(ValueError, match="neighbours are counted that are not there"):
        take_over(signals.take_delta(), replica)
    take_over(signals.snapshot(3), replica)
    count_user(signals, [B, C])
    take_over(signals.take_delta(), replica)
    np.testing.assert_array_equal(replica.arrays.ids, signals.arrays.ids)


def test_a_delta_after_a_missing_one_is_taken_over_where_it_needs_nothing_of_it() -> None:
    signals, replica = ItemSignals(4), ItemSignals(4)
    count_user(signals, [A, B])
    take_over(signals.take_delta(), replica)
    count_alone(signals, C, times=1)
    signals.take_delta()  # is missing
    count_user(signals, [B, A])
    take_over(signals.take_delta(), replica)
    np.testing.assert_array_equal(replica.arrays.filled, signals.arrays.filled)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"items": [A, A]}, "items are not in order"),  # what the first lacks, the second counts
        ({"items": [B, A]}, "items are not in order"),
        ({"items": [B, C]}, "rows are of no changed item"),
        ({"items": [A, C]}, "rows are of no changed item"),
        ({"ids": [-1, A]}, "neighbours are counted that are not there"),
        ({"slots": [1, 0]}, "neighbours are counted that are not there"),
        ({"filled": [1, 2]}, "neighbours are counted that are not there"),
    ],
)
def test_a_version_that_counts_neighbours_that_are_not_there_is_refused(
    changes: Arrays, why: str
) -> None:
    signals = ItemSignals(4)
    count_user(signals, [A, B])
    version = signals.snapshot(2)
    changed = {name: np.array(value, version[name].dtype) for name, value in changes.items()}
    check_signals(version, ItemSignals(4), n_items=N_ITEMS)
    with pytest.raises(ValueError, match=why):
        check_signals(version | changed, ItemSignals(4), n_items=N_ITEMS)


@pytest.mark.parametrize("neighbours", [2, 8, 32])  # rows that overflow, fill up, and do neither
@pytest.mark.parametrize("seed", range(4))
def test_what_the_learner_publishes_is_taken_over_whenever_it_does(
    neighbours: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    signals = ItemSignals(neighbours, capacity=1)
    replicas = [ItemSignals(neighbours, capacity=1)]
    n_items, deltas = 2, list[Arrays]()  # of this epoch
    for _ in range(150):
        n_items = min(N_ITEMS, n_items + int(rng.integers(0, 2)))
        signals.reserve(n_items)
        count_user(signals, rng.integers(0, n_items, int(rng.integers(1, 8))).tolist())
        if rng.random() < 0.6:
            deltas.append(signals.take_delta())
            for replica in replicas:
                take_over(deltas[-1], replica)
        if rng.random() < 0.1:  # a version, of a new epoch where room is made
            n_before = len(deltas)
            if rng.random() < 0.5:
                signals.clock += 50 * RECENT_LIFE  # so that it rebases
                signals.forget(rng.choice(n_items, n_items // 4, replace=False))
                signals.rebase()
                replicas, deltas = [], []
            loaded = ItemSignals(neighbours)
            take_over(signals.snapshot(n_items), loaded)
            replicas.append(loaded)
            for delta in deltas[n_before // 2 :]:  # read again from an earlier offset
                take_over(delta, loaded)
    take_over(signals.take_delta(), replicas[-1])
    ids, filled = replicas[-1].arrays.ids[:n_items], signals.arrays.filled[:n_items]
    in_use = np.arange(neighbours) < filled[:, None]
    np.testing.assert_array_equal(replicas[-1].arrays.filled[:n_items], filled)
    np.testing.assert_array_equal(ids[in_use], signals.arrays.ids[:n_items][in_use])
