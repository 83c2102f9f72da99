"""Every decoder: any bytes are a value or the documented error, within bounded memory."""

import random
import sys
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1] / "fuzz"))

from decoders import DECODERS, mutated

from headrace.streams.errors import MalformedRecordError
from headrace.streams.wire import MAX_EVENT_BYTES, decode_event

every_decoder = pytest.mark.parametrize("name", DECODERS)


@every_decoder
def test_its_examples_are_read(name: str) -> None:
    decoder = DECODERS[name]
    assert all(decoder.check(example) for example in decoder.examples())


@every_decoder
@given(data=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(name: str, data: bytes) -> None:
    DECODERS[name].check(data)


@every_decoder
@given(seed=st.integers(0, 2**32))
def test_damaged_examples_are_read_or_refused(name: str, seed: int) -> None:
    draw = random.Random(seed)
    DECODERS[name].check(mutated(draw.choice(DECODERS[name].examples()), draw))


@pytest.mark.parametrize("filler", [b"\x90", b"\x80", b"\xc0", b"\xa0", b"\xd4\x05\x00"])
def test_the_largest_event_takes_little_memory_whatever_it_is_filled_with(filler: bytes) -> None:
    head = b"\x83\xa4user\xa1u\xa4item\xa1i\xa4more\xdc"
    n = (MAX_EVENT_BYTES - len(head) - 2) // len(filler)
    value = head + min(n, 65_535).to_bytes(2, "big") + filler * min(n, 65_535)
    tracemalloc.start()
    decode_event(value, key=None, record_time_ms=0 + 10**12)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 16_000_000


def test_what_is_kept_of_an_event_takes_no_more_than_its_bytes() -> None:
    # A micro-batch holds thousands, for as long as lists are made.
    head = b"\x83\xa4user\xa1u\xa4item\xa1i\xa7context\x81\xa1a\xdc"
    value = head + (65_000).to_bytes(2, "big") + b"\x90" * 65_000
    tracemalloc.start()
    event = decode_event(value, key=None, record_time_ms=0)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert event.item == "i"
    assert kept < len(value)


@pytest.mark.parametrize("opening", [b"\x91", b"\x81\xa1a", b"["])
def test_nesting_is_refused_before_it_is_deep(opening: bytes) -> None:
    for depth in (1_000, 20_000):
        with pytest.raises(MalformedRecordError, match="undecodable"):
            decode_event(b"\x81\xa1x" + opening * depth, key=None, record_time_ms=0)
