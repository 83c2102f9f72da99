"""Tenure: whose events count for whom, what the scorer is told, and models that know none of it."""

import math
from dataclasses import replace

import numpy as np
import pytest
import schema_samples as samples
import torch
from model_samples import count_user, gather, signal
from outer_loop_samples import N_ITEMS, PLAIN, new_loop, two_candidates
from schema_samples import FIXTURES

from headrace.model.counts.signals import ItemSignals
from headrace.model.counts.tenure import (
    BESIDE,
    N_TENURE_SIGNALS,
    N_TENURES,
    count_tenure,
    tenure_of,
)
from headrace.model.networks.scorer import N_INPUTS
from headrace.streams.versions.publication import Fragment, apply_delta, pack_delta, unpack_model

OPENER, OTHER = 0, 1


def new_signals() -> ItemSignals:
    """Return signals of an item that three users took first, and another that all took fourth."""
    signals = ItemSignals(8, capacity=16)
    for user in range(3):
        first = 4 + 4 * user
        count_user(signals, [OPENER, first, first + 1, OTHER])
    signals.popular = np.array([OPENER, OTHER], np.int32)
    return signals


@pytest.mark.parametrize(
    ("n_earlier", "tenure"),
    [(0, 0), (1, 1), (2, 2), (3, 2), (4, 3), (255, 8), (256, 9), (511, 9), (512, 9), (10**9, 9)],
)
def test_tenure_grows_with_every_doubling_up_to_the_last(n_earlier: int, tenure: int) -> None:
    assert tenure_of(n_earlier) == tenure < N_TENURES


def test_event_counts_for_its_user_s_tenure_and_half_beside_it() -> None:
    tenures = new_signals().arrays.tenures
    assert tenures[OPENER, :4].tolist() == [3, 1.5, 0, 0]  # of three users who had nothing
    assert tenures[OTHER, :5].tolist() == [0, 1.5, 3, 1.5, 0]  # of three who had three
    assert not tenures[OTHER, 5:].any()


@pytest.mark.parametrize("tenure", range(N_TENURES))
def test_half_counts_beside_a_tenure_as_far_as_there_are_others(tenure: int) -> None:
    tenures = np.zeros(N_TENURES, np.float32)
    count_tenure(tenures, 2**tenure // 2)
    assert tenures.tolist() == [
        1 if place == tenure else BESIDE if abs(place - tenure) == 1 else 0
        for place in range(N_TENURES)
    ]


def test_who_took_nothing_yet_is_told_what_others_took_first() -> None:
    found = gather(new_signals(), [])
    assert signal(found, OPENER, "tenure") == pytest.approx(math.log1p(3))
    assert signal(found, OTHER, "tenure") == 0
    # Both were taken three times; chance is held against six.
    assert signal(found, OPENER, "tenure_share") == pytest.approx(math.log1p(10 * 3.6 / 6))
    assert signal(found, OTHER, "tenure_share") == pytest.approx(math.log1p(10 * 0.6 / 6))


def test_who_took_three_is_told_what_others_took_fourth() -> None:
    found = gather(new_signals(), [12, 13, 14])
    assert signal(found, OTHER, "tenure") == pytest.approx(math.log1p(3))
    assert signal(found, OPENER, "tenure") == 0


def test_what_is_typical_of_new_users_is_learned_for_them() -> None:
    loop = new_loop(replace(PLAIN, scorer_lr=0.25))
    tasks = two_candidates(0, 0)
    tasks.inputs[0, :, 0] = [0, 2]  # the event's item was taken by more users as far as this one
    loop.learn(tasks, n_items=N_ITEMS, rehearse=False)
    tenure = loop.meta.scorer.tenure
    assert tenure.linear.tolist() == pytest.approx([0.25, 0], abs=1e-6)  # Adam's first step


def test_model_of_the_release_before_ranks_as_if_there_were_no_tenure() -> None:
    recommender, _ = unpack_model((FIXTURES / "model.v1").read_bytes(), max_items=100, device="cpu")
    assert not recommender.signals.arrays.tenures.any()
    assert not any(weights.any() for weights in recommender.meta.scorer.tenure.parameters())
    inputs, context = torch.randn(1, 3, N_INPUTS), torch.randn(1, 4)
    scores = recommender.meta.scorer(inputs, context)
    inputs[..., :N_TENURE_SIGNALS] += 1
    torch.testing.assert_close(recommender.meta.scorer(inputs, context), scores)


def test_tenure_travels_with_versions_and_deltas() -> None:
    shop = samples.learner()
    written = samples.written()
    recommender, vocabulary = unpack_model(written["model"], max_items=100, device="cpu")
    counted = shop.signals.arrays.tenures[:12]
    assert counted.any()
    np.testing.assert_array_equal(recommender.signals.arrays.tenures[:12], counted)
    torch.nn.init.ones_(shop.recommender.meta.scorer.tenure.linear)
    shop.signals.arrays.tenures[3] = np.arange(N_TENURES)
    shop.signals.arrays.dirty_items[3] = True
    apply_delta(pack_delta(shop.recommender, []), recommender, vocabulary)
    assert recommender.meta.scorer.tenure.linear.tolist() == [1, 1]
    assert recommender.signals.arrays.tenures[3].tolist() == list(range(N_TENURES))


def test_delta_of_the_release_before_leaves_no_tenure() -> None:
    recommender, vocabulary = unpack_model(samples.written()["model"], max_items=100, device="cpu")
    torch.nn.init.ones_(recommender.meta.scorer.tenure.linear)
    fragment = Fragment.decode((FIXTURES / "delta.v1").read_bytes())
    apply_delta(fragment.data, recommender, vocabulary)
    assert not recommender.meta.scorer.tenure.linear.any()  # its writer learned without
