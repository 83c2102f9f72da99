"""No order of a handover's parts loses or doubles anything, or lets a state go back."""

import random

import handover
import pytest
from guards_off import (
    LEASE,
    Off,
    accept,
    enter_at_once,
    nothing,
    nothing_soon,
    read_table_only,
    read_without_offset,
    write_as_faust,
)
from handover import Handover
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from rules_log import leave_out

from headrace.streams.adapt.delivery import Delivery
from headrace.streams.adapt.user_states import UserStates
from headrace.streams.adapt.writer import Writer

GUARD_SEEDS = range(10_000)  # enough for each
N_MOVES = 25
MOVES = {
    "deliver": 3, "compute": 3, "end_compute": 2, "arrive": 3, "commit": 1, "go_on": 3,
    "revoke": 2, "assign": 2, "recover": 2, "wait": 1,
    "crash": 1, "cut_or_mend": 2, "take_over": 1, "arrive_late": 1,
}  # fmt: skip  # and how often each comes
CHOICES = 8  # of a move: who, how many, how far


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    leave_out(monkeypatch)


def play(seed: int, *, max_users: int = 10) -> Handover:
    """Play the schedule of a seed; each leaves some moves out, and makes some more often."""
    chance, world = random.Random(seed), Handover(max_users=max_users)
    weights = [chance.choice((0, 1, 1, 3)) * often for often in MOVES.values()]
    try:
        for move in chance.choices(list(MOVES), weights, k=N_MOVES):
            getattr(world, move)(chance.randrange(CHOICES))
        world.finish()
    finally:
        world.close()
    return world


def play_all(seeds: range, *, max_users: int = 10) -> list[Handover]:
    """Play the schedules of all seeds."""
    return [play(seed, max_users=max_users) for seed in seeds]


def test_no_handover_loses_or_doubles_anything(rule_seeds: range) -> None:
    play_all(rule_seeds)


def test_who_is_evicted_starts_over_wherever_the_partition_goes(rule_seeds: range) -> None:
    worlds = play_all(rule_seeds[::2], max_users=1)
    evictions = [sum(value is None for _, value in world.changelog) for world in worlds]
    assert min(evictions) < max(evictions)


class AnyHandover(RuleBasedStateMachine):
    """The same moves, chosen and made fewer by hypothesis."""

    def __init__(self) -> None:
        super().__init__()
        self.world = Handover()

    @rule(move=st.sampled_from(list(MOVES)), choice=st.integers(0, CHOICES - 1))
    def make(self, move: str, choice: int) -> None:
        getattr(self.world, move)(choice)

    def teardown(self) -> None:
        try:
            self.world.finish()
        finally:
            self.world.close()


def test_no_moves_that_hypothesis_finds_lose_or_double_anything() -> None:
    examples = settings(
        max_examples=100, stateful_step_count=N_MOVES, deadline=None, derandomize=True
    )
    run_state_machine_as_test(AnyHandover, settings=examples)


@pytest.mark.parametrize(
    "off",
    [
        pytest.param((Delivery, "_owns", accept), id="nothing of an old epoch is written"),
        pytest.param((Delivery, "_enter_epoch", enter_at_once), id="the barrier"),
        pytest.param((Delivery, "settle", nothing_soon), id="a running write is waited for"),
        pytest.param(LEASE, id="who was cut off asks before it writes"),
        pytest.param((handover, "STALE_AFTER_S", 60.0), id="brokers refuse what is late"),
        pytest.param((Writer, "write", write_as_faust), id="brokers' answers are waited for"),
        pytest.param((UserStates, "read", read_table_only), id="states in flight are seen"),
        pytest.param((UserStates, "release", nothing), id="what was dropped is not seen"),
        pytest.param((UserStates, "read", read_without_offset), id="what is in is not applied"),
    ],
)
def test_a_guard_that_is_off_is_missed(off: Off, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*off)
    with pytest.raises(AssertionError):
        play_all(GUARD_SEEDS)
