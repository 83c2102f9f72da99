"""Record batches as a client reads them, so that none can stop a partition or fill the memory.

A producer decides how its batch is compressed and what it inflates to, and a broker looks at
neither: 3 kB of zstd may stand for 100 MB, and a header's name need not be text. Both Kafka clients
inflate whatever comes, raise at what they cannot read, and raise again at every replay. Here a
batch inflates within a limit, and from what cannot be read on, one empty record stands for the rest
of the batch. It says why, and is set aside like any bad record.
"""

import logging
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NamedTuple

import cramjam
from aiokafka.record.util import decode_varint_py as decode_varint  # the other reads beyond the end

from headrace.streams.errors import Malformation

logger = logging.getLogger(__name__)

BATCH_LIMIT_BYTES = 2**25  # inflated: 32 times what brokers take, and text compresses by 10 to 20
FETCH_LIMIT_BYTES = 2**24  # inflated, of one partition at once; what is beyond is fetched again
# No reader takes more. A broker's default is 1,048,588: a dead letter has room for its coordinates.
VALUE_LIMIT_BYTES = 1_000_000
MAX_HEADERS = 1_000  # of a record; an empty one is two bytes, and some hundred as a client makes it
_HEADER_BYTES = 61  # of a batch, before its records
_LENGTH_AT, _AFTER_LENGTH, _MAGIC_AT, _ATTRIBUTES_AT = 8, 12, 16, 22
_CODEC_BITS = 0b111
_XERIAL = b"\x82SNAPPY\x00"  # Java's framing of snappy: 16 bytes, then blocks by their size
_FIRST_TRY = 8  # times the compressed size: most text fits, and a larger buffer costs its zeros


class Unreadable(bytes):
    """The empty value of a record that stands for some that cannot be read, or for its own."""

    reason: Malformation
    detail: str
    n_left_out: int  # bytes of its own value

    @classmethod
    def of(cls, reason: Malformation, detail: str, *, n_left_out: int = 0) -> "Unreadable":
        """Return a value that says why."""
        value = cls()
        value.reason, value.detail, value.n_left_out = reason, detail, n_left_out
        return value


class TooLargeError(ValueError):
    """A batch takes more memory than is allowed."""

    def __init__(self, why: str = f"more than {BATCH_LIMIT_BYTES} bytes when inflated") -> None:
        super().__init__(why)


@dataclass(frozen=True, slots=True)
class StandIn:
    """A record as both clients make them, in place of those that cannot be read, or too large."""

    offset: int
    timestamp: int
    value: Unreadable
    timestamp_type: int = 0
    key: bytes | None = None
    headers: Sequence[tuple[str, bytes | None]] = ()
    checksum: None = None
    size_in_bytes: int = 0

    def validate_crc(self) -> bool:
        """Return True: the batch's was checked."""
        return True


# ------------------------------------------------------------------------------------- inflating


def inflate(codec: int, data: bytes, *, limit: int) -> bytes:
    """Return what a batch's records are, uncompressed.

    Raises:
        TooLargeError: they are larger than ``limit``.
        ValueError: they are not of this codec, or there is no such codec.
    """
    try:
        inflater = _INFLATERS[codec]
    except KeyError:
        raise ValueError(f"there is no compression codec {codec}") from None
    try:
        return inflater(data, limit)
    except (zlib.error, cramjam.DecompressionError) as exc:
        raise ValueError(f"it cannot be inflated: {exc}") from exc


def _gzip(data: bytes, limit: int) -> bytes:
    """Inflate every member of a gzip file."""
    out = bytearray()
    while data:
        inflater = zlib.decompressobj(16 + zlib.MAX_WBITS)
        out += inflater.decompress(data, limit + 1 - len(out))
        if len(out) > limit:
            raise TooLargeError
        if not inflater.eof:
            raise ValueError("its end is missing")
        data = inflater.unused_data
    return bytes(out)


def _snappy(data: bytes, limit: int) -> bytes:
    """Inflate one block, or Java's several."""
    if not data.startswith(_XERIAL):
        return _snappy_block(data, limit)
    out, at = bytearray(), 16
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        out += _snappy_block(data[at + 4 : at + 4 + size], limit - len(out))
        at += 4 + size
    return bytes(out)


def _snappy_block(data: bytes, limit: int) -> bytes:
    if cramjam.snappy.decompress_raw_len(data) > limit:
        raise TooLargeError
    return bytes(cramjam.snappy.decompress_raw(data))


def _framed(library: Any) -> Callable[[bytes, int], bytes]:
    """Return the inflater of a format that does not say how large it is: by trying."""

    def inflater(data: bytes, limit: int) -> bytes:
        size = min(_FIRST_TRY * len(data) + 1, limit)
        while True:
            out = bytearray(size)
            try:
                return bytes(memoryview(out)[: library.decompress_into(data, out)])
            except cramjam.DecompressionError as exc:
                if "whole buffer" not in str(exc):
                    raise
            if size == limit:
                raise TooLargeError
            size = min(4 * size, limit)

    return inflater


_INFLATERS: Final = {1: _gzip, 2: _snappy, 3: _framed(cramjam.lz4), 4: _framed(cramjam.zstd)}


# ----------------------------------------------------------------------- in the clients' places


