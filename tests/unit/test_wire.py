"""Wire forms: what is written is read back, and whatever else arrives is refused with a reason."""

import gzip
import json
import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.streams import wire
from headrace.streams.actions import FORGET, REFRESH
from headrace.streams.errors import MalformedRecordError
from headrace.streams.fields import (
    MAX_ACTION_LETTERS,
    MAX_AHEAD_MS,
    MAX_CATEGORIES,
    MAX_ID_BYTES,
    MAX_REC_ID_BYTES,
    MAX_TIME_MS,
    MAX_VECTOR_WIDTH,
    MS_FROM,
)
from headrace.streams.kafka.dead_letters import dead_letter_headers
from headrace.streams.kafka.record_batches import VALUE_LIMIT_BYTES
from headrace.streams.records import Event, Item, Reason, Recommendation, Source, rec_id_of
from headrace.streams.wire import (
    MAX_CONTEXT,
    MAX_EVENT_BYTES,
    decode_event,
    decode_item,
    decode_recommendation,
    encode,
    record_time_ms,
)

RECORD_TIME_MS = 1_500_000_000_000
REASONS = {
    *("empty", "too_large", "undecodable", "wrong_type"),
    *("unknown_schema", "missing_field", "out_of_range"),
}
VALID: dict[str, Any] = {"user": "u", "item": "i", "action": "view", "time_ms": 5}

