"""Events, items and lists as bytes, and back.

Values are msgpack maps; JSON is read too, so that a person can type one. Every map carries its
schema version under ``v``; readers ignore keys they do not know, so that a newer writer does not
break an older reader.

Records are not to be changed once made. What comes by the thousand is not frozen all the same: to
make a frozen one takes nearly three times as long.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from dataclasses import fields as fields_of
from functools import wraps
from typing import Any, ParamSpec, TypedDict, TypeVar

import msgpack

from headrace.streams import schema
from headrace.streams.actions import KNOWN_ACTIONS
from headrace.streams.errors import MalformedRecordError
from headrace.streams.kafka.record_batches import VALUE_LIMIT_BYTES, Unreadable

P = ParamSpec("P")
T = TypeVar("T")

# Actions that need no item: an event asks to forget its user, or to make their list anew.
FORGET, REFRESH = "forget", "refresh"
WITHOUT_ITEM = (FORGET, REFRESH)
NOT_ENGAGED = frozenset({"impression", "return", *WITHOUT_ITEM})
KNOWN = KNOWN_ACTIONS | NOT_ENGAGED
MAX_ID_BYTES = 256  # longer ids are almost always a whole payload in the wrong field
MAX_REC_ID_BYTES = MAX_ID_BYTES + 32  # a user's id, a partition and an offset: see ``rec_id_of``
SHORT_ID = MAX_ID_BYTES // 4  # so many characters always fit: in UTF-8 one takes at most 4 bytes
MAX_EVENT_BYTES = 65_536  # 64 kB of empty lists are 4 MB when read, and a micro-batch has hundreds
MAX_CONTEXT = 256  # entries
MAX_TIME_MS = 253_402_300_799_999  # 9999-12-31, the last instant most clients can print
MAX_AHEAD_MS = 86_400_000  # beyond a day, a clock is not a little wrong
MS_FROM = 100_000_000_000  # as milliseconds March 1973, as seconds the year 5138: seconds lie below
MAX_ACTION_LETTERS = 64
MAX_CATEGORIES = 16
MAX_VECTOR_WIDTH = 8192  # of all vectors of an item together
_FIRST_MAP_BYTE = 0x80  # of msgpack; text starts below


@dataclass(slots=True, kw_only=True, unsafe_hash=True)
class Event:
    """One interaction: a user did something to an item. Or one asks for something of the user's."""

    user: str
    item: str  # empty with ``FORGET`` and ``REFRESH``
    time_ms: int
    action: str = "click"
    event_id: str | None = None
    rec_id: str | None = None
    context: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One catalogue record. ``active=False`` withdraws the item from every later list."""

    item: str
    title: str = ""
    categories: tuple[str, ...] = ()  # from the widest to the finest
    price: float | None = None
    text: str = ""
    vectors: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    active: bool = True


_NAMES_OF_ITEM = tuple(each.name for each in fields_of(Item))


@dataclass(slots=True, kw_only=True, unsafe_hash=True)
class Source:
    """The record a list answers to."""

    topic: str
    partition: int
    offset: int
    time_ms: int


class Reason(TypedDict):
    """Why an item is in a list: the signal with the largest share of its score.

    ``because`` is the item of the user's own history that spoke loudest for it, if one did. A map
    as it is written: of twenty to a list, objects take three times as long to make and to write.
    """

    signal: str
    share: float
    because: str | None


@dataclass(slots=True, kw_only=True, unsafe_hash=True)
class Recommendation:
    """One refreshed list. ``rec_id`` is the same when a replay emits the list again."""

    user: str
    rec_id: str
    items: tuple[str, ...]
    scores: tuple[float, ...]
    reasons: tuple[Reason, ...]
    model_version: int
    source: Source
    generated_ms: int
    judged: Mapping[str, int] = field(default_factory=dict)
    """Where the event's item had stood beforehand: contender to 1-based rank, if it was ranked."""


