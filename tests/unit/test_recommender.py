"""Recommender: ranks, judgements, scores and shares of one micro-batch."""

import math

import numpy as np
import pytest
import torch
from model_samples import count_user, histories
from torch import Tensor, nn
from torch.nn import functional as F

from headrace.model.config import ModelConfig
from headrace.model.counts.candidate_signals import N_SIGNALS
from headrace.model.counts.candidates import Candidates
from headrace.model.counts.content import FEW_EVENTS
from headrace.model.counts.signals import ALL_TIME, ItemSignals
from headrace.model.counts.tenure import N_TENURE_SIGNALS
from headrace.model.diversity import best_first
from headrace.model.networks.encoder import EMBEDDING_STD
from headrace.model.networks.inner_loop import (
    GRADIENT_LIMIT,
    N_DECAYS,
    GradientSums,
    n_scorer_weights,
)
from headrace.model.networks.meta_parameters import MetaParameters
from headrace.model.networks.scorer import LINEAR_START, N_ADAPTED, N_INPUTS
from headrace.model.ranking_metrics import MISS
from headrace.model.recommender import (
    Prepared,
    Recommender,
    position_of,
    ranks_of,
)

CONFIG = ModelConfig(width=4, heads=2, length=6, hidden=5, inner_steps=1, negatives=8)
N_ITEMS = 30
USERS = ([3, 1, 4, 1, 5], [], [9, 2, 6], [-1, 5, 3], [7])
NOWHERE = -1


