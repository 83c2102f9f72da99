"""What the compute thread does with one micro-batch: states in, lists and states out."""

import time
from dataclasses import dataclass, field

from headrace.streams import metrics
from headrace.streams.engine import Engine, UserResult, UserWork
from headrace.streams.micro_batch import MicroBatch, StateKey, in_rounds
from headrace.streams.state import UserState, since_forgotten
from headrace.streams.user_states import UserStates
from headrace.streams.wire import encode


@dataclass(slots=True)
class Computed:
    """What to write for one micro-batch, as bytes."""

    lists: dict[StateKey, bytes | None] = field(default_factory=dict)  # None: the user asked to
    states: dict[StateKey, bytes | None] = field(default_factory=dict)  # be forgotten
    n_applied: int = 0
    n_replayed: int = 0
    started_s: float = 0.0
    ended_s: float = 0.0


def compute(engine: Engine, states: UserStates, micro_batch: MicroBatch) -> Computed:
    """Process every user of the micro-batch and overlay their new states.

    A user who asks to be forgotten, and does nothing after it, leaves nothing: the overlay alone
    holds the offset until that is written. Afterwards no offset is needed. Only a replay brings the
    user's earlier events again, and one that begins before them brings the event that asks too.
    """
    computed = Computed(started_s=time.monotonic())
    cpu_s = time.thread_time()
    fresh: dict[StateKey, UserState] = {}
    for keys in in_rounds(micro_batch.users):
        work: dict[StateKey, UserWork] = {}
        for key in keys:
            one, is_forgotten = _work_of(key, states, micro_batch, computed)
            if is_forgotten:
                fresh[key] = one.state
                computed.states[key] = computed.lists[key] = None
            else:
                work[key] = one
        results = engine.process(list(work.values())) if work else []
        for key, result in zip(work, results, strict=True):
            fresh[key] = result.state
            _encode(key, result, computed)
    states.overlay(micro_batch, fresh)
    metrics.CPU_SECONDS.labels("states").inc(time.thread_time() - cpu_s)
    computed.ended_s = time.monotonic()
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
    computed.n_replayed += len(arrivals.events) - len(new)
    left, events = since_forgotten(state, new)
    work = UserWork(arrivals.user, left, list(events), arrivals.source)
    return work, left is not state and not events


def _encode(key: StateKey, result: UserResult, computed: Computed) -> None:
    computed.states[key] = result.state.encode_to_fit()
    if result.recommendation is not None:
        computed.lists[key] = encode(result.recommendation)
