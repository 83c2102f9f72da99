"""What was set aside, as it is read back from the dead-letter topic and shown to people."""

import base64
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import msgpack

from headrace.streams.kafka.clients import reader
from headrace.streams.kafka.record_batches import Unreadable
from headrace.streams.settings import Settings

SHOWN_BYTES = 200


@dataclass(frozen=True, slots=True)
class SetAside:
    """One record as it came, where it came from, and why it was set aside."""

    reason: str
    detail: str
    topic: str | None
    partition: int | None
    offset: int | None
    time_ms: int | None  # of the record, Unix
    omitted: tuple[str, ...]  # of key, value and headers, what no record had room for
    key: bytes | None
    value: bytes | None


def read_dead_letters(settings: Settings) -> Iterator[SetAside]:
    """Yield what lies on the dead-letter topic."""
    with reader(settings, settings.topic("dead-letters")) as letters:
        for record in letters.to_end():
            yield set_aside(record)


def as_text(letter: SetAside) -> str:
    """Return a dead letter for people; bytes that are no text are shown escaped."""
    return (
        f"{printable(f'{coordinates(letter)}  {letter.reason}: {letter.detail}')}\n"
        f"  key   {_readable(letter.key)}\n"
        f"  value {_readable(letter.value)}"
    )


def as_json(letter: SetAside) -> str:
    """Return a dead letter for programs, whole: one JSON object on one line.

    A key or value that is no UTF-8 is in ``key_base64`` or ``value_base64`` instead. If it is
    a msgpack map, it is as JSON in ``value`` too, as long as JSON can say all of it.
    """
    told = asdict(letter)
    for name in ("key", "value"):
        told |= _whole(name, told.pop(name))
    return json.dumps(told)


def set_aside(record: Any) -> SetAside:
    """Return what a record of the dead-letter topic tells."""
    omitted = [value for name, value in record.headers if name == "headrace.omitted"]
    headers = {
        name.removeprefix("headrace."): value.decode(errors="replace")
        for name, value in record.headers
        if value is not None
    }
    if isinstance(record.value, Unreadable):  # whatever was set aside, we cannot read it back
        headers |= {"reason": record.value.reason, "detail": record.value.detail}
    return SetAside(
        reason=headers.get("reason", "unknown"),
        detail=headers.get("detail", "it carries no reason, so it is not from Headrace"),
        topic=headers.get("topic"),
        partition=_number(headers.get("partition")),
        offset=_number(headers.get("offset")),
        time_ms=_number(headers.get("time_ms")),
        omitted=tuple(part.decode(errors="replace") for part in omitted if part),
        key=record.key,
        value=record.value,
    )


def _number(text: str | None) -> int | None:
    try:
        return int(text or "")
    except ValueError:
        return None


def _whole(name: str, data: bytes | None) -> dict[str, str | None]:
    if data is None:
        return {name: None}
    try:
        return {name: data.decode()}
    except UnicodeDecodeError:
        told: dict[str, str | None] = {f"{name}_base64": base64.b64encode(data).decode()}
        with suppress(ValueError, TypeError, RecursionError, msgpack.UnpackException):
            if isinstance(fields := msgpack.unpackb(data), dict):  # any byte is some number
                told[name] = json.dumps(fields)
        return told


def _readable(data: bytes | None) -> str:
    if data is None:
        return "(none)"
    shown = printable(data[:SHOWN_BYTES].decode(errors="backslashreplace"))
    return shown + f" ... ({len(data)} bytes)" * (len(data) > SHOWN_BYTES)


def coordinates(record: Any) -> str:
    """Return where a record lies, or lay, as people write it."""
    return f"{record.topic}/{record.partition}@{record.offset}"


def printable(text: str) -> str:
    """Return text that moves no cursor and changes no colour: others wrote it."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
