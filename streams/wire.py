"""Events, items and lists as bytes, and back.

Values are msgpack maps; JSON is read too, so that a person can type one. Every map carries its
schema version under ``v``; readers ignore keys they do not know, so that a newer writer does not
break an older reader.
"""

import json
from collections.abc import Callable
from dataclasses import fields as fields_of
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import msgpack

from headrace.streams import schema
from headrace.streams.actions import WITHOUT_ITEM, spelt
from headrace.streams.errors import MalformedRecordError
from headrace.streams.fields import (
    MAX_REC_ID_BYTES,
    action_in_files,
    action_of,
    categories_of,
    given,
    id_of,
    is_nothing,
    optional_text,
    price_of,
    text_of,
    text_of_key,
    time_of,
    vectors_of,
)
from headrace.streams.kafka.record_batches import VALUE_LIMIT_BYTES, Unreadable
from headrace.streams.records import Event, Item, Recommendation, Source

P = ParamSpec("P")
T = TypeVar("T")

MAX_EVENT_BYTES = 65_536  # 64 kB of empty lists are 4 MB when read, and a micro-batch has hundreds
MAX_CONTEXT = 256  # entries
_FIRST_MAP_BYTE = b"\x80"  # of msgpack; text starts below
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # some writers of text begin with it
_STARTS = {  # of what clients publish instead
    b"\0": "a schema registry's serializer, perhaps: publish with one of plain JSON",
    b"\x1f\x8b": "a gzip file: set the producer's compression.type instead",
    b"\xac\xed": "an object as Java serializes it: publish JSON",
    b"\xff\xfe": "text in UTF-16: publish it in UTF-8",
    b"\xfe\xff": "text in UTF-16: publish it in UTF-8",
}

_NAMES_OF_ITEM = tuple(each.name for each in fields_of(Item))


# ------------------------------------------------------------------------------------- decoding