@pytest.fixture
def recommender() -> Recommender:
    """Return a recommender whose every part speaks, over a stream drawn at random."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    signals = ItemSignals(8, capacity=N_ITEMS)
    for _ in range(20):
        count_user(signals, rng.integers(0, N_ITEMS, 6).tolist())
    signals.refresh_popular(N_ITEMS, quotas=(6, 0, 0, 0))
    meta = MetaParameters(CONFIG, capacity=N_ITEMS)
    for parameter in (meta.scorer.last.weight, meta.scorer_loop.write.weight, meta.user_loop.start):
        nn.init.normal_(parameter)
    meta.scorer.mean.fill_(0.5)
    meta.scorer.std.fill_(2.0)
    meta.negatives.copy_(torch.arange(8))
    return Recommender(meta, signals)


def some_targets(prepared: Prepared) -> np.ndarray:
    """Return a target for each user: the second candidate, and for the last one none."""
    targets = prepared.candidates.items[:, 1].copy()
    targets[-1] = NOWHERE
    assert (targets[:-1] >= 0).all()
    return targets


def two_candidates(*, first: float, second: float, padding: int = 0) -> Candidates:
    """Return candidates 0 and 1 of one user, told apart by their first signal that is adapted."""
    n = 2 + padding
    items = np.full((1, n), -1, np.int32)
    items[0, :2] = [0, 1]
    signals = np.zeros((1, n, N_SIGNALS), np.float32)
    signals[0, :2, N_TENURE_SIGNALS] = [first, second]
    return Candidates(items, signals, np.zeros((1, 4), np.float32))


def new_recommender() -> Recommender:
    """Return a recommender that learned nothing: its scores are 0.1 of the sum of the signals."""
    recommender = Recommender(MetaParameters(CONFIG, capacity=4), ItemSignals(4, capacity=4))
    nn.init.zeros_(recommender.meta.encoder.items)  # logits are the biases alone: no affinity
    recommender.meta.negatives.fill_(3)
    recommender.meta.n_items.fill_(4)
    return recommender


# ------------------------------------------------------------------------------ places and ranks


def test_items_are_alike_by_embeddings_where_those_are_learned_and_by_content() -> None:
    new = new_recommender()
    new.signals.arrays.popularity[:4, ALL_TIME] = [5, 5, FEW_EVENTS - 1, 0]
    with torch.no_grad():
        new.meta.encoder.items[:4] = 1.0
    east, north = [1.0, 0.0], [0.0, 1.0]
    content, at = np.array([east, north, north], np.float16), np.arange(3)
    new.signals.content.put(at.astype(np.int32), content, at + 1, at + 1)
    vectors = new.vectors(torch.arange(4))
    assert vectors.norm(dim=-1).tolist() == pytest.approx([1, 1, 1, 0])
    likeness = vectors @ vectors.T
    assert likeness[0, 1].item() == pytest.approx(0.5)  # by one of both
    assert likeness[0, 2].item() == pytest.approx(0.0)  # as it is drawn, an embedding says nothing
    assert likeness[1, 2].item() == pytest.approx(math.sqrt(0.5))


def test_without_content_items_are_alike_by_embeddings(recommender: Recommender) -> None:
    recommender.meta.n_items.fill_(N_ITEMS)
    recommender.signals.arrays.popularity[:N_ITEMS, ALL_TIME] = FEW_EVENTS
    items = torch.tensor([[3, 7]])
    known = recommender.vectors(items)[0]
    cosine = F.cosine_similarity(*recommender.meta.encoder.items.detach()[items[0]], dim=0)
    assert (known[0] @ known[1]).item() == pytest.approx(cosine.item(), abs=1e-6)


def test_position_is_the_place_among_the_candidates() -> None:
    items = np.array([[5, 3, 8], [8, 5, -1], [1, 2, 3]], np.int32)
    assert position_of(items, np.array([8, 5, 9], np.int32)).tolist() == [2, 1, -1]


def test_unknown_target_is_not_found_in_the_padding() -> None:
    assert position_of(np.array([[5, -1]], np.int32), np.array([-1], np.int32)).tolist() == [-1]


def test_rank_is_one_more_than_the_number_scored_higher() -> None:
    scores = torch.tensor([[0.1, 0.9, 0.5]] * 3)
    assert ranks_of(scores, np.array([0, 1, 2])).tolist() == [3, 1, 2]


def test_of_items_of_equal_score_the_first_one_stands_first() -> None:
    scores = torch.tensor([[1.0, 3.0, 1.0, 2.0]] * 2)
    assert ranks_of(scores, np.array([0, 2])).tolist() == [3, 4]
    assert ranks_of(torch.zeros(1, 4), np.array([3])).tolist() == [4]


@pytest.mark.parametrize("n_scores", [1, 2, 5, 1000])
def test_a_rank_is_the_place_in_the_list(n_scores: int) -> None:
    scores = torch.randint(n_scores, (8, 300), generator=torch.Generator().manual_seed(n_scores))
    order = best_first(scores.float(), 300).numpy()
    for place in (0, 1, 77, 299):
        found = np.argmax(order == place, axis=1) + 1
        assert ranks_of(scores.float(), np.full(8, place)).tolist() == found.tolist()


def test_padding_ranks_below_everything() -> None:
    scores = torch.tensor([[-50.0, -100.0, -math.inf]])
    assert ranks_of(scores, np.array([1])).tolist() == [2]


def test_item_that_is_no_candidate_is_a_miss() -> None:
    assert ranks_of(torch.zeros(2, 3), np.array([-1, 0])).tolist() == [MISS, 1]


def test_scores_that_are_no_numbers_make_no_first_place() -> None:
    nan = float("nan")
    scores = torch.tensor([[nan, nan, nan], [nan, 1.0, 0.0], [nan, 1.0, 0.0]])
    assert ranks_of(scores, np.array([1, 1, 0])).tolist() == [4, 2, 4]


# ---------------------------------------------------------------------------------------- judging


def judge_alone(recommender: Recommender, prepared: Prepared, row: int, target: int) -> Tensor:
    """Return one user's (P,) gradient of the listwise log-likelihood, without batch or padding."""
    user = prepared.rows(slice(row, row + 1))
    items = [item for item in user.candidates.items[0].tolist() if item >= 0]
    with torch.no_grad():
        inputs = recommender.initial(user).inputs[:, : len(items)]
    linear = torch.zeros(1, N_ADAPTED, requires_grad=True)
    hidden = torch.zeros(1, CONFIG.hidden, requires_grad=True)
    scores = recommender.meta.scorer(inputs, user.context, linear_shift=linear, hidden_shift=hidden)
    likelihood = torch.log_softmax(scores[0], 0)[items.index(target)]
    return torch.cat(torch.autograd.grad(likelihood, (linear, hidden)), 1)[0]


def test_gradients_equal_those_of_one_user_at_a_time(recommender: Recommender) -> None:
    prepared = recommender.prepare(histories(*USERS))
    targets = some_targets(prepared)
    found = recommender.judge(prepared, targets).gradients
    for row in range(len(USERS) - 1):
        expected = judge_alone(recommender, prepared, row, int(targets[row]))
        torch.testing.assert_close(torch.from_numpy(found[row]), expected, rtol=1e-3, atol=1e-5)
        assert expected[N_ADAPTED:].abs().max() > 0.001  # the first layer has its share


def test_gradient_of_two_candidates_by_hand() -> None:
    # Scores 0.2 and 0 of signals 2 and 0. The second item is the event's, so the gradient of its
    # log-likelihood is its own signal less the expected one: 0 - (p * 2 + (1 - p) * 0).
    recommender = new_recommender()
    prepared = recommender.prepare(histories([2]), two_candidates(first=2, second=0))
    judgement = recommender.judge(prepared, np.array([1], np.int32))
    p = 1 / (1 + math.exp(-LINEAR_START * 2))
    assert judgement.gradients[0] == pytest.approx([-2 * p] + [0] * (N_ADAPTED - 1 + CONFIG.hidden))
    assert judgement.ranks.tolist() == [2]


