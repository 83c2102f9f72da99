"""Model store: the one place where weights touch the disk.

Safetensors files in a folder or under any fsspec URL: of each version the ``weights``, and of some
a checkpoint: the ``model`` for workers to begin with, the ``learner`` for the learn role to go on
from. Safetensors cannot carry code. A file is written under a passing name and then moved, and is
trusted only if its checksum is the announced one.
"""

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import fsspec
import numpy as np
import numpy.typing as npt
from pydantic import Field
from safetensors import SafetensorError
from safetensors.numpy import load, save

from headrace.streams.errors import CheckpointError, SettingsError
from headrace.streams.schema import Schema

Arrays = dict[str, npt.NDArray[Any]]
_JSON = "__json__"  # safetensors' own metadata cannot be read back from bytes
_PART = ".part"  # ends the passing name of a file while it is written
_OF_VERSION = re.compile(r"v(\d+)\.([a-z]+)\.safetensors")


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of the store and what its bytes must be."""

    name: Annotated[str, Field(pattern=r"^v\d+\.[a-z]+\.safetensors$")]  # no path out of the store
    sha256: str
    size_bytes: int


def pack(arrays: Mapping[str, npt.NDArray[Any]], fields: Mapping[str, Any]) -> bytes:
    """Write arrays and plain fields as one safetensors blob."""
    # reshape: ascontiguousarray makes a scalar one-dimensional
    whole = {k: np.ascontiguousarray(a).reshape(a.shape) for k, a in arrays.items()}
    whole[_JSON] = np.frombuffer(json.dumps(fields).encode(), np.uint8)
    blob: bytes = save(whole)
    return blob


def unpack(blob: bytes, kind: Schema) -> tuple[Arrays, dict[str, Any]]:
    """Read a blob back. One without a schema version is of the first: 0.1.0 wrote none.

    Raises:
        CheckpointError: the bytes are not such a blob, or of a schema that is not read.
    """
    try:
        arrays: Arrays = load(blob)
        fields = json.loads(arrays.pop(_JSON).tobytes())
    except (SafetensorError, KeyError, ValueError, RecursionError) as exc:
        raise CheckpointError(f"not a checkpoint of ours: {exc}") from exc
    if not isinstance(fields, dict):
        raise CheckpointError("not a checkpoint of ours: its fields are no map")
    if why := kind.refusal(fields.get("v", 1)):
        raise CheckpointError(why)
    return arrays, fields


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

    def write(self, version: int, kind: str, blob: bytes) -> StoredFile:
        """Write one file of a version; it is whole, or it is not there."""
        name = f"v{version:08d}.{kind}.safetensors"
        self._files.makedirs(self._root, exist_ok=True)
        self._files.pipe_file(f"{self._root}/{name}{_PART}", blob)
        self._files.mv(f"{self._root}/{name}{_PART}", f"{self._root}/{name}")
        return StoredFile(name, hashlib.sha256(blob).hexdigest(), len(blob))

    def read(self, file: StoredFile) -> bytes:
        """Read a file of the store.

        Raises:
            CheckpointError: it is not there, or its bytes are not the announced ones.
        """
        path = f"{self._root}/{file.name}"
        try:
            size_bytes = self._files.size(path)
            if size_bytes != file.size_bytes:  # before it is in memory
                raise CheckpointError(f"{file.name}: {size_bytes} bytes, not {file.size_bytes}")
            blob: bytes = self._files.cat_file(path)
        except CheckpointError:
            raise
        except Exception as exc:  # each kind of store has errors of its own
            raise CheckpointError(
                f"{file.name} cannot be read from {self._root}: {exc}: is model_store the one"
                " that learn writes to (if not set: under data_dir, where it is started)?"
            ) from exc
        digest = hashlib.sha256(blob).hexdigest()
        if digest != file.sha256:
            raise CheckpointError(f"{file.name}: checksum {digest[:12]} is not {file.sha256[:12]}")
        return blob

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
