"""What travels from learn to adapt: announcements, versions, and deltas in fragments."""

import msgpack
import numpy as np
import pytest
import torch
from stream_samples import batches, copies, drawn, folded, learned

from headrace.model.recommender import Recommender
from headrace.model.vocabulary import Vocabulary
from headrace.streams import schema
from headrace.streams.errors import CheckpointError, MalformedRecordError
from headrace.streams.learn import learner as learner_module
from headrace.streams.learn.learner import Learner
from headrace.streams.prequential import gradient_sums
from headrace.streams.versions.blobs import pack, unpack
from headrace.streams.versions.publication import (
    FRAGMENT_BYTES,
    Announcement,
    Assembler,
    Fragment,
    apply_delta,
    pack_delta,
    pack_model,
    split,
    unpack_model,
)
from headrace.streams.versions.store import StoredFile

STREAM = drawn(300, n_items=60)
BLOB = bytes(range(256)) * (FRAGMENT_BYTES // 100)  # two whole fragments and a half
ANNOUNCEMENT = Announcement(
    version=7,
    epoch=3,
    model=StoredFile("v7.model.safetensors", "ab", 12),
    learner=StoredFile("v7.learner.safetensors", "cd", 34),
    delta_offset=99,
    published_ms=1_700_000_000_000,
)


# ------------------------------------------------------------------------------- announcements


def test_an_announcement_comes_back_as_it_was() -> None:
    assert Announcement.decode(ANNOUNCEMENT.encode()) == ANNOUNCEMENT


def test_keys_that_a_newer_writer_adds_are_ignored() -> None:
    fields = msgpack.unpackb(ANNOUNCEMENT.encode()) | {"new": 1}
    fields["model"]["new"] = 2
    assert Announcement.decode(msgpack.packb(fields)) == ANNOUNCEMENT


@pytest.mark.parametrize(
    "value", [None, b"", b"\xc1", b"\x93\x01\x02\x03", msgpack.packb({"v": 1})]
)
def test_foreign_records_are_neither_announcements_nor_deltas(value: bytes) -> None:
    for kind in (Announcement, Fragment):
        with pytest.raises(MalformedRecordError):
            kind.decode(value)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"version": "seven"}, "version: Input should be a valid integer"),
        ({"epoch": 2**62}, "epoch: Input should be less than or equal"),
        (
            {"model": {"name": "../v7", "sha256": "ab", "size_bytes": 1}},
            "model.name: String should",
        ),
        ({"delta_offset": -1}, "delta_offset: Input should be greater than or equal to 0"),
        ({"published_ms": None}, "published_ms"),
        ({"model": "v7.model"}, "model"),
        (
            {"model": {"name": "v7.m.safetensors", "sha256": "ab", "size_bytes": []}},
            "model.size_bytes",
        ),
    ],
)
def test_an_announcement_with_a_wrong_field_is_refused_by_its_name(
    changed: dict[str, object], why: str
) -> None:
    fields = msgpack.unpackb(ANNOUNCEMENT.encode())
    with pytest.raises(MalformedRecordError, match=why):
        Announcement.decode(msgpack.packb(fields | changed))


# ----------------------------------------------------------------------------------- fragments


def fragments(blob: bytes = BLOB, *, epoch: int = 1, sequence: int = 1) -> list[Fragment]:
    """Return a delta in fragments, as they come from the topic."""
    cut = split(blob, epoch=epoch, sequence=sequence, published_ms=5)
    return [Fragment.decode(fragment.encode()) for fragment in cut]