def test_gradient_is_limited() -> None:
    # A signal of 20 counts as 6; p = 0.88 of it is 5.3.
    recommender = new_recommender()
    prepared = recommender.prepare(histories([2]), two_candidates(first=20, second=0))
    judgement = recommender.judge(prepared, np.array([1], np.int32))
    assert judgement.gradients[0, 0] == -GRADIENT_LIMIT == -4


def test_miss_has_no_gradient(recommender: Recommender) -> None:
    prepared = recommender.prepare(histories(*USERS))
    judgement = recommender.judge(prepared, some_targets(prepared))
    assert judgement.ranks[-1] == MISS
    assert judgement.positions.tolist() == [1, 1, 1, 1, -1]
    assert judgement.gradients.any(1).tolist() == [True, True, True, True, False]


def test_signal_that_is_no_number_leaves_no_mark_on_the_user() -> None:
    recommender = new_recommender()
    prepared = recommender.prepare(histories([2]), two_candidates(first=math.nan, second=0))
    judgement = recommender.judge(prepared, np.array([1], np.int32))
    assert judgement.gradients.tolist() == [[0] * n_scorer_weights(CONFIG)]


def test_padding_takes_no_part_in_a_judgement() -> None:
    recommender = new_recommender()
    target = np.array([0], np.int32)
    narrow, wide = (
        recommender.judge(
            recommender.prepare(histories([2]), two_candidates(first=1, second=3, padding=padding)),
            target,
        )
        for padding in (0, 5)
    )
    np.testing.assert_allclose(narrow.gradients, wide.gradients, rtol=1e-6)
    assert narrow.ranks.tolist() == wide.ranks.tolist() == [2]


def test_user_without_candidates_is_a_miss_without_a_gradient() -> None:
    recommender = new_recommender()
    judgement = recommender.judge(recommender.prepare(histories([])), np.array([0], np.int32))
    assert judgement.ranks.tolist() == [MISS]
    assert judgement.gradients.tolist() == [[0] * n_scorer_weights(CONFIG)]


def test_judging_leaves_the_meta_parameters_and_their_gradients_alone(
    recommender: Recommender,
) -> None:
    before = {name: value.clone() for name, value in recommender.meta.state_dict().items()}
    prepared = recommender.prepare(histories(*USERS))
    recommender.judge(prepared, some_targets(prepared))
    assert all(torch.equal(v, before[n]) for n, v in recommender.meta.state_dict().items())
    assert all(p.grad is None for p in recommender.meta.parameters())


# --------------------------------------------------------------------------------- inputs, scores


def affinity(recommender: Recommender, prepared: Prepared) -> Tensor:
    """Return the (B, C) affinity that the scorer is given at the initial weights."""
    return recommender.initial(prepared).inputs[..., -1].detach()


def test_affinity_is_the_logit_above_that_of_the_average_negative() -> None:
    recommender = new_recommender()
    with torch.no_grad():
        recommender.meta.encoder.bias.copy_(torch.tensor([2.0, 0.0, 0.0, math.log(3)]))
        recommender.meta.negatives[:4] = 2  # the average of e^0 and 3 is 2
    prepared = recommender.prepare(histories([2]), two_candidates(first=0, second=0))
    expected = torch.tensor([[2 - math.log(2), -math.log(2)]])
    torch.testing.assert_close(affinity(recommender, prepared), expected)


@pytest.mark.parametrize(("bias", "limit"), [(100, 6), (-100, -12)])
def test_affinity_is_limited(bias: float, limit: float) -> None:
    recommender = new_recommender()
    with torch.no_grad():
        recommender.meta.encoder.bias[0] = bias
    prepared = recommender.prepare(histories([2]), two_candidates(first=0, second=0))
    assert affinity(recommender, prepared)[0, 0] == limit


def test_item_too_new_for_an_embedding_has_no_affinity_and_is_unknown_to_the_encoder() -> None:
    recommender = new_recommender()  # embeddings for items 0 to 3
    nn.init.normal_(recommender.meta.encoder.items)
    new = two_candidates(first=0, second=0)
    new.items[0, 1] = 4
    prepared = recommender.prepare(histories([2, 4]), new)
    assert affinity(recommender, prepared)[0, 0] != 0
    assert affinity(recommender, prepared)[0, 1] == 0
    unknown = recommender.prepare(histories([2, -1]), new)
    torch.testing.assert_close(prepared.encoded.latest, unknown.encoded.latest)


def no_judged_events(n_users: int) -> GradientSums:
    """Return the sums of users of whom nothing was judged."""
    return GradientSums(
        torch.zeros(n_users, N_DECAYS, n_scorer_weights(CONFIG)), torch.zeros(n_users, N_DECAYS)
    )