class CheckedBatch:
    """One batch of either client: all of it but how its records are read."""

    def __init__(self, batch: Any, read: Callable[[], Iterator[Any]]) -> None:
        self._batch = batch
        self._read = read

    def __getattr__(self, name: str) -> Any:
        """Return what the client's own batch says."""
        return getattr(self._batch, name)

    def __next__(self) -> Any:
        """Return the next record, as the clients ask a control batch."""
        return next(self._batch)

    def __iter__(self) -> Iterator[Any]:
        """Yield the records; from the first that cannot be read on, one for the rest."""
        batch, offset = self._batch, self._batch.base_offset
        try:
            for record in self._read():
                yield _within_limit(record)
                offset = record.offset + 1
        # What is raised depends on the bytes alone: it would be raised at every replay.
        except Exception as exc:
            if offset >= batch.next_offset:  # all were read, and then came more than should be
                return
            reason: Malformation = "too_large" if isinstance(exc, TooLargeError) else "undecodable"
            detail = f"offsets {offset} to {batch.next_offset - 1} of one batch: {exc}"
            logger.warning("passed over %s", detail)
            yield StandIn(batch.next_offset - 1, batch.max_timestamp, Unreadable.of(reason, detail))


def _within_limit(record: Any) -> Any:
    """Return a record, without its value if that is too large: hundreds may wait in the memory."""
    n_bytes = len(record.value or b"")
    if n_bytes <= VALUE_LIMIT_BYTES:
        return record
    detail = f"{n_bytes} bytes are more than any record may have"
    return StandIn(
        record.offset,
        record.timestamp,
        Unreadable.of("too_large", detail, n_left_out=n_bytes),
        record.timestamp_type,
        record.key,
        record.headers,
    )


class Inflated(NamedTuple):
    """A batch's bytes without compression."""

    data: bytes
    n_bytes: int  # of its records


def uncompressed(data: bytes) -> Inflated:
    """Return a batch of format 2 as its producer would have sent it without compression.

    Raises:
        ValueError: its records cannot be inflated within the limit.
    """
    codec = data[_ATTRIBUTES_AT] & _CODEC_BITS
    if not codec:
        return Inflated(data, len(data) - _HEADER_BYTES)
    records = inflate(codec, data[_HEADER_BYTES:], limit=BATCH_LIMIT_BYTES)
    header = bytearray(data[:_HEADER_BYTES])
    header[_ATTRIBUTES_AT] &= ~_CODEC_BITS
    length = _HEADER_BYTES - _AFTER_LENGTH + len(records)
    header[_LENGTH_AT:_AFTER_LENGTH] = length.to_bytes(4, "big")
    return Inflated(bytes(header) + records, len(records))


def checked(client_records: Any) -> Callable[[bytes], "CheckedRecords"]:
    """Return what to put in the place of a client's ``MemoryRecords``."""
    return lambda data: CheckedRecords(client_records, data)


class CheckedRecords:
    """The batches of one fetch, up to a limit of what they inflate to."""

    def __init__(self, client_records: Any, data: bytes) -> None:
        self._client_records = client_records
        self._data = data
        self._batches = client_records(data)
        self._at = 0
        self._n_inflated = 0

    def has_next(self) -> bool:
        """Return whether there is another batch to be had now."""
        return self._n_inflated < FETCH_LIMIT_BYTES and bool(self._batches.has_next())

    def size_in_bytes(self) -> int:
        """Return what was fetched."""
        return len(self._data)

    def next_batch(self) -> Any:
        """Return the next batch, None after the last."""
        if not self.has_next():
            return None
        batch = self._batches.next_batch()
        start, after_length = self._at, self._at + _AFTER_LENGTH
        length = int.from_bytes(self._data[start + _LENGTH_AT : after_length], "big")
        self._at = after_length + length
        data = bytes(self._data[start : self._at])
        if data[_MAGIC_AT] < 2:  # Kafka 4 has none of these any more
            return batch
        return CheckedBatch(batch, partial(self._read, batch, data))

    def _read(self, batch: Any, data: bytes) -> Iterator[Any]:
        if not batch.compression_type:
            self._n_inflated += len(data)
            return _of_few_headers(batch, data)
        try:
            plain, n_bytes = uncompressed(data)
        except ValueError:  # it may have taken as long as the largest: a fetch holds 900 such
            self._n_inflated += BATCH_LIMIT_BYTES
            raise
        self._n_inflated += n_bytes
        return _of_few_headers(self._client_records(plain).next_batch(), plain)


def _of_few_headers(batch: Any, data: bytes) -> Iterator[Any]:
    """Yield a batch's records until one has too many headers, which the client is not to make.

    Raises:
        TooLargeError: one has.
    """
    records, at = iter(batch), _HEADER_BYTES
    for _ in range(int.from_bytes(data[_HEADER_BYTES - 4 : _HEADER_BYTES], "big")):
        length, at = decode_varint(data, at)
        end = at + length
        at += 1  # attributes
        while data[at] >= 128:  # how much later than the batch
            at += 1
        at += 1
        while data[at] >= 128:  # how much further
            at += 1
        size, at = decode_varint(data, at + 1)
        size, at = decode_varint(data, at + max(size, 0))  # of the value, behind the key
        n_headers, _ = decode_varint(data, at + max(size, 0))
        if n_headers > MAX_HEADERS:
            raise TooLargeError(f"a record of {n_headers} headers, of at most {MAX_HEADERS}")
        try:
            yield next(records)  # it raises where the length is another
        except StopIteration:
            return
        at = end
