"""A real broker for every test in this folder: started here, never looked for, never skipped."""

import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from apache_kafka import apache_kafka
from roles_harness import SMALL
from secure_kafka import NOBODY, As, SecureKafka, secure_kafka

from headrace.streams.child import Child
from headrace.streams.kafka.access import TOPICS, grant
from headrace.streams.kafka.broker import EmbeddedBroker, free_ports
from headrace.streams.kafka.topics import create_topics
from headrace.streams.settings import Settings

BROKER = pytest.StashKey[Child]()
KAFKA_DATA = pytest.StashKey[Path]()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave ``test_kafka_*`` to Apache Kafka: the embedded broker has not what they are about."""
    is_kafkas = collection_path.name.startswith("test_kafka_")
    return True if is_kafkas and config.getoption("--broker") != "kafka" else None


@pytest.fixture(scope="session")
def bootstrap(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Start the broker named by ``--broker`` and yield its address, host:port."""
    with ExitStack() as stack:
        if request.config.getoption("--broker") == "kafka":
            folder = tmp_path_factory.mktemp("kafka")
            address, child = stack.enter_context(apache_kafka(folder))
            request.config.stash[KAFKA_DATA] = folder / "data"
        else:
            broker = stack.enter_context(EmbeddedBroker())
            address, child = broker.bootstrap, broker.child
        request.config.stash[BROKER] = child
        yield address


@pytest.fixture(scope="session")
def secure_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureKafka]:
    """Start a node of Apache Kafka with TLS, passwords and rights."""
    with secure_kafka(tmp_path_factory.mktemp("secure")) as node:
        yield node


@pytest.fixture
def deployed(
    secure_node: SecureKafka, topic_prefix: str, tmp_path: Path, request: pytest.FixtureRequest
) -> As:
    """Give every role its rights, let the admin create the topics, and return who is who."""
    ports = dict(zip(("adapt_port", "learn_port"), free_ports(2), strict=True))
    common = {"topic_prefix": topic_prefix, "group": topic_prefix, "data_dir": tmp_path / "data"}
    common |= SMALL | ports | {"session_timeout_s": 6}
    way = getattr(request, "param", "SCRAM-SHA-512")
    access = {role: secure_node.access(role, way) for role in (*TOPICS, NOBODY)}

    def as_role(role: str) -> Settings:
        return Settings(**common, **access[role][1])

    operator = Settings(**common, **secure_node.with_certificate("operator"))
    grant(operator, {role: access[role][0] for role in TOPICS})
    create_topics(as_role("admin"))
    return as_role


@pytest.fixture
def kafka_data(bootstrap: str, request: pytest.FixtureRequest) -> Path:  # noqa: ARG001 - started
    """Return the folder of Apache Kafka's logs, one folder a partition in it."""
    return request.config.stash[KAFKA_DATA]


@pytest.fixture
def topic_prefix() -> str:
    """Return a prefix no other test has, so that tests share a broker and nothing else."""
    return f"test-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def settings(bootstrap: str, topic_prefix: str, tmp_path: Path) -> Settings:
    """Return settings for this test alone."""
    return Settings(
        bootstrap=bootstrap,
        topic_prefix=topic_prefix,
        group=topic_prefix,
        session_timeout_s=6,  # a fresh group waits for half of it on the embedded broker
        data_dir=tmp_path / "data",
        adapt_port=0,
        learn_port=0,
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Show what the broker said last beside a failure."""
    report = yield
    child = item.config.stash.get(BROKER, None)
    if call.excinfo is not None and child is not None:
        state = "running" if child.poll() is None else f"ended with {child.poll()}"
        report.sections.append((f"broker ({state})", child.log_tail()))
    return report
