"""Every order of events: nothing lost, nothing counted twice, whatever overtakes whatever."""

import random
from collections.abc import Callable
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from schedules import EVERYTHING, KINDS, N_USERS, Schedule
from simulated_world import World

NewWorld = Callable[[], World]

slots = st.integers(0, 1)


class EveryOrder(RuleBasedStateMachine):
    """The moves of the world, in any order. What it must be like in the end is in the world."""

    new_world: ClassVar[NewWorld]

    def __init__(self) -> None:
        super().__init__()
        self.world = type(self).new_world()
        self.world.start()

    @rule(
        partition=slots,
        users=st.lists(st.integers(0, N_USERS - 1), min_size=1, max_size=4),
        is_bad=st.booleans(),
    )
    def publish(self, partition: int, users: list[int], is_bad: bool) -> None:
        self.world.produce(partition, users, is_bad=is_bad)

    @rule(slot=slots, n_steps=st.integers(1, 10))
    def run(self, slot: int, n_steps: int) -> None:
        self.world.run(slot, n_steps)

    @rule(slot=slots, at=st.integers(0, 3), n_callbacks=st.none() | st.integers(0, 12))
    def complete_out_of_turn(self, slot: int, at: int, n_callbacks: int | None) -> None:
        self.world.reorder(slot, at, n_callbacks)

    @rule(slot=slots, kind=st.sampled_from(KINDS))
    def stall(self, slot: int, kind: str) -> None:
        self.world.stall(slot, kind)

    @rule(slot=slots)
    def release(self, slot: int) -> None:
        self.world.release(slot)

    @rule(slot=slots)
    def commit(self, slot: int) -> None:
        self.world.commit(slot)

    @rule()
    def rebalance(self) -> None:
        self.world.rebalance()

    @rule()
    def start(self) -> None:
        self.world.start()

    @rule(slot=slots)
    def kill(self, slot: int) -> None:
        self.world.kill(slot)

    @rule(slot=slots)
    def stop(self, slot: int) -> None:
        self.world.stop(slot)

    @rule(slot=slots)
    def pause_or_go_on(self, slot: int) -> None:
        self.world.pause(slot)

    @rule(slot=slots)
    def cut_or_mend(self, slot: int) -> None:
        self.world.cut(slot)

    @precondition(lambda self: self.world.orphans)
    @rule(at=slots, is_lost=st.booleans())
    def arrive_late(self, at: int, is_lost: bool) -> None:
        self.world.arrive(at, is_lost=is_lost)

    @rule()
    def compact(self) -> None:
        self.world.compact()

    @rule(seconds=st.sampled_from([0, 0.1, 1.1, 12]))
    def go_on(self, seconds: float) -> None:
        self.world.go_on(seconds)

    def teardown(self) -> None:
        try:
            self.world.drain()
        finally:
            self.world.close()


def test_no_order_of_moves_loses_or_doubles_anything(new_world: NewWorld) -> None:
    EveryOrder.new_world = staticmethod(new_world)
    run_state_machine_as_test(
        EveryOrder,
        settings=settings(
            max_examples=60,
            stateful_step_count=25,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_no_random_schedule_loses_or_doubles_anything(
    new_world: NewWorld, request: pytest.FixtureRequest
) -> None:
    first, n_orders = (request.config.getoption(o) for o in ("--first-seed", "--orders"))
    for seed in range(first, first + n_orders):
        play(new_world, seed)


def play(new_world: NewWorld, seed: int) -> World:
    """Play the schedule of a seed; a violation says which it was."""
    world = new_world()
    world.note(f"seed {seed}")
    try:
        Schedule(world, EVERYTHING, random.Random(seed)).play()
    finally:
        world.close()
    return world


def test_a_seed_decides_everything(new_world: NewWorld) -> None:
    first, again, other = (play(new_world, seed).trace for seed in (3, 3, 4))
    assert first == again
    assert first != other
