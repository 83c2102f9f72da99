"""Inheritance: items of a new shop start from those of like content in another, and only those."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from stream_samples import event, learned, small

from headrace.model.counts.signals import ALL_TIME, ItemSignals
from headrace.model.networks.meta_parameters import MetaParameters
from headrace.model.recommender import Recommender
from headrace.streams.evaluation.evaluate import Evaluation
from headrace.streams.learn.inheritance import Inheritance
from headrace.streams.learn.learner import Learner
from headrace.streams.learn.transfer import start_from
from headrace.streams.model_settings import model_config
from headrace.streams.records import Item
from headrace.streams.versions.publication import pack_model

TEAS = ("green", "black", "white")
WIDTH = 8


def rows(*values: float) -> np.ndarray:
    """Return an embedding of one number for each value."""
    return np.repeat(np.array(values, np.float32)[:, None], WIDTH, 1)


def learner_that_inherits() -> Learner:
    """Return a learner of two new items, whose embeddings are zero."""
    learner = Learner(small(content="off"))
    learner.assortment.admit([event("ann", "tea"), event("ann", "milk")])
    learner.recommender.meta.encoder.items.data.zero_()
    return learner


def pass_on(inheritance: Inheritance, learner: Learner, *vectors: tuple[float, float]) -> None:
    """Let the first items of a learner inherit by these vectors."""
    indexes = np.arange(len(vectors), dtype=np.int32)
    given = np.array(vectors, np.float16)
    inheritance.pass_on(learner.loops, indexes, given, space="given/2")


def test_an_item_starts_from_the_mean_of_those_alike_weighted_by_likeness() -> None:
    # Cosines 1, 0.8 and 0.5: the last is too far.  (1 * 1 + 0.8 * 2.8) / 1.8 = 1.8
    vectors = np.array([[1, 0], [0.8, 0.6], [0.5, 0.75**0.5]], np.float32)
    inheritance = Inheritance("given/2", vectors, rows(1, 2.8, 100), np.array([1, 2.8, 100]))
    learner = learner_that_inherits()
    pass_on(inheritance, learner, (1, 0), (-1, 0))
    encoder = learner.recommender.meta.encoder
    assert encoder.items[0].tolist() == pytest.approx([1.8] * WIDTH, rel=1e-3)
    assert encoder.bias[0].item() == pytest.approx(1.8, rel=1e-3)
    assert encoder.items[1].tolist() == [0] * WIDTH  # nothing there is like it
    assert inheritance.n_matched == 1


def test_only_the_five_nearest_count() -> None:
    angles = np.linspace(0, 0.9, 7)
    vectors = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    embeddings = rows(*[1] * 5, 50, 50)
    inheritance = Inheritance("given/2", vectors, embeddings, np.zeros(7, np.float32))
    learner = learner_that_inherits()
    pass_on(inheritance, learner, (1, 0))
    assert learner.recommender.meta.encoder.items[0, 0].item() == pytest.approx(1, rel=1e-3)


def test_what_was_learned_here_stays() -> None:
    inheritance = Inheritance("given/2", np.eye(2, dtype=np.float32), rows(1, 1), np.ones(2))
    learner = learner_that_inherits()
    learner.signals.arrays.popularity[0, ALL_TIME] = 3
    pass_on(inheritance, learner, (1, 0), (1, 0))
    items = learner.recommender.meta.encoder.items
    assert items[:2, 0].tolist() == [0, 1]


@pytest.mark.parametrize("space", ["given/3", "words/256"])
def test_content_that_cannot_be_compared_matches_nothing_and_says_so(
    space: str, caplog: pytest.LogCaptureFixture
) -> None:
    inheritance = Inheritance("given/2", np.eye(2, dtype=np.float32), rows(1, 1), np.ones(2))
    learner = learner_that_inherits()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            inheritance.pass_on(
                learner.loops, np.zeros(1, np.int32), np.ones((1, 3), np.float16), space=space
            )
    assert [r.getMessage() for r in caplog.records] == [
        f"no item starts from another shop's: content is {space} here and given/2 there"
    ]
    assert not learner.recommender.meta.encoder.items[0].any()
    assert inheritance.n_matched == 0


def test_an_heir_with_room_for_fewer_items_grows() -> None:
    inheritance = Inheritance("given/2", np.eye(2, dtype=np.float32), rows(1, 1), np.ones(2))
    learner = learner_that_inherits()
    other = Recommender(MetaParameters(model_config(small()), capacity=1), ItemSignals(8))
    other.signals = learner.signals
    twin = learner.new_outer_loop()
    twin.recommender = other
    learner.twins.append(twin)
    pass_on(inheritance, learner, (1, 0), (0, 1))
    assert other.meta.encoder.items[:2, 0].tolist() == [1, 1]


# ------------------------------------------------------------------------------- between two shops


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the model file of a shop of teas; each was taken often, and one tea once."""
    path = tmp_path_factory.mktemp("other") / "model.safetensors"
    learner = Learner(small())
    for tea in (*TEAS, "rare"):
        learner.assortment.note(Item(item=f"old-{tea}", title=f"{tea} tea"))
    users = [("ann", tea) for _ in range(5) for tea in TEAS] + [("bob", "rare")]
    learner.learn([(u, at, event(u, f"old-{t}", at)) for at, (u, t) in enumerate(users)])
    learner.serve_version()
    space = learner.assortment.catalogue.space
    path.write_bytes(pack_model(learner.recommender, learner.vocabulary, content_space=space))
    return path


