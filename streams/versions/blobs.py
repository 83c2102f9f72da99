"""Blobs: arrays and plain fields as bytes, in the layout of safetensors, which cannot carry code.

It is read and written here, not by the safetensors package: over memory that holds Python's lock
for seconds where a model has gigabytes, and every other thread with it.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config

from headrace.streams.errors import CheckpointError
from headrace.streams.schema import Schema

Arrays = dict[str, npt.NDArray[Any]]
Blob = bytes | memoryview
# What taking over a part that does not fit may raise, whatever was checked before.
MISFIT = (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError)
_JSON = "__json__"  # safetensors' own metadata are strings only

DType = Literal["F64", "F32", "F16", "I64", "I32", "I16", "I8", "U8", "BOOL"]
_DTYPES: dict[DType, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
_Natural = Annotated[int, Field(ge=0)]


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True, slots=True)
class _Entry:
    """What the header of a safetensors file says of an array."""

    dtype: DType
    shape: tuple[_Natural, ...]
    data_offsets: tuple[_Natural, _Natural]  # the first byte after the header is 0


_HEADER = TypeAdapter(dict[str, _Entry])


def pack(arrays: Mapping[str, npt.NDArray[Any]], fields: Mapping[str, Any]) -> memoryview:
    """Write arrays and plain fields as one safetensors blob."""
    whole = {_JSON: np.frombuffer(json.dumps(fields).encode(), np.uint8), **arrays}
    header, end = dict[str, _Entry](), 0
    # The widest first, so that all are aligned.
    for name, a in sorted(whole.items(), key=lambda named: -named[1].itemsize):
        header[name] = _Entry(_CODES[a.dtype], a.shape, (end, end := end + a.nbytes))
    head = _HEADER.dump_json(header)
    head += b" " * (-len(head) % 8)
    blob = np.empty(8 + len(head) + end, np.uint8)
    blob[: 8 + len(head)] = np.frombuffer(len(head).to_bytes(8, "little") + head, np.uint8)
    for name, place in _views(blob[8 + len(head) :], header):
        np.copyto(place, whole[name])
    return blob.data


def unpack(blob: Blob, kind: Schema) -> tuple[Arrays, dict[str, Any]]:
    """Read a blob back. One without a schema version is of the first: 0.1.0 wrote none.

    Raises:
        CheckpointError: the bytes are not such a blob, or of a schema that is not read.
    """
    try:
        start = 8 + int.from_bytes(blob[:8], "little")
        header = _HEADER.validate_json(bytes(blob[8:start]), strict=True)
        views = _views(np.frombuffer(blob, np.uint8, offset=start), header)
        arrays = {name: view.copy() for name, view in views}
        fields = json.loads(arrays.pop(_JSON).tobytes())
    except ValidationError as exc:
        raise CheckpointError("not a checkpoint of ours: it does not begin as one") from exc
    except (KeyError, ValueError, OverflowError, RecursionError) as exc:
        raise CheckpointError(f"not a checkpoint of ours: {exc}") from exc
    if not isinstance(fields, dict):
        raise CheckpointError("not a checkpoint of ours: its fields are no map")
    if why := kind.refusal(fields.get("v", 1)):
        raise CheckpointError(why)
    return arrays, fields


def _views(
    data: npt.NDArray[np.uint8], header: Mapping[str, _Entry]
) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """Yield each array's name and place in what follows the header.

    Raises:
        ValueError: arrays overlap, leave a gap, or are not as long as their shapes say.
    """
    end = 0
    for name, entry in sorted(header.items(), key=lambda named: named[1].data_offsets):
        dtype, (first, past) = _DTYPES[entry.dtype], entry.data_offsets
        if first != end or past - first != math.prod(entry.shape) * dtype.itemsize:
            raise ValueError(f"{name} does not lie where it should")
        yield name, data[first:past].view(dtype).reshape(entry.shape)
        end = past
    if end != len(data):
        raise ValueError(f"it has {len(data)} bytes of arrays, not {end}")


def under(arrays: Arrays, prefix: str) -> Arrays:
    """Return the arrays whose names begin so, by the rest of their names."""
    return {k.removeprefix(prefix): a for k, a in arrays.items() if k.startswith(prefix)}