def test_user_of_whom_nothing_is_known_is_scored_with_the_meta_parameters(
    recommender: Recommender,
) -> None:
    prepared = recommender.prepare(histories([], [7]))
    adapted = recommender.adapt(prepared, no_judged_events(2))
    frozen = recommender.initial(prepared)
    torch.testing.assert_close(
        recommender.score(prepared, adapted), recommender.score(prepared, frozen)
    )


def test_padding_scores_minus_infinity(recommender: Recommender) -> None:
    prepared = recommender.prepare(histories(*USERS))
    scores = recommender.score(prepared, recommender.initial(prepared))
    assert (scores == -math.inf).tolist() == (prepared.candidates.items < 0).tolist()
    assert (prepared.candidates.items < 0).any()


def test_users_of_a_batch_do_not_affect_each_other(recommender: Recommender) -> None:
    sums = no_judged_events(len(USERS))
    sums.sums.normal_(generator=torch.Generator().manual_seed(0))
    sums.counts.fill_(4)
    together = recommender.prepare(histories(*USERS))
    scores = recommender.score(together, recommender.adapt(together, sums))
    for row, user in enumerate(USERS):
        alone = recommender.prepare(histories(user))
        one = slice(row, row + 1)
        adapted = recommender.adapt(alone, GradientSums(sums.sums[one], sums.counts[one]))
        expected = recommender.score(alone, adapted)[0]
        n = len(expected)
        torch.testing.assert_close(scores[row, :n], expected, rtol=1e-4, atol=1e-4)
        assert (scores[row, n:] == -math.inf).all()


def test_rows_of_a_prepared_batch_score_as_in_the_batch(recommender: Recommender) -> None:
    prepared = recommender.prepare(histories(*USERS))
    scores = recommender.score(prepared, recommender.initial(prepared))
    rows = prepared.rows(slice(1, 3))
    part = recommender.score(rows, recommender.initial(rows))
    torch.testing.assert_close(part, scores[1:3], rtol=1e-4, atol=1e-5)


def test_shares_of_a_linear_score_add_up_to_what_it_is_above_the_mean_input() -> None:
    recommender = new_recommender()
    recommender.meta.scorer.mean.fill_(0.25)
    prepared = recommender.prepare(histories([2]), two_candidates(first=3, second=1))
    frozen = recommender.initial(prepared)
    share = recommender.explain(prepared, frozen, torch.tensor([[1, 0]]))
    assert share.shape == (1, 2, N_INPUTS)
    # 0.1 of what the first signal is above 0.25: item 1, then item 0.
    assert share[0, :, N_TENURE_SIGNALS].tolist() == pytest.approx([0.1 * 0.75, 0.1 * 2.75])
    scores = recommender.score(prepared, frozen)[0, [1, 0]]
    torch.testing.assert_close(share[0].sum(1), scores - LINEAR_START * 0.25 * N_ADAPTED)


# -------------------------------------------------------------------------------- meta-parameters


def test_growth_keeps_the_embeddings_of_old_items() -> None:
    meta = MetaParameters(CONFIG, capacity=4)
    nn.init.normal_(meta.encoder.bias)
    items, bias = meta.encoder.items.clone(), meta.encoder.bias.clone()
    meta.grow(400)
    assert meta.capacity == 400
    assert torch.equal(meta.encoder.items[:4], items)
    assert torch.equal(meta.encoder.bias[:4], bias)
    assert not meta.encoder.bias[4:].any()
    assert meta.encoder.items[4:].std().item() == pytest.approx(EMBEDDING_STD, rel=0.1)


def test_small_state_is_the_scorer_and_its_loop_and_makes_a_twin_score_alike(
    recommender: Recommender,
) -> None:
    small = recommender.meta.small_state()
    assert {name.split(".")[0] for name in small} == {"scorer", "scorer_loop", "targets"}
    twin = new_recommender().meta
    twin.load_state_dict(small, strict=False)
    inputs, context = torch.randn(2, 3, N_INPUTS), torch.randn(2, 4)
    torch.testing.assert_close(
        twin.scorer(inputs, context), recommender.meta.scorer(inputs, context)
    )


@pytest.mark.parametrize("n_counted", [0, 3])
def test_warming_up_changes_nothing(n_counted: int) -> None:
    torch.manual_seed(0)
    signals = ItemSignals(8)
    if n_counted:
        count_user(signals, list(range(n_counted)))
        signals.refresh_popular(n_counted)
    recommender = Recommender(MetaParameters(CONFIG), signals)
    before = {name: t.clone() for name, t in recommender.meta.state_dict().items()}
    clock = signals.clock
    recommender.warm_up()
    assert signals.clock == clock
    for name, tensor in recommender.meta.state_dict().items():
        assert torch.equal(tensor, before[name]), name
        assert not tensor.requires_grad
