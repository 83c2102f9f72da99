"""Architecture: what the folders may import, read from their source."""

import ast
import tomllib
from pathlib import Path

import pytest

import headrace.model.config
import headrace.streams.errors

MODEL = Path(headrace.model.config.__file__).parent
STREAMS = Path(headrace.streams.errors.__file__).parent
MODEL_FILES = sorted(MODEL.glob("**/*.py"))
ALL_FILES = [*MODEL_FILES, *sorted(STREAMS.glob("**/*.py"))]

STREAMING = {"headrace.streams", "faust", "aiokafka", "kafka", "confluent_kafka", "mode"}
# Folders, lowest first; those of one layer do not know each other.
LAYERS = {
    "model": [{"counts", "baselines"}, {"networks"}, {"passes"}, {"learning"}],
    "streams": [
        {"kafka", "versions"},
        {"adapt", "learn", "tools"},
        {"evaluation"},
        {"bench"},
        {"cli"},
    ],
}
CLOCKS = {"time", "datetime", "asyncio", "sched"}
CODE_CARRIERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def imports_of(source: str) -> set[str]:
    """Return every module a source imports, with all packages above it."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import hides where it leads"
            module = node.module or ""
            modules |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    parts = [module.split(".") for module in modules]
    return {".".join(p[:n]) for p in parts for n in range(1, len(p) + 1)}


def attributes_of(source: str) -> set[str]:
    """Return every dotted name a source reads, such as ``torch.load``."""
    return {ast.unparse(n) for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Attribute)}


def name_of(path: Path) -> str:
    """Return the folder and the file, to tell which file broke a rule."""
    return f"{path.parent.name}/{path.name}"


def test_both_folders_are_looked_at() -> None:
    names = {name_of(path) for path in ALL_FILES}
    assert {"model/recommender.py", "counts/signals.py", "versions/store.py"} <= names


def test_every_folder_is_installed() -> None:
    project = tomllib.loads((STREAMS.parent / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {path.parent.relative_to(STREAMS.parent).as_posix() for path in ALL_FILES}
    assert set(project["package-dir"].values()) == folders
    assert sorted(project["packages"]) == sorted(project["package-dir"])


@pytest.mark.parametrize(
    ("source", "module"),
    [
        ("import time", "time"),
        ("import headrace.streams.wire as w", "headrace.streams"),
        ("from headrace import streams", "headrace.streams"),
        ("from headrace.streams.wire import Event", "headrace.streams"),
        ("def f():\n    from kafka.admin import X", "kafka"),
    ],
)
def test_every_form_of_import_is_seen(source: str, module: str) -> None:
    assert module in imports_of(source)


@pytest.mark.parametrize("path", MODEL_FILES, ids=name_of)
def test_model_knows_nothing_of_streams(path: Path) -> None:
    assert imports_of(path.read_text()) & STREAMING == set()


@pytest.mark.parametrize(
    "path", sorted([*MODEL.glob("*/*.py"), *STREAMS.glob("*/*.py")]), ids=name_of
)
def test_a_folder_imports_from_the_layers_below(path: Path) -> None:
    own, package = path.parent.name, path.parents[1].name
    (at,) = (number for number, layer in enumerate(LAYERS[package]) if own in layer)
    others = set[str]().union(*LAYERS[package][at:]) - {own}
    assert imports_of(path.read_text()) & {f"headrace.{package}.{name}" for name in others} == set()


@pytest.mark.parametrize("path", MODEL_FILES, ids=name_of)
def test_model_reads_no_clock(path: Path) -> None:
    assert imports_of(path.read_text()) & CLOCKS == set()


@pytest.mark.parametrize("path", ALL_FILES, ids=name_of)
def test_nothing_reads_a_format_that_carries_code(path: Path) -> None:
    source = path.read_text()
    assert imports_of(source) & (CODE_CARRIERS | {"torch.load"}) == set()
    assert "torch.load" not in attributes_of(source)