def old_embedding(model: Path, tea: str) -> torch.Tensor:
    """Return what the old shop learned of a tea: the one whose content is the same."""
    learner = Learner(small())
    start_from(learner, str(model))
    learner.assortment.note(Item(item="new", title=f"{tea} tea"))
    learner.assortment.place()
    return learner.recommender.meta.encoder.items[0].detach()


def test_an_item_is_matched_by_what_its_record_says_and_not_by_its_id(model: Path) -> None:
    learner, plain = Learner(small()), Learner(small())
    start_from(learner, str(model))
    for one in (learner, plain):
        one.assortment.note(Item(item="new-green", title="green tea"))
        one.assortment.note(Item(item="old-black", title="garden chair"))
        one.assortment.admit(
            [event("eve", item) for item in ("new-green", "old-black", "old-white")]
        )
    assert learner.assortment.inheritance is not None
    assert learner.assortment.inheritance.n_matched == 1
    moved = [
        not torch.equal(a, b)
        for a, b in zip(
            learner.recommender.meta.encoder.items[:3],
            plain.recommender.meta.encoder.items[:3],
            strict=True,
        )
    ]
    assert moved == [True, False, False]


def test_what_is_inherited_outlives_growth(model: Path) -> None:
    learner = Learner(small())
    start_from(learner, str(model))
    learner.assortment.note(Item(item="new", title="green tea"))
    learner.assortment.place()
    capacity = learner.recommender.meta.capacity
    learner.assortment.admit([event("eve", f"other-{i}") for i in range(capacity + 1)])
    assert learner.recommender.meta.capacity > capacity
    kept = learner.recommender.meta.encoder.items[learner.vocabulary.index("new")]
    assert torch.equal(kept, old_embedding(model, "green"))


def test_an_item_hardly_taken_there_leaves_nothing(model: Path) -> None:
    learner = Learner(small())
    start_from(learner, str(model))
    # Half the words of "rare tea", of no other.
    learner.assortment.note(Item(item="new", title="rare"))
    learner.assortment.place()
    assert learner.assortment.inheritance is not None
    assert learner.assortment.inheritance.n_matched == 0


def test_a_model_that_does_not_say_what_its_content_is_leaves_only_how_to_rank(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = learned([("ann", at, event("ann", f"old-{at % 3}", at)) for at in range(30)])
    path = tmp_path / "model.safetensors"
    path.write_bytes(pack_model(other.recommender, other.vocabulary))
    learner = Learner(small())
    start_from(learner, str(path))
    learner.assortment.note(Item(item="new", title="green tea"))
    learner.assortment.place()
    assert learner.assortment.inheritance is not None
    assert learner.assortment.inheritance.n_matched == 0
    assert f"{learner.assortment.catalogue.space} here and unknown there" in caplog.text


def test_in_an_evaluation_the_twin_inherits_too(model: Path) -> None:
    evaluation = Evaluation(small(start_from=str(model)))
    evaluation.know([Item(item="new", title="green tea")])
    expected = old_embedding(model, "green")
    for heir in evaluation.learner.loops:
        assert torch.equal(heir.meta.encoder.items[0], expected)
    assert len(evaluation.learner.loops) == 2
