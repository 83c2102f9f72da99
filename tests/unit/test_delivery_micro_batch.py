"""Records to micro-batches to states: decoding, coalescing, replays, the overlay."""

from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from threading import Barrier
from typing import Any

import msgpack
import pytest
from faust.types.tuples import TP

from headrace.streams import metrics, wire
from headrace.streams.adapt.compute import Computed, compute, in_parts
from headrace.streams.adapt.engine import UserResult, UserWork
from headrace.streams.adapt.micro_batch import MicroBatch, in_rounds
from headrace.streams.adapt.user_states import MOVED_FOR_S, UserStates
from headrace.streams.decoding import decoded
from headrace.streams.kafka.batches import HEADER_OVERHEAD_BYTES, RecordBatch, Watermarks
from headrace.streams.kafka.record_batches import Unreadable
from headrace.streams.records import Event
from headrace.streams.schema import STATE, Schema
from headrace.streams.state import StateKey, StateVersionError, UserState
from headrace.streams.wire import encode

EVENTS = "headrace.events"
NOW_MS = 5_000


@dataclass(slots=True)
class Record:
    """The fields of aiokafka's ConsumerRecord that decoding looks at."""

    offset: int
    value: bytes | None
    partition: int = 0
    key: bytes | None = None
    timestamp: int | None = 1_000
    headers: tuple[tuple[str, bytes | None], ...] = ()
    topic: str = EVENTS


def click(offset: int, user: str, *, partition: int = 0) -> Record:
    return Record(
        offset, encode(Event(user=user, item=f"i{offset}", time_ms=offset)), partition=partition
    )


def micro_batch_of(*records: Record) -> MicroBatch:
    receipt = Watermarks().deliver(TP(EVENTS, 0), records[-1].offset + 1, epoch=1)
    made = MicroBatch(opened_s=0.0)
    made.add(RecordBatch(records, receipt), decoded(records, now_ms=NOW_MS))
    return made


@dataclass
class Recorder:
    """An engine that applies events and remembers what it was asked."""

    calls: list[list[UserWork]] = field(default_factory=list)

    def process(self, work: Sequence[UserWork]) -> list[UserResult]:
        self.calls.append(list(work))
        for user in work:
            for offset, event in user.events:
                user.state.apply(event, offset=offset, history_length=10)
        return [UserResult(user.state, None) for user in work]


def states_of(**encoded: bytes) -> UserStates:
    table = OrderedDict({(0, user.encode()): value for user, value in encoded.items()})
    return UserStates(table, max_users=10)


# --------------------------------------------------------------------------------- micro-batches


def test_users_are_coalesced_and_the_source_is_their_last_record() -> None:
    users = micro_batch_of(click(3, "ann"), click(4, "bob"), click(6, "ann")).users
    assert [offset for offset, _ in users[0, b"ann"].events] == [3, 6]
    assert users[0, b"ann"].source.offset == 6
    assert [offset for offset, _ in users[0, b"bob"].events] == [4]


def test_one_user_in_two_partitions_is_two_states() -> None:
    assert set(micro_batch_of(click(3, "ann"), click(900, "ann", partition=1)).users) == {
        (0, b"ann"),
        (1, b"ann"),
    }


@pytest.mark.parametrize("timestamp", [None, -1, 0])
def test_a_record_without_a_time_counts_as_new(timestamp: int | None) -> None:
    record = Record(3, b'{"user": "ann", "item": "tea"}', timestamp=timestamp)
    arrivals = micro_batch_of(record).users[0, b"ann"]
    assert (arrivals.oldest_record_ms, arrivals.source.time_ms) == (NOW_MS, NOW_MS)


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"\xc1",
        b'{"user": "\\ud800", "item": "tea"}',  # JSON can smuggle lone surrogates in
        b'{"user": "ann", "item": "\\ud800"}',
        b'{"user": "ann", "item": "tea", "action": "\\ud800"}',
        b"\x81\x90\x01",  # a msgpack map with a list for a key
        b"[" * 100_000,
    ],
)
def test_a_record_that_cannot_be_applied_is_set_aside_as_it_came(value: bytes | None) -> None:
    bad = Record(7, value, partition=2, key=b"k", headers=(("trace", b"1"), ("null", None)))
    made = micro_batch_of(click(6, "ann"), bad, click(8, "ann"))
    assert [offset for offset, _ in made.users[0, b"ann"].events] == [6, 8]
    (letter,) = made.dead_letters
    assert (letter.key, letter.value) == (b"k", value)
    assert letter.headers == [("trace", b"1"), ("null", None)]
    headers: dict[str, Any] = dict(letter.coordinates)
    assert headers["headrace.reason"] == letter.reason.encode()
    assert (headers["headrace.partition"], headers["headrace.offset"]) == (b"2", b"7")


