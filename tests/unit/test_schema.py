"""Schema versions: what this release and the one before wrote is read, what is newer is refused."""

import json
import zlib
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import msgpack
import numpy as np
import pytest
import schema_samples as samples
from schema_samples import FIXTURES

from headrace.model.counts.candidate_signals import CONTEXTS
from headrace.model.counts.signals import ALL_TIME
from headrace.model.features import features_of
from headrace.model.networks.scorer import ADAPTED, INPUTS
from headrace.streams import schema
from headrace.streams.actions import ACTIONS
from headrace.streams.errors import CheckpointError, MalformedRecordError, SettingsError
from headrace.streams.learn.learner import Learner
from headrace.streams.learn.learner_state import restore
from headrace.streams.learn.transfer import start_from
from headrace.streams.schema import Schema
from headrace.streams.state import UserState
from headrace.streams.versions.blobs import pack, unpack
from headrace.streams.versions.publication import (
    Announcement,
    Fragment,
    apply_delta,
    unpack_model,
    unpack_weights,
)
from headrace.streams.wire import decode_event, decode_item, decode_recommendation, encode

BLOBS = (schema.MODEL, schema.WEIGHTS, schema.LEARNER)
# What 0.1.0 does not know: how names of arrays begin, and fields of announcements and deltas.
APART = ("tenure.", "signals.tenures", "loop.tenure.")
APART_FIELDS = {"weights", "delta_sequence", "learned_to", "group"}
RINGS = {"ann": 0, "bob": 4, "cem": 8}  # where each user's round of the 12 items begins
N_EACH = 20  # events of each user
READERS: dict[str, Callable[[bytes], Any]] = {
    "event": lambda value: decode_event(value, key=None, record_time_ms=samples.START_MS),
    "item": lambda value: decode_item(value, key=None),
    "list": decode_recommendation,
    "state": UserState.decode,
    "announcement": Announcement.decode,
    "delta": Fragment.decode,
    "model": lambda value: unpack_model(value, max_items=100, device="cpu"),
    "weights": unpack_weights,
    "learner": lambda value: restore(Learner(samples.settings()), kept("model", 1), value),
}


def kept(kind: str, version: int) -> bytes:
    """Return the file kept of a schema version."""
    return (FIXTURES / f"{kind}.v{version}").read_bytes()


def versions(kind: Schema) -> list[int]:
    """Return the versions that are read."""
    return list(range(kind.oldest, kind.version + 1))


written = cache(samples.written)  # by the code of now


# ------------------------------------------------------------------------------------- the layout


def layout(value: object) -> object:
    """Return names and types, without what differs from one sample to the next."""
    if isinstance(value, dict):
        return {name: layout(v) for name, v in sorted(value.items()) if name != "v"}
    if isinstance(value, list | tuple):
        return [layout(v) for v in value]
    return type(value).__name__


def blob_layout(blob: bytes, kind: Schema) -> object:
    """Return the names, types and dimensions of a safetensors file and its plain fields.

    Of what 0.1.0 knows: it looks past the rest, which is where ``apart`` has put it.
    """
    arrays, fields = unpack(blob, kind)
    known = {name: a for name, a in arrays.items() if not name.startswith(APART)}
    return {n: (a.dtype.str, a.ndim) for n, a in sorted(known.items())}, layout(fields)


def layout_of(kind: Schema, value: bytes) -> object:
    """Return the layout of a sample's bytes."""
    if kind in BLOBS:
        return blob_layout(value, kind)
    fields = msgpack.unpackb(value)
    if isinstance(fields, dict):
        fields = {name: value for name, value in fields.items() if name not in APART_FIELDS}
    if kind is schema.DELTA:
        return layout(fields), blob_layout(zlib.decompress(fields["data"]), kind)
    return layout(fields)


@pytest.mark.parametrize("kind", schema.ALL, ids=lambda kind: kind.name)
def test_a_layout_changes_only_with_its_schema_version(kind: Schema) -> None:
    assert layout_of(kind, written()[kind.name]) == layout_of(
        kind, kept(kind.name, kind.version)
    ), (
        f"{kind.name} is written otherwise than version {kind.version} of its schema: give it the"
        " next one in streams/schema.py, then run tests/schema_samples.py"
    )


def test_numbers_in_a_model_file_mean_what_they_did() -> None:
    names = {
        "actions": list(ACTIONS),
        "inputs": list(INPUTS[ADAPTED]),  # the others stand apart
        "contexts": list(CONTEXTS),
        "features": features_of({"country": "de", "party": 3}),
    }
    kept_names = json.loads((FIXTURES / f"model.v{schema.MODEL.version}.names.json").read_text())
    assert names == kept_names


@pytest.mark.parametrize(
    ("one", "other"),
    [({"a": 1}, {"b": 1}), ({"a": 1}, {"a": 1.0}), ([1], [1, 1]), ({"a": None}, {"a": ""})],
)
def test_layouts_tell_names_types_and_lengths_apart(one: object, other: object) -> None:
    assert layout(one) != layout(other)


# ------------------------------------------------------------------------------- what was written


@pytest.mark.parametrize(
    ("kind", "version", "expected"),
    [
        ("event", 1, samples.EVENT),
        ("event", 2, samples.ASKS),
        ("item", 1, samples.ITEM),
        ("list", 1, samples.LIST),
        ("announcement", 1, replace(samples.ANNOUNCEMENT, weights=None, delta_sequence=None)),
    ],
)
def test_every_kept_record_is_read_as_it_was_meant(
    kind: str, version: int, expected: object
) -> None:
    assert READERS[kind](kept(kind, version)) == expected


