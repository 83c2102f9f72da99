"""The twin and the placebo: learned apart, adapted to nobody, adapted to somebody else."""

from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from stream_samples import drawn, learned, small
from test_evaluate import STREAM

from headrace.model.ranking_metrics import MISS
from headrace.streams.evaluation.evaluate import Evaluation
from headrace.streams.evaluation.twin import Twin, another, placebo
from headrace.streams.learn.learner import Learner
from headrace.streams.prequential import judge, lists_for
from headrace.streams.records import Item


@pytest.mark.parametrize("rules", [{}, {"diversity": 1.0}, {"target_action": "purchase"}])
def test_model_without_inner_steps_is_its_own_twin_under_any_rules(rules: dict[str, Any]) -> None:
    settings = small(inner_steps=0, replay_batches=1, **rules)
    events = STREAM.with_columns(pl.Series("action", ["view", "purchase"] * 200))
    ranks = Evaluation(settings, events_per_delta=50, events_per_version=100).run(events)
    for name in ("twin", "placebo", "frozen"):
        assert ranks[name].tolist() == ranks["adapted"].tolist()
    assert (ranks["twin"] < MISS).any()


def test_twin_learns_apart_and_never_adapts() -> None:
    evaluation = Evaluation(small(replay_batches=8), events_per_delta=50, events_per_version=100)
    evaluation.run(STREAM)
    own, twin = evaluation.learner.recommender.meta, evaluation._twin.outer_loop.meta
    assert twin.config.inner_steps == 0
    assert not twin.scorer_loop.write.weight.any()
    assert own.scorer_loop.write.weight.any()
    assert not torch.equal(own.scorer.linear, twin.scorer.linear)
    assert evaluation._twin.outer_loop.n_tasks == evaluation.learner.outer_loop.n_tasks


def test_twin_is_served_as_stale_as_the_model() -> None:
    evaluation = Evaluation(small(), events_per_delta=50, events_per_version=10_000)
    loops = evaluation.learner.outer_loop, evaluation._twin.outer_loop
    before = [loop.served.meta.encoder.items.clone() for loop in loops]
    evaluation.run(STREAM)  # no version is due
    for items, loop in zip(before, loops, strict=True):
        assert torch.equal(loop.served.meta.encoder.items, items)
        assert not torch.equal(loop.meta.encoder.items, items)


def test_twin_grows_with_the_items() -> None:
    learner = Learner(small())
    twin = Twin(learner)
    stream = drawn(1100, n_items=1100, n_users=40)
    wide = [(user, at, one.__class__(user=one.user, item=f"{at}", time_ms=one.time_ms))
            for user, at, one in stream]  # fmt: skip
    learner.assortment.admit([one for _, _, one in wide])
    states, folded = learner.fold(wide[:50])
    judged = judge(learner.served, folded, states)
    assert judged is not None
    own = twin.judge(judged)
    assert twin.outer_loop.meta.capacity == learner.recommender.meta.capacity > 1024
    assert len(own.judgement.ranks) == len(own.tasks) == len(judged.tasks)


def test_twin_forgets_evicted_items_and_what_is_rehearsed_of_them() -> None:
    evaluation = Evaluation(small(max_items=16), events_per_version=10_000)
    evaluation.run(STREAM)
    twin, learner = evaluation._twin.outer_loop, evaluation.learner
    twin.meta.encoder.bias.data.fill_(1)
    assert twin.n_rehearsed
    assert learner.assortment.make_room()
    gone = learner.vocabulary.ids.index("")
    assert twin.meta.encoder.bias[gone] == 0
    assert not twin.n_rehearsed


def test_twin_starts_anew_where_a_newer_item_takes_an_index() -> None:
    learner = Learner(small(max_items=16))
    twin = Twin(learner).outer_loop
    for number in range(9):  # one more than may be held
        twin.meta.encoder.bias.data.fill_(1)
        learner.assortment.note(Item(item=f"new-{number}", title=f"tea {number}"))
        learner.assortment.place()
    assert twin.meta.encoder.bias[learner.vocabulary.index("new-8")] == 0


@pytest.mark.parametrize(
    ("owners", "others"),
    [
        ([0, 1, 2], [1, 2, 0]),
        ([0, 0, 1, 0], [2, 2, 3, 2]),
        ([5, 5], [-1, -1]),
        ([], []),
    ],
)
def test_support_is_that_of_the_next_task_of_another_user(
    owners: list[int], others: list[int]
) -> None:
    assert another(np.array(owners, np.int64)).tolist() == others


def test_placebo_gives_each_user_the_support_of_the_other() -> None:
    learner = learned(drawn(300))
    torch.nn.init.normal_(learner.served.meta.scorer_loop.write.weight)
    stream = [(user, 1_000 + at, one) for user, at, one in drawn(40, seed=1)]
    states, folded = learner.fold(stream)
    judged = judge(learner.served, folded, states)
    assert judged is not None
    owners = folded.owners[folded.is_task]
    others = placebo(learner.served, judged, owners)
    alone = placebo(learner.served, judged, np.zeros_like(owners))
    ranks = [lists_for(learner.served, of, length=20).ranks.tolist() for of in (others, alone)]
    assert ranks[0] != lists_for(learner.served, judged, length=20).ranks.tolist()
    assert ranks[1] == judged.judgement.ranks.tolist()