def rec_id_of(user: str, source: Source) -> str:
    """Return the list's id: the same user, partition and offset give the same id."""
    return f"{user}-{source.partition}-{source.offset}"


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
    if _is_nothing(fields.get("user")) and key:
        fields["user"] = _text_of_key(key)
    context = fields.get("context") or {}
    if not isinstance(context, dict):
        raise MalformedRecordError("wrong_type", "context must be a map")
    if len(context) > MAX_CONTEXT:
        raise MalformedRecordError("too_large", f"context has over {MAX_CONTEXT} entries")
    told = fields.get("action")
    action = spelt(_action_in_files(fields) if _is_nothing(told) else _action_of(told))
    return Event(
        user=_id_of(fields, "user"),
        item="" if action in WITHOUT_ITEM else _id_of(fields, "item"),
        time_ms=_time_of(_given(fields, "time_ms", record_time_ms), record_time_ms),
        action=action,
        event_id=_optional_text(fields, "event_id"),
        rec_id=_optional_text(fields, "rec_id", at_most=MAX_REC_ID_BYTES),
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
        return Item(item=_id_of({"item": _text_of_key(key)}, "item"), active=False)
    fields = _decode_map(value, schema.ITEM)
    if _is_nothing(fields.get("item")) and key:
        if fields and fields.keys().isdisjoint(_NAMES_OF_ITEM):  # wrapped, as change logs are
            raise MalformedRecordError("missing_field", f"none of {', '.join(_NAMES_OF_ITEM)}")
        fields["item"] = _text_of_key(key)
    active = _given(fields, "active", True)
    if not isinstance(active, bool | int) or active not in (0, 1):  # databases say 0 and 1
        raise MalformedRecordError("wrong_type", "active must be true or false")
    active = bool(active)
    item = _id_of(fields, "item")
    try:
        return Item(
            item=item,
            title=_text_of(fields, "title"),
            categories=_categories_of(fields.get("categories")),
            price=_price_of(fields.get("price")),
            text=_text_of(fields, "text"),
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
        if value[0] < _FIRST_MAP_BYTE and value.lstrip()[:1] in (b"{", b"["):
            fields = json.loads(value)
            # JSON can say what no writer of ours can pass on: numbers beyond 64 bits, half
            # characters, endless nesting. Refused here, it cannot fail a worker later.
            msgpack.packb(fields)
        else:
            # Keys are text or bytes. A writer knows how any other hashes, and a map whose keys all
            # hash alike takes half a second to read.
            fields = msgpack.unpackb(value, raw=False, strict_map_key=True)
    except (ValueError, OverflowError, RecursionError, msgpack.UnpackException) as exc:
        raise MalformedRecordError("undecodable", f"neither msgpack nor JSON: {exc}") from exc
    if not isinstance(fields, dict):
        raise MalformedRecordError("wrong_type", f"a map is expected, not {type(fields).__name__}")
    if why := kind.refusal(_given(fields, "v", kind.version)):
        raise MalformedRecordError("unknown_schema", why)
    return fields


def _given(fields: Mapping[str, Any], name: str, default: Any) -> Any:
    """Return a field; the default where there is none, or null, as many writers say it."""
    value = fields.get(name)
    return default if value is None else value


def _is_nothing(value: object) -> bool:
    """Return whether a field is as good as absent: null, or empty, as protobuf and Go have it."""
    return value is None or value == ""


def spelt(action: str) -> str:
    """Return a known action in our letters, whatever its case; any other word as it is."""
    folded = action.lower()
    return folded if folded in KNOWN else action


def _text_of_key(key: bytes) -> str:
    try:
        return key.decode()
    except UnicodeDecodeError as exc:
        raise MalformedRecordError("undecodable", "the key is not UTF-8") from exc


def _id_of(fields: Mapping[str, Any], name: str, *, at_most: int = MAX_ID_BYTES) -> str:
    value = fields.get(name)
    if type(value) is str and 0 < len(value) <= SHORT_ID:
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)  # shops number their users and items; "7" and 7 are the same one
    if value is None or value == "":
        raise MalformedRecordError("missing_field", name)
    if not isinstance(value, str):
        raise MalformedRecordError("wrong_type", f"{name} must be text or a whole number")
    if len(value.encode(errors="replace")) > at_most:
        raise MalformedRecordError("too_large", f"{name} is over {at_most} bytes")
    return value


def _time_of(value: object, latest_ms: int) -> int:
    if type(value) is int and MS_FROM <= value <= latest_ms:
        return value
    if isinstance(value, float) and math.isfinite(value):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise MalformedRecordError("wrong_type", "time_ms must be whole milliseconds since 1970")
    if not 0 <= value <= MAX_TIME_MS:
        raise MalformedRecordError("out_of_range", f"time_ms={value}")
    if value < MS_FROM <= latest_ms and abs(value * 1000 - latest_ms) < MAX_AHEAD_MS:
        raise MalformedRecordError(
            "out_of_range", f"time_ms={value} is in seconds, by the time of its record"
        )
    if value > latest_ms + MAX_AHEAD_MS:
        days = (value - latest_ms) / MAX_AHEAD_MS
        raise MalformedRecordError("out_of_range", f"time_ms is {days:.0f} days after its record")
    return min(value, latest_ms)


def _action_in_files(fields: Mapping[str, Any]) -> str:
    """Return what ``event`` says, unless it is of another meaning; a click by default."""
    named = fields.get("event")
    is_action = isinstance(named, str) and 0 < len(named) <= MAX_ACTION_LETTERS
    return str(named) if is_action else "click"


def _action_of(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_ACTION_LETTERS:
        raise MalformedRecordError(
            "wrong_type", f"action must be a word of at most {MAX_ACTION_LETTERS} letters"
        )
    return value


def _optional_text(
    fields: Mapping[str, Any], name: str, *, at_most: int = MAX_ID_BYTES
) -> str | None:
    is_there = not _is_nothing(fields.get(name))
    return _id_of(fields, name, at_most=at_most) if is_there else None


def _text_of(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if value is None:
        return ""
    if not isinstance(value, str | int | float):
        raise MalformedRecordError("wrong_type", f"{name} must be text")
    return str(value)


def _categories_of(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list | tuple) or not all(isinstance(c, str) for c in value):
        raise MalformedRecordError("wrong_type", "categories must be a list of words")
    categories = tuple(value[-MAX_CATEGORIES:])  # the finest is the last
    if any(len(category.encode(errors="replace")) > MAX_ID_BYTES for category in categories):
        raise MalformedRecordError("too_large", f"a category is over {MAX_ID_BYTES} bytes")
    return categories


def _price_of(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise MalformedRecordError("wrong_type", "price must be a finite number")
    return float(value)


def vectors_of(value: object) -> dict[str, tuple[float, ...]]:
    """Return an item's vectors by name, of any widths.

    Raises:
        MalformedRecordError: they are no map of finite numbers, or too many numbers.
    """
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise MalformedRecordError("wrong_type", "vectors must map a name to numbers")
    vectors: dict[str, tuple[float, ...]] = {}
    n_numbers = 0
    for name, numbers in value.items():
        if not isinstance(numbers, list | tuple):
            raise MalformedRecordError("wrong_type", f"vector {name!r} must be a list of numbers")
        n_numbers += len(numbers)
        if n_numbers > MAX_VECTOR_WIDTH:
            raise MalformedRecordError(
                "too_large", f"the vectors have over {MAX_VECTOR_WIDTH} numbers"
            )
        if not all(isinstance(x, int | float) and math.isfinite(x) for x in numbers):
            raise MalformedRecordError(
                "out_of_range", f"vector {name!r} holds what is no finite number"
            )
        vectors[str(name)] = tuple(float(x) for x in numbers)
    return vectors


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
