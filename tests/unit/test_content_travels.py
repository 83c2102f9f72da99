"""What is known of items' content reaches workers, and a learner that starts again."""

import zlib

import numpy as np
import pytest
from content_rig import cold, contents, note, shop, take
from stream_samples import drawn, learned, small

from headrace.model.vocabulary import Vocabulary
from headrace.streams import schema
from headrace.streams.errors import CheckpointError
from headrace.streams.learn.learner import Learner
from headrace.streams.learn.learner_state import pack_learner, restore
from headrace.streams.versions.blobs import pack, unpack
from headrace.streams.versions.publication import apply_delta, pack_delta, pack_model, unpack_model


def test_a_worker_that_follows_deltas_knows_what_the_learner_knows() -> None:
    learner = learned(drawn(60, n_items=10), max_items=32)
    note(learner, *shop(3))
    recommender, vocabulary = unpack_model(
        pack_model(learner.recommender, learner.vocabulary), max_items=32, device="cpu"
    )
    learner.assortment.new_items = []
    pack_delta(learner.recommender, [])
    note(learner, *shop(40, first=3))
    take(learner, "new-40", "item-1")
    delta = pack_delta(learner.recommender, learner.assortment.new_items)
    for _ in range(2):  # the second time changes nothing
        apply_delta(delta, recommender, vocabulary)
        assert vocabulary.ids == learner.vocabulary.ids
        ours, theirs = learner.signals.content, recommender.signals.content
        for name, array in ours.snapshot().items():
            np.testing.assert_array_equal(theirs.snapshot()[name], array)
        np.testing.assert_array_equal(theirs.cold, ours.cold)


def test_an_item_is_judged_and_served_by_nothing_that_was_learned_of_its_index_before() -> None:
    learner = learned(drawn(60, n_items=10), max_items=16)
    note(learner, *shop(6))
    learner.serve_version()
    old = learner.vocabulary.index("new-0")
    for meta in (learner.recommender.meta, learner.served.meta):
        meta.residual[old] = 3.0
    worker, vocabulary = unpack_model(
        pack_model(learner.recommender, learner.vocabulary), max_items=16, device="cpu"
    )
    learner.assortment.new_items = []
    take(learner, "item-99")
    assert learner.vocabulary.index("item-99") == old
    apply_delta(pack_delta(learner.recommender, learner.assortment.new_items), worker, vocabulary)
    for meta in (learner.served.meta, worker.meta):
        assert (meta.residual[old], meta.encoder.bias[old]) == (0, 0)
        assert not meta.encoder.items[old].any()
        assert meta.encoder.items[: old - 1].any(1).all()  # of the others it is kept
    assert learner.recommender.meta.encoder.items[old].any()  # where it is learned from now on


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("items", np.array([999], np.int32)),
        ("items", np.array([-1], np.int32)),
        ("vectors", np.full((1, 256), np.nan, np.float16)),
        ("vectors", np.zeros((1, 5), np.float16)),
        ("vectors", np.zeros((1, 256), np.float32)),
        ("stamps", np.zeros(2, np.int64)),
    ],
)
def test_a_delta_whose_content_does_not_fit_is_refused_whole(
    name: str, value: np.ndarray[tuple[int, ...], np.dtype[np.generic]]
) -> None:
    learner = Learner(small())
    note(learner, *shop(1))
    recommender, vocabulary = unpack_model(
        pack_model(learner.recommender, learner.vocabulary), max_items=16, device="cpu"
    )
    delta = pack_delta(learner.recommender, learner.assortment.new_items)
    arrays, fields = unpack(zlib.decompress(delta), schema.DELTA)
    changed = pack(arrays | {f"content.{name}": value}, fields)
    with pytest.raises(CheckpointError, match="content"):
        apply_delta(zlib.compress(changed), recommender, Vocabulary(16))
    assert vocabulary.ids == ["new-0"]


def test_a_restarted_learner_knows_all_content_and_makes_no_vector_again() -> None:
    learner = learned(drawn(60, n_items=10))
    note(learner, *shop(5))
    learner.serve_version()
    blobs = pack_model(learner.recommender, learner.vocabulary), pack_learner(learner, {})
    resumed = Learner(small())
    restore(resumed, *blobs)
    resumed.signals.content.take_delta()
    note(resumed, *shop(5))  # the catalogue is read from its start
    assert contents(resumed) == contents(learner)
    assert len(resumed.signals.content.take_delta()["items"]) == 0
    note(resumed, *shop(1, first=5))
    assert cold(resumed)[0] == "new-5"  # newer than all before the restart


def test_a_learner_restarted_with_another_embedder_forgets_vectors_that_do_not_compare() -> None:
    learner = learned(drawn(60, n_items=10))
    note(learner, *shop(5))
    blobs = pack_model(learner.recommender, learner.vocabulary), pack_learner(learner, {})
    resumed = Learner(small(content="off"))
    restore(resumed, *blobs)
    assert contents(resumed) == {}