def assembled(*parts: Fragment) -> list[bytes]:
    """Return the whole deltas that come of fragments."""
    assembler = Assembler()
    return [blob for part in parts if (blob := assembler.add(part)) is not None]


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"part": "first"}, "part: Input"),
        ({"parts": 10**9}, "parts: Input"),
        ({"data": 5}, "data: Input"),
        ({"data": bytes(FRAGMENT_BYTES + 1)}, "data: Data should have at most"),
    ],
)
def test_a_fragment_with_a_wrong_field_is_refused_by_its_name(
    changed: dict[str, object], why: str
) -> None:
    fields = msgpack.unpackb(next(split(BLOB, epoch=1, sequence=1, published_ms=5)).encode())
    with pytest.raises(MalformedRecordError, match=why):
        Fragment.decode(msgpack.packb(fields | changed))


def test_a_delta_is_cut_into_records_and_put_together_again() -> None:
    parts = fragments()
    assert [len(part.data) for part in parts[:2]] == [FRAGMENT_BYTES, FRAGMENT_BYTES]
    assert [(part.part, part.parts) for part in parts] == [(0, 3), (1, 3), (2, 3)]
    assert assembled(*parts) == [BLOB]


def test_a_small_delta_is_one_record_and_so_is_an_empty_one() -> None:
    assert assembled(*fragments(b"small"), *fragments(b"")) == [b"small", b""]


def test_a_delta_whose_beginning_was_not_read_is_left_out() -> None:
    assert assembled(*fragments()[1:], *fragments(b"next", sequence=2)) == [b"next"]


def test_a_delta_whose_writer_died_gives_way_to_the_next_writers() -> None:
    died, others = fragments(epoch=1), fragments(b"x" + BLOB, epoch=2)
    assert assembled(*died[:2], *others) == [b"x" + BLOB]


def test_pieces_of_two_deltas_are_never_put_together() -> None:
    one, other = fragments(epoch=1), fragments(b"x" * len(BLOB), epoch=2)
    assert assembled(one[0], other[0], one[1], other[1], one[2], other[2]) == []
    assert assembled(one[0], other[1], one[2]) == []
    again = fragments(sequence=2)
    assert assembled(one[0], again[1], again[2]) == []


def test_a_record_that_comes_twice_does_no_harm() -> None:
    first, second, third = fragments()
    assert assembled(first, first, second, third) == [BLOB]


# ------------------------------------------------------------------------------------ versions


def replica_of(learner: Learner) -> tuple[Recommender, Vocabulary]:
    """Return what a worker makes of the learner's version."""
    blob = pack_model(learner.recommender, learner.vocabulary)
    return unpack_model(blob, max_items=learner.settings.max_items, device="cpu")


def lists_of(learner: Learner, recommender: Recommender, vocabulary: Vocabulary) -> list[list[str]]:
    """Return every user's whole ranking, adapted, by one recommender or another."""
    states = copies(learner.users.values())
    histories = folded(learner, states, []).after
    with torch.no_grad():
        prepared = recommender.prepare(histories)
        fast = recommender.adapt(prepared, gradient_sums(recommender, states))
        scores = recommender.score(prepared, fast)
    order = scores.argsort(dim=1, descending=True, stable=True).numpy()
    items = np.take_along_axis(prepared.candidates.items, order, 1)
    return [[vocabulary.ids[i] for i in row if i >= 0] for row in items]


def own_lists(learner: Learner) -> list[list[str]]:
    """Return the rankings of the learner's own recommender."""
    return lists_of(learner, learner.recommender, learner.vocabulary)


def test_a_replica_of_a_version_ranks_as_the_learner() -> None:
    learner = learned(STREAM)
    assert lists_of(learner, *replica_of(learner)) == own_lists(learner)


