"""Inner loop: the batched, closed-form steps are what one user at a time with autograd gives."""

import math
from collections.abc import Sequence

import pytest
import torch
from model_samples import raw
from torch import Tensor, nn
from torch.nn import functional as F

from headrace.model.config import ModelConfig
from headrace.model.networks.encoder import Encoded, Encoder
from headrace.model.networks.inner_loop import Support, UserLoop

N_ITEMS = 10
CONFIG = ModelConfig(width=4, heads=2, length=6, hidden=3, inner_steps=3)
USERS = (
    [],
    [3],
    [3, 1],
    [1, 2, 1, 4, 5, 6],
    [5, -1, 2, 3, 8],  # an unknown item inside: two pairs of neighbours are no support
    [-1, 7, 7, 7],
    [2, 9, 2, 9, 2, 9],
)
NEGATIVES = torch.tensor([0, 1, 2, 2, 9, 7, 4])  # some of them are targets, one is there twice


@pytest.fixture
def encoder() -> Encoder:
    """Return an encoder in double precision: what differs is wrong, not rounded."""
    torch.manual_seed(0)
    encoder = Encoder(CONFIG, N_ITEMS).double()
    nn.init.normal_(encoder.items)
    nn.init.normal_(encoder.bias)
    return encoder


@pytest.fixture
def loop() -> UserLoop:
    """Return an inner loop whose meta-parameters were learned."""
    loop = UserLoop(CONFIG).double()
    with torch.no_grad():
        loop.start.copy_(torch.tensor([0.3, -0.2, 0.5, 0.1]))
        loop.raw_step.copy_(torch.tensor([raw(0.9), raw(0.5), raw(0.2)]))
    return loop


def encode(encoder: Encoder, users: Sequence[Sequence[int]], *, width: int = 6) -> Encoded:
    """Encode users given oldest first, a minute between two interactions."""
    items = torch.full((len(users), width), -1)
    times_s = torch.zeros(len(users), width, dtype=torch.int64)
    for row, user in enumerate(users):
        items[row, : len(user)] = torch.tensor(user, dtype=torch.int64).flip(0)
        times_s[row, : len(user)] = 1_700_000_000 - 60 * torch.arange(len(user))
    encoded: Encoded = encoder(items, torch.zeros_like(items), times_s, torch.full((1, 1), -1))
    return encoded


def adapt_alone(
    encoder: Encoder, loop: UserLoop, user: Sequence[int], hidden: Tensor, *, first_order: bool
) -> Tensor:
    """Return one user's (D,) shift as in MAML: a loss, autograd's gradient of it, a step.

    ``hidden`` is (n, D), a state for each of the user's n interactions.
    """
    shift = loop.start[0]
    pairs = [t for t in range(1, len(user)) if user[t - 1] >= 0 and user[t] >= 0]
    if not pairs:
        return shift
    fade = F.softplus(loop.raw_fade)
    weights = [torch.exp(-fade * (len(user) - 1 - t)) for t in pairs]
    trust = sum(weights) / (sum(weights) + F.softplus(loop.raw_patience))
    for step in F.softplus(loop.raw_step):
        loss = torch.zeros(())
        for t, weight in zip(pairs, weights, strict=True):
            others = [n for n in NEGATIVES.tolist() if n != user[t]]
            rows = torch.tensor([user[t], *others])
            logits = encoder.items[rows] @ (hidden[t - 1] + shift) + encoder.bias[rows]
            loss = loss - weight * torch.log_softmax(logits, 0)[0] / sum(weights)
        (gradient,) = torch.autograd.grad(loss, shift, create_graph=True)
        if first_order:
            gradient = gradient.detach()
        shift = shift - step * trust * gradient
    return shift


def adapt_one_by_one(encoder: Encoder, loop: UserLoop, *, first_order: bool) -> Tensor:
    """Return the (B, D) shifts of all users, computed without a batch."""
    encoded = encode(encoder, USERS)
    return torch.stack(
        [
            adapt_alone(
                encoder, loop, user, encoded.hidden[row, 6 - len(user) :], first_order=first_order
            )
            for row, user in enumerate(USERS)
        ]
    )


