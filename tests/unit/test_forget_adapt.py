"""Forgetting in the adapt role: whatever is replayed, nothing from before it is left or counted."""

from collections import OrderedDict
from collections.abc import Sequence
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_delivery_micro_batch import Record, micro_batch_of

from headrace.streams.actions import FORGET
from headrace.streams.adapt.compute import Computed, compute
from headrace.streams.adapt.engine import UserResult, UserWork
from headrace.streams.adapt.micro_batch import MicroBatch
from headrace.streams.adapt.user_states import UserStates
from headrace.streams.kafka.faust_app import StateStore
from headrace.streams.records import Event, Recommendation, rec_id_of
from headrace.streams.state import StateKey, UserState, since_forgotten
from headrace.streams.wire import decode_recommendation, encode

HISTORY = 4
Did = tuple[str, str]  # user, action
Written = list[tuple[StateKey, bytes | None]]

streams = st.lists(
    st.tuples(st.sampled_from(["ann", "bob"]), st.sampled_from(["click", "impression", FORGET])),
    min_size=1,
    max_size=16,
)


class ListsAll:
    """An engine that lists what a user's state remembers."""

    def __init__(self) -> None:
        self.forgotten: list[str] = []

    def process(self, work: Sequence[UserWork]) -> list[UserResult]:
        return [self._process(one) for one in work]

    def forget(self, work: Sequence[UserWork]) -> None:
        """Note who asked."""
        self.forgotten += [one.user for one in work]

    def _process(self, one: UserWork) -> UserResult:
        for offset, event in one.events:
            assert one.state.apply(event, offset=offset, history_length=HISTORY)
        made = Recommendation(
            user=one.user,
            rec_id=rec_id_of(one.user, one.source),
            items=tuple(one.state.items),
            scores=(),
            reasons=(),
            model_version=1,
            source=one.source,
            generated_ms=0,
        )
        return UserResult(one.state, made)


def event(offset: int, did: Did) -> Event:
    user, action = did
    return Event(user=user, item=f"i{offset}", action=action, time_ms=offset)


def records(stream: Sequence[Did], first: int, end: int) -> list[Record]:
    """Return the records of a part of the stream; a record's offset is its place."""
    return [Record(at, encode(event(at, did))) for at, did in enumerate(stream)][first:end]


def expected(stream: Sequence[Did]) -> dict[StateKey, UserState]:
    """Fold what each user did since they last asked to be forgotten."""
    states: dict[StateKey, UserState] = {}
    for offset, did in enumerate(stream):
        key = (0, did[0].encode())
        if did[1] == FORGET:
            states.pop(key, None)
        else:
            state = states.setdefault(key, UserState())
            state.apply(event(offset, did), offset=offset, history_length=HISTORY)
    return states


def recovered(changelog: Written) -> OrderedDict[StateKey, bytes]:
    """Return the table that a worker makes of a changelog."""
    store = StateStore.__new__(StateStore)  # without the app that its clean-up needs
    store.__post_init__()
    rows = [
        SimpleNamespace(topic="changelog", offset=0, partition=partition, key=key, value=value)
        for (partition, key), value in changelog
    ]
    batch = SimpleNamespace(records=rows)
    message = SimpleNamespace(message=SimpleNamespace(batch=batch))
    store.apply_changelog_batch([message], to_key=None, to_value=None)
    return store.data


def compacted(written: Written) -> dict[StateKey, bytes]:
    """Return what compaction leaves in the end: each key's last value, and no tombstone."""
    return {key: value for key, value in dict(written).items() if value is not None}


def work_through(
    stream: Sequence[Did], committed: int, changelog: Written, lists: Written, data: st.DataObject
) -> int:
    """Run one worker from a committed offset until it crashes; return what it committed last."""
    states = UserStates(recovered(changelog), max_users=10)
    at = committed
    while at < len(stream) and data.draw(st.booleans(), label="goes on"):
        end = at + data.draw(st.integers(1, 5), label="records in the micro-batch")
        batch = micro_batch_of(*records(stream, at, end))
        computed = compute(ListsAll(), states, batch)
        for topic, rows in ((lists, computed.lists), (changelog, computed.states)):
            topic += list(rows.items())[: data.draw(st.integers(0, 4), label="written of them")]
        if data.draw(st.booleans(), label="crashes while writing"):
            break
        finish(states, batch, computed, changelog, lists)
        at = min(end, len(stream))
        if data.draw(st.booleans(), label="committed"):
            committed = at
    return committed


