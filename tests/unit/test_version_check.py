"""A version is served or refused: whatever is wrong with its files, no half of it stays."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save
from stream_samples import PlainLearner, copies, drawn, folded, learned, small

from headrace.model.recommender import Recommender
from headrace.streams import schema
from headrace.streams.errors import CheckpointError
from headrace.streams.learn.learner import Learner
from headrace.streams.learn.learner_state import pack_learner, restore
from headrace.streams.prequential import gradient_sums
from headrace.streams.versions.blobs import Arrays, pack, unpack
from headrace.streams.versions.publication import (
    pack_model,
    pack_weights,
    unpack_model,
    unpack_weights,
)

MAX_ITEMS = 100
STREAM = drawn(330, n_items=60)
TYPES = (np.float16, np.float64, np.int8, np.int64, np.uint8, np.bool_)
EXTREMES = (-1, 2**31 - 1, -(2**31), 2**62, float("nan"), float("inf"), -1e30)
JUNK = (None, True, -1, 2**70, 1e308, "x", "", [], {}, [1], {"a": 1}, [[[]]], ["a", "a"])
Parts = tuple[Arrays, dict[str, Any]]


@pytest.fixture(scope="module")
def learner() -> Learner:
    """Return a learner with something in every part of its files."""
    learner = learned(STREAM[:300], max_items=MAX_ITEMS)
    learner.pairs.fit(learner.recommender.coefficients)
    return learner


def model_of(learner: Learner) -> Parts:
    return unpack(pack_model(learner.recommender, learner.vocabulary), schema.MODEL)


def learner_of(learner: Learner) -> Parts:
    return unpack(pack_learner(learner, {0: 300}), schema.LEARNER)


def restore_parts(model: Parts, own: Parts) -> None:
    restore(PlainLearner(small(max_items=MAX_ITEMS)), pack(*model), pack(*own))


def with_last(parts: Parts, name: str, value: float) -> Parts:
    """Return parts of which an array has another last value."""
    arrays, fields = parts
    array = np.array(arrays[name])
    array.reshape(-1)[-1:] = value
    return arrays | {name: array}, fields


def damaged(parts: Parts, draw: random.Random) -> bytes:
    """Return a file with one thing wrong in it."""
    arrays, fields = dict(parts[0]), dict(parts[1])
    if draw.random() < 0.2:
        name = draw.choice(sorted(fields))
        whole = fields[name]
        if isinstance(whole, dict) and whole:
            fields[name] = whole | {draw.choice(sorted(whole)): draw.choice(JUNK)}
        else:
            fields[name] = draw.choice(JUNK)
        return pack(arrays, fields)
    name = draw.choice(sorted(arrays))
    array = np.array(arrays[name])
    flat = array.reshape(-1)
    damage = draw.randrange(6)
    if damage == 0:
        del arrays[name]
        return pack(arrays, fields)
    with np.errstate(all="ignore"):
        if damage == 1 and array.size:
            flat[draw.randrange(array.size)] = np.array(draw.choice(EXTREMES)).astype(array.dtype)
        other = array.astype(draw.choice(TYPES))
    arrays[name] = (
        array,
        flat.reshape(array.shape),
        other,
        flat[:-1].copy(),
        np.concatenate([flat, flat]),
        array[None],
    )[damage]
    return pack(arrays, fields)


def rank(learner: Learner, recommender: Recommender) -> None:
    """Rank for every user: what is out of range would show here, or end the process."""
    states = copies(learner.users.values())
    with torch.no_grad():
        prepared = recommender.prepare(folded(learner, states, []).after)
        recommender.score(prepared, recommender.adapt(prepared, gradient_sums(recommender, states)))


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
def test_a_damaged_model_is_refused_or_ranks(learner: Learner) -> None:
    n_refused, parts = 0, model_of(learner)
    for seed in range(40):
        blob = damaged(parts, random.Random(seed))
        try:
            recommender, _ = unpack_model(blob, max_items=MAX_ITEMS, device="cpu")
        except CheckpointError:
            n_refused += 1
        else:
            rank(learner, recommender)
    assert 30 < n_refused < 40  # some numbers may be others


def test_damaged_weights_are_refused_or_rank(learner: Learner) -> None:
    n_refused, parts = 0, unpack(pack_weights(learner.recommender.meta), schema.WEIGHTS)
    signals, coefficients = learner.signals, learner.recommender.coefficients
    for seed in range(40):
        blob = damaged(parts, random.Random(seed))
        try:
            meta = unpack_weights(blob)
        except CheckpointError:
            n_refused += 1
        else:
            rank(learner, Recommender(meta, signals, coefficients=coefficients))
    assert 30 < n_refused < 40  # some numbers may be others


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
def test_a_damaged_learner_is_refused_or_learns(learner: Learner) -> None:
    n_refused = 0
    model, parts = pack(*model_of(learner)), learner_of(learner)
    for seed in range(20):
        resumed = PlainLearner(small(max_items=MAX_ITEMS))
        try:
            restore(resumed, model, damaged(parts, random.Random(seed)))
        except CheckpointError:
            n_refused += 1
        else:
            resumed.learn(STREAM[300:])
            resumed.pairs.fit(resumed.recommender.coefficients)
    assert 10 < n_refused < 20


@pytest.mark.parametrize(
    ("size", "value"),
    [
        ("width", 10**9),
        ("blocks", 10**9),
        ("hidden", 10**9),
        ("negatives", 10**12),
        ("clusters", 10**6),
        ("width", True),
        ("width", "8"),
        ("heads", 0),
        ("meta_learning", 5),
        ("meta_learning", "x"),
        ("more", 1),
    ],
)
def test_a_size_that_is_only_claimed_takes_no_memory(
    learner: Learner, size: str, value: object
) -> None:
    arrays, fields = model_of(learner)
    fields["config"][size] = value
    is_bound = size in ("hidden", "negatives")  # by no setting, which is named otherwise
    with pytest.raises(CheckpointError, match=f"{size} (is|are) {value}" if is_bound else size):
        unpack_model(pack(arrays, fields), max_items=MAX_ITEMS, device="cpu")


def test_items_that_nothing_is_counted_of_have_their_room(learner: Learner) -> None:
    arrays, fields = model_of(learner)
    fields["ids"] = [*fields["ids"], *(f"more-{n}" for n in range(2_000))]
    blob = pack(arrays, fields)
    recommender, vocabulary = unpack_model(blob, max_items=10_000, device="cpu")
    assert recommender.signals.capacity >= len(vocabulary) > 2_000


@pytest.mark.parametrize("name", ["signals.items", "meta.scorer.first.bias"])
def test_rows_that_take_no_bytes_take_no_memory(learner: Learner, name: str) -> None:
    arrays, fields = model_of(learner)
    rows = np.zeros((10**12, 0), arrays[name].dtype)
    with pytest.raises(CheckpointError, match="does not fit"):
        unpack_model(pack(arrays | {name: rows}, fields), max_items=MAX_ITEMS, device="cpu")


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("signals.ids", MAX_ITEMS, "ids are not all"),
        ("signals.ids", -1, "neighbours are counted that are not there"),
        ("signals.now_s", 2**62, "no times"),
        ("meta.negatives", 2**40, "negatives"),
        ("meta.n_items", -1, "items"),
        ("meta.scorer.linear", np.nan, "not finite"),
        ("meta.scorer.std", 0, "above zero"),
        ("meta.targets.seen", -1, "below zero"),
        ("signals.touched", 1e9, "after the clock"),
        ("signals.first", 1e9, "after the clock"),
        ("signals.clock", 1e9, "after the clock"),  # the landmark
        ("regression.items", -2, "regression items"),
    ],
)
def test_an_index_time_or_weight_out_of_range_is_refused_by_its_name(
    learner: Learner, name: str, value: float, why: str
) -> None:
    blob = pack(*with_last(model_of(learner), name, value))
    with pytest.raises(CheckpointError, match=why):
        unpack_model(blob, max_items=MAX_ITEMS, device="cpu")


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("pairs.keys", -1, "items of pairs"),
        ("pairs.keys", 2**40, "items of pairs"),
        ("pairs.counts", -1, "counts are no counts"),
        ("pairs.takers", np.inf, "takers are no counts"),
        ("loop.taken", 0, "taken .* no counts"),
        ("loop.encoder.0.exp_avg", np.nan, "no moment"),
        ("loop.encoder.0.exp_avg_sq", -1, "no moment"),
        ("loop.encoder.0.step", -1, "no moment"),
    ],
)
def test_a_count_or_moment_of_the_learners_own_out_of_range_is_refused_by_its_name(
    learner: Learner, name: str, value: float, why: str
) -> None:
    with pytest.raises(CheckpointError, match=why):
        restore_parts(model_of(learner), with_last(learner_of(learner), name, value))


@pytest.mark.parametrize("part", ["meta.scorer.linear", "meta.more"])
def test_meta_parameters_that_only_one_has_are_named(learner: Learner, part: str) -> None:
    arrays, fields = model_of(learner)
    other = dict(arrays)
    if other.pop(part, None) is None:
        other[part] = np.zeros(2, np.float32)
    with pytest.raises(CheckpointError, match=f"only one has: .*{part.removeprefix('meta.')}"):
        unpack_model(pack(other, fields), max_items=MAX_ITEMS, device="cpu")


@pytest.mark.parametrize("name", ["keys", "counts", "takers", "new_takers"])
def test_pairs_of_another_type_or_shape_are_refused_by_their_name(
    learner: Learner, name: str
) -> None:
    arrays, fields = learner_of(learner)
    array = arrays[f"pairs.{name}"]
    for other in (array.astype(np.float64), array[:, None]):
        with pytest.raises(CheckpointError, match=f"pairs {name} is"):
            restore_parts(model_of(learner), (arrays | {f"pairs.{name}": other}, fields))


def test_a_pair_of_the_first_item_that_is_not_there_is_refused(learner: Learner) -> None:
    own = learner_of(learner)
    n_items = len(own[0]["pairs.takers"])
    for key in (n_items << 32, n_items):
        with pytest.raises(CheckpointError, match="items of pairs"):
            restore_parts(model_of(learner), with_last(own, "pairs.keys", key))


def test_what_is_counted_twice_is_refused(learner: Learner) -> None:
    model, own = model_of(learner), learner_of(learner)
    with pytest.raises(CheckpointError, match="pairs, or one twice"):
        restore_parts(model, with_last(own, "pairs.keys", own[0]["pairs.keys"][0]))
    model[1]["ids"][-1] = model[1]["ids"][0]
    with pytest.raises(CheckpointError, match="an item has two indexes"):
        restore_parts(model, own)


@pytest.mark.parametrize("fields", [b"[]", b"5", b"[" * 100_000 + b"]" * 100_000])
def test_fields_that_are_no_map_are_no_checkpoint(fields: bytes) -> None:
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        unpack(bytes(save({"__json__": np.frombuffer(fields, np.uint8)})), schema.MODEL)