ids = st.text(min_size=1, max_size=MAX_ID_BYTES // 4)  # a character has at most 4 bytes
numbers = st.floats(allow_nan=False, allow_infinity=False)
leaves = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | numbers | st.text()
contexts = st.dictionaries(
    st.text(),
    st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)),
    max_size=4,
)
told = st.dictionaries(
    st.text(), st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(), max_size=4
)
events = st.builds(
    Event,
    user=ids,
    item=ids,
    time_ms=st.integers(0, RECORD_TIME_MS // 2000) | st.integers(MS_FROM, RECORD_TIME_MS),
    action=st.text(min_size=1, max_size=64),
    event_id=st.none() | ids,
    rec_id=st.none() | ids,
    context=told,
)
items = st.builds(
    Item,
    item=ids,
    title=st.text(),
    categories=st.lists(ids, max_size=MAX_CATEGORIES).map(tuple),
    price=st.none() | numbers,
    text=st.text(),
    vectors=st.dictionaries(st.text(), st.lists(numbers, max_size=4).map(tuple), max_size=2),
    active=st.booleans(),
)
RECOMMENDATION = Recommendation(
    user="u",
    rec_id="u-1-7",
    items=("a", "b"),
    scores=(0.75, 0.5),
    reasons=(
        Reason(signal="again", share=0.5, because="c"),
        Reason(signal="popular", share=1.0, because=None),
    ),
    model_version=3,
    source=Source(topic="headrace.events", partition=1, offset=7, time_ms=5),
    generated_ms=6,
    judged={"adapted": 2},
)


def decode(value: bytes | None, key: bytes | None = None) -> Event:
    """Read an event whose record was written at a fixed time."""
    return decode_event(value, key=key, record_time_ms=RECORD_TIME_MS)


def as_json(fields: Any) -> bytes:
    """Write JSON as a person would type it."""
    return json.dumps(fields).encode()


def reason_of(value: bytes | None, key: bytes | None = None) -> str:
    """Return why an event is refused."""
    with pytest.raises(MalformedRecordError) as refusal:
        decode(value, key)
    return refusal.value.reason


# ------------------------------------------------------------------------------------ round trips


@given(events)
def test_event_is_read_as_written(event: Event) -> None:
    assert decode(encode(event)) == event


@given(events)
def test_event_typed_as_json_is_the_same(event: Event) -> None:
    fields = {name: getattr(event, name) for name in Event.__slots__}
    assert decode(as_json(fields)) == event


@given(items)
def test_item_is_read_as_written(item: Item) -> None:
    assert decode_item(encode(item), key=None) == item


def test_recommendation_is_read_as_written() -> None:
    assert decode_recommendation(encode(RECOMMENDATION)) == RECOMMENDATION


def test_encoding_leaves_out_what_is_not_there() -> None:
    fields = msgpack.unpackb(encode(Event(user="u", item="i", time_ms=5)))
    expected = {"v": 1, "user": "u", "item": "i", "time_ms": 5, "action": "click", "context": {}}
    assert fields == expected


# -------------------------------------------------------------------------------- kind to writers


def test_key_and_record_time_stand_in() -> None:
    event = decode(b'{"item": "i"}', key=b"u")
    assert event == Event(user="u", item="i", time_ms=RECORD_TIME_MS, action="click")


@pytest.mark.parametrize(
    ("told", "action"),
    [
        ({"event": "purchase"}, "purchase"),
        ({"event": "purchase", "action": None}, "purchase"),
        ({"event": "purchase", "action": "view"}, "view"),
        ({"event": ""}, "click"),
        ({"event": {"name": "purchase"}}, "click"),  # a key of another meaning
        ({"event": "x" * (MAX_ACTION_LETTERS + 1)}, "click"),
    ],
)
def test_an_action_may_have_the_name_that_it_has_in_files(
    told: dict[str, object], action: str
) -> None:
    assert decode(as_json({"user": "u", "item": "i"} | told)).action == action


@pytest.mark.parametrize("ahead_ms", [1, MAX_AHEAD_MS])
def test_nothing_happens_after_it_was_written(ahead_ms: int) -> None:
    fast_clock = decode(as_json(VALID | {"time_ms": RECORD_TIME_MS + ahead_ms}))
    assert fast_clock.time_ms == RECORD_TIME_MS


@pytest.mark.parametrize(
    ("timestamp_ms", "written_ms"), [(400, 400), (-1, 500), (None, 500), (0, 500), (501, 500)]
)
def test_record_is_as_old_as_it_says_unless_that_is_to_come(
    timestamp_ms: int | None, written_ms: int
) -> None:
    assert record_time_ms(timestamp_ms, now_ms=500) == written_ms


@pytest.mark.parametrize("action", [FORGET, REFRESH])
def test_what_asks_for_something_needs_no_item_and_has_none(action: str) -> None:
    asks = Event(user="u", item="", action=action, time_ms=5)
    assert decode(as_json({"user": "u", "action": action, "time_ms": 5})) == asks
    assert decode(as_json(VALID | {"action": action})) == asks
    assert decode(encode(asks)) == asks
    assert msgpack.unpackb(encode(asks))["v"] == 2  # the release before has not heard of it


def test_of_a_key_named_twice_the_last_counts() -> None:
    assert decode(b'{"user": "u", "item": "a", "item": "b"}').item == "b"
    assert decode(b"\x83\xa4user\xa1u\xa4item\xa1a\xa4item\xa1b").item == "b"


def test_ids_are_compared_byte_by_byte() -> None:
    composed, combined = (decode(as_json(VALID | {"user": u})) for u in ("\u00e9", "e\u0301"))
    assert composed.user != combined.user


def test_of_a_context_words_whole_numbers_and_truths_are_kept() -> None:
    kept = {"device": "phone", "party": 3, "member": True}
    others = {"price": 1.5, "none": None, "list": [1], "map": {"a": 1}}
    for write in (as_json, msgpack.packb):
        assert decode(write(VALID | {"context": others | kept})).context == kept


def test_null_is_as_good_as_nothing() -> None:
    names = ("v", "user", "time_ms", "action", "event_id", "rec_id", "context")
    event = decode(as_json({"item": "i"} | dict.fromkeys(names)), key=b"u")
    assert event == decode(b'{"item": "i"}', key=b"u")
    fields = ("v", "item", "title", "categories", "price", "text", "vectors", "active")
    assert decode_item(as_json(dict.fromkeys(fields)), key=b"i") == Item(item="i")


def test_value_outranks_key() -> None:
    assert decode(as_json(VALID), key=b"other").user == "u"


def test_numbers_are_ids_too() -> None:
    event = decode(as_json(VALID | {"user": 7, "item": 0}))
    assert (event.user, event.item) == ("7", "0")


def test_unknown_keys_are_ignored() -> None:
    assert decode(as_json(VALID | {"added_later": [1, 2]})) == decode(as_json(VALID))
    assert decode_item(as_json({"item": "i", "added_later": 1}), key=None) == Item(item="i")
    fields = msgpack.unpackb(encode(RECOMMENDATION)) | {"added_later": 1}
    fields["source"]["added_later"] = 1
    assert decode_recommendation(msgpack.packb(fields)) == RECOMMENDATION


def test_json_may_be_surrounded_by_space() -> None:
    assert decode(b" \n" + as_json(VALID) + b"\n") == decode(as_json(VALID))


def test_one_category_may_stand_alone() -> None:
    assert decode_item(b'{"item": "i", "categories": "tea"}', key=None).categories == ("tea",)


def test_categories_beyond_the_limit_are_cut() -> None:
    categories = [f"c{number}" for number in range(MAX_CATEGORIES + 1)]
    found = decode_item(as_json({"item": "i", "categories": categories}), key=None).categories
    assert found == tuple(categories[1:])  # the finest is the last


def test_tombstone_withdraws_the_item() -> None:
    assert decode_item(None, key=b"i") == Item(item="i", active=False)


# --------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "empty"),
        (b"", "empty"),
        (b"x" * (MAX_EVENT_BYTES + 1), "too_large"),
        (b"hello", "undecodable"),
        (b'{"user": ', "undecodable"),
        (b'{"user": "\xff"}', "undecodable"),
        (b"\xc1", "undecodable"),  # the one byte msgpack never uses
        (msgpack.packb(VALID)[:-1], "undecodable"),
        (msgpack.packb(VALID) + b"\x01", "undecodable"),
        (b"\x81\x91\x01\x01", "undecodable"),  # a map with a list as its key
        (b"\x81\x81\x01\x01\x01", "undecodable"),  # a map with a map as its key
        (msgpack.packb(VALID | {"x": {1: 1}}), "undecodable"),  # its key is a number
        (msgpack.packb(VALID | {"x": {msgpack.Timestamp(1): 1}}), "undecodable"),
        (b"\x81\xa4user\xa1\xff", "undecodable"),  # text that is not UTF-8
        (b'{"user": "\\ud800", "item": "i"}', "undecodable"),  # half a character
        (b'{"user": "u", "item": "i", "context": {"n": 1' + b"0" * 99 + b"}}", "undecodable"),
        (b'{"user": 1' + b"0" * 5000 + b', "item": "i"}', "undecodable"),
        (b'{"context":' + b"[" * 30_000 + b"]" * 30_000 + b"}", "undecodable"),
        (b"\x91" * 65_000, "undecodable"),
        (b"\xdf\xff\xff\xff\xff", "undecodable"),  # claims four billion pairs
        (b"[1", "undecodable"),
        (b"[1]", "wrong_type"),
        (msgpack.packb([1]), "wrong_type"),
        (msgpack.packb(1), "wrong_type"),
        (msgpack.packb(None), "wrong_type"),
    ],
)
def test_what_is_no_map_is_refused(value: bytes | None, reason: str) -> None:
    assert reason_of(value) == reason


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"v": 3}, "unknown_schema"),
        ({"v": 0}, "unknown_schema"),
        ({"v": "1"}, "unknown_schema"),
        ({"user": ""}, "missing_field"),
        ({"user": None}, "missing_field"),
        ({"item": ""}, "missing_field"),
        ({"user": True}, "wrong_type"),
        ({"user": 1.5}, "wrong_type"),
        ({"item": ["i"]}, "wrong_type"),
        ({"user": "u" * (MAX_ID_BYTES + 1)}, "too_large"),
        ({"item": "é" * (MAX_ID_BYTES // 2 + 1)}, "too_large"),  # two bytes each
        ({"event_id": "e" * (MAX_ID_BYTES + 1)}, "too_large"),
        ({"rec_id": "r" * (MAX_REC_ID_BYTES + 1)}, "too_large"),
        ({"rec_id": {}}, "wrong_type"),
        ({"time_ms": "now"}, "wrong_type"),
        ({"time_ms": True}, "wrong_type"),
        ({"time_ms": float("nan")}, "wrong_type"),
        ({"time_ms": float("inf")}, "wrong_type"),
        ({"time_ms": -1}, "out_of_range"),
        ({"time_ms": MAX_TIME_MS + 1}, "out_of_range"),
        ({"time_ms": MAX_TIME_MS}, "out_of_range"),
        ({"time_ms": RECORD_TIME_MS + MAX_AHEAD_MS + 1}, "out_of_range"),
        ({"time_ms": RECORD_TIME_MS // 1000}, "out_of_range"),  # seconds
        ({"time_ms": RECORD_TIME_MS / 1000 - 86_399}, "out_of_range"),
        ({"action": 1}, "wrong_type"),
        ({"action": "a" * 65}, "wrong_type"),
        ({"context": [1]}, "wrong_type"),
        ({"context": "x"}, "wrong_type"),
        ({"context": {f"name{n}": n for n in range(MAX_CONTEXT + 1)}}, "too_large"),
    ],
)
@pytest.mark.parametrize("write", [as_json, msgpack.packb])
def test_wrong_field_of_an_event_is_refused(write: Any, fields: Any, reason: str) -> None:
    assert reason_of(write(VALID | fields)) == reason


@pytest.mark.parametrize("write", [as_json, msgpack.packb])
def test_empty_is_as_good_as_nothing_where_a_field_may_be_absent(write: Any) -> None:
    empty = dict.fromkeys(("event_id", "rec_id", "action", "time_ms", "context", "v"), "")
    assert decode(write(VALID | empty)) == decode(write(VALID | dict.fromkeys(empty)))
    empty = dict.fromkeys(("title", "categories", "price", "text", "vectors", "active", "v"), "")
    assert decode_item(write({"item": "i"} | empty), key=None) == Item(item="i")
    assert decode(write(VALID | {"user": ""}), key=b"u9").user == "u9"
    assert decode(write(VALID | {"action": "", "event": "purchase"})).action == "purchase"


def test_an_empty_word_is_no_category() -> None:
    given = {"item": "i", "categories": ["", "Food", "", "Tea", ""]}
    assert decode_item(as_json(given), key=None).categories == ("Food", "Tea")


@pytest.mark.parametrize(
    ("told", "action"),
    [
        ("PURCHASE", "purchase"),
        ("Add_To_Cart", "add_to_cart"),
        ("IMPRESSION", "impression"),
        ("WISH", "WISH"),  # a shop's own stays as it is
    ],
)
def test_a_known_action_is_known_in_any_case(told: str, action: str) -> None:
    assert decode(as_json(VALID | {"action": told})).action == action
    assert decode(as_json({"user": "u", "item": "i", "event": told})).action == action


def test_who_asks_to_be_forgotten_in_capitals_needs_no_item_either() -> None:
    assert decode(as_json({"user": "u", "action": "FORGET"})).item == ""


@pytest.mark.parametrize("write", [as_json, msgpack.packb])
def test_as_much_context_as_may_be_is_taken(write: Any) -> None:
    most = {f"name{n}": n for n in range(MAX_CONTEXT)}
    assert decode(write(VALID | {"context": most})).context == most


@pytest.mark.parametrize("name", ["user", "item"])
def test_missing_id_is_refused(name: str) -> None:
    assert reason_of(as_json({k: v for k, v in VALID.items() if k != name})) == "missing_field"


def test_binary_is_no_id() -> None:
    assert reason_of(msgpack.packb(VALID | {"user": b"u"})) == "wrong_type"


@pytest.mark.parametrize("key", [b"\xff", struct.pack(">q", 7), struct.pack("<i", 7)])
def test_key_that_is_no_text_is_refused(key: bytes) -> None:
    assert reason_of(b'{"item": "i"}', key=key) == "undecodable"


def test_json_behind_a_byte_order_mark_is_read() -> None:
    assert decode(as_json(VALID).decode().encode("utf-8-sig")) == decode(as_json(VALID))
    assert reason_of(b"\xef\xbb\xbf") == "undecodable"


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (gzip.compress(as_json({"user": "u", "item": "i"})), "compression.type"),
        (b"\0\0\0\0\x07" + as_json({"user": "u", "item": "i"}), "schema registry"),
        (b"\xac\xed\x00\x05t\x00\x01u", "Java"),
        ("{}".encode("utf-16"), "UTF-8"),
    ],
)
def test_what_other_writers_publish_is_told_by_its_first_bytes(value: bytes, hint: str) -> None:
    with pytest.raises(MalformedRecordError, match=hint):
        decode(value)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"active": 2}, "wrong_type"),
        ({"active": "no"}, "wrong_type"),
        ({"title": ["a"]}, "wrong_type"),
        ({"text": {}}, "wrong_type"),
        ({"price": "1"}, "wrong_type"),
        ({"price": True}, "wrong_type"),
        ({"price": float("nan")}, "wrong_type"),
        ({"categories": [1]}, "wrong_type"),
        ({"categories": 1}, "wrong_type"),
        ({"vectors": [1]}, "wrong_type"),
        ({"vectors": {"image": "x"}}, "wrong_type"),
        ({"vectors": {"image": [0.0] * (MAX_VECTOR_WIDTH + 1)}}, "too_large"),
        ({"vectors": {"a": [0.0] * MAX_VECTOR_WIDTH, "b": [0.0]}}, "too_large"),
        ({"categories": ["c" * (MAX_ID_BYTES + 1)]}, "too_large"),
        ({"vectors": {"image": [float("inf")]}}, "out_of_range"),
        ({"vectors": {"image": ["x"]}}, "out_of_range"),
    ],
)
def test_wrong_field_of_an_item_is_refused(fields: Any, reason: str) -> None:
    with pytest.raises(MalformedRecordError) as refusal:
        decode_item(msgpack.packb({"item": "i"} | fields), key=None)
    assert refusal.value.reason == reason


