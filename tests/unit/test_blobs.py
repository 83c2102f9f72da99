"""Blobs: arrays and fields as bytes in safetensors' layout; what is none is refused."""

import json
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, save

from headrace.streams import schema
from headrace.streams.errors import CheckpointError
from headrace.streams.versions.blobs import pack, unpack


def test_arrays_and_fields_come_back_as_they_were() -> None:
    whole = np.arange(6, dtype=np.int32).reshape(2, 3)
    arrays = {"flat": whole, "turned": whole.T, "scalar": np.array(1.5), "none": np.zeros((0, 4))}
    back, fields = unpack(pack(arrays, {"ids": ["tea", "Ä", ""]}), schema.MODEL)
    assert fields == {"ids": ["tea", "Ä", ""]}
    assert back.keys() == arrays.keys()
    for name, array in arrays.items():
        assert back[name].dtype == array.dtype
        np.testing.assert_array_equal(back[name], array)


def test_other_readers_and_writers_of_safetensors_understand_blobs() -> None:
    arrays = {"odd": np.ones(3, np.bool_), "half": np.ones((2, 3), np.float16), "i": np.arange(5)}
    blob = bytes(pack(arrays, {}))
    loaded = load(blob)
    assert loaded.pop("__json__").tobytes() == b"{}"
    back, _ = unpack(save(loaded | {"__json__": np.frombuffer(b"{}", np.uint8)}), schema.MODEL)
    for found in (loaded, back):
        assert found.keys() == arrays.keys()
        for name, array in arrays.items():
            assert found[name].dtype == array.dtype
            np.testing.assert_array_equal(found[name], array)


WHOLE = bytes(pack({"a": np.ones(3)}, {}))


@pytest.mark.parametrize("blob", [b"", b"no safetensors", WHOLE[:-1], WHOLE + b"x"])
def test_foreign_and_cut_bytes_are_no_checkpoint(blob: bytes) -> None:
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        unpack(blob, schema.MODEL)


@pytest.mark.parametrize(
    "changed",
    [
        {"dtype": "F8"},
        {"dtype": "F64"},
        {"shape": [3]},
        {"shape": [2.0]},
        {"shape": [-2, -1]},
        {"shape": [2**62, 0]},
        {"shape": [1] * 70 + [2]},
        {"data_offsets": [0, 16]},
        {"data_offsets": [0, 2**63]},
        {"data_offsets": [-8, 0]},
        {"data_offsets": [0]},
        {"more": 1},
    ],
)
def test_a_header_that_does_not_tell_the_bytes_is_refused(changed: dict[str, Any]) -> None:
    def blob(entry: dict[str, Any]) -> bytes:
        fields = {"dtype": "U8", "shape": [2], "data_offsets": [8, 10]}
        head = json.dumps({"a": entry, "__json__": fields}).encode()
        return len(head).to_bytes(8, "little") + head + bytes(8) + b"{}"

    whole = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    assert unpack(blob(whole), schema.MODEL)[0]["a"].tolist() == [0, 0]
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        unpack(blob(whole | changed), schema.MODEL)