def test_a_dead_letter_says_its_reason_once() -> None:
    (letter,) = micro_batch_of(Record(7, b'{"user": "ann"}')).dead_letters
    headers = dict(letter.coordinates)
    assert (headers["headrace.reason"], headers["headrace.detail"]) == (b"missing_field", b"item")


def test_a_micro_batch_counts_every_byte_that_it_holds() -> None:
    left_out = Unreadable.of("too_large", "", n_left_out=2_000_000)
    headers = (("trace", b"12"), ("null", None))
    made = micro_batch_of(
        Record(3, b"12345", key=b"key", headers=headers), Record(4, None), Record(5, left_out)
    )
    held = b"12345" + b"key" + b"trace" + b"12" + b"null"
    assert (
        made.n_bytes == len(held) + 2 * HEADER_OVERHEAD_BYTES
    )  # of both, however little is in them


def test_whatever_decoding_raises_is_the_records_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> str:
        raise ZeroDivisionError("a defect of the decoder")

    monkeypatch.setattr(wire, "action_of", fail)
    (letter,) = micro_batch_of(click(3, "ann")).dead_letters
    assert letter.reason == "undecodable"
    assert b"ZeroDivisionError" in (dict(letter.coordinates)["headrace.detail"] or b"")


def test_no_round_holds_a_user_twice() -> None:
    keys: list[StateKey] = [(0, b"ann"), (1, b"ann"), (0, b"bob"), (2, b"ann"), (1, b"bob")]
    assert in_rounds(keys) == [
        [(0, b"ann"), (0, b"bob")],
        [(1, b"ann"), (1, b"bob")],
        [(2, b"ann")],
    ]
    assert in_rounds([]) == []


# ------------------------------------------------------------------------------------- computing


def test_events_that_the_state_holds_are_skipped_and_counted() -> None:
    states = states_of(ann=UserState(last_offset=4, n_events=2).encode())
    engine = Recorder()
    computed = compute(engine, states, micro_batch_of(click(3, "ann"), click(5, "ann")))
    ((ann,),) = engine.calls
    assert [offset for offset, _ in ann.events] == [5]
    assert (computed.n_applied, computed.n_replayed) == (1, 1)
    assert computed.read_to == {0: 5}  # which the partition must reach, or it is another one
    assert UserState.decode(computed.states[0, b"ann"]).n_events == 3


def test_a_user_with_replays_only_still_gets_a_list() -> None:
    states = states_of(ann=UserState(last_offset=9).encode())
    engine = Recorder()
    compute(engine, states, micro_batch_of(click(3, "ann"), click(5, "ann")))
    ((ann,),) = engine.calls
    assert (ann.events, ann.source.offset) == ([], 5)


def test_how_far_a_partition_was_read_is_told_by_the_latest_state_that_skipped_events() -> None:
    at_work = {user: UserState(last_offset=50 + n) for n, user in enumerate("abcdefgh")}
    states = states_of(**{user: state.encode() for user, state in at_work.items()})
    records = [click(n, user) for n, user in enumerate(at_work)]
    batch = micro_batch_of(*reversed(records), click(7, "new"), click(3, "new", partition=1))
    assert compute(Recorder(), states, batch).read_to == {0: 58}


def test_a_user_in_two_partitions_is_asked_for_in_two_calls() -> None:
    engine = Recorder()
    batch = micro_batch_of(click(3, "ann"), click(900, "ann", partition=1), click(4, "bob"))
    computed = compute(engine, states_of(), batch)
    assert [[work.user for work in call] for call in engine.calls] == [["ann", "bob"], ["ann"]]
    assert UserState.decode(computed.states[1, b"ann"]).items == ["i900"]


def test_the_next_micro_batch_sees_what_this_one_computed() -> None:
    states = states_of()
    first, second = micro_batch_of(click(3, "ann")), micro_batch_of(click(5, "ann"))
    written = compute(Recorder(), states, first)
    computed = compute(Recorder(), states, second)
    assert UserState.decode(computed.states[0, b"ann"]).items == ["i3", "i5"]
    # Writing the first must not take the second's state away.
    states.write(written.states, evicted=[])
    states.release(first, written.states)
    assert states.read((0, b"ann")).last_offset == 5
    states.release(second, computed.states)  # dropped, not written
    assert states.read((0, b"ann")).last_offset == 3


