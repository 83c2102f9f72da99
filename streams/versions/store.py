"""Model store: the files of versions, in a folder or under any fsspec URL.

Of each version the ``weights``, and of some a checkpoint: the ``model`` for workers to begin with,
the ``learner`` for the learn role to go on from. A file is written under a passing name and then
moved, and is trusted only if its checksum is the announced one.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated

import fsspec
import numpy as np
from pydantic import Field

from headrace.streams.errors import CheckpointError, SettingsError, StoreError, UnreadableError
from headrace.streams.versions.blobs import Blob

WHICH_STORE = (  # to ask where nothing can be read
    "is model_store the one that learn writes to (if not set: under data_dir, where it is started)?"
)
_PIECE_BYTES = 2**24  # read and written at a time
_OWNER = "topic_prefix"  # the file that says whose versions these are
_PART = ".part"  # ends the passing name of a file while it is written
_OF_VERSION = re.compile(r"v(\d+)\.([a-z]+)\.safetensors")


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of the store and what its bytes must be."""

    name: Annotated[str, Field(pattern=r"^v\d+\.[a-z]+\.safetensors$")]  # no path out of the store
    sha256: str
    size_bytes: int


def kind_of(url: str) -> str | None:
    """Return what a file of a store holds, by its name; None if it has another name."""
    match = _OF_VERSION.fullmatch(url.rsplit("/", 1)[-1])
    return match[2] if match else None


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

    def claim(self, topic_prefix: str) -> None:
        """Make this the store of one shop, for good: two would write over each other's files.

        Raises:
            SettingsError: it is another's.
            StoreError: it could not be told, or written.
        """
        try:
            owner = self._files.cat_file(f"{self._root}/{_OWNER}", 0, _PIECE_BYTES).decode()
        except FileNotFoundError:
            self._put(_OWNER, topic_prefix.encode())
        except Exception as exc:  # each kind of store has errors of its own
            raise StoreError(f"the model store {self._root} cannot be read: {exc}") from exc
        else:
            if owner != topic_prefix:
                raise SettingsError(
                    f"the model store {self._root} is that of topic_prefix={owner}, not"
                    f" {topic_prefix}: set another model_store, or data_dir, for this shop (if the"
                    f" other one is no more, remove the file {_OWNER} there)"
                )

    def write(self, version: int, kind: str, blob: Blob) -> StoredFile:
        """Write one file of a version; it is whole, or it is not there.

        Raises:
            StoreError: it could not be written.
        """
        name = f"v{version:08d}.{kind}.safetensors"
        self._put(name, blob)
        return StoredFile(name, hashlib.sha256(blob).hexdigest(), len(blob))

    def _put(self, name: str, blob: Blob) -> None:
        try:
            self._files.makedirs(self._root, exist_ok=True)
            with self._files.open(f"{self._root}/{name}{_PART}", "wb") as file:
                for start in range(0, len(blob), _PIECE_BYTES):
                    file.write(blob[start : start + _PIECE_BYTES])
            self._files.mv(f"{self._root}/{name}{_PART}", f"{self._root}/{name}")
        except Exception as exc:  # each kind of store has errors of its own
            with suppress(Exception):  # what is full would stay so
                self._files.rm_file(f"{self._root}/{name}{_PART}")
            raise StoreError(
                f"{name} of {len(blob):,} bytes cannot be written to the model store {self._root}:"
                f" {exc}"
            ) from exc

    def read(self, file: StoredFile) -> memoryview:
        """Read a file of the store.

        Raises:
            UnreadableError: it is not there, or the store is away.
            CheckpointError: its bytes are not the announced ones.
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
            why = getattr(exc, "strerror", None) or exc  # without the path once more
            raise UnreadableError(f"{file.name} cannot be read from {self._root}: {why}") from exc
        digest = hashlib.sha256(blob.data).hexdigest()
        if digest != file.sha256:
            raise CheckpointError(f"{file.name}: checksum {digest[:12]} is not {file.sha256[:12]}")
        return blob.data

    def newest(self) -> int:
        """Return the highest version that there is a file of, 0 if there is none.

        Raises:
            StoreError: it cannot be listed.
        """
        return max((version for _, version in _versions(self._names()).values()), default=0)

    def newest_model(self) -> str | None:
        """Return where the model of the newest checkpoint lies, None if there is none.

        Raises:
            StoreError: it cannot be listed.
        """
        found = _versions(self._names()).items()
        models = {version: name for name, (kind, version) in found if kind == "model"}
        if not models:
            return None
        url: str = self._files.unstrip_protocol(f"{self._root}/{models[max(models)]}")
        return url

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

    def discard_above(self, version: int) -> None:
        """Remove the files of later versions: nobody was told of them.

        Only while nobody writes.

        Raises:
            StoreError: they cannot be listed, or removed.
        """
        for name, (_, written) in _versions(self._names()).items():
            if written > version:
                try:
                    self._files.rm_file(f"{self._root}/{name}")
                except Exception as exc:  # each kind of store has errors of its own
                    raise StoreError(
                        f"{name} cannot be removed from the model store {self._root}: {exc}"
                    ) from exc

    def _names(self) -> list[str]:
        try:
            self._files.invalidate_cache(self._root)  # another learn role may have written since
            paths = self._files.ls(self._root, detail=False)
        except FileNotFoundError:
            return []
        except Exception as exc:  # each kind of store has errors of its own
            raise StoreError(f"the model store {self._root} cannot be listed: {exc}") from exc
        return [path.rsplit("/", 1)[-1] for path in paths]


def _versions(names: Iterable[str]) -> dict[str, tuple[str, int]]:
    """Return each file's kind and version; what else lies in the folder is not ours."""
    matches = map(_OF_VERSION.fullmatch, names)
    return {match[0]: (match[2], int(match[1])) for match in matches if match}
