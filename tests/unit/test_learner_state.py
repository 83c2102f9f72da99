"""A learner that was stopped goes on as if it never was; one that does not fit is refused."""

from collections.abc import Mapping

import msgpack
import numpy as np
import pytest
import torch
from stream_samples import PlainLearner, batches, drawn, learned, small

from headrace.streams import schema
from headrace.streams.errors import CheckpointError, SettingsError
from headrace.streams.learn.learner import Learner
from headrace.streams.learn.learner_state import pack_learner, restore
from headrace.streams.records import Item
from headrace.streams.versions.blobs import pack, unpack
from headrace.streams.versions.publication import pack_model

STREAM = drawn(240)
HALF = 128
POSITIONS = {0: 7, 3: 128}


def checkpoint(learner: Learner) -> tuple[bytes, bytes]:
    """Return both files of a version."""
    return pack_model(learner.recommender, learner.vocabulary), pack_learner(learner, POSITIONS)


def restored(blobs: tuple[bytes, bytes], **changes: object) -> Learner:
    """Return a new learner that goes on from a version."""
    learner = PlainLearner(small(**changes))
    assert restore(learner, *blobs) == POSITIONS
    return learner


def go_on(learner: Learner) -> Learner:
    """Learn the second half of the stream."""
    for batch in batches(STREAM[HALF:], 16):
        learner.learn(batch)
    return learner


def assert_same_signals(one: Learner, other: Learner) -> None:
    """Equal to the bit."""
    snapshots = [x.signals.snapshot(len(x.vocabulary)) for x in (one, other)]
    for name, array in snapshots[0].items():
        np.testing.assert_array_equal(array, snapshots[1][name], err_msg=name)
    assert one.signals.popular.tolist() == other.signals.popular.tolist()


def users_of(learner: Learner) -> Mapping[str, tuple[object, ...]]:
    """Return what is known of each user, save the gradients."""
    return {
        key: (s.last_offset, s.n_events, s.n_repeats, s.items, s.actions, s.times_ms)
        for key, s in learner.users.items()
    }


def test_a_restored_learner_ends_as_one_that_was_never_stopped() -> None:
    learner = learned(STREAM[:HALF])
    resumed = go_on(restored(checkpoint(learner)))
    go_on(learner)
    assert resumed.vocabulary.ids == learner.vocabulary.ids
    assert_same_signals(resumed, learner)
    assert users_of(resumed) == users_of(learner)
    assert list(resumed.users) == list(learner.users)  # the least recent are forgotten first
    assert (resumed.n_events, resumed.outer_loop.n_tasks) == (240, learner.outer_loop.n_tasks)
    for key, state in learner.users.items():
        assert state.gradients is not None
        np.testing.assert_allclose(resumed.users[key].gradients, state.gradients, atol=1e-5)
    torch.testing.assert_close(
        resumed.recommender.meta.state_dict(), learner.recommender.meta.state_dict()
    )
    for each in (resumed, learner):
        each.pairs.fit(each.recommender.coefficients)
    resumed_fit, fit = (x.recommender.coefficients.snapshot() for x in (resumed, learner))
    for name, array in fit.items():
        np.testing.assert_array_equal(resumed_fit[name], array)


def test_the_optimisers_go_on_too() -> None:
    # Adam's first steps are of the size of the learning rate whatever the gradient: a learner
    # whose moments were lost would end elsewhere.
    learner = learned(STREAM[:HALF])
    model, state = checkpoint(learner)
    arrays, fields = unpack(state, schema.LEARNER)
    forgetful = {k: a for k, a in arrays.items() if not k.startswith(("loop.scorer", "loop.enc"))}
    assert len(forgetful) < len(arrays)
    resumed = go_on(restored((model, pack(forgetful, fields))))
    go_on(learner)
    apart = (
        resumed.recommender.meta.scorer.state_dict(),
        learner.recommender.meta.scorer.state_dict(),
    )
    with pytest.raises(AssertionError):
        torch.testing.assert_close(*apart)


def test_categories_keep_their_numbers_over_a_restart() -> None:
    learner = learned(STREAM[:HALF])
    learner.assortment.note(Item(item="item-0", categories=("cold",)))
    learner.assortment.note(Item(item="item-1", categories=("hot",)))
    resumed = restored(checkpoint(learner))
    resumed.assortment.note(Item(item="item-2", categories=("hot",)))
    index = resumed.vocabulary.indexes(["item-0", "item-1", "item-2"])
    assert resumed.signals.arrays.category[index].tolist() == [0, 1, 1]


def test_no_call_packs_more_than_one_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each holds Python's lock, and with it the clock that tells whether the role stands still."""
    n_bytes: list[int] = []

    class Packer(msgpack.Packer):
        def pack(self, what: object) -> bytes:
            n_bytes.append(len(packed := super().pack(what)))
            return packed

    monkeypatch.setattr(msgpack, "Packer", Packer)
    monkeypatch.setattr(msgpack, "packb", lambda what: Packer().pack(what))
    learner = learned(STREAM)
    arrays, _ = unpack(pack_learner(learner, POSITIONS), schema.LEARNER)
    users = [[key, state.encode()] for key, state in learner.users.items()]
    assert msgpack.unpackb(arrays["users"]) == users
    assert max(n_bytes) * 3 < sum(n_bytes)


def test_a_learner_of_nothing_can_be_stored_and_go_on() -> None:
    resumed = go_on(restored(checkpoint(PlainLearner(small()))))
    assert resumed.n_events == len(STREAM) - HALF


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"encoder_width": 12}, "width is 8, the settings ask for 12"),
        ({"encoder_blocks": 2}, "blocks is 1, the settings ask for 2"),
        ({"neighbours": 9}, "neighbours is 8, the settings ask for 9"),
        ({"max_items": 16}, "items are 20, max_items is 16"),
    ],
)
def test_a_model_of_another_shape_is_refused_and_the_text_says_what_differs(
    changes: dict[str, int], text: str
) -> None:
    blobs = checkpoint(learned(STREAM[:HALF]))
    with pytest.raises(SettingsError, match=text):
        restored(blobs, **changes)


@pytest.mark.parametrize("lost", ["users", "loop.n_tasks", "loop.encoder.0.exp_avg_sq"])
def test_a_state_that_lacks_a_part_is_refused(lost: str) -> None:
    model, state = checkpoint(learned(STREAM[:HALF]))
    arrays, fields = unpack(state, schema.LEARNER)
    del arrays[lost]
    with pytest.raises(CheckpointError, match="does not fit"):
        restored((model, pack(arrays, fields)))


def test_a_gpu_that_is_full_is_not_taken_for_a_damaged_state(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stored = checkpoint(learned(STREAM[:HALF]))

    def fill(*_: object) -> None:
        raise torch.OutOfMemoryError("no room for moments")

    monkeypatch.setattr(torch.optim.Adam, "load_state_dict", fill)
    with pytest.raises(torch.OutOfMemoryError):
        restore(PlainLearner(small()), *stored)


def test_a_cut_state_is_refused() -> None:
    model, state = checkpoint(learned(STREAM[:HALF]))
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        restored((model, state[:-1]))
