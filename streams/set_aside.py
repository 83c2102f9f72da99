"""What was set aside, as it is read back from the dead-letter topic and shown to people."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from headrace.streams.clients import reader
from headrace.streams.settings import Settings

SHOWN_BYTES = 200


@dataclass(frozen=True, slots=True)
class SetAside:
    """One record as it came, where it came from, and why it was set aside."""

    reason: str
    detail: str
    source: str  # topic/partition@offset
    key: bytes | None
    value: bytes | None


def read_dead_letters(settings: Settings) -> Iterator[SetAside]:
    """Yield what lies on the dead-letter topic."""
    with reader(settings, settings.topic("dead-letters")) as letters:
        for record in letters.to_end():
            yield _set_aside(record)


def as_text(letter: SetAside) -> str:
    """Return a dead letter for people; bytes that are no text are shown escaped."""
    return (
        f"{letter.source}  {letter.reason}: {letter.detail}\n"
        f"  key   {_readable(letter.key)}\n"
        f"  value {_readable(letter.value)}"
    )


def _set_aside(record: Any) -> SetAside:
    headers = {
        name.removeprefix("headrace."): value.decode(errors="replace")
        for name, value in record.headers
        if value is not None
    }
    return SetAside(
        reason=headers.get("reason", "unknown"),
        detail=headers.get("detail", "it carries no reason, so it is not from Headrace"),
        source=f"{headers.get('topic')}/{headers.get('partition')}@{headers.get('offset')}",
        key=record.key,
        value=record.value,
    )


def _readable(data: bytes | None) -> str:
    if data is None:
        return "(none)"
    shown = printable(data[:SHOWN_BYTES].decode(errors="backslashreplace"))
    return shown + f" ... ({len(data)} bytes)" * (len(data) > SHOWN_BYTES)


def printable(text: str) -> str:
    """Return text that moves no cursor and changes no colour: others wrote it."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
