"""What the compute thread does with one micro-batch: states in, lists and states out."""

import time
from dataclasses import dataclass, field

from headrace.streams import metrics
from headrace.streams.engine import Engine, UserResult, UserWork
from headrace.streams.micro_batch import MicroBatch, StateKey, in_rounds
from headrace.streams.state import UserState
from headrace.streams.user_states import UserStates
from headrace.streams.wire import encode


@dataclass(slots=True)
class Computed:
    """What to write for one micro-batch, as bytes."""

    lists: dict[StateKey, bytes] = field(default_factory=dict)
    states: dict[StateKey, bytes] = field(default_factory=dict)
    n_applied: int = 0
    n_replayed: int = 0
    started_s: float = 0.0
    ended_s: float = 0.0


def compute(engine: Engine, states: UserStates, micro_batch: MicroBatch) -> Computed:
    """Process every user of the micro-batch and overlay their new states."""
    computed = Computed(started_s=time.monotonic())
    cpu_s = time.thread_time()
    fresh: dict[StateKey, UserState] = {}
    for keys in in_rounds(micro_batch.users):
        work = [_work_of(key, states, micro_batch, computed) for key in keys]
        for key, result in zip(keys, engine.process(work), strict=True):
            fresh[key] = result.state
            _encode(key, result, computed)
    states.overlay(micro_batch, fresh)
    metrics.CPU_SECONDS.labels("states").inc(time.thread_time() - cpu_s)
    computed.ended_s = time.monotonic()
    return computed


def _work_of(
    key: StateKey, states: UserStates, micro_batch: MicroBatch, computed: Computed
) -> UserWork:
    """Return a user's events less those that the state holds already."""
    arrivals = micro_batch.users[key]
    state = states.read(key)
    new = [(offset, event) for offset, event in arrivals.events if offset > state.last_offset]
    computed.n_applied += len(new)
    computed.n_replayed += len(arrivals.events) - len(new)
    return UserWork(arrivals.user, state, new, arrivals.source)


def _encode(key: StateKey, result: UserResult, computed: Computed) -> None:
    computed.states[key] = result.state.encode()
    if result.recommendation is not None:
        computed.lists[key] = encode(result.recommendation)