@pytest.mark.parametrize("active", [0, 1])
def test_active_may_be_a_number_as_databases_have_it(active: int) -> None:
    item = decode_item(as_json({"item": "i", "active": active, "vectors": []}), key=None)
    assert item == Item(item="i", active=bool(active))


@pytest.mark.parametrize(
    "fields",
    [
        {"before": None, "after": {"item": "i", "active": False}, "op": "u"},
        {"Item": "i", "Active": False},
        {b"active": False},
    ],
)
def test_an_item_of_which_nothing_is_understood_is_refused(fields: Any) -> None:
    with pytest.raises(MalformedRecordError, match=r"none of item, title, .*, active"):
        decode_item(msgpack.packb(fields), key=b"i")
    assert decode_item(msgpack.packb({}), key=b"i") == Item(item="i")


def test_an_item_is_withdrawn_whatever_else_is_wrong_with_its_record() -> None:
    fields = {"item": "i", "active": False, "title": "tea"}
    assert decode_item(as_json(fields), key=None) == Item(item="i", title="tea", active=False)
    wrong = fields | {"price": "12,99"}
    assert decode_item(as_json(wrong), key=None) == Item(item="i", active=False)
    with pytest.raises(MalformedRecordError, match="item"):
        decode_item(as_json(wrong | {"item": ""}), key=None)