def outer_gradients(encoder: Encoder, loop: UserLoop, shifts: Tensor) -> dict[str, Tensor]:
    """Return the gradient, by meta-parameter, of some loss of the adapted users."""
    loss = (shifts * torch.linspace(-1, 2, shifts.numel()).view_as(shifts)).sum() ** 2
    named = {**dict(loop.named_parameters()), **dict(encoder.named_parameters())}
    named = {name: weight for name, weight in named.items() if weight.requires_grad}
    gradients = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {n: g for n, g in zip(named, gradients, strict=True) if g is not None and g.any()}


# -------------------------------------------------------------------- the batch against autograd


@pytest.mark.parametrize("first_order", [True, False])
def test_batch_equals_one_user_at_a_time(
    encoder: Encoder, loop: UserLoop, first_order: bool
) -> None:
    batched = loop(encoder, encode(encoder, USERS), NEGATIVES, first_order=first_order)
    one_by_one = adapt_one_by_one(encoder, loop, first_order=first_order)
    torch.testing.assert_close(batched, one_by_one)
    assert (batched[2:] - loop.start).abs().amax(1).min() > 0.01  # who has support was adapted


@pytest.mark.parametrize("first_order", [True, False])
def test_outer_gradient_equals_that_through_one_user_at_a_time(
    encoder: Encoder, loop: UserLoop, first_order: bool
) -> None:
    batched = loop(encoder, encode(encoder, USERS), NEGATIVES, first_order=first_order)
    one_by_one = adapt_one_by_one(encoder, loop, first_order=first_order)
    expected = outer_gradients(encoder, loop, one_by_one)
    found = outer_gradients(encoder, loop, batched)
    assert {"start", "raw_step", "raw_fade", "raw_patience"} <= found.keys()
    assert ("items" in found) == (not first_order)  # without a derivative of a gradient, none
    torch.testing.assert_close(found, expected)


def test_orders_differ_in_the_outer_gradient_and_not_in_the_values(
    encoder: Encoder, loop: UserLoop
) -> None:
    first, second = (
        loop(encoder, encode(encoder, USERS), NEGATIVES, first_order=order)
        for order in (True, False)
    )
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    one, other = (outer_gradients(encoder, loop, shifts)["start"] for shifts in (first, second))
    assert not torch.allclose(one, other, rtol=0.01)


