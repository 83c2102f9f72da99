"""What the compute threads do with one micro-batch: states in, lists and states out.

Users do not interact, so those of a micro-batch are shared among threads, each with all steps for
its part, from reading a state to writing it: what holds Python's lock in one of them passes while
the others are in loops that do not need it.
"""

import time
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate, pairwise

from headrace.streams import metrics
from headrace.streams.adapt.engine import Engine, UserResult, UserWork
from headrace.streams.adapt.micro_batch import MicroBatch, in_rounds
from headrace.streams.adapt.user_states import UserStates
from headrace.streams.state import StateKey, UserState, since_forgotten
from headrace.streams.wire import encode

MIN_PART = 16  # users, on average; with fewer, a second thread hardly pays for its part's costs
TAPER = 0.9  # of a part, the next: it waits for Python's lock first, and begins later


@dataclass(slots=True)
class Computed:
    """What to write for one micro-batch, or a part of it, as bytes."""

    # None in either: the user asked to be forgotten.
    lists: dict[StateKey, bytes | None] = field(default_factory=dict)
    states: dict[StateKey, bytes | None] = field(default_factory=dict)
    fresh: dict[StateKey, UserState] = field(default_factory=dict)  # until they are overlaid
    n_applied: int = 0
    n_replayed: int = 0
    n_forgotten: int = 0
    read_to: dict[int, int] = field(default_factory=dict)  # by partition, where events were skipped
    started_s: float = 0.0
    ended_s: float = 0.0

    def add(self, part: "Computed") -> None:
        """Take over what was computed of other users."""
        self.lists |= part.lists
        self.states |= part.states
        self.fresh |= part.fresh
        self.n_applied += part.n_applied
        self.n_replayed += part.n_replayed
        self.n_forgotten += part.n_forgotten
        for partition, offset in part.read_to.items():
            self.skip_to(partition, offset)

    def skip_to(self, partition: int, offset: int) -> None:
        """Note that events were skipped that are read to an offset, or further."""
        self.read_to[partition] = max(offset, self.read_to.get(partition, 0))


def compute(
    engine: Engine,
    states: UserStates,
    micro_batch: MicroBatch,
    *,
    pool: Executor | None = None,
    threads: int = 1,
) -> Computed:
    """Process every user of the micro-batch and overlay their new states.

    Those of a round in parts, on as many ``threads`` of the pool.
    """
    computed = Computed(started_s=time.monotonic())
    for keys in in_rounds(micro_batch.users):
        parts = in_parts(keys, threads)
        in_turn = pool.map if pool and len(parts) > 1 else map
        for part in in_turn(partial(_compute_part, engine, states, micro_batch), parts):
            computed.add(part)
    states.overlay(micro_batch, computed.fresh)
    computed.fresh = {}
    computed.ended_s = time.monotonic()
    return computed


def in_parts(keys: Sequence[StateKey], n: int) -> list[Sequence[StateKey]]:
    """Cut users into at most ``n`` parts that end at about the same time, none very small."""
    n = max(1, min(n, len(keys) // MIN_PART))
    ends = list(accumulate(TAPER**part for part in range(n)))
    bounds = [0, *(round(len(keys) * end / ends[-1]) for end in ends)]
    return [keys[start:end] for start, end in pairwise(bounds)]


def _compute_part(
    engine: Engine, states: UserStates, micro_batch: MicroBatch, keys: Sequence[StateKey]
) -> Computed:
    """Process some users, each of whom appears once.

    A user who asks to be forgotten, and does nothing after it, leaves nothing: the overlay alone
    holds the offset until that is written. Afterwards no offset is needed. Only a replay brings the
    user's earlier events again, and one that begins before them brings the event that asks too.
    """
    started_s = time.thread_time()
    computed = Computed()
    work: dict[StateKey, UserWork] = {}
    forgotten: list[UserWork] = []
    for key in keys:
        one, is_forgotten = _work_of(key, states, micro_batch, computed)
        if is_forgotten:
            forgotten.append(one)
            computed.fresh[key] = one.state
            computed.states[key] = computed.lists[key] = None
        else:
            work[key] = one
    read_s = time.thread_time()
    if forgotten:
        engine.forget(forgotten)
    results = engine.process(list(work.values())) if work else []
    processed_s = time.thread_time()
    for key, result in zip(work, results, strict=True):
        computed.fresh[key] = result.state
        _encode(key, result, computed)
    spent_s = read_s - started_s + time.thread_time() - processed_s
    metrics.CPU_SECONDS.labels("states").inc(spent_s)
    return computed


def _work_of(
    key: StateKey, states: UserStates, micro_batch: MicroBatch, computed: Computed
) -> tuple[UserWork, bool]:
    """Return a user's events less those that the state holds already.

    And whether that is none since the user asked to be forgotten.
    """
    arrivals = micro_batch.users[key]
    state = states.read(key)
    new = [(offset, event) for offset, event in arrivals.events if offset > state.last_offset]
    computed.n_applied += len(new)
    if n_replayed := len(arrivals.events) - len(new):
        computed.n_replayed += n_replayed
        computed.skip_to(key[0], state.last_offset + 1)
    left, events = since_forgotten(state, new)
    computed.n_forgotten += left is not state
    work = UserWork(arrivals.user, left, list(events), arrivals.source)
    return work, left is not state and not events


def _encode(key: StateKey, result: UserResult, computed: Computed) -> None:
    computed.states[key] = result.state.encode_to_fit()
    if result.recommendation is not None:
        computed.lists[key] = encode(result.recommendation)
