"""Random schedules: moves and short stories of moves, drawn so that rare orders come up often."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from simulated_world import World

KINDS = (
    *("hop", "fetch", "committed", "commit", "compute", "computed", "produce"),
    *("ends", "heartbeat", "join", "join answer"),
)
N_USERS = 2  # of each partition: few, so that each has events before and after whatever happens
BAD_SHARE = 0.05


@dataclass(frozen=True)
class Mix:
    """How often each move and story comes, and what may take long."""

    weights: dict[str, float]
    kinds: Sequence[str] = KINDS
    n_moves: int = 12


def mixed(kinds: Sequence[str] = KINDS, n_moves: int = 12, **weights: float) -> Mix:
    """Return a mix of these weights."""
    return Mix(weights, kinds, n_moves)


EVERYTHING = mixed(
    produce=3, run=2, reorder=3, commit=1, rebalance=1, start=1, kill=0.5, stop=0.5, go_on=1,
    compact=0.5, arrive=0.5, slow=3, backlog=1, race=2, take_over=2, crash=2,
)  # fmt: skip


@dataclass
class Schedule:
    """One schedule: what happens is decided by the seed alone."""

    world: World
    mix: Mix
    chance: random.Random = field(default_factory=random.Random)

    def play(self) -> None:
        """Start one or two workers, make the moves, then mend everything.

        Raises:
            ViolationError: something came out wrong.
        """
        world, chance = self.world, self.chance
        for _ in range(chance.choice([1, 2, 2])):
            world.start()
        if chance.random() < 0.7:
            world.go_on(1.5)
        moves = chance.choices(
            list(self.mix.weights), self.mix.weights.values(), k=self.mix.n_moves
        )
        for move in moves:
            getattr(self, move)(chance.randrange(2))
        while world.orphans:
            self.arrive(0)
        world.drain()

    # ---------------------------------------------------------------------------- moves

    def produce(self, _: int = 0) -> None:
        users = [self.chance.randrange(N_USERS) for _ in range(self.chance.randint(1, 4))]
        is_bad = self.chance.random() < BAD_SHARE
        self.world.produce(self.chance.randrange(2), users, is_bad=is_bad)

    def run(self, slot: int) -> None:
        self.world.run(slot, self.chance.choice([1, 2, 3, 4, 5, 6, 10]))

    def reorder(self, slot: int) -> None:
        n_callbacks = self.chance.choice([None, None, 0, 1, 2, 3, 4, 6, 8, 12])
        self.world.reorder(slot, self.chance.choice([0, 0, 1, 2, 3]), n_callbacks)

    def commit(self, slot: int) -> None:
        self.world.commit(slot)

    def rebalance(self, _: int = 0) -> None:
        self.world.rebalance()

    def start(self, _: int = 0) -> None:
        self.world.start()

    def kill(self, slot: int) -> None:
        self.world.kill(slot)

    def stop(self, slot: int) -> None:
        self.world.stop(slot)

    def go_on(self, _: int = 0) -> None:
        self.world.go_on(self.chance.choice([0, 0.1, 1.1]))

    def compact(self, _: int = 0) -> None:
        self.world.compact()

    def arrive(self, at: int) -> None:
        self.world.arrive(at, is_lost=self.chance.random() < 0.5)

    def stall(self, slot: int) -> None:
        self.world.stall(slot, self.chance.choice(self.mix.kinds))

    # -------------------------------------------------------------------------- stories

    def slow(self, slot: int) -> None:
        """Something takes long, from before a rebalance until after it."""
        for _ in range(self.chance.choice([1, 2])):
            self.stall(slot)
            self.produce()
            self.world.go_on(self.chance.choice([0, 0.1]))
        self._maybe(self.world.rebalance, 0.8)
        for _ in range(self.chance.choice([1, 2])):
            for _ in range(self.chance.choice([0, 1, 3])):
                self.produce()
            self.world.go_on(self.chance.choice([0.1, 1.1]))
        self.world.release(slot)
        self._maybe(self.go_on, 0.5)

    def backlog(self, slot: int) -> None:
        """A worker starts behind many events, and something takes long."""
        self.world.kill(slot)
        for _ in range(4):
            self.produce()
        self.world.start()
        self.stall(slot)
        self.world.go_on(self.chance.choice([1.1, 2.2]))
        self._maybe(self.rebalance, 0.3)
        self.world.go_on(self.chance.choice([1.1, 2.2, 12]))
        self.world.release(slot)
        self.world.go_on(0.1)

    def race(self, slot: int) -> None:
        """Answers meet between the callbacks of a worker."""
        self.produce()
        self._maybe(self.world.rebalance, 0.5)
        for _ in range(self.chance.randint(4, 12)):
            self.reorder(slot)

    def take_over(self, slot: int) -> None:
        """A worker is silent for longer than its session, and comes back."""
        self._silence(slot, self.chance.choice([self.world.pause, self.world.cut]))

    def stand_still(self, slot: int) -> None:
        """A worker stands still for longer than its session."""
        self._silence(slot, self.world.pause)

    def _silence(self, slot: int, silence: Callable[[int], None]) -> None:
        self.produce()
        self.run(slot)
        silence(slot)
        self.produce()
        self.world.go_on(12)
        self.produce()
        self.world.go_on(self.chance.choice([0, 0.1, 3.1]))
        silence(slot)
        self._maybe(self.go_on, 0.5)

    def crash(self, slot: int) -> None:
        """A worker is killed in the middle of its work, and starts again."""
        self.produce()
        self.run(slot)
        self._maybe(lambda: self.commit(slot), 0.5)
        self._maybe(lambda: self.run(slot), 0.5)
        self.world.kill(slot)
        self.world.start()
        self._maybe(lambda: self.world.go_on(12), 0.5)

    def _maybe(self, move: Callable[[], None], probability: float) -> None:
        if self.chance.random() < probability:
            move()
