"""Ablation: what is taken out has no say, now or after learning, and what is left has."""

from dataclasses import replace

import pytest
import torch
from outer_loop_samples import N_ITEMS, PLAIN, USERS, new_loop, new_tasks, with_gradients
from torch import Tensor

from headrace.model.ablation import INPUTS_OF, PARTS, remove
from headrace.model.learning.outer_loop import OuterLoop
from headrace.model.networks.inner_loop import GradientSums
from headrace.model.networks.scorer import INPUTS
from headrace.streams.cli import evaluation


def learned_without(*parts: str) -> OuterLoop:
    """Return an outer loop that took some steps without the parts, and published."""
    loop = new_loop(replace(PLAIN, batch_tasks=len(USERS)))
    remove(loop, parts)
    for _ in range(3):
        loop.learn(with_gradients(new_tasks(loop)), n_items=N_ITEMS, rehearse=False)
    loop.serve_version(N_ITEMS)
    return loop


def scores(loop: OuterLoop, *, odd: str = "", gradients: bool = True) -> Tensor:
    """Return what is served's scores, with one input made odd and the user adapted or not."""
    recommender, tasks = loop.served, with_gradients(new_tasks(loop))
    with torch.no_grad():
        prepared = recommender.prepare(tasks.histories)
        sums = GradientSums(*map(torch.from_numpy, (tasks.gradient_sums, tasks.gradient_counts)))
        frozen = recommender.initial(prepared)
        adapted = recommender.adapt(prepared, sums) if gradients else frozen
        if odd:
            adapted.inputs[..., INPUTS.index(odd)] += torch.randn(adapted.inputs.shape[:2])
        return recommender.score(prepared, adapted).nan_to_num(neginf=0)


@pytest.mark.parametrize("part", INPUTS_OF)
def test_group_of_inputs_that_is_out_has_no_say(part: str) -> None:
    loop, whole = learned_without(part), learned_without()
    for name in INPUTS_OF[part]:
        torch.testing.assert_close(scores(loop, odd=name), scores(loop))
        assert (scores(whole, odd=name) - scores(whole)).abs().max() > 0.01


def test_every_input_belongs_to_one_part() -> None:
    assert sorted(sum(INPUTS_OF.values(), ())) == sorted(INPUTS)


def test_scorer_without_its_network_is_linear() -> None:
    assert not learned_without("network").meta.scorer.last.weight.any()
    assert learned_without().meta.scorer.last.weight.any()


def test_a_network_that_was_learned_before_is_out_too() -> None:
    loop = learned_without()
    assert loop.served.meta.scorer.last.weight.any()
    remove(loop, ["network"])
    assert not loop.served.meta.scorer.last.weight.any()


def test_without_both_loops_nobody_is_adapted() -> None:
    loop, whole = learned_without("user_loop", "scorer_loop"), learned_without()
    assert torch.equal(scores(loop), scores(loop, gradients=False))
    for part in ("user_loop", "scorer_loop"):
        one = learned_without(part)
        assert not torch.equal(scores(one), scores(one, gradients=False))
    assert not torch.equal(scores(whole), scores(whole, gradients=False))


def test_command_line_names_the_parts() -> None:
    assert evaluation.PARTS == PARTS
