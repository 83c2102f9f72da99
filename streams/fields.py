"""Fields of records as others write them: what is taken, in which forms, and what is refused.

All raise MalformedRecordError for what they do not take.
"""

import math
from collections.abc import Mapping
from typing import Any

from headrace.streams.errors import MalformedRecordError

MAX_ID_BYTES = 256  # longer ids are almost always a whole payload in the wrong field
MAX_REC_ID_BYTES = MAX_ID_BYTES + 32  # a user's id, a partition and an offset: see ``rec_id_of``
SHORT_ID = MAX_ID_BYTES // 4  # so many characters always fit: in UTF-8 one takes at most 4 bytes
MAX_TIME_MS = 253_402_300_799_999  # 9999-12-31, the last instant most clients can print
MAX_AHEAD_MS = 86_400_000  # beyond a day, a clock is not a little wrong
MS_FROM = 100_000_000_000  # as milliseconds March 1973, as seconds the year 5138: seconds lie below
MAX_ACTION_LETTERS = 64
MAX_CATEGORIES = 16
MAX_VECTOR_WIDTH = 8192  # of all vectors of an item together


def given(fields: Mapping[str, Any], name: str, default: Any) -> Any:
    """Return a field; the default where it is as good as absent."""
    value = fields.get(name)
    return default if is_nothing(value) else value


def is_nothing(value: object) -> bool:
    """Return whether a field is as good as absent: null, or empty text, as many writers say it."""
    return value is None or value == ""


def text_of_key(key: bytes) -> str:
    """Return a record's key as text. Of a number's bytes, small ones would pass for UTF-8."""
    if b"\0" in key:
        raise MalformedRecordError("undecodable", "the key is binary: write it as text")
    try:
        return key.decode()
    except UnicodeDecodeError as exc:
        raise MalformedRecordError("undecodable", "the key is not UTF-8") from exc


def id_of(fields: Mapping[str, Any], name: str, *, at_most: int = MAX_ID_BYTES) -> str:
    """Return an id, which must be there: text or a whole number, of at most so many bytes."""
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


def time_of(value: object, latest_ms: int) -> int:
    """Return a time in milliseconds since 1970; up to a day after ``latest_ms`` it is that."""
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


def action_in_files(fields: Mapping[str, Any]) -> str:
    """Return what ``event`` says, unless it is of another meaning; a click by default."""
    named = fields.get("event")
    is_action = isinstance(named, str) and 0 < len(named) <= MAX_ACTION_LETTERS
    return str(named) if is_action else "click"


def action_of(value: object) -> str:
    """Return the word of an action, whatever the word."""
    if not isinstance(value, str) or not 0 < len(value) <= MAX_ACTION_LETTERS:
        raise MalformedRecordError(
            "wrong_type", f"action must be a word of at most {MAX_ACTION_LETTERS} letters"
        )
    return value


def optional_text(
    fields: Mapping[str, Any], name: str, *, at_most: int = MAX_ID_BYTES
) -> str | None:
    """Return an id that need not be there."""
    is_there = not is_nothing(fields.get(name))
    return id_of(fields, name, at_most=at_most) if is_there else None


def text_of(fields: Mapping[str, Any], name: str) -> str:
    """Return a text, empty where there is none; a number is one, too."""
    value = fields.get(name)
    if value is None:
        return ""
    if not isinstance(value, str | int | float):
        raise MalformedRecordError("wrong_type", f"{name} must be text")
    return str(value)


def categories_of(value: object) -> tuple[str, ...]:
    """Return an item's categories, from the widest to the finest; one word is one category."""
    if value is None:
        return ()
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list | tuple) or not all(isinstance(c, str) for c in value):
        raise MalformedRecordError("wrong_type", "categories must be a list of words")
    categories = tuple(filter(None, value))[-MAX_CATEGORIES:]  # the finest is the last
    if any(len(category.encode(errors="replace")) > MAX_ID_BYTES for category in categories):
        raise MalformedRecordError("too_large", f"a category is over {MAX_ID_BYTES} bytes")
    return categories


def price_of(value: object) -> float | None:
    """Return a price, if there is one."""
    if is_nothing(value):
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
