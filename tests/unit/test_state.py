"""User state: a bounded fold over events that a replay cannot change."""

import tracemalloc
from contextlib import suppress
from dataclasses import replace

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.model.features import MAX_FEATURES, N_FEATURES
from headrace.streams.records import Event
from headrace.streams.schema import STATE
from headrace.streams.state import (
    LARGEST_STATE_BYTES,
    NAME_BYTES,
    NAMED_EVENTS,
    UserState,
    offset_of,
)

HISTORY = 5
ONES = np.ones(4, np.float32).tobytes()
WHOLE = [
    7,
    STATE.version,
    1,
    0,
    ["i"],
    ["view"],
    [5],
    ONES,
    ONES[:8],
    [3],
    b"12345678",
]  # as it is written

actions = st.sampled_from(["view", "click", "purchase", "impression", "return"])
streams = st.lists(
    st.builds(
        Event,
        user=st.just("u"),
        item=st.sampled_from("abcdefgh"),
        action=actions,
        time_ms=st.integers(0, 1000),
    ),
    max_size=30,
)


def interaction(item: str, *, action: str = "view", time_ms: int = 0) -> Event:
    """Return an event of the one user of these tests."""
    return Event(user="u", item=item, action=action, time_ms=time_ms)


def fold(state: UserState, stream: list[Event], *, first_offset: int = 0) -> list[bool]:
    """Apply a stream of events at consecutive offsets; return which were new."""
    return [
        state.apply(event, offset=offset, history_length=HISTORY)
        for offset, event in enumerate(stream, start=first_offset)
    ]


def pack_any(fields: list[int | str]) -> bytes:
    """Return a msgpack list; what no integer of it can hold is cut."""
    return bytes(msgpack.packb([f % 2**62 if isinstance(f, int) else f for f in fields]))


# ------------------------------------------------------------------------------------------ fold


def test_events_are_remembered_oldest_first() -> None:
    state = UserState()
    fold(state, [interaction("a", time_ms=1), interaction("b", action="purchase", time_ms=2)])
    assert (state.items, state.actions, state.times_ms) == (
        ["a", "b"],
        ["view", "purchase"],
        [1, 2],
    )
    assert (state.last_offset, state.n_events, state.n_repeats) == (1, 2, 0)


def test_only_the_latest_are_remembered_and_all_are_counted() -> None:
    state = UserState()
    fold(state, [interaction(item) for item in "abcdefg"])
    assert state.items == list("cdefg")  # 7 events, 5 remembered
    assert state.n_events == 7


def test_item_the_user_had_counts_as_a_repeat_while_it_is_remembered() -> None:
    state = UserState()
    fold(state, [interaction(item) for item in "aabcdefa"])
    # The second a repeats the first; the last a comes when "aabcdef" has been cut to "bcdef".
    assert state.n_repeats == 1


@pytest.mark.parametrize("action", ["impression", "return", "refresh"])
def test_what_is_no_engagement_moves_the_offset_only(action: str) -> None:
    state = UserState()
    assert fold(state, [interaction("a"), interaction("b", action=action)]) == [True, True]
    assert (state.items, state.n_events, state.last_offset) == (["a"], 1, 1)


def test_an_event_published_twice_under_its_id_is_one_interaction() -> None:
    state = UserState()
    bought = Event(user="u", item="a", action="purchase", time_ms=0, event_id="order 1")
    others = [replace(bought, item="b"), replace(bought, action="view"), interaction("a")]
    assert fold(state, [bought, *others, bought, replace(bought, time_ms=9)]) == [True] * 6
    assert state.items == ["a", "b", "a", "a"]
    assert (state.n_events, state.n_repeats, state.last_offset) == (4, 2, 5)
    again = UserState.decode(state.encode())
    fold(again, [bought, interaction("a"), interaction("a")], first_offset=6)
    assert again.n_events == 6  # without an id, who knows


def test_the_ids_of_the_latest_events_are_remembered() -> None:
    state = UserState()
    named = [
        Event(user="u", item="a", action="view", time_ms=0, event_id=f"{number}")
        for number in range(NAMED_EVENTS + 1)
    ]
    fold(state, [*named, named[1], *named[2:]])
    assert state.n_events == NAMED_EVENTS + 1
    fold(state, named[:1], first_offset=1000)
    assert state.n_events == NAMED_EVENTS + 2


def test_offset_already_in_changes_nothing() -> None:
    state = UserState()
    fold(state, [interaction("a")], first_offset=7)
    before = state.encode()
    assert not state.apply(interaction("b"), offset=7, history_length=HISTORY)
    assert not state.apply(interaction("b"), offset=3, history_length=HISTORY)
    assert state.encode() == before


@given(streams, st.data())
def test_replaying_any_suffix_gives_the_state_of_one_fold(
    stream: list[Event], data: st.DataObject
) -> None:
    once = UserState()
    fold(once, stream)
    replayed = UserState()
    reached = data.draw(st.integers(0, len(stream)), label="events applied before the crash")
    committed = data.draw(st.integers(0, reached), label="events committed before the crash")
    fold(replayed, stream[:reached])
    recovered = UserState.decode(replayed.encode())
    is_new = fold(recovered, stream[committed:], first_offset=committed)
    assert is_new == [False] * (reached - committed) + [True] * (len(stream) - reached)
    assert recovered == once