@pytest.mark.parametrize("n_before", [0, 150])
def test_a_replica_that_follows_by_deltas_ranks_as_the_learner(
    n_before: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learner_module, "FIT_EVENTS", 100)
    learner = learned(STREAM[:n_before])
    recommender, vocabulary = replica_of(learner)
    n_known = len(vocabulary)
    for batch in batches(STREAM[n_before:], 50):
        learner.learn(batch)
        learner.serve_delta()
        delta = pack_delta(learner.recommender, learner.assortment.new_items)
        learner.assortment.new_items = []
        for _ in range(2):  # a delta that is applied again changes nothing
            apply_delta(delta, recommender, vocabulary)
    assert len(vocabulary) > n_known
    assert (recommender.coefficients.items >= 0).any()  # fitted meanwhile
    assert vocabulary.ids == learner.vocabulary.ids
    # The encoder moves with versions: only the small scoring network and the signals came along.
    recommender.meta.encoder.load_state_dict(learner.recommender.meta.encoder.state_dict())
    recommender.meta.user_loop.load_state_dict(learner.recommender.meta.user_loop.state_dict())
    assert lists_of(learner, recommender, vocabulary) == own_lists(learner)


def test_a_delta_carries_the_scoring_network_and_leaves_the_encoder() -> None:
    learner = learned(STREAM[:150])
    recommender, vocabulary = replica_of(learner)
    encoder = recommender.meta.encoder.items.detach().clone()
    learner.learn(STREAM[150:])
    apply_delta(
        pack_delta(learner.recommender, learner.assortment.new_items), recommender, vocabulary
    )
    torch.testing.assert_close(
        recommender.meta.small_state(), learner.recommender.meta.small_state()
    )
    assert torch.equal(recommender.meta.encoder.items, encoder)
    assert not torch.equal(recommender.meta.encoder.items, learner.recommender.meta.encoder.items)


def test_a_delta_makes_room_for_items_that_nothing_is_counted_of() -> None:
    learner = learned(STREAM)
    recommender, vocabulary = replica_of(learner)
    latest = 2 * recommender.signals.capacity
    apply_delta(pack_delta(learner.recommender, [(latest, "new")]), recommender, vocabulary)
    assert vocabulary.index("new") == latest < recommender.signals.capacity


def test_a_replica_of_fewer_items_follows_a_writer_of_more() -> None:
    learner = learned(STREAM)
    recommender, vocabulary = replica_of(learner)
    vocabulary.max_items = len(vocabulary)
    first = len(learner.vocabulary)
    new = [(first + at, f"new-{at}") for at in range(3)]
    apply_delta(pack_delta(learner.recommender, new), recommender, vocabulary)
    assert vocabulary.ids[first:] == ["new-0", "new-1", "new-2"]
    with pytest.raises(CheckpointError, match="item index 1000000 is not from 0 to"):
        apply_delta(pack_delta(learner.recommender, [(10**6, "x")]), recommender, vocabulary)


def test_a_delta_of_a_model_of_another_shape_is_refused() -> None:
    recommender, vocabulary = replica_of(learned(STREAM))
    other = learned(STREAM, neighbours=16)
    with pytest.raises(CheckpointError, match="does not fit"):
        apply_delta(
            pack_delta(other.recommender, other.assortment.new_items), recommender, vocabulary
        )


def test_a_version_whose_parts_do_not_fit_is_refused() -> None:
    learner = learned(STREAM)
    arrays, fields = unpack(pack_model(learner.recommender, learner.vocabulary), schema.MODEL)
    config = fields["config"]
    no_array = {name: array for name, array in arrays.items() if name != "signals.filled"}
    for blob in (
        pack(no_array, fields),
        pack(arrays, fields | {"config": config | {"width": 12}}),
        pack(arrays, fields | {"config": config | {"new_size": 12}}),
        pack(arrays, {}),
    ):
        with pytest.raises(CheckpointError, match="does not fit"):
            unpack_model(blob, max_items=100, device="cpu")


def test_a_version_from_before_actions_were_told_apart_is_refused_by_what_it_lacks() -> None:
    learner = learned(STREAM)
    arrays, fields = unpack(pack_model(learner.recommender, learner.vocabulary), schema.MODEL)
    old = {name: array for name, array in arrays.items() if not name.startswith("meta.targets.")}
    with pytest.raises(CheckpointError, match=r"does not fit: .*\s.*targets\.linear"):
        unpack_model(pack(old, fields), max_items=100, device="cpu")
