"""Ways of meta-learning, each told from the others."""

from dataclasses import replace

import pytest
import torch
from model_samples import raw
from outer_loop_samples import (
    CONFIG,
    N_ITEMS,
    PLAIN,
    assert_equal,
    new_loop,
    new_tasks,
    parameters,
    with_gradients,
)
from torch import Tensor

from headrace.model.config import MetaLearning
from headrace.model.learning.losses import REPTILE_STEP
from headrace.model.learning.outer_loop import OuterLoop
from headrace.model.networks.inner_loop import GradientSums


def loop_of(kind: MetaLearning) -> OuterLoop:
    """Return an outer loop that learns that way; otherwise they are equal."""
    loop = new_loop(replace(PLAIN, batch_tasks=5), model=replace(CONFIG, meta_learning=kind))
    with torch.no_grad():
        loop.meta.user_loop.start.copy_(torch.tensor([0.3, -0.2, 0.5, 0.1]))
    return loop


def shifts(loop: OuterLoop) -> Tensor:
    """Return the (B, D) adapted shifts of the user vectors."""
    meta, h = loop.meta, new_tasks(loop).histories
    with torch.no_grad():
        encoded = loop.recommender.encode(h.items, h.actions, h.times_s, h.features)
        shift: Tensor = meta.user_loop(meta.encoder, encoded, meta.negatives, first_order=True)
    return shift


def learn(loop: OuterLoop) -> OuterLoop:
    """Take one outer step on every user."""
    loop.learn(with_gradients(new_tasks(loop)), n_items=N_ITEMS, rehearse=False)
    return loop


def test_orders_take_different_steps_of_the_encoder_and_the_same_of_the_scorer() -> None:
    loops = [learn(loop_of(kind)) for kind in ("fomaml", "maml")]
    first, second = (loop.meta.encoder.items.grad for loop in loops)
    assert first is not None
    assert second is not None
    assert (first - second).abs().max() > 0.01 * first.abs().max()
    assert_equal(*(parameters(loop, "scorer", "scorer_loop") for loop in loops))


def test_meta_sgd_with_equal_steps_is_first_order_maml() -> None:
    torch.testing.assert_close(shifts(loop_of("meta_sgd")), shifts(loop_of("fomaml")))


def test_meta_sgd_steps_as_far_as_each_coordinate_says() -> None:
    model = replace(CONFIG, meta_learning="meta_sgd", inner_steps=1)
    loop = new_loop(model=model)
    step = loop.meta.user_loop.raw_step.data
    step.fill_(raw(1))
    even = shifts(loop)
    step.copy_(torch.tensor([[raw(step) for step in (1, 2, 0.5, 3)]]))
    torch.testing.assert_close(shifts(loop), even * torch.tensor([1, 2, 0.5, 3]))


def test_meta_sgd_learns_the_steps_apart() -> None:
    learned = learn(loop_of("meta_sgd")).meta.user_loop.raw_step
    assert learned.shape == (CONFIG.inner_steps, CONFIG.width)
    assert len(set(learned[0].tolist())) == CONFIG.width


@pytest.mark.parametrize("kind", ["fomaml", "maml", "meta_sgd", "anil", "reptile"])
def test_only_anil_leaves_the_first_layer_of_the_scorer(kind: MetaLearning) -> None:
    loop = loop_of(kind)
    tasks = with_gradients(new_tasks(loop))
    sums = torch.from_numpy(tasks.gradient_sums), torch.from_numpy(tasks.gradient_counts)
    with torch.no_grad():
        linear, hidden = loop.meta.scorer_loop(GradientSums(*sums), torch.ones(1, 1))
    assert linear.abs().min() > 0
    assert (hidden == 0).all() == (kind == "anil")


def test_reptile_moves_the_start_towards_where_the_steps_end() -> None:
    loop = loop_of("reptile")
    start, ends = loop.meta.user_loop.start.detach().clone(), shifts(loop)
    others = {k: v for k, v in parameters(loop, "user_loop").items() if "start" not in k}
    learn(loop)
    expected = start + REPTILE_STEP * (ends.mean(0) - start)
    torch.testing.assert_close(loop.meta.user_loop.start.detach(), expected)
    after = parameters(loop, "user_loop")
    assert_equal({k: after[k] for k in others}, others)  # nothing is learned through the steps


def test_first_order_maml_learns_step_sizes_through_the_steps() -> None:
    loop = loop_of("fomaml")
    before = parameters(loop, "user_loop")["user_loop.raw_step"]
    assert (parameters(learn(loop), "user_loop")["user_loop.raw_step"] != before).all()
