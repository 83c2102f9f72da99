"""Every decoder that reads what others wrote: any bytes are a value, or the documented error.

What is read must be written and read again as the same; anything else that is raised is a finding.
Each comes with examples to start from.
"""

import gzip
import json
import random
import struct
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import msgpack
import numpy as np
from aiokafka.record import MemoryRecords as AiokafkaRecords
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from kafka.record import MemoryRecords as KafkaRecords

from headrace.model.features import N_FEATURES, features_of
from headrace.streams import records, schema, settings, wire
from headrace.streams.errors import (
    CheckpointError,
    InputFileError,
    MalformedRecordError,
    SettingsError,
)
from headrace.streams.kafka.record_batches import CheckedRecords, inflate
from headrace.streams.state import UserState, offset_of
from headrace.streams.tools import files, files_items, set_aside
from headrace.streams.versions.blobs import pack, unpack
from headrace.streams.versions.publication import Announcement, Fragment
from headrace.streams.versions.store import StoredFile

NOW_MS = 1_700_000_000_000
EVENT = records.Event(user="u", item="i", time_ms=5, action="view", context={"device": "phone"})
ITEM = records.Item(item="i", title="tea", categories=("a", "b"), price=1.5, vectors={"v": (0.5,)})
LIST = records.Recommendation(
    user="u",
    rec_id="u-1-7",
    items=("a",),
    scores=(0.75,),
    reasons=(records.Reason(signal="next", share=0.5, because="b"),),
    model_version=3,
    source=records.Source(topic="t", partition=1, offset=7, time_ms=5),
    generated_ms=6,
)
ROWS = "user\titem\tevent\ttimestamp\nu\ti\tview\t1\nv\tj\tclick\t2026-01-01\n"


class Decoder(NamedTuple):
    """One of them."""

    read: Callable[[bytes], object]
    error: type[Exception]  # the documented one
    examples: Callable[[], Sequence[bytes]]

    def check(self, data: bytes) -> bool:
        """Return whether the bytes are a value; raise what is a finding."""
        try:
            self.read(data)
        except self.error:
            return False
        return True


def _event(data: bytes) -> None:
    event = wire.decode_event(data, key=b"k", record_time_ms=NOW_MS)
    assert wire.decode_event(wire.encode(event), key=None, record_time_ms=NOW_MS) == event
    assert all(0 <= number < N_FEATURES for number in features_of(event.context))


def _item(data: bytes) -> None:
    item = wire.decode_item(data, key=b"k")
    assert wire.decode_item(wire.encode(item), key=None) == item


def _list(data: bytes) -> None:
    wire.decode_recommendation(data)


def _state(data: bytes) -> None:
    state = UserState.decode(data)
    assert UserState.decode(state.encode()).encode() == state.encode()
    assert offset_of(data) == state.last_offset


def _announcement(data: bytes) -> None:
    announcement = Announcement.decode(data)
    assert Announcement.decode(announcement.encode()) == announcement
    assert "/" not in announcement.model.name


def _fragment(data: bytes) -> None:
    fragment = Fragment.decode(data)
    assert Fragment.decode(fragment.encode()) == fragment


def _batches(data: bytes) -> None:
    for client_records in (AiokafkaRecords, KafkaRecords):
        # A broker checks whole batches of format 2: what it would refuse does not come this far.
        if (
            len(data) < 61
            or data[16] != 2
            or struct.unpack_from(">i", data, 8)[0] != len(data) - 12
        ):
            return
        batches = CheckedRecords(client_records, data)
        while batches.has_next():
            list(batches.next_batch())


def _compressed(data: bytes) -> None:
    assert len(inflate(data[0] % 8 if data else 0, data[1:], limit=10_000)) <= 10_000


def _checkpoint(data: bytes) -> None:
    arrays, fields = unpack(data, schema.MODEL)
    unpack(pack(arrays, fields), schema.MODEL)


def _file(name: str, read: Callable[[Path], object]) -> Callable[[bytes], None]:
    folder = tempfile.TemporaryDirectory()

    def check(data: bytes) -> None:
        path = Path(folder.name, name)
        path.write_bytes(data)
        read(path)

    return check


def _settings(path: Path) -> None:
    settings.load(file=str(path))


def _dead_letter(data: bytes) -> None:
    letter = set_aside.SetAside("reason", "detail", "t", 0, 0, 0, (), data, data[::-1])
    assert set_aside.as_json(letter).isascii()
    assert all(line.isprintable() for line in set_aside.as_text(letter).splitlines())


