"""Record batches: what a producer compressed or mangled is read, or stands aside with a reason."""

import struct
from contextlib import suppress
from typing import Any

import pytest
from aiokafka.codec import gzip_encode, lz4_encode, snappy_encode, zstd_encode
from aiokafka.consumer import fetcher as aiokafka_fetcher
from aiokafka.record import MemoryRecords as AiokafkaRecords
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from hypothesis import given
from hypothesis import strategies as st
from kafka.consumer import fetcher as kafka_fetcher
from kafka.record import MemoryRecords as KafkaRecords

from headrace.streams import wire
from headrace.streams.errors import MalformedRecordError
from headrace.streams.kafka import clients, fetching
from headrace.streams.kafka.record_batches import (
    BATCH_LIMIT_BYTES,
    FETCH_LIMIT_BYTES,
    MAX_HEADERS,
    VALUE_LIMIT_BYTES,
    CheckedRecords,
    TooLargeError,
    Unreadable,
    inflate,
)

GZIP, SNAPPY, LZ4, ZSTD = 1, 2, 3, 4
CODECS = (GZIP, SNAPPY, LZ4, ZSTD)
ENCODERS = {GZIP: gzip_encode, SNAPPY: snappy_encode, LZ4: lz4_encode, ZSTD: zstd_encode}
both_clients = pytest.mark.parametrize("client_records", [AiokafkaRecords, KafkaRecords])
any_codec = pytest.mark.parametrize("codec", CODECS)


Headers = list[tuple[str, bytes | None]]


def batch(
    values: list[bytes],
    *,
    codec: int = 0,
    base_offset: int = 0,
    headers: dict[int, Headers] | None = None,
) -> bytes:
    """Return a record batch as a broker keeps it: a record for each value, at base offset on.

    ``headers`` are those of records by their place, else each has one.
    """
    builder = DefaultRecordBatchBuilder(2, codec, 0, -1, -1, -1, 2**30)
    for place, value in enumerate(values):
        own = (headers or {}).get(place, [("trace", b"1")])
        builder.append(place, 1_000 + place, b"u", value, own)
    return struct.pack(">q", base_offset) + bytes(builder.build())[8:]  # no part of the checksum


def read(client_records: Any, data: bytes) -> list[Any]:
    """Return every record that a client makes of one fetch."""
    batches, records = CheckedRecords(client_records, data), []
    while batches.has_next():
        records += list(batches.next_batch())
    assert batches.next_batch() is None
    return records


def test_both_clients_read_through_it() -> None:
    assert clients.checked is fetching.checked
    for fetcher in (aiokafka_fetcher, kafka_fetcher):
        assert isinstance(fetcher.MemoryRecords(b""), CheckedRecords)


@both_clients
@pytest.mark.parametrize("codec", [0, *CODECS])
def test_batches_are_read_as_written(client_records: Any, codec: int) -> None:
    data = batch([b"a", b"b"], codec=codec, base_offset=5) + batch([b"c"], base_offset=9)
    records = read(client_records, data)
    assert [(r.offset, r.timestamp, r.key, r.value) for r in records] == [
        (5, 1_000, b"u", b"a"),
        (6, 1_001, b"u", b"b"),
        (9, 1_000, b"u", b"c"),
    ]
    assert [list(record.headers) for record in records] == [[("trace", b"1")]] * 3


@both_clients
@pytest.mark.parametrize("place", [63, 64, 200])  # its place and its time are one byte, or two
def test_more_headers_are_found_wherever_they_stand(client_records: Any, place: int) -> None:
    more: Headers = [("", None)] * (MAX_HEADERS + 1)
    *before, refused = read(client_records, batch([b"a"] * 300, headers={place: more}))
    assert [(r.offset, r.timestamp) for r in before] == [(n, 1_000 + n) for n in range(place)]
    assert (refused.offset, refused.value.reason) == (299, "too_large")


@both_clients
@pytest.mark.parametrize("codec", [0, *CODECS])
def test_more_headers_than_anyone_needs_are_not_made(client_records: Any, codec: int) -> None:
    most: Headers = [("", None)] * MAX_HEADERS
    several = {1: most, 2: [*most, ("", None)]}
    data = batch([b"a", b"b", b"c", b"d"], codec=codec, base_offset=5, headers=several)
    *before, refused, after = read(client_records, data + batch([b"e"], base_offset=9))
    assert [(r.offset, r.value, len(r.headers)) for r in before] == [
        (5, b"a", 1),
        (6, b"b", MAX_HEADERS),
    ]
    assert (refused.offset, refused.value.reason) == (8, "too_large")
    assert refused.value.detail.startswith("offsets 7 to 8 of one batch: a record of 1001 headers")
    assert after.value == b"e"


