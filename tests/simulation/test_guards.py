"""Each guard of the delivery code is needed: with it off, the simulation finds what it prevents."""

import random
from collections.abc import Callable

import pytest
from guards_off import GUARDS, UNREAD, Guard, nothing, slow_at
from invariants import ViolationError
from schedules import Mix, Schedule
from simulated_world import World

from headrace.streams.guards import EXIT_STUCK, Watchdog

SEEDS = 200  # enough for each, should a change of the code make other seeds find it

NewWorld = Callable[[], World]


def play(new_world: NewWorld, mix: Mix, seed: int) -> None:
    """Play the schedule of a seed."""
    world = new_world()
    try:
        Schedule(world, mix, random.Random(seed)).play()
    finally:
        world.close()


def first_violation(new_world: NewWorld, guard: Guard) -> int:
    """Return the first seed with a violation."""
    for seed in range(guard.first_seed, guard.first_seed + SEEDS):
        try:
            play(new_world, guard.mix, seed)
        except ViolationError:
            return seed
    pytest.fail(f"{SEEDS} schedules without a violation from seed {guard.first_seed} on")


@pytest.mark.parametrize("guard", GUARDS, ids=str)
def test_a_guard_that_is_off_is_missed(
    new_world: NewWorld, guard: Guard, monkeypatch: pytest.MonkeyPatch
) -> None:
    for off in guard.given:
        monkeypatch.setattr(*off)
    with monkeypatch.context() as patch:
        for off in guard.off:
            patch.setattr(*off)
        seed = first_violation(new_world, guard)
    play(new_world, guard.mix, seed)  # the guard is on again, and prevents it


def test_a_recovery_that_hangs_is_ended_by_the_watchdog(
    new_world: NewWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    mix, seed = slow_at("hop", "fetch", "ends"), 10  # a schedule in which recovery misses records
    monkeypatch.setattr(*UNREAD)
    with pytest.raises(ViolationError, match=f"ended itself with {EXIT_STUCK}"):
        play(new_world, mix, seed)
    monkeypatch.setattr(Watchdog, "tick", lambda _, *, is_serving: nothing(is_serving))
    with pytest.raises(ViolationError, match="not all committed in time"):
        play(new_world, mix, seed)
