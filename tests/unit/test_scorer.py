"""Scorer: its linear start, its fast weights and its limits."""

import pytest
import torch
from torch import Tensor, nn

from headrace.model.counts.candidate_signals import N_CONTEXTS
from headrace.model.networks.scorer import (
    ADAPTED,
    INPUTS,
    LINEAR_START,
    N_ADAPTED,
    N_INPUTS,
    Scorer,
)

HIDDEN = 5


@pytest.fixture
def scorer() -> Scorer:
    """Return a scorer whose network speaks, over inputs that are not standard yet."""
    torch.manual_seed(0)
    scorer = Scorer(HIDDEN)
    nn.init.normal_(scorer.last.weight)
    for weights in (scorer.linear, scorer.tenure.linear, scorer.tenure.first):
        nn.init.normal_(weights)
    scorer.mean.copy_(torch.linspace(-1, 1, N_ADAPTED))
    scorer.std.copy_(torch.linspace(0.5, 2, N_ADAPTED))
    return scorer


def batch(b: int = 3, c: int = 4) -> tuple[Tensor, Tensor]:
    """Return inputs and contexts drawn at random."""
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(b, c, N_INPUTS, generator=generator),
        torch.randn(b, N_CONTEXTS, generator=generator),
    )


def test_affinity_is_the_last_input() -> None:
    assert INPUTS[-1] == "affinity"
    assert len(INPUTS) == N_INPUTS


def test_new_scorer_is_its_linear_part() -> None:
    inputs, context = batch()
    scores = Scorer(HIDDEN)(inputs, context)
    torch.testing.assert_close(scores, LINEAR_START * inputs[..., ADAPTED].sum(-1))


def test_network_adds_to_the_linear_part(scorer: Scorer) -> None:
    inputs, context = batch()
    network = scorer(inputs, context) - inputs @ scorer.whole().linear
    assert network.shape == (3, 4)
    assert network.abs().min() > 0


def test_context_is_the_user_s_own(scorer: Scorer) -> None:
    inputs, context = batch()
    other = context.clone()
    other[1] += 1
    moved = (scorer(inputs, context) != scorer(inputs, other)).any(1)
    assert moved.tolist() == [False, True, False]


def test_linear_shift_adds_its_product_with_the_standardised_inputs(scorer: Scorer) -> None:
    inputs, context = batch()
    shift = torch.zeros(3, N_ADAPTED)
    shift[1, 7] = 2.0
    moved = scorer(inputs, context, linear_shift=shift) - scorer(inputs, context)
    expected = torch.zeros(3, 4)
    expected[1] = 2 * (inputs[1, :, ADAPTED][:, 7] - scorer.mean[7]) / scorer.std[7]
    torch.testing.assert_close(moved, expected, rtol=1e-4, atol=1e-5)


def test_hidden_shift_is_a_shift_of_the_first_layer_s_bias(scorer: Scorer) -> None:
    inputs, context = batch()
    shift = torch.zeros(3, HIDDEN)
    shift[1] = torch.linspace(-1, 1, HIDDEN)
    shifted = scorer(inputs, context, hidden_shift=shift)
    plain = scorer(inputs, context)
    with torch.no_grad():
        scorer.first.bias += shift[1]
    expected = torch.stack([plain[0], scorer(inputs, context)[1], plain[2]])
    torch.testing.assert_close(shifted, expected)
    assert (shifted[1] - plain[1]).abs().min() > 0


def test_no_shift_and_a_shift_of_zero_are_the_same(scorer: Scorer) -> None:
    inputs, context = batch()
    zero = scorer(
        inputs, context, linear_shift=torch.zeros(3, N_ADAPTED), hidden_shift=torch.zeros(3, HIDDEN)
    )
    torch.testing.assert_close(zero, scorer(inputs, context))


def test_outlier_weighs_as_its_limit_in_the_shift_and_the_network(scorer: Scorer) -> None:
    # The standardised input is held within -4 and 6; the linear part sees all of it.
    shift = torch.ones(2, N_ADAPTED)
    context = torch.zeros(2, N_CONTEXTS)

    def beyond_linear(standard: float) -> Tensor:
        whole = scorer.whole()
        inputs = (whole.mean + whole.std * standard).expand(2, 1, -1)
        scores: Tensor = scorer(inputs, context, linear_shift=shift) - inputs @ whole.linear
        return scores

    for limit, outlier in ((6, 60), (-4, -40)):
        torch.testing.assert_close(
            beyond_linear(outlier), beyond_linear(limit), rtol=1e-4, atol=1e-4
        )
    assert not torch.allclose(beyond_linear(6), beyond_linear(5), atol=0.1)


def test_candidates_are_scored_each_on_its_own(scorer: Scorer) -> None:
    inputs, context = batch()
    together = scorer(inputs, context)
    alone = torch.cat([scorer(inputs[:, c : c + 1], context) for c in range(4)], 1)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