def test_gradient_in_closed_form_equals_that_of_the_loss(encoder: Encoder, loop: UserLoop) -> None:
    support = Support.of(encoder, encode(encoder, USERS), NEGATIVES, fade=F.softplus(loop.raw_fade))
    shift = torch.randn(len(USERS), 4, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(support.loss(shift).sum(), shift)
    torch.testing.assert_close(support.gradient(shift), expected)
    assert expected[:2].eq(0).all()  # no history, and one interaction: no support
    assert expected[2:].abs().amax(1).min() > 0.001


# ---------------------------------------------------------------------------- one step, by hand


class Hand:
    """One user, D = 1, who went from item 0 to item 1; item 2 is the one negative."""

    def __init__(self, *, step: float, patience: float) -> None:
        config = ModelConfig(width=1, heads=1, length=2, inner_steps=1)
        self.encoder, self.loop = Encoder(config, 3), UserLoop(config)
        with torch.no_grad():
            self.encoder.items.copy_(torch.tensor([[0.0], [1.0], [-1.0]]))
            self.loop.raw_step.fill_(raw(step))
            self.loop.raw_patience.fill_(raw(patience))

    def adapt(self, *, items: tuple[int, int] = (0, 1), negative: int = 2) -> float:
        """Return the shift from hidden states of zero."""
        encoded = Encoded(torch.zeros(1, 2, 1), torch.tensor([items]), torch.zeros(1, 1))
        with torch.no_grad():
            shift: Tensor = self.loop(
                self.encoder, encoded, torch.tensor([negative]), first_order=True
            )
        return shift.item()


def test_one_step_matches_hand_computed_gradient() -> None:
    # Both logits are 0, both probabilities 1/2: dL/dz = (1/2 - 1) * 1 + 1/2 * (-1) = -1.
    # One interaction of weight 1 is trusted 1 / (1 + 1): z = 0 + 2 * 1/2 * 1.
    assert Hand(step=2, patience=1).adapt() == pytest.approx(1)


def test_more_patience_takes_a_smaller_step() -> None:
    assert Hand(step=2, patience=3).adapt() == pytest.approx(2 * 1 / (1 + 3))


def test_negative_that_is_the_target_is_no_negative_there() -> None:
    # Nothing is left to contrast with: the target's probability is 1, its gradient 0.
    assert Hand(step=2, patience=1).adapt(negative=1) == 0


def test_negative_that_the_user_had_before_is_a_negative() -> None:
    # Item 0 lies at 0: dL/dz = (1/2 - 1) * 1 + 1/2 * 0 = -1/2.
    assert Hand(step=2, patience=1).adapt(negative=0) == pytest.approx(1 / 2)


@pytest.mark.parametrize("items", [(-1, 1), (0, -1), (-1, -1)])
def test_interaction_with_an_unknown_neighbour_is_no_support(items: tuple[int, int]) -> None:
    assert Hand(step=2, patience=1).adapt(items=items) == 0


def test_old_support_fades(encoder: Encoder) -> None:
    fade = torch.tensor(math.log(2))
    support = Support.of(encoder, encode(encoder, [[1, 2, 3, 4]]), NEGATIVES, fade=fade)
    assert support.weights[0].tolist() == pytest.approx([0, 0, 1 / 4, 1 / 2, 1])


# -------------------------------------------------------------------------------------- invariants


def test_users_of_a_batch_do_not_affect_each_other(encoder: Encoder, loop: UserLoop) -> None:
    together = loop(encoder, encode(encoder, USERS), NEGATIVES, first_order=True)
    for row, user in enumerate(USERS):
        alone = loop(encoder, encode(encoder, [user]), NEGATIVES, first_order=True)
        torch.testing.assert_close(together[row], alone[0])


def test_padding_changes_nothing(encoder: Encoder, loop: UserLoop) -> None:
    users = [[3, 1, 4], [2, 7]]
    short, long = (
        loop(encoder, encode(encoder, users, width=width), NEGATIVES, first_order=True)
        for width in (4, 6)
    )
    torch.testing.assert_close(short, long)


@pytest.mark.parametrize("user", [[], [3], [-1, -1, -1], [3, -1, 2]])
def test_user_without_support_has_the_start_itself(
    encoder: Encoder, loop: UserLoop, user: list[int]
) -> None:
    shifts = loop(encoder, encode(encoder, [user]), NEGATIVES, first_order=True)
    assert shifts[0].tolist() == loop.start[0].tolist()


def test_no_inner_steps_leave_the_start(encoder: Encoder) -> None:
    loop = UserLoop(ModelConfig(width=4, length=6, inner_steps=0)).double()
    nn.init.normal_(loop.start)
    shifts = loop(encoder, encode(encoder, USERS), NEGATIVES, first_order=False)
    assert shifts.tolist() == loop.start.tolist() * len(USERS)


@pytest.mark.parametrize("first_order", [True, False])
def test_meta_parameters_are_read_and_never_written(
    encoder: Encoder, loop: UserLoop, first_order: bool
) -> None:
    def values() -> list[Tensor]:
        return [p.detach().clone() for p in (*encoder.parameters(), *loop.parameters())]

    before = values()
    loop(encoder, encode(encoder, USERS), NEGATIVES, first_order=first_order)
    assert all(torch.equal(a, b) for a, b in zip(values(), before, strict=True))
    assert all(p.grad is None for p in (*encoder.parameters(), *loop.parameters()))


def test_steps_lower_the_support_loss_of_everyone_who_has_support(
    encoder: Encoder, loop: UserLoop
) -> None:
    encoded = encode(encoder, USERS)
    with torch.no_grad():
        loop.raw_step.fill_(raw(0.05))
        support = Support.of(encoder, encoded, NEGATIVES, fade=F.softplus(loop.raw_fade))
        start = support.loss(loop.start.expand(len(USERS), -1))
        adapted = support.loss(loop(encoder, encoded, NEGATIVES, first_order=True))
    assert (adapted[2:] < start[2:]).all()
    assert adapted[:2].tolist() == [0, 0]