def test_item_has_the_room_that_a_record_has() -> None:
    text = "x" * (VALUE_LIMIT_BYTES - len(as_json({"item": "i", "text": ""})))
    assert decode_item(as_json({"item": "i", "text": text}), key=None).text == text
    with pytest.raises(MalformedRecordError, match="too_large"):
        decode_item(as_json({"item": "i", "text": text + "x"}), key=None)


@pytest.mark.parametrize("key", [None, b"", b"\xff", b"k" * (MAX_ID_BYTES + 1)])
def test_tombstone_needs_an_id_as_its_key(key: bytes | None) -> None:
    with pytest.raises(MalformedRecordError):
        decode_item(None, key=key)


@pytest.mark.parametrize("field", ["user", "items", "reasons", "source", "generated_ms"])
def test_recommendation_without_a_field_is_refused(field: str) -> None:
    fields = msgpack.unpackb(encode(RECOMMENDATION))
    with pytest.raises(MalformedRecordError, match=field):
        decode_recommendation(msgpack.packb({k: v for k, v in fields.items() if k != field}))


@pytest.mark.parametrize("name", ["v", "title", "price", "active", "categories", "vectors"])
def test_item_is_refused_however_deep_a_field_of_it_is(name: str) -> None:
    fields = b"\x82" + msgpack.packb("item") + msgpack.packb("i") + msgpack.packb(name)
    for depth in range(10, 1_030, 10):  # msgpack's own limit is 1,024
        with pytest.raises(MalformedRecordError):
            decode_item(fields + b"\x91" * depth + b"\x90", key=None)


