"""Encoder: what it may see, what it must not, and the shapes it returns."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from headrace.model.config import N_ACTIONS, ModelConfig
from headrace.model.networks.encoder import EMBEDDING_STD, N_GAPS, Block, Encoded, Encoder

CONFIG = ModelConfig(width=8, blocks=2, heads=2, length=6)
N_ITEMS = 12
START_S = 1_700_000_000
NO_FEATURES = torch.full((1, 1), -1)


@pytest.fixture
def encoder() -> Encoder:
    """Return an encoder of which every part matters: nothing of it is left at zero."""
    torch.manual_seed(0)
    encoder = Encoder(CONFIG, N_ITEMS)
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, std=0.5)
    return encoder


def encode(
    encoder: Encoder,
    *users: Sequence[int],
    width: int = 6,
    actions: Sequence[int] = (),
    gaps_s: Sequence[int] = (),
) -> Encoded:
    """Encode users given oldest first, a minute between two interactions unless told."""
    items = torch.full((len(users), width), -1)
    kinds = torch.zeros(len(users), width, dtype=torch.int64)
    times_s = torch.zeros(len(users), width, dtype=torch.int64)
    for row, user in enumerate(users):
        n = len(user)
        gaps = torch.tensor(gaps_s or [60] * n)[:n]
        items[row, :n] = torch.tensor(user, dtype=torch.int64).flip(0)
        kinds[row, :n] = torch.tensor(actions or [0] * n, dtype=torch.int64)[:n].flip(0)
        times_s[row, :n] = (START_S + gaps.cumsum(0)).flip(0)
    with torch.no_grad():
        encoded: Encoded = encoder(items, kinds, times_s, NO_FEATURES)
    return encoded


def assert_close(one: Tensor, other: Tensor) -> None:
    """Equal but for the order of summation in products of another shape."""
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_one_state_for_each_interaction_oldest_first_aligned_to_the_right(encoder: Encoder) -> None:
    encoded = encode(encoder, [3, 1, 4], [5])
    assert encoded.hidden.shape == (2, 6, 8)
    assert encoded.items.tolist() == [[-1, -1, -1, 3, 1, 4], [-1, -1, -1, -1, -1, 5]]
    assert_close(encoded.latest, encoded.hidden[:, -1])


def test_only_the_latest_interactions_are_seen(encoder: Encoder) -> None:
    encoded = encode(encoder, [9, 9, 1, 2, 3, 4, 5, 6], width=8)
    assert encoded.items.tolist() == [[1, 2, 3, 4, 5, 6]]
    other = encode(encoder, [7, 8, 1, 2, 3, 4, 5, 6], width=8)
    assert_close(encoded.hidden, other.hidden)


def test_later_item_does_not_change_what_was_predicted_before_it(encoder: Encoder) -> None:
    one = encode(encoder, [1, 2, 3, 4, 5, 6]).hidden
    other = encode(encoder, [1, 2, 3, 4, 5, 7]).hidden
    assert_close(one[:, :-1], other[:, :-1])
    assert not torch.allclose(one[:, -1], other[:, -1], atol=0.01)


def test_earlier_item_changes_everything_after_it(encoder: Encoder) -> None:
    one = encode(encoder, [1, 2, 3, 4, 5, 6]).hidden
    other = encode(encoder, [7, 2, 3, 4, 5, 6]).hidden
    assert ((one - other).abs().amax(2) > 0.001).all()


def test_padding_changes_nothing(encoder: Encoder) -> None:
    short, long = encode(encoder, [3, 1, 4], width=4), encode(encoder, [3, 1, 4], width=6)
    assert_close(short.hidden[:, -3:], long.hidden[:, -3:])
    assert_close(short.latest, long.latest)


def test_users_of_a_batch_do_not_affect_each_other(encoder: Encoder) -> None:
    users = ([3, 1, 4], [], [5, 9, 2, 6, 5, 3], [8])
    together = encode(encoder, *users)
    for row, user in enumerate(users):
        alone = encode(encoder, user)
        assert_close(together.latest[row], alone.latest[0])
        valid = together.items[row] >= 0
        assert_close(together.hidden[row, valid], alone.hidden[0, valid])


def test_user_without_a_history_is_the_zero_vector(encoder: Encoder) -> None:
    encoded = encode(encoder, [], [0])
    assert encoded.latest[0].tolist() == [0] * 8
    assert encoded.latest[1].abs().sum() > 0


def test_features_move_the_latest_state_alone_by_their_sum(encoder: Encoder) -> None:
    # That of a user without a history too: all that is known of them is where they are.
    nn.init.normal_(encoder.features)
    items = torch.tensor([[3, 1, -1], [-1, -1, -1]])
    zeros = torch.zeros_like(items)
    plain = encoder(items, zeros, zeros, NO_FEATURES)
    told = encoder(items, zeros, zeros, torch.tensor([[7, 0, -1], [7, -1, -1]]))
    assert torch.equal(told.hidden, plain.hidden)
    moved = torch.stack([encoder.features[7] + encoder.features[0], encoder.features[7]])
    torch.testing.assert_close(told.latest, plain.latest + moved)


def test_no_history_makes_a_gradient_that_is_no_number(encoder: Encoder) -> None:
    items = torch.tensor([[-1] * 6, [1, -1, 2, -1, -1, -1]])
    encoded = encoder(items, torch.zeros_like(items), torch.zeros_like(items), NO_FEATURES)
    assert encoded.hidden.isfinite().all()
    encoded.hidden.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in encoder.parameters())


def test_unknown_item_is_not_seen_by_later_ones(encoder: Encoder) -> None:
    one = encode(encoder, [1, -1, 2], actions=[0, 1, 0])
    other = encode(encoder, [1, -1, 2], actions=[0, 5, 0])  # of what is hidden, nothing tells
    assert_close(one.latest, other.latest)


def test_action_changes_the_state(encoder: Encoder) -> None:
    one, other = (encode(encoder, [1, 2], actions=[0, a]) for a in (1, N_ACTIONS - 1))
    assert not torch.allclose(one.latest, other.latest, atol=0.01)


def test_gaps_are_told_apart_by_powers_of_two(encoder: Encoder) -> None:
    # log2 of (gap + 1), cut: 3 s to 6 s are one bucket, 7 s begins the next.
    three, six, seven = (encode(encoder, [1, 2], gaps_s=[60, gap]) for gap in (3, 6, 7))
    assert_close(three.latest, six.latest)
    assert not torch.allclose(six.latest, seven.latest, atol=0.01)
    none, one_s = (encode(encoder, [1, 2], gaps_s=[60, gap]) for gap in (0, 1))
    assert not torch.allclose(none.latest, one_s.latest, atol=0.01)


def test_gaps_beyond_the_last_bucket_and_backwards_are_clamped(encoder: Encoder) -> None:
    longest = 2 ** (N_GAPS - 1) - 1
    limit, beyond = (encode(encoder, [1, 2], gaps_s=[60, gap]) for gap in (longest, 9 * longest))
    assert_close(limit.latest, beyond.latest)
    late, together = (encode(encoder, [1, 2], gaps_s=[60, gap]) for gap in (-500, 0))
    assert_close(late.latest, together.latest)


def test_new_encoder_has_small_items_no_bias_and_no_opinion_on_actions_and_gaps() -> None:
    torch.manual_seed(0)
    encoder = Encoder(ModelConfig(), 4096)
    assert encoder.items.std().item() == pytest.approx(EMBEDDING_STD, rel=0.02)
    assert not encoder.bias.any()
    assert not encoder.actions.weight.any()
    assert not encoder.gaps.weight.any()


def test_a_block_is_a_pre_norm_layer_of_torchs(encoder: Encoder) -> None:
    block = encoder.blocks[0]
    theirs = nn.TransformerEncoderLayer(
        8, 2, 32, dropout=0, activation="gelu", batch_first=True, norm_first=True
    )
    names = {
        "self_attn.in_proj_": "qkv.",
        "self_attn.out_proj.": "out.",
        "linear1.": "up.",
        "linear2.": "down.",
        "norm1.": "norm1.",
        "norm2.": "norm2.",
    }
    own = block.state_dict()
    theirs.load_state_dict(
        {t + kind: own[o + kind] for t, o in names.items() for kind in ("weight", "bias")}
    )
    x, causal = torch.randn(3, 6, 8), torch.ones(6, 6, dtype=torch.bool).tril()
    assert_close(block(x, causal), theirs(x, ~causal))


def test_a_new_block_leaves_its_input_all_but_as_it_is() -> None:
    torch.manual_seed(0)
    x, sees_all = torch.randn(3, 6, 32), torch.ones(6, 6, dtype=torch.bool)
    assert (Block(32, 2, 1)(x, sees_all) - x).std() < 0.15


def test_width_must_be_a_multiple_of_the_heads() -> None:
    with pytest.raises(ValueError, match="width 8 must be a multiple of heads 3"):
        ModelConfig(width=8, heads=3)


def test_first_interaction_has_no_gap_however_much_padding_stands_before_it(
    encoder: Encoder,
) -> None:
    nn.init.normal_(encoder.gaps.weight)
    times = torch.tensor([[1_700_000_000, 0, 0]])
    items, actions = torch.tensor([[3, -1, -1]]), torch.zeros(1, 3, dtype=torch.int64)
    padded = encoder(items, actions, times, NO_FEATURES).latest
    alone = encoder(items[:, :1], actions[:, :1], times[:, :1], NO_FEATURES).latest
    torch.testing.assert_close(padded, alone)
