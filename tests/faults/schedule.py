"""A schedule: which fault meets whom, when, and for how long; drawn from a seed, nothing else."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

ADAPT = ("adapt-0", "adapt-1")
JOINER = "adapt-2"  # is not there unless a fault lets it join
LEARN = "learn"
ROLES = (*ADAPT, LEARN)
NODES = ("node-1", "node-2", "node-3")
STORE = "store"
BROKERS = "brokers"  # at most one of three may be away: with two, nothing can be written at all

FIRST_S = 1.0
GAP_S = (1.0, 6.0)  # between the beginnings of two faults, which may overlap
SESSION_S = 6.0  # the shortest that Settings takes


@dataclass(frozen=True, slots=True)
class Kind:
    """A fault that can happen: to whom, and how long it lasts."""

    name: str
    targets: Sequence[str]
    lasts_s: tuple[float, float]  # until the target is well, or started, again


KINDS = (
    Kind("kill", ROLES, (0.0, 3.0)),  # kill -9
    Kind("leave", ROLES, (0.0, 5.0)),  # SIGTERM
    # SIGSTOP; for longer than the session.
    Kind("pause", ROLES, (SESSION_S + 1, SESSION_S + 9)),
    # No byte passes between the worker and any broker; for long enough that its successor writes.
    Kind("cut", ROLES, (1.0, SESSION_S + 14)),
    Kind("join", (JOINER,), (8.0, 20.0)),  # a third worker comes, and leaves again
    Kind("kill_broker", NODES, (1.0, 6.0)),
    Kind("restart_broker", NODES, (0.0, 3.0)),
    Kind("lose_broker", NODES, (20.0, 30.0)),
    Kind("full_disk", (STORE,), (4.0, 12.0)),
)


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of a schedule."""

    at_s: float
    kind: str
    target: str
    lasts_s: float

    def __str__(self) -> str:
        return f"{self.at_s:5.1f} s  {self.kind} {self.target} for {self.lasts_s:.1f} s"


def draw(seed: int, *, seconds: float) -> list[Fault]:
    """Draw the faults of ``seconds`` seconds; no target meets two at a time."""
    chance = random.Random(seed)
    faults: list[Fault] = []
    busy_until_s: Counter[str] = Counter()
    at_s = FIRST_S
    while at_s < seconds:
        kind = chance.choice(KINDS)
        target = chance.choice(kind.targets)
        lasts_s = chance.uniform(*kind.lasts_s)
        resource = BROKERS if target in NODES else target
        if busy_until_s[resource] <= at_s:
            lasts_s = min(lasts_s, seconds - at_s)
            faults.append(Fault(round(at_s, 1), kind.name, target, round(lasts_s, 1)))
            busy_until_s[resource] = at_s + lasts_s
        at_s += chance.uniform(*GAP_S)
    return faults
