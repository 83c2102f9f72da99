"""Rehearsal: what a batch drawn for the encoder asks of its histories, and what that loss is."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from outer_loop_samples import CONFIG, N_ITEMS, PLAIN, new_loop, new_tasks
from torch.nn import functional as F

from headrace.model.config import OuterLoopConfig
from headrace.model.learning.losses import EncoderBatch, Processes
from headrace.model.learning.outer_loop import OuterLoop
from headrace.model.learning.rehearsal import Rehearsal

USER = [5, 1, 0, 1, 3]  # newest first, and one place is left in an encoder of six
ASKED = {1: 1, 2: 0, 3: 1, 4: 5}  # what follows, by the step of what was before


def drawn(loop: OuterLoop, config: OuterLoopConfig = PLAIN, *, seed: int = 0) -> EncoderBatch:
    """Return a batch of one task, which is the only one kept."""
    rehearsal = Rehearsal(config, np.random.default_rng(seed), length=CONFIG.length)
    rehearsal.keep(new_tasks(loop, [USER]), np.zeros(1, np.int64))
    return rehearsal.draw_for_encoder(N_ITEMS)


def asked(batch: EncoderBatch) -> dict[int, int]:
    """Return which item is to be predicted from each step."""
    items = batch.history_items[batch.history_columns]
    return dict(zip(batch.history_steps.tolist(), items.tolist(), strict=True))


def test_each_interaction_but_the_first_is_to_be_predicted_from_those_before_it() -> None:
    batch = drawn(new_loop())
    assert asked(batch) == ASKED
    assert batch.n_history == len(ASKED)
    assert batch.history_tasks.tolist() == [0] * len(ASKED)


def test_no_more_of_the_histories_is_asked_than_configured() -> None:
    loop, config = new_loop(), replace(PLAIN, history_events=2)
    some = [asked(drawn(loop, config, seed=seed)) for seed in range(20)]
    assert {len(one) for one in some} == {2}
    assert set().union(*some) == set(ASKED)  # not always the same
    assert all(one.items() <= ASKED.items() for one in some)


def test_loss_is_that_of_the_event_and_the_mean_within_the_histories() -> None:
    loop = new_loop()
    batch, meta = drawn(loop), loop.meta
    encoder = meta.encoder
    with torch.no_grad():
        ((name, loss),) = batch.losses(meta, Processes())
        encoded = encoder(batch.items, batch.actions, batch.times_s, batch.features)
        shift = meta.user_loop(encoder, encoded, meta.negatives, first_order=True)

        def of(user: torch.Tensor, items: list[int]) -> torch.Tensor:
            logits = user @ encoder.items.T + encoder.bias
            return F.cross_entropy(logits, torch.tensor(items))

        event = of(encoded.latest + shift, batch.event_items[batch.event_columns].tolist())
        within = of(encoded.hidden[0, list(ASKED)], list(ASKED.values()))
    assert name == "encoder"
    assert loss.item() == pytest.approx((event + within).item(), rel=1e-5)
