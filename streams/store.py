"""Model store: the one place where weights touch the disk.

Safetensors files in a folder or under any fsspec URL: of each version the ``weights``, and of some
a checkpoint: the ``model`` for workers to begin with, the ``learner`` for the learn role to go on
from. Safetensors cannot carry code. A file is written under a passing name and then moved, and is
trusted only if its checksum is the announced one.

The layout is read and written here, not by the safetensors package: over memory that holds Python's
lock for seconds where a model has gigabytes, and every other thread with it.
"""

import hashlib
import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import fsspec
import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, Field, TypeAdapter, with_config

from headrace.streams.errors import CheckpointError, SettingsError
from headrace.streams.schema import Schema

Arrays = dict[str, npt.NDArray[Any]]
Blob = bytes | memoryview
_JSON = "__json__"  # safetensors' own metadata are strings only
_PIECE_BYTES = 2**24  # read and written at a time
_PART = ".part"  # ends the passing name of a file while it is written
_OF_VERSION = re.compile(r"v(\d+)\.([a-z]+)\.safetensors")


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of the store and what its bytes must be."""

    name: Annotated[str, Field(pattern=r"^v\d+\.[a-z]+\.safetensors$")]  # no path out of the store
    sha256: str
    size_bytes: int


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


def kind_of(url: str) -> str | None:
    """Return what a file of a store holds, by its name; None if it has another name."""
    match = _OF_VERSION.fullmatch(url.rsplit("/", 1)[-1])
    return match[2] if match else None


def under(arrays: Arrays, prefix: str) -> Arrays:
    """Return the arrays whose names begin so, by the rest of their names."""
    return {k.removeprefix(prefix): a for k, a in arrays.items() if k.startswith(prefix)}


class ModelStore:
    """Files of versions in a folder or an object store."""

    def __init__(self, url: str, *, keep: int) -> None:
        """Find the store; nothing is written yet.

        Raises:
            SettingsError: it is no URL that fsspec knows, or the package for such URLs is missing.
        """
        try:
            self._files, self._root = fsspec.url_to_fs(url)
        except (ImportError, ValueError) as exc:
            raise SettingsError(f"model_store={url} cannot be used: {exc}") from exc
        self._keep = keep

    def write(self, version: int, kind: str, blob: Blob) -> StoredFile:
        """Write one file of a version; it is whole, or it is not there."""
        name = f"v{version:08d}.{kind}.safetensors"
        self._files.makedirs(self._root, exist_ok=True)
        with self._files.open(f"{self._root}/{name}{_PART}", "wb") as file:
            for start in range(0, len(blob), _PIECE_BYTES):
                file.write(blob[start : start + _PIECE_BYTES])
        self._files.mv(f"{self._root}/{name}{_PART}", f"{self._root}/{name}")
        return StoredFile(name, hashlib.sha256(blob).hexdigest(), len(blob))

    def read(self, file: StoredFile) -> memoryview:
        """Read a file of the store.

        Raises:
            CheckpointError: it is not there, or its bytes are not the announced ones.
        """
        path = f"{self._root}/{file.name}"
        try:
            size_bytes = self._files.size(path)
            if size_bytes != file.size_bytes:  # before it is in memory
                raise CheckpointError(f"{file.name}: {size_bytes} bytes, not {file.size_bytes}")
            blob = np.empty(size_bytes, np.uint8)
            for start in range(0, size_bytes, _PIECE_BYTES):
                piece = self._files.cat_file(path, start, min(start + _PIECE_BYTES, size_bytes))
                blob[start : start + _PIECE_BYTES] = np.frombuffer(piece, np.uint8)
        except CheckpointError:
            raise
        except Exception as exc:  # each kind of store has errors of its own
            raise CheckpointError(
                f"{file.name} cannot be read from {self._root}: {exc}: is model_store the one"
                " that learn writes to (if not set: under data_dir, where it is started)?"
            ) from exc
        digest = hashlib.sha256(blob.data).hexdigest()
        if digest != file.sha256:
            raise CheckpointError(f"{file.name}: checksum {digest[:12]} is not {file.sha256[:12]}")
        return blob.data

    def newest(self) -> int:
        """Return the highest version that there is a file of, 0 if there is none."""
        return max((version for _, version in _versions(self._names()).values()), default=0)

    def prune(self) -> None:
        """Remove files beyond the newest of each kind that are kept, and what was half written.

        Only while nobody writes.
        """
        names = self._names()
        by_kind = defaultdict[str, list[tuple[int, str]]](list)
        for name, (kind, version) in _versions(names).items():
            by_kind[kind].append((version, name))
        for versions in by_kind.values():
            for _, name in sorted(versions)[: -self._keep]:
                self._files.rm_file(f"{self._root}/{name}")
        for name in names:
            whole = name.removesuffix(_PART)
            if whole != name and _OF_VERSION.fullmatch(whole):
                self._files.rm_file(f"{self._root}/{name}")

    def _names(self) -> list[str]:
        try:
            paths = self._files.ls(self._root, detail=False)
        except FileNotFoundError:
            return []
        return [path.rsplit("/", 1)[-1] for path in paths]


def _versions(names: Iterable[str]) -> dict[str, tuple[str, int]]:
    """Return each file's kind and version; what else lies in the folder is not ours."""
    matches = map(_OF_VERSION.fullmatch, names)
    return {match[0]: (match[2], int(match[1])) for match in matches if match}