def finish(
    states: UserStates, batch: MicroBatch, computed: Computed, changelog: Written, lists: Written
) -> None:
    """Write all of a micro-batch and take it over."""
    lists += computed.lists.items()
    changelog += computed.states.items()
    states.write(computed.states, evicted=[])
    states.release(batch, computed.states)


@given(streams, st.data())
def test_after_any_crashes_and_replays_what_is_left_is_the_fold_since_forgetting(
    stream: list[Did], data: st.DataObject
) -> None:
    changelog: Written = []
    lists: Written = []
    committed = 0
    for _ in range(data.draw(st.integers(0, 4), label="workers that crash")):
        committed = work_through(stream, committed, changelog, lists, data)
    states = UserStates(recovered(changelog), max_users=10)
    for at in range(committed, len(stream), 3):
        batch = micro_batch_of(*records(stream, at, at + 3))
        finish(states, batch, compute(ListsAll(), states, batch), changelog, lists)
    wanted = expected(stream)
    for left in (compacted(changelog), recovered(changelog)):
        assert {key: UserState.decode(value) for key, value in left.items()} == wanted
    shown = {key: decode_recommendation(value) for key, value in compacted(lists).items()}
    assert {key: list(each.items) for key, each in shown.items()} == {
        key: state.items for key, state in wanted.items()
    }


@given(streams)
def test_since_forgotten_leaves_what_came_after_it(stream: list[Did]) -> None:
    events = [(at, event(at, did)) for at, did in enumerate(stream)]
    given_state = UserState()
    state, left = since_forgotten(given_state, events)
    asked = [at for at, (_, action) in enumerate(stream) if action == FORGET]
    assert (state is given_state) == (not asked)
    assert left == (events[asked[-1] + 1 :] if asked else events)
    assert (state.last_offset, state.n_events) == (asked[-1] if asked else -1, 0)


def test_one_micro_batch_may_hold_what_came_before_and_after() -> None:
    stream = [
        ("ann", "click"),
        ("ann", FORGET),
        ("ann", "click"),
        ("bob", "click"),
        ("bob", FORGET),
    ]
    states = UserStates(OrderedDict(), max_users=10)
    engine = ListsAll()
    computed = compute(engine, states, micro_batch_of(*records(stream, 0, 5)))
    ann = UserState.decode(computed.states[0, b"ann"] or b"")
    assert (ann.items, ann.n_events, ann.last_offset) == (["i2"], 1, 2)
    assert (computed.states[0, b"bob"], computed.lists[0, b"bob"]) == (None, None)
    assert (computed.n_applied, computed.n_replayed) == (5, 0)
    assert engine.forgotten == ["bob"]
    assert computed.n_forgotten == 2


def test_the_next_micro_batch_sees_that_a_user_is_forgotten_before_it_is_written() -> None:
    stream = [("ann", "click"), ("ann", FORGET), ("ann", "click")]
    table = OrderedDict({(0, b"ann"): UserState(0, 1, 0, ["i0"], ["click"], [0]).encode()})
    states = UserStates(table, max_users=10)
    first = micro_batch_of(*records(stream, 1, 2))
    computed = compute(ListsAll(), states, first)
    then = compute(ListsAll(), states, micro_batch_of(*records(stream, 2, 3)))
    assert UserState.decode(then.states[0, b"ann"] or b"").items == ["i2"]
    states.write(computed.states, evicted=[])
    assert table == {}


def test_a_user_nobody_knows_is_forgotten_all_the_same() -> None:
    # Evicted from memory, there may still be a list.
    computed = compute(
        ListsAll(),
        UserStates(OrderedDict(), max_users=10),
        micro_batch_of(*records([("ann", FORGET)], 0, 1)),
    )
    assert computed.states == computed.lists == {(0, b"ann"): None}


@pytest.mark.parametrize(
    "value", [b'{"user": "ann", "action": "forget"}', encode(event(0, ("ann", FORGET)))]
)
def test_asking_needs_no_item(value: bytes) -> None:
    batch = micro_batch_of(Record(0, value))
    assert not batch.dead_letters
    ((_, asked),) = batch.users[0, b"ann"].events
    assert (asked.action, asked.item) == (FORGET, "")