def test_threads_share_the_users_of_a_micro_batch_and_leave_what_one_does() -> None:
    records = [click(offset, f"user-{offset % 50}") for offset in range(100)]

    def computed(threads: int) -> tuple[Computed, list[list[str]]]:
        engine, all_at_once = Recorder(), Barrier(threads, timeout=60)

        class Meeting(Recorder):
            def process(self, work: Sequence[UserWork]) -> list[UserResult]:
                all_at_once.wait()
                return engine.process(work)

        batch, states = micro_batch_of(*records), states_of()
        with ThreadPoolExecutor(threads) as pool:
            made = compute(Meeting(), states, batch, pool=pool, threads=threads)
        assert states.read((0, b"user-49")).last_offset == 99
        return made, sorted([work.user for work in call] for call in engine.calls)

    (one, together), (three, in_three) = computed(1), computed(3)
    assert (three.n_applied, list(three.states.items())) == (100, list(one.states.items()))
    assert [len(call) for call in together] == [50]
    assert sorted(len(call) for call in in_three) == [15, 17, 18]
    assert sorted(chain(*in_three)) == sorted(chain(*together))


@pytest.mark.parametrize(
    ("n_users", "sizes"), [(0, [0]), (31, [31]), (32, [17, 15]), (271, [100, 90, 81])]
)
def test_parts_hold_all_users_in_order_none_is_very_small_and_later_ones_are_smaller(
    n_users: int, sizes: list[int]
) -> None:
    keys: list[StateKey] = [(0, b"%d" % n) for n in range(n_users)]
    parts = in_parts(keys, 3)
    assert [len(part) for part in parts] == sizes
    assert [key for part in parts for key in part] == keys


# -------------------------------------------------------------------------------------- eviction


def key(user: str) -> StateKey:
    return (0, user.encode())


def test_the_least_recently_written_users_make_room() -> None:
    states = UserStates(OrderedDict(), max_users=3)
    states.write({key("ann"): b"1", key("bob"): b"1", key("cem"): b"1"}, evicted=[])
    states.write({key("ann"): b"2"}, evicted=[])
    # Now in order of writing: bob, cem, ann. dan and eve are new, cem is being written.
    assert states.overflow({key("dan"): b"1"}) == [key("bob")]
    coming = dict.fromkeys([key("dan"), key("eve"), key("cem")], b"1")
    assert states.overflow(coming) == [key("bob"), key("ann")]
    assert states.overflow({key("ann"): b"3"}) == []
    assert states.overflow({key("fay"): None}) == []  # forgotten, not coming
    states.write({key("dan"): b"1"}, evicted=[key("bob")])
    assert len(states) == 3
    assert states.read(key("bob")).last_offset == -1


def test_users_of_partitions_that_moved_here_for_a_while_are_not_evicted() -> None:
    clock = [0.0]
    states = UserStates(OrderedDict(), max_users=3, clock=lambda: clock[0])
    states.write(dict.fromkeys(map(key, ("ann", "bob", "cem")), b"1"), evicted=[])
    moved = dict.fromkeys(((1, b"dan"), (1, b"eve")), b"1")  # another worker's, which is rolled
    states.write(moved, evicted=[])
    states.partitions_moved()
    clock[0] = MOVED_FOR_S - 1
    assert states.overflow({key("bob"): b"2"}) == []
    assert states.overflow({key("fay"): b"1"}) == [key("ann")]  # ever new users stay bounded
    clock[0] = MOVED_FOR_S
    assert states.overflow({key("bob"): b"2"}) == [key("ann"), key("cem")]


def test_a_user_whose_state_is_damaged_starts_over() -> None:
    states, before = states_of(ann=b"no state"), metrics.STATES_REFUSED._value.get()
    engine = Recorder()
    computed = compute(engine, states, micro_batch_of(click(3, "ann")))
    assert UserState.decode(computed.states[0, b"ann"]).items == ["i3"]
    assert metrics.STATES_REFUSED._value.get() == before + 1


@pytest.mark.parametrize(
    ("version", "reads", "what_to_do"),
    [(STATE.version + 1, STATE.version, "upgrade"), (1, 3, "run the release before this one")],
)
def test_a_state_of_a_version_that_is_not_read_is_not_thrown_away(
    version: int, reads: int, what_to_do: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = msgpack.unpackb(UserState().encode())
    states = states_of(ann=msgpack.packb([fields[0], version, *fields[2:]]))
    monkeypatch.setattr("headrace.streams.schema.STATE", Schema("state", reads))
    with pytest.raises(StateVersionError, match=what_to_do):
        compute(Recorder(), states, micro_batch_of(click(3, "ann")))
