"""The model store: a file is whole or not there, and trusted only by its checksum."""

from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import pytest
from fsspec import AbstractFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from headrace.streams.errors import CheckpointError, SettingsError, StoreError, UnreadableError
from headrace.streams.versions import store as store_module
from headrace.streams.versions.store import ModelStore


@pytest.fixture(params=["folder", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return a place for a store: a folder that is not there yet, or an object store by URL."""
    return str(tmp_path / "models") if request.param == "folder" else f"memory://{uuid4().hex}"


def names_at(url: str) -> list[str]:
    """Return the names of the files of a store."""
    files, root = fsspec.url_to_fs(url)
    return sorted(path.rsplit("/", 1)[-1] for path in files.ls(root, detail=False))


@pytest.mark.parametrize("piece_bytes", [3, 2**20])
def test_what_was_written_is_read_back(
    monkeypatch: pytest.MonkeyPatch, url: str, piece_bytes: int
) -> None:
    monkeypatch.setattr(store_module, "_PIECE_BYTES", piece_bytes)
    store = ModelStore(url, keep=2)
    file = store.write(7, "model", b"weights")
    assert (file.name, file.size_bytes) == ("v00000007.model.safetensors", 7)
    assert store.read(file) == b"weights"
    assert ModelStore(url, keep=2).read(file) == b"weights"
    assert names_at(url) == [file.name]


def test_a_version_written_again_replaces_the_first(url: str) -> None:
    store = ModelStore(url, keep=2)
    first, second = (store.write(1, "model", blob) for blob in (b"one", b"two"))
    assert store.read(second) == b"two"
    with pytest.raises(CheckpointError, match="checksum"):
        store.read(first)


def test_a_file_with_another_checksum_is_refused(url: str) -> None:
    store = ModelStore(url, keep=2)
    file = store.write(1, "model", b"weights")
    with pytest.raises(CheckpointError, match="checksum"):
        store.read(replace(file, sha256="0" * 64))


def test_a_file_of_another_size_is_refused_before_it_is_read(url: str) -> None:
    store = ModelStore(url, keep=2)
    file = store.write(1, "model", b"weights" * 1000)
    with pytest.raises(CheckpointError, match="7000 bytes, not 6999"):
        store.read(replace(file, size_bytes=6999))


def test_a_missing_file_is_refused_by_name(url: str) -> None:
    store = ModelStore(url, keep=2)
    file = store.write(1, "model", b"weights")
    with pytest.raises(UnreadableError, match=r"v00000002\.model\.safetensors cannot be read from"):
        store.read(replace(file, name="v00000002.model.safetensors"))


class Unavailable(MemoryFileSystem):  # type: ignore[misc] # fsspec has no types
    """An object store that answers with an error of its own, as those over HTTP do."""

    protocol = "unavailable"

    def cat_file(self, path: str, *_: Any, **__: Any) -> bytes:
        raise Exception(f"503 {path}")

    def ls(self, path: str, *_: Any, **__: Any) -> list[str]:
        raise Exception(f"503 {path}")


def test_a_file_that_its_store_refuses_in_its_own_way_is_refused_by_name() -> None:
    fsspec.register_implementation("unavailable", Unavailable, clobber=True)
    store = ModelStore(f"unavailable://{uuid4().hex}", keep=2)
    file = store.write(1, "model", b"weights")
    with pytest.raises(UnreadableError, match=r"v00000001\.model\.safetensors cannot be read.*503"):
        store.read(file)
    with pytest.raises(StoreError, match=r"the model store .* cannot be listed: 503"):
        store.newest()


@pytest.mark.parametrize(
    ("url", "why"), [("nosuch://models", "Protocol not known"), ("needy://models", "Install needy")]
)
def test_a_store_that_can_never_be_reached_is_a_wrong_setting(url: str, why: str) -> None:
    fsspec.register_implementation("needy", "needy.Needy", errtxt="Install needy", clobber=True)
    with pytest.raises(SettingsError, match=f"model_store={url} cannot be used: {why}"):
        ModelStore(url, keep=2)


class CutOff(MemoryFileSystem):  # type: ignore[misc] # fsspec has no types
    """An object store whose connection breaks before the file gets its name."""

    protocol = "cutoff"

    def mv(self, path1: str, path2: str, **_: Any) -> None:
        raise ConnectionError(f"{path1} was not moved to {path2}")


def test_a_file_whose_writing_was_cut_off_is_not_there() -> None:
    fsspec.register_implementation("cutoff", CutOff, clobber=True)
    url = f"cutoff://{uuid4().hex}"
    with pytest.raises(StoreError, match=r"v00000001.* of 7 bytes cannot be .*: .* was not moved"):
        ModelStore(url, keep=2).write(1, "model", b"weights")
    assert names_at(url) == []  # nor does a half of it take the room of the next


def test_pruning_keeps_the_newest_files_of_each_kind(url: str) -> None:
    store = ModelStore(url, keep=2)
    for version in (8, 9, 10, 11, 12):
        for kind in ("model", "learner") if version < 11 else ():  # the others go without
            store.write(version, kind, b"")
        store.write(version, "weights", b"")
    store.prune()
    assert names_at(url) == [
        "v00000009.learner.safetensors",
        "v00000009.model.safetensors",
        "v00000010.learner.safetensors",
        "v00000010.model.safetensors",
        "v00000011.weights.safetensors",
        "v00000012.weights.safetensors",
    ]


def test_pruning_removes_what_a_writer_that_died_left(url: str) -> None:
    store = ModelStore(url, keep=2)
    file = store.write(1, "model", b"weights")
    files, root = fsspec.url_to_fs(url)
    for kind in ("model", "learner", "weights"):
        files.pipe_file(f"{root}/v00000099.{kind}.safetensors.part", b"half of it")
    store.prune()
    assert names_at(url) == [file.name]


def test_versions_after_one_are_removed_whole(url: str) -> None:
    store = ModelStore(url, keep=2)
    files = [store.write(version, "model", b"weights") for version in (1, 2, 3, 4)]
    store.discard_above(2)
    assert names_at(url) == [file.name for file in files[:2]]


def test_pruning_a_store_with_room_removes_nothing(url: str) -> None:
    store = ModelStore(url, keep=2)
    file = store.write(1, "model", b"weights")
    store.prune()
    assert store.read(file) == b"weights"


def test_the_newest_version_is_the_highest_number_that_a_file_has(url: str) -> None:
    store = ModelStore(url, keep=2)
    assert store.newest() == 0  # nor is there a folder
    for version in (9, 100_000_000, 11):
        store.write(version, "model", b"")
    assert store.newest() == 100_000_000


def test_what_another_has_written_since_counts(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Object stores remember what a folder held: s3fs until it writes there itself."""
    remembered: dict[str, list[str]] = {}
    files, _ = fsspec.url_to_fs(url)
    ls, forget = type(files).ls, lambda _, path=None: remembered.pop(path, None)

    def ls_once(self: AbstractFileSystem, path: str, detail: bool = True) -> list[str]:
        if path not in remembered:
            remembered[path] = ls(self, path, detail=detail)
        return remembered[path]

    monkeypatch.setattr(type(files), "ls", ls_once)
    monkeypatch.setattr(type(files), "invalidate_cache", forget)
    store = ModelStore(url, keep=2)
    store.write(3, "model", b"")
    assert store.newest() == 3
    ModelStore(url, keep=2).write(4, "model", b"")
    assert store.newest() == 4


def test_the_newest_model_can_be_opened_by_where_it_lies(url: str) -> None:
    store = ModelStore(url, keep=2)
    assert store.newest_model() is None
    store.write(12, "weights", b"")
    assert store.newest_model() is None
    for version in (9, 11, 10):
        store.write(version, "model", b"model %d" % version)
    with fsspec.open(store.newest_model()) as file:
        assert file.read() == b"model 11"


def test_a_store_is_of_one_shop(url: str) -> None:
    ModelStore(url, keep=2).claim("shop")
    ModelStore(url, keep=2).claim("shop")
    with pytest.raises(SettingsError, match=r"topic_prefix=shop, not b: set another model_store"):
        ModelStore(url, keep=2).claim("b")
    files, root = fsspec.url_to_fs(url)
    files.rm_file(f"{root}/topic_prefix")  # as the text says, of a shop that is no more
    ModelStore(url, keep=2).claim("b")
    ModelStore(url, keep=2).prune()
    assert names_at(url) == ["topic_prefix"]


def test_a_store_that_cannot_say_whose_it_is_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "topic_prefix").mkdir()
    with pytest.raises(StoreError, match="cannot be read"):
        ModelStore(str(tmp_path), keep=2).claim("shop")


def test_what_is_not_of_a_version_is_neither_the_newest_nor_pruned(url: str) -> None:
    others = [
        "README",
        "a.safetensors",
        "a.part",
        "v1e9.model.safetensors",
        "vx.model.safetensors",
        "z.safetensors",
    ]
    store = ModelStore(url, keep=1)
    for version in (1, 2):
        file = store.write(version, "model", b"weights")
    files, root = fsspec.url_to_fs(url)
    for name in others:
        files.pipe_file(f"{root}/{name}", b"")
    files.makedirs(f"{root}/v00000098")
    assert store.newest() == 2
    store.prune()
    assert store.read(file) == b"weights"
    assert names_at(url) == sorted([*others, file.name, "v00000098"])