def _batch(codec: int = 0) -> bytes:
    builder = DefaultRecordBatchBuilder(2, codec, 0, -1, -1, -1, 2**20)
    builder.append(0, 1_000, b"u", wire.encode(EVENT), [("trace", b"1")])
    builder.append(1, 1_001, None, None, [])
    return bytes(builder.build())


def _states() -> list[bytes]:
    state = UserState()
    state.apply(EVENT, offset=7, history_length=10)
    whole = UserState(last_offset=3, n_events=1, items=["i"], actions=["view"], times_ms=[5])
    whole.gradients, whole.n_judged = np.ones((2, 3), np.float32), np.ones(2, np.float32)
    return [state.encode(), whole.encode()]


def _announcements() -> list[bytes]:
    file = StoredFile("v00000001.model.safetensors", "0" * 64, 7)
    made = Announcement(
        version=1, epoch=2, model=file, learner=file, delta_offset=3, published_ms=4
    )
    return [made.encode()]


def _fragments() -> list[bytes]:
    return [Fragment(epoch=1, sequence=2, part=0, parts=2, published_ms=3, data=b"x").encode()]


@cache
def _as_parquet() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "events.tsv")
        path.write_text(ROWS)
        files.read_events(path).write_parquet(Path(folder, "events.parquet"))
        return Path(folder, "events.parquet").read_bytes()


def _as_json(record: object) -> bytes:
    fields = msgpack.unpackb(wire.encode(record))  # type: ignore[arg-type] # one of the wire's
    return json.dumps(fields).encode()


def _lines() -> bytes:
    return b'{"user": "u", "item": "i", "event": "view", "timestamp": 5, "context": {"a": 1}}\n'


DECODERS = {
    "event": Decoder(_event, MalformedRecordError, lambda: [wire.encode(EVENT), _as_json(EVENT)]),
    "item": Decoder(_item, MalformedRecordError, lambda: [wire.encode(ITEM), _as_json(ITEM)]),
    "list": Decoder(_list, MalformedRecordError, lambda: [wire.encode(LIST)]),
    "state": Decoder(_state, ValueError, _states),
    "announcement": Decoder(_announcement, MalformedRecordError, _announcements),
    "fragment": Decoder(_fragment, MalformedRecordError, _fragments),
    "record batch": Decoder(_batches, MalformedRecordError, lambda: [*map(_batch, range(5))]),
    "compressed": Decoder(
        _compressed, ValueError, lambda: [bytes([n]) + _batch(n)[61:] for n in range(1, 5)]
    ),
    "checkpoint": Decoder(
        _checkpoint, CheckpointError, lambda: [pack({"a": np.ones((2, 3))}, {"ids": ["i"]})]
    ),
    "events.tsv": Decoder(
        _file("e.tsv", files.read_events), InputFileError, lambda: [ROWS.encode()]
    ),
    "events.csv": Decoder(
        _file("e.csv", files.read_events),
        InputFileError,
        lambda: [ROWS.replace("\t", ",").encode()],
    ),
    "events.jsonl": Decoder(
        _file("e.jsonl", files.read_events), InputFileError, lambda: [_lines()]
    ),
    "events.parquet": Decoder(
        _file("e.parquet", files.read_events), InputFileError, lambda: [_as_parquet()]
    ),
    "events.tsv.gz": Decoder(
        _file("e.tsv.gz", files.read_events),
        InputFileError,
        lambda: [gzip.compress(ROWS.encode(), mtime=0)],
    ),
    "items.jsonl": Decoder(
        _file("i.jsonl", files_items.read_items),
        InputFileError,
        lambda: [
            b'{"item": "i", "title": "t", "categories": ["a"], "price": 1.5}\n',
            b'{"item": "i", "active": false, "vectors": {"image": [1, 0.5]}}\n',
        ],
    ),
    "settings": Decoder(
        _file("s.toml", _settings),
        SettingsError,
        lambda: [b"partitions = 4\n[leave_out]\nview = 2\n", b"action_weights = {view = 1.5}\n"],
    ),
    "dead letter": Decoder(_dead_letter, MalformedRecordError, lambda: [b"key\x1b[31m\x00"]),
}


def mutated(data: bytes, draw: random.Random) -> bytes:
    """Return bytes with a few of them changed, cut, doubled or put in."""
    made = bytearray(data)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(made) + 1)
        change = draw.randrange(4)
        if change == 0 and at < len(made):
            made[at] = draw.randrange(256)
        elif change == 1:
            del made[at : at + draw.randint(1, 8)]
        elif change == 2:
            made[at:at] = made[max(0, at - draw.randint(1, 32)) : at]
        else:
            made[at:at] = draw.randbytes(draw.randint(1, 8))
    return bytes(made)
