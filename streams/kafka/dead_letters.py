"""Dead letters: records that can never be applied, as they came, with the reason for each."""

from dataclasses import dataclass, field
from typing import Any

from headrace.streams.errors import LONGEST_DETAIL, Malformation, MalformedRecordError
from headrace.streams.kafka.record_batches import MAX_HEADERS, VALUE_LIMIT_BYTES, Unreadable

Headers = list[tuple[str, bytes | None]]

HEADER_BYTES = 10  # of two lengths
# Of the smallest record that the topic is sure to take, what is left for ours beside a record's
# own parts: its coordinates, which parts are left out, and what a batch adds.
ROOM_BYTES = 8_192
ROOM_HEADERS = 16


@dataclass(slots=True, kw_only=True)
class DeadLetter:
    """A record that can never be applied, as it came, and why."""

    reason: Malformation
    key: bytes | None
    value: bytes | None
    headers: Headers
    coordinates: Headers = field(default_factory=list)  # ours: why, and where it stood


def dead_letter_of(record: Any, why: MalformedRecordError) -> DeadLetter:
    """Return the dead letter of a record: its own key, value and headers, and where it stood."""
    coordinates = dead_letter_headers(
        reason=why.reason,
        detail=why.detail.encode(errors="backslashreplace").decode(),
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        time_ms=record.timestamp,
    )
    return DeadLetter(
        reason=why.reason,
        key=record.key,
        value=record.value,
        headers=list(record.headers),
        coordinates=list(coordinates.items()),
    )


def dead_letter_headers(
    *, reason: str, detail: str, topic: str, partition: int, offset: int, time_ms: int | None
) -> dict[str, bytes]:
    """Return the headers of a dead letter; its key and value are the original's, untouched.

    ``time_ms`` is the record's, which stands in for an event's own.
    """
    written = {} if time_ms is None else {"headrace.time_ms": str(time_ms).encode()}
    return written | {
        "headrace.reason": reason.encode(),
        "headrace.detail": detail[:LONGEST_DETAIL].encode(),
        "headrace.topic": topic.encode(),
        "headrace.partition": str(partition).encode(),
        "headrace.offset": str(offset).encode(),
    }


def fitting(letter: DeadLetter) -> tuple[bytes | None, bytes | None, Headers]:
    """Return a dead letter's key, value and headers, less its largest parts if it is too large.

    What was compressed can be larger than any record the broker takes. The coordinates always fit;
    the record with them would not, and the worker could never pass. Nor would one be read back
    that has the most headers already.
    """
    value = letter.value
    sizes = {
        "value": value.n_left_out if isinstance(value, Unreadable) else len(value or b""),
        "key": len(letter.key or b""),
        "headers": sum(len(k.encode()) + len(v or b"") + HEADER_BYTES for k, v in letter.headers),
    }
    omitted: list[str] = []
    if len(letter.headers) > MAX_HEADERS - ROOM_HEADERS:
        omitted.append("headers")
        del sizes["headers"]
    while sum(sizes.values()) > VALUE_LIMIT_BYTES - ROOM_BYTES:
        omitted.append(max(sizes, key=lambda part: sizes[part]))
        del sizes[omitted[-1]]
    key = letter.key if "key" in sizes else None
    value = value if "value" in sizes else None
    return (
        key,
        b"" if key is None and value is None else value,  # aiokafka sends none that has neither
        [
            *(letter.headers if "headers" in sizes else []),
            *letter.coordinates,
            *(("headrace.omitted", part.encode()) for part in omitted),
        ],
    )