@given(streams)
def test_state_stays_bounded(stream: list[Event]) -> None:
    state = UserState()
    fold(state, stream)
    assert len(state.items) == len(state.actions) == len(state.times_ms) <= HISTORY
    assert state.n_repeats <= state.n_events <= len(stream)


# ----------------------------------------------------------------------------------------- bytes


@given(streams)
def test_state_is_read_as_written(stream: list[Event]) -> None:
    state = UserState()
    fold(state, stream)
    assert UserState.decode(state.encode()) == state
    assert offset_of(state.encode()) == state.last_offset == len(stream) - 1


def test_gradients_are_read_as_written_and_can_be_changed() -> None:
    state = UserState(
        gradients=np.arange(6, dtype=np.float32).reshape(2, 3),
        n_judged=np.array([1.5, 2.5], np.float32),
    )
    read = UserState.decode(state.encode())
    assert read.gradients is not None
    assert read.n_judged is not None
    np.testing.assert_array_equal(read.gradients, [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(read.n_judged, [1.5, 2.5])
    read.gradients += 1  # what came from bytes is often read-only
    read.n_judged += 1


@pytest.mark.parametrize("offset", [-1, 0, 127, 128, 2**40])
def test_offset_is_read_without_the_rest(offset: int) -> None:
    assert offset_of(UserState(last_offset=offset).encode()) == offset


def test_newer_version_is_refused_by_name() -> None:
    fields = msgpack.unpackb(UserState().encode())
    fields[1] = STATE.version + 1
    fields.append("something this version does not know")
    with pytest.raises(ValueError, match=f"state of schema version {STATE.version + 1}, newer"):
        UserState.decode(msgpack.packb(fields))


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\xc1",
        msgpack.packb(5),
        msgpack.packb({"a": 1}),
        msgpack.packb([1, 2]),
        msgpack.packb([0, "x", 0, 0, [], [], [], None, None]),
        UserState().encode()[:-1],
        UserState().encode() + b"\x00",
        *(
            msgpack.packb([*WHOLE[:place], wrong, *WHOLE[place + 1 :]])
            for place, wrong in [
                (0, -2),
                (0, 2**60),
                (0, True),
                (2, -1),
                (2, 2**60),
                (2, 1.0),
                (3, -1),
                (4, "i"),
                (4, [1]),
                (4, ["i", "j"]),
                (5, {"view": 1}),
                (5, [None]),
                (6, [-1]),
                (6, [2**60]),
                (6, [0.5]),
                (6, [[]]),
                (7, "no bytes"),
                (7, b"123"),
                (7, np.full(4, np.nan, np.float32).tobytes()),
                (8, b""),
                (8, None),
                (8, np.full(2, np.inf, np.float32).tobytes()),
                (9, [N_FEATURES]),
                (9, [-1]),
                (9, [0] * (MAX_FEATURES + 1)),
                (9, 5),
                (10, "text"),
                (10, bytes(NAMED_EVENTS * NAME_BYTES + 1)),
            ]
        ),
    ],
)
def test_bytes_that_are_no_state_are_refused(value: bytes) -> None:
    with pytest.raises(ValueError, match="state"):
        UserState.decode(value)


@pytest.mark.parametrize("header", [b"\xdd\x04\xff\xff\xff", b"\xdf\x04\xff\xff\xff"])
def test_no_room_is_made_for_what_a_state_cannot_hold(header: bytes) -> None:
    value = b"\x9a\x07\x02" + header + bytes(20)  # 80 million parts of twenty bytes
    tracemalloc.start()
    with pytest.raises(ValueError, match="state"):
        UserState.decode(value)
    with pytest.raises(ValueError, match="state"):
        offset_of(b"\x9a" + header + bytes(20))
    for place in (7, 8):  # gradients and counts are bytes, and no number of bytes
        with pytest.raises(ValueError, match="state"):
            UserState.decode(msgpack.packb([*WHOLE[:place], 10**9, *WHOLE[place + 1 :]]))
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()


def test_the_damaged_states_above_are_damaged_in_one_part_only() -> None:
    assert UserState.decode(msgpack.packb(WHOLE)).encode() == msgpack.packb(WHOLE)


@given(st.binary(max_size=200) | st.lists(st.integers() | st.text(), max_size=10).map(pack_any))
def test_any_bytes_are_a_state_or_refused(value: bytes) -> None:
    with suppress(ValueError):
        state = UserState.decode(value)
        assert UserState.decode(state.encode()) == state


def test_a_state_that_no_record_holds_forgets_the_older_half() -> None:
    state = UserState()
    for number in range(4_000):  # of 256 bytes each, so over a million
        state.apply(interaction(f"{number:0256}"), offset=number, history_length=10_000)
    newest = state.items[2_000:]
    assert len(state.encode()) > LARGEST_STATE_BYTES
    encoded = state.encode_to_fit()
    assert len(encoded) < LARGEST_STATE_BYTES
    assert state.items == newest
    assert UserState.decode(encoded) == state
    assert state.encode_to_fit() == encoded


@pytest.mark.parametrize("value", [b"", b"\xc1", msgpack.packb(5), msgpack.packb(["x"]), b"\x91"])
def test_bytes_without_an_offset_are_refused(value: bytes) -> None:
    with pytest.raises(ValueError, match="state"):
        offset_of(value)