def _refusing(decode: Callable[P, T]) -> Callable[P, T]:
    """Refuse a record whatever decoding raises.

    That depends on the record alone: it would be raised at every replay and at every start, and one
    record must never stop a partition for good.
    """

    @wraps(decode)
    def decode_or_refuse(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return decode(*args, **kwargs)
        except MalformedRecordError:
            raise
        except Exception as exc:
            raise MalformedRecordError("undecodable", f"{type(exc).__name__}: {exc}") from exc

    return decode_or_refuse


@_refusing
def decode_event(value: bytes | None, *, key: bytes | None, record_time_ms: int) -> Event:
    """Read one event. The key stands in for a missing ``user``, the record's time for ``time_ms``.

    A missing ``action`` is what ``event`` says, its name in many files: read as a click instead,
    a purchase would be one without a word.

    Nothing happens after it was written: the record's time is the latest that an event can have,
    or one wrong clock would make everything else look old, for good.

    Raises:
        MalformedRecordError: the record can never be applied.
    """
    fields = _decode_map(value, schema.EVENT, at_most=MAX_EVENT_BYTES)
    if is_nothing(fields.get("user")) and key:
        fields["user"] = text_of_key(key)
    context = fields.get("context") or {}
    if not isinstance(context, dict):
        raise MalformedRecordError("wrong_type", "context must be a map")
    if len(context) > MAX_CONTEXT:
        raise MalformedRecordError("too_large", f"context has over {MAX_CONTEXT} entries")
    told = fields.get("action")
    action = spelt(action_in_files(fields) if is_nothing(told) else action_of(told))
    return Event(
        user=id_of(fields, "user"),
        item="" if action in WITHOUT_ITEM else id_of(fields, "item"),
        time_ms=time_of(given(fields, "time_ms", record_time_ms), record_time_ms),
        action=action,
        event_id=optional_text(fields, "event_id"),
        rec_id=optional_text(fields, "rec_id", at_most=MAX_REC_ID_BYTES),
        # What else may stand there says nothing of the event, and can take 60 times its bytes.
        context={name: told for name, told in context.items() if isinstance(told, str | int)},
    )


@_refusing
def decode_item(value: bytes | None, *, key: bytes | None) -> Item:
    """Read one catalogue record; a tombstone (no value) withdraws the item named by the key.

    One that is not active is withdrawn whatever is wrong with the rest: none of it is shown.

    Raises:
        MalformedRecordError: the record can never be applied.
    """
    if value is None and key:
        return Item(item=id_of({"item": text_of_key(key)}, "item"), active=False)
    fields = _decode_map(value, schema.ITEM)
    if is_nothing(fields.get("item")) and key:
        if fields and fields.keys().isdisjoint(_NAMES_OF_ITEM):  # wrapped, as change logs are
            raise MalformedRecordError("missing_field", f"none of {', '.join(_NAMES_OF_ITEM)}")
        fields["item"] = text_of_key(key)
    active = given(fields, "active", True)
    if not isinstance(active, bool | int) or active not in (0, 1):  # databases say 0 and 1
        raise MalformedRecordError("wrong_type", "active must be true or false")
    active = bool(active)
    item = id_of(fields, "item")
    try:
        return Item(
            item=item,
            title=text_of(fields, "title"),
            categories=categories_of(fields.get("categories")),
            price=price_of(fields.get("price")),
            text=text_of(fields, "text"),
            vectors=vectors_of(fields.get("vectors") or None),  # PHP's empty map is a list
            active=active,
        )
    except MalformedRecordError:
        if active:
            raise
        return Item(item=item, active=False)


def decode_recommendation(value: bytes | None) -> Recommendation:
    """Read one list.

    Raises:
        MalformedRecordError: the record is not a list of ours.
    """
    fields = _decode_map(value, schema.LIST)
    try:
        return Recommendation(
            user=fields["user"],
            rec_id=fields["rec_id"],
            items=tuple(fields["items"]),
            scores=tuple(fields["scores"]),
            reasons=tuple(
                {"signal": r["signal"], "share": r["share"], "because": r.get("because")}
                for r in fields["reasons"]
            ),
            model_version=fields["model_version"],
            source=Source(**{k: fields["source"][k] for k in Source.__slots__}),
            generated_ms=fields["generated_ms"],
            judged=fields.get("judged", {}),
        )
    except (KeyError, TypeError) as exc:
        raise MalformedRecordError("missing_field", f"not a recommendation: {exc}") from exc


def record_time_ms(timestamp_ms: int | None, *, now_ms: int) -> int:
    """Return when a record was written: now, if it does not say, or names a time to come."""
    return min(timestamp_ms, now_ms) if timestamp_ms and timestamp_ms > 0 else now_ms


def _decode_map(
    value: bytes | None, kind: schema.Schema, *, at_most: int = VALUE_LIMIT_BYTES
) -> dict[str, Any]:
    if isinstance(value, Unreadable):
        raise MalformedRecordError(value.reason, value.detail)
    if not value:
        raise MalformedRecordError("empty", "the record has no value")
    if len(value) > at_most:
        raise MalformedRecordError("too_large", f"{len(value)} bytes, at most {at_most}")
    try:
        text = value.removeprefix(_BYTE_ORDER_MARK) if value[0] == _BYTE_ORDER_MARK[0] else value
        if text[:1] < _FIRST_MAP_BYTE and text.lstrip()[:1] in (b"{", b"["):
            fields = json.loads(text)
            # JSON can say what no writer of ours can pass on: numbers beyond 64 bits, half
            # characters, endless nesting. Refused here, it cannot fail a worker later.
            msgpack.packb(fields)
        else:
            # Keys are text or bytes. A writer knows how any other hashes, and a map whose keys all
            # hash alike takes half a second to read.
            fields = msgpack.unpackb(value, raw=False, strict_map_key=True)
    except (ValueError, OverflowError, RecursionError, msgpack.UnpackException) as exc:
        told = f"neither msgpack nor JSON{_looks_like(value)}: {exc}"
        raise MalformedRecordError("undecodable", told) from exc
    if not isinstance(fields, dict):
        raise MalformedRecordError("wrong_type", f"a map is expected, not {type(fields).__name__}")
    if why := kind.refusal(given(fields, "v", kind.version)):
        raise MalformedRecordError("unknown_schema", why)
    return fields


def _looks_like(value: bytes) -> str:
    """Return what a value that is neither may be, and what to do about it; empty if unknown."""
    for start, hint in _STARTS.items():
        if value.startswith(start):
            return f" ({hint})"
    return ""


# ------------------------------------------------------------------------------------- encoding

_SCHEMAS = {Event: schema.EVENT, Item: schema.ITEM, Recommendation: schema.LIST}


def encode(record: Event | Item | Recommendation) -> bytes:
    """Write one record as a msgpack map with its schema version."""
    fields: dict[str, Any] = {"v": _version_of(record)}
    for name in record.__slots__:
        if (value := getattr(record, name)) is not None:
            fields[name] = value
    packed: bytes = msgpack.packb(fields, default=_fields)
    return packed


def _version_of(record: Event | Item | Recommendation) -> int:
    """Return the first version that has all of the record: the release before may read it too."""
    if isinstance(record, Event) and record.item:
        return 1
    return _SCHEMAS[type(record)].version


def _fields(record: Source) -> dict[str, Any]:
    """Return a record's fields as they are; ``dataclasses.asdict`` would copy all below them."""
    return {name: getattr(record, name) for name in record.__slots__}
