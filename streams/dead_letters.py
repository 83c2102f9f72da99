"""Records set aside because they can never be applied, with the reason for each."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from headrace.streams.clients import reader
from headrace.streams.settings import Settings

SHOWN_BYTES = 200


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One record as it came, where it came from, and why it was set aside."""

    reason: str
    detail: str
    source: str  # topic/partition@offset
    key: bytes | None
    value: bytes | None


def read_dead_letters(settings: Settings) -> Iterator[DeadLetter]:
    """Yield what lies on the dead-letter topic."""
    with reader(settings, settings.topic("dead-letters")) as letters:
        for record in letters.to_end():
            yield _dead_letter(record)


def as_text(letter: DeadLetter) -> str:
    """Return a dead letter for people; bytes that are no text are shown escaped."""
    return (
        f"{letter.source}  {letter.reason}: {letter.detail}\n"
        f"  key   {_readable(letter.key)}\n"
        f"  value {_readable(letter.value)}"
    )


def _dead_letter(record: Any) -> DeadLetter:
    headers = {
        name.removeprefix("headrace."): value.decode(errors="replace")
        for name, value in record.headers
        if value is not None
    }
    return DeadLetter(
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