def test_what_the_release_before_knows_is_written_as_it_reads_it() -> None:
    # In a rolling restart it reads the same topic. Only what needs no item is new to it.
    assert encode(samples.EVENT) == kept("event", 1)


@pytest.mark.parametrize("kind", schema.ALL, ids=lambda kind: kind.name)
def test_a_file_is_kept_of_every_version_that_is_read(kind: Schema) -> None:
    assert all(kept(kind.name, version) for version in versions(kind))


@pytest.mark.parametrize("file", ["state.v1", "state.v2.first", "state.v2"])
def test_every_kept_state_is_read(file: str) -> None:
    state = UserState.decode((FIXTURES / file).read_bytes())
    np.testing.assert_array_equal(state.gradients, samples.STATE.gradients)
    np.testing.assert_array_equal(state.n_judged, samples.STATE.n_judged)
    without = {"gradients": None, "n_judged": None}
    without |= {"named": b""} if file != "state.v2" else {}
    without |= {"features": []} if file == "state.v1" else {}
    assert replace(state, **without) == replace(samples.STATE, **without)


@pytest.mark.parametrize("file", ["learner.v1", "learner.v2.first", "learner.v2"])
def test_every_kept_learner_goes_on(file: str) -> None:
    learner = Learner(samples.settings())
    blob = (FIXTURES / file).read_bytes()
    assert restore(learner, kept("model", 1), blob) == samples.POSITIONS
    assert learner.n_events == 3 * N_EACH
    assert {key: state.items for key, state in learner.users.items()} == {
        f"0/{user}": [f"item-{(first + at) % 12}" for at in range(N_EACH)]
        for user, first in RINGS.items()
    }
    n_tasks = learner.outer_loop.n_tasks
    assert learner.learn(samples.events(60, 66)).n_tasks == 6
    assert learner.outer_loop.n_tasks == n_tasks + 6


@pytest.mark.parametrize("version", versions(schema.MODEL))
def test_every_kept_model_is_served_with_its_delta(version: int) -> None:
    recommender, vocabulary = unpack_model(kept("model", version), max_items=100, device="cpu")
    assert sorted(vocabulary.ids) == sorted(f"item-{i}" for i in range(12))
    # 20 events round 12 items meet 8 of them twice: each item twice for two users, once for one.
    counted = recommender.signals.arrays.popularity[:12, ALL_TIME]
    assert counted.tolist() == [5] * 12
    for delta in versions(schema.DELTA):
        fragment = Fragment.decode(kept("delta", delta))
        apply_delta(fragment.data, recommender, vocabulary)
    assert vocabulary.ids[12] == "new"
    assert recommender.signals.arrays.popularity[12, ALL_TIME] == 1


@pytest.mark.parametrize("version", versions(schema.MODEL))
def test_every_kept_model_can_be_started_from(version: int) -> None:
    learner = Learner(samples.settings())
    taken = start_from(learner, str(FIXTURES / f"model.v{version}"))
    assert taken["scorer.linear"].shape == learner.recommender.meta.scorer.linear.shape


# ------------------------------------------------------------------------- settings that differ


def test_settings_that_a_model_file_does_not_know_are_at_their_defaults(tmp_path: Any) -> None:
    arrays, fields = unpack(kept("model", 1), schema.MODEL)
    del fields["config"]["clusters"]
    older = pack(arrays, fields)
    recommender, _ = unpack_model(older, max_items=100, device="cpu")
    assert recommender.meta.config.clusters == 1
    path = tmp_path / "older"
    path.write_bytes(older)
    start_from(Learner(samples.settings()), str(path))


def test_a_worker_serves_a_model_of_other_settings_than_its_own() -> None:
    # Its shape is in the file; a worker's settings do not matter, save for the room for items.
    recommender, _ = unpack_model(kept("model", 1), max_items=12, device="cpu")
    assert (recommender.meta.config.width, recommender.signals.neighbours) == (4, 8)


def test_a_learner_of_other_settings_is_refused_by_what_differs() -> None:
    learner = Learner(samples.settings().model_copy(update={"encoder_width": 8}))
    with pytest.raises(SettingsError, match="width is 4, the settings ask for 8"):
        restore(learner, kept("model", 1), kept("learner", 1))


# ------------------------------------------------------------------------------- what is refused


def at_version(kind: Schema, version: int) -> bytes:
    """Return a sample that says it is of another version."""
    value = written()[kind.name]
    if kind in BLOBS:
        arrays, fields = unpack(value, kind)
        return pack(arrays, fields | {"v": version})
    fields = msgpack.unpackb(value)
    fields[1 if kind is schema.STATE else "v"] = version
    return bytes(msgpack.packb(fields))


@pytest.mark.parametrize("kind", schema.ALL, ids=lambda kind: kind.name)
def test_a_newer_version_is_refused_and_the_text_says_what_to_do(kind: Schema) -> None:
    newer = at_version(kind, kind.version + 1)
    text = f"{kind.name} of schema version {kind.version + 1}, newer.*upgrade what reads it"
    with pytest.raises((MalformedRecordError, CheckpointError, ValueError), match=text):
        READERS[kind.name](newer)


def test_a_version_before_the_last_is_refused_and_the_text_says_what_to_do() -> None:
    kind = Schema("list", 3)
    assert [kind.refusal(version) for version in (2, 3)] == ["", ""]
    assert "older than 2" in kind.refusal(1)
    assert "run the release before this one in between" in kind.refusal(1)


@pytest.mark.parametrize("version", ["1", 1.0, None, True, 0, -1, [1], {"1": 1}])
def test_what_is_no_version_is_refused(version: object) -> None:
    assert "no schema version" in schema.EVENT.refusal(version)
