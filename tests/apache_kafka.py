"""Nodes of Apache Kafka for the tests: jars from Maven, kept in .kafka/, no Docker."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from headrace.streams.child import Child
from headrace.streams.errors import BrokerUnreachableError
from headrace.streams.kafka.broker import HOST, free_ports, wait_until_ready
from headrace.streams.settings import Settings

HERE = Path(__file__).parent / "kafka_node"
CACHE = Path(__file__).parents[1] / ".kafka"
DOWNLOAD_LIMIT_S = 240.0  # 43 MB once; 3 s from a warm Maven cache
FORMAT_LIMIT_S = 180.0  # a JVM's start, 2 s alone; seen to take a minute on a loaded machine
START_LIMIT_S = 180.0  # 3 s alone, seen to take 55 s on a loaded machine
STOP_LIMIT_S = 20.0
# Short runs do not repay the second compiler and a parallel collector: 3 s to start, not 6 s.
JVM = ["-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]


@contextmanager
def apache_kafka(folder: Path) -> Iterator[tuple[str, Child]]:
    """Yield the address and the process of a broker whose data live in ``folder``."""
    port, controller_port = free_ports(2)
    properties = folder / "server.properties"
    fill(
        properties,
        "server.properties",
        port=port,
        controller_port=controller_port,
        data=folder / "data",
    )
    format_storage(properties, new_cluster_id())
    child = start_node(properties)
    try:
        wait_until_ready(Settings(bootstrap=f"{HOST}:{port}"), child, limit_s=START_LIMIT_S)
        yield f"{HOST}:{port}", child
    finally:
        child.stop(limit_s=STOP_LIMIT_S)


def fill(properties: Path, template: str, **values: object) -> None:
    """Write a node's properties from a template of this project."""
    properties.write_text((HERE / template).read_text().format(**values))


def new_cluster_id() -> str:
    """Return an id that all nodes of a cluster are formatted with."""
    return _run([*_java(), "kafka.tools.StorageTool", "random-uuid"], FORMAT_LIMIT_S).split()[-1]


def format_storage(properties: Path, cluster_id: str, *options: str) -> None:
    """Prepare the data folder of a node; ``options`` are those of the storage tool."""
    format_ = ["kafka.tools.StorageTool", "format", "-t", cluster_id, "-c", str(properties)]
    _run([*_java(), *format_, *options], FORMAT_LIMIT_S)


def start_node(properties: Path) -> Child:
    """Start a node; it answers some seconds later."""
    log4j = f"-Dlog4j2.configurationFile={HERE / 'log4j2.yaml'}"
    return Child([*_java(), *JVM, log4j, "kafka.Kafka", str(properties)])


def _java() -> list[str]:
    return ["java", "-cp", f"{_jars()}/*"]


def _jars() -> Path:
    """Return the folder of jars; it appears under its name only when it is complete."""
    jars = CACHE / "libs"
    if jars.exists():
        return jars
    partial = CACHE / f"libs.{os.getpid()}"
    try:
        copy = ["mvn", "-q", "-B", "-f", str(HERE / "pom.xml"), "dependency:copy-dependencies"]
        options = [f"-DoutputDirectory={partial}", "-DincludeScope=runtime"]
        _run([*copy, *options], DOWNLOAD_LIMIT_S)
        if not jars.exists():
            partial.rename(jars)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return jars


def _run(command: list[str], limit_s: float) -> str:
    """Return what the command prints; a failure says what it printed."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=limit_s, check=True, cwd=HERE
        )
    except FileNotFoundError as exc:
        raise BrokerUnreachableError(
            f"{command[0]} is not installed: Kafka needs Java 17 and Maven"
        ) from exc
    except subprocess.CalledProcessError as exc:
        raise BrokerUnreachableError(f"{command[:4]} failed: {exc.stdout}{exc.stderr}") from exc
    return done.stdout