@both_clients
@any_codec
def test_a_bomb_stands_aside_and_ends_the_fetch(client_records: Any, codec: int) -> None:
    bomb = batch([bytes(10**6)] * 34, codec=codec, base_offset=5)  # 34 MB, of which 32 are allowed
    (bombed,) = read(client_records, bomb + batch([b"c"], base_offset=39))  # it is fetched again
    assert (bombed.offset, bombed.key, bombed.value) == (38, None, b"")
    assert bombed.value.reason == "too_large"
    assert bombed.value.detail.startswith("offsets 5 to 38 of one batch: more than 33554432 bytes")


@both_clients
@any_codec
def test_a_batch_that_is_no_compressed_data_ends_the_fetch(client_records: Any, codec: int) -> None:
    whole = batch([b"a"], codec=codec)
    damaged = whole[:61] + b"\xff" * (len(whole) - 61)
    (stand_in,) = read(client_records, damaged + batch([b"c"], base_offset=1))
    assert stand_in.value.reason == "undecodable"


@both_clients
@pytest.mark.parametrize("codec", [0, ZSTD])
def test_a_value_larger_than_any_reader_takes_is_left_out_of_its_record(
    client_records: Any, codec: int
) -> None:
    largest = bytes(VALUE_LIMIT_BYTES)
    kept, left_out, after = read(
        client_records, batch([largest, largest + b"x", b"c"], codec=codec, base_offset=5)
    )
    assert (kept.value, after.value) == (largest, b"c")
    assert (left_out.offset, left_out.timestamp, left_out.key) == (6, 1_001, b"u")
    assert list(left_out.headers) == [("trace", b"1")]
    assert (left_out.timestamp_type, left_out.checksum) == (after.timestamp_type, after.checksum)
    assert (left_out.value, left_out.value.n_left_out) == (b"", VALUE_LIMIT_BYTES + 1)
    assert left_out.value.reason == "too_large"


@both_clients
def test_what_stands_before_the_unreadable_record_is_read(client_records: Any) -> None:
    first, rest = read(client_records, _second_header_broken())
    assert (first.offset, first.value) == (0, b"a")
    assert (rest.offset, rest.value.reason) == (2, "undecodable")
    assert rest.value.detail.startswith("offsets 1 to 2 of one batch: ")


def _second_header_broken() -> bytes:
    """Return three records; the name of the second one's header is no UTF-8."""
    before, first, second, third = batch([b"a", b"b", b"c"]).split(b"trace")
    return before + b"trace" + first + b"tr\xffce" + second + b"trace" + third


@both_clients
def test_a_codec_that_nobody_knows_stands_aside(client_records: Any) -> None:
    data = bytearray(batch([b"a"]))
    data[22] |= 7
    (record,) = read(client_records, bytes(data))
    assert "no compression codec 7" in record.value.detail


def test_one_fetch_ends_where_it_has_inflated_enough() -> None:
    half = batch([bytes(FETCH_LIMIT_BYTES // 2)], codec=ZSTD)
    batches = CheckedRecords(AiokafkaRecords, 5 * half)
    n_read = 0
    while batches.has_next():
        n_read += len(list(batches.next_batch()))
    assert n_read == 2  # the other three are fetched again


def test_a_stand_in_is_refused_as_a_record_with_its_reason() -> None:
    value = Unreadable.of("too_large", "offsets 5 to 9")
    with pytest.raises(MalformedRecordError, match="offsets 5 to 9") as refusal:
        wire.decode_event(value, key=None, record_time_ms=0)
    assert refusal.value.reason == "too_large"


@any_codec
@given(data=st.binary(max_size=5_000))
def test_what_was_compressed_inflates_to_itself(codec: int, data: bytes) -> None:
    assert inflate(codec, bytes(ENCODERS[codec](data)), limit=len(data)) == data


@any_codec
@given(data=st.binary(min_size=1, max_size=500), limit=st.integers(0, 499))
def test_nothing_inflates_beyond_the_limit(codec: int, data: bytes, limit: int) -> None:
    if limit < len(data):
        with pytest.raises(TooLargeError):
            inflate(codec, bytes(ENCODERS[codec](data)), limit=limit)


@any_codec
@given(data=st.binary(max_size=300), cut=st.integers(0, 299))
def test_damaged_data_inflates_or_is_refused(codec: int, data: bytes, cut: int) -> None:
    packed = bytes(ENCODERS[codec](data))
    for damaged in (data, packed[:cut], packed[:cut] + data, packed + data):
        with suppress(ValueError):
            assert len(inflate(codec, damaged, limit=1_000)) <= 1_000


def test_java_frames_snappy_in_blocks() -> None:
    data = bytes(range(256)) * 500  # four blocks of 32 kB
    assert inflate(SNAPPY, snappy_encode(data), limit=BATCH_LIMIT_BYTES) == data
    one_block = bytes(snappy_encode(data, xerial_compatible=False))
    assert inflate(SNAPPY, one_block, limit=len(data)) == data
