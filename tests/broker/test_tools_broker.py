"""The embedded broker's life: ready when entered, gone when left, whoever dies."""

import os
import select
import signal
import subprocess
import sys
from contextlib import suppress

import pytest

from headrace.streams.errors import BrokerRefusedError, BrokerUnreachableError, SettingsError
from headrace.streams.kafka.access import grant
from headrace.streams.kafka.broker import EmbeddedBroker, free_port
from headrace.streams.kafka.clients import admin
from headrace.streams.settings import Settings

LIMIT_S = 30

HOLDER = """
from headrace.streams.kafka.access import grant
from headrace.streams.kafka.broker import EmbeddedBroker
import sys
with EmbeddedBroker() as broker:
    print(broker.child.pid, flush=True)
    sys.stdin.read()
"""

# In a process of its own: a client whose broker is gone leaves its sockets to the end of it.
PUBLISHER = """
import os, signal
from headrace.streams.kafka import clients
from headrace.streams.kafka.broker import EmbeddedBroker
from headrace.streams.errors import BrokerUnreachableError
from headrace.streams.tools.produce import publish_events
from headrace.streams.settings import Settings
from headrace.streams.kafka.topics import create_topics
from headrace.streams.records import Event

def events(broker):
    for number in range(100_000):
        if number == 1_000:
            os.kill(broker.child.pid, signal.SIGKILL)
        yield Event(user=f"u{number}", item="tea", time_ms=0)

clients.SEND_LIMIT_S, clients.CLOSE_LIMIT_S = 3.0, 1.0
with EmbeddedBroker() as broker:
    settings = broker.settings(Settings())
    create_topics(settings)
    try:
        publish_events(settings, events(broker))
    except BrokerUnreachableError as exc:
        print(exc)
"""


def test_broker_answers_when_entered_and_is_gone_when_left() -> None:
    with EmbeddedBroker() as broker:
        with admin(Settings(bootstrap=broker.bootstrap)) as client:
            assert client.list_topics() == []
        assert "listening on" in broker.child.log_tail()
    assert broker.child.poll() == 0


def test_rights_on_it_are_refused_at_once() -> None:
    with EmbeddedBroker() as broker:
        settings = Settings(bootstrap=broker.bootstrap)
        with pytest.raises(BrokerRefusedError, match="is the embedded one"):
            grant(settings, {"reader": "User:web"})


def test_a_publisher_whose_broker_goes_away_ends() -> None:
    command = [sys.executable, "-c", PUBLISHER]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "failed" in done.stdout


def test_taken_port_is_an_error_that_names_it() -> None:
    with EmbeddedBroker() as broker, pytest.raises(SettingsError, match=str(broker.port)):
        EmbeddedBroker(broker.port).__enter__()


def test_missing_binary_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALF_TANSU_BIN", "/nonexistent")
    with pytest.raises(BrokerUnreachableError, match="run Apache Kafka"):
        EmbeddedBroker().__enter__()


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM])
def test_broker_ends_with_a_parent_that_is_killed(ending: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        broker = os.pidfd_open(int(parent.stdout.readline()))
        try:
            parent.send_signal(ending)
            # A pid descriptor becomes readable when its process has ended.
            assert select.select([broker], [], [], LIMIT_S)[0] == [broker]
        finally:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(broker, signal.SIGKILL)
            os.close(broker)


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_broker_command_serves_until_it_is_told_to_end(ending: signal.Signals) -> None:
    command = [sys.executable, "-m", "headrace.streams", "broker", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as broker:
        assert broker.stdout is not None
        try:
            address = broker.stdout.readline().split()[3].rstrip(";")
            assert broker.stdout.readline() == f"next: headrace topics --bootstrap {address}\n"
            with admin(Settings(bootstrap=address)) as client:
                assert client.list_topics() == []
            broker.send_signal(ending)
            assert broker.wait(LIMIT_S) == 0
        finally:
            broker.kill()
    port = int(address.split(":")[1])
    assert free_port(port) == port  # nothing listens there any more


def test_broker_that_ends_by_itself_is_an_error() -> None:
    with EmbeddedBroker() as broker:
        os.kill(broker.child.pid, signal.SIGKILL)
        with pytest.raises(BrokerUnreachableError, match="ended by itself: tansu"):
            broker.serve()