def test_whatever_reading_an_item_raises_refuses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise RecursionError("too deep")

    monkeypatch.setattr(wire, "vectors_of", fail)
    with pytest.raises(MalformedRecordError, match="undecodable: RecursionError: too deep"):
        decode_item(b'{"item": "i"}', key=None)


def outcome_of(read: Callable[[bytes], object], value: bytes) -> str:
    """Return ``read``, or the reason of the refusal; any other error is the test's failure."""
    try:
        read(value)
    except MalformedRecordError as refusal:
        return refusal.reason
    return "read"


@given(st.binary() | contexts.map(msgpack.packb) | contexts.map(as_json))
def test_any_bytes_are_read_or_refused_with_a_known_reason(value: bytes) -> None:
    for read in (decode, lambda v: decode_item(v, key=None), decode_recommendation):
        assert outcome_of(read, value) in {"read", *REASONS}


@given(st.dictionaries(st.sampled_from([*VALID, "context", "event_id", "v"]), leaves | contexts))
def test_what_is_read_can_be_passed_on(fields: dict[str, Any]) -> None:
    value = as_json(VALID | fields)
    assert outcome_of(lambda v: decode(encode(decode(v))), value) == outcome_of(decode, value)


# -------------------------------------------------------------------------------------- the rest


def test_list_id_is_the_same_for_the_same_record() -> None:
    source = RECOMMENDATION.source
    assert rec_id_of("u", source) == "u-1-7"
    assert rec_id_of("u", replace(source, time_ms=99)) == "u-1-7"
    assert rec_id_of("u", replace(source, offset=8)) != rec_id_of("u", source)


@pytest.mark.parametrize("user", ["u" * MAX_ID_BYTES, "\u00e9" * (MAX_ID_BYTES // 2)])
def test_the_id_of_any_list_is_taken_back_with_an_event(user: str) -> None:
    source = replace(RECOMMENDATION.source, partition=2**31 - 1, offset=2**63 - 1)
    event = Event(user=user, item="i", time_ms=5, rec_id=rec_id_of(user, source))
    assert decode(encode(event)) == event


def test_dead_letter_says_why_and_where_from() -> None:
    headers = dead_letter_headers(
        reason="empty", detail="d" * 501, topic="headrace.events", partition=1, offset=7, time_ms=5
    )
    assert headers == {
        "headrace.time_ms": b"5",
        "headrace.reason": b"empty",
        "headrace.detail": b"d" * 500,
        "headrace.topic": b"headrace.events",
        "headrace.partition": b"1",
        "headrace.offset": b"7",
    }
