"""The roles' processes: how they start."""

import logging
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from headrace.streams import logs, roles
from headrace.streams.errors import StoreError, StreamsError, UnreadableError
from headrace.streams.guards import EXIT_FAILED, EXIT_UNAVAILABLE
from headrace.streams.kafka.broker import free_port
from headrace.streams.settings import Settings
from headrace.streams.up import NEVER_AGAIN


@pytest.mark.parametrize("run", [roles.run_adapt, roles.run_learn])
def test_role_without_a_broker_names_the_address_and_may_be_started_again(
    run: Callable[[Settings], None], caplog: pytest.LogCaptureFixture
) -> None:
    address = f"127.0.0.1:{free_port()}"
    with caplog.at_level(logging.ERROR), pytest.raises(SystemExit) as ended:
        run(Settings(bootstrap=address))
    assert ended.value.code == EXIT_UNAVAILABLE
    assert EXIT_UNAVAILABLE not in NEVER_AGAIN
    assert f"no broker answers at {address}: start one with `headrace broker`" in caplog.text


def test_a_broker_that_is_gone_when_the_versions_are_read_is_no_reason_to_give_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roles, "require_access", lambda *_: None)  # it had been there until then
    settings = Settings(bootstrap=f"127.0.0.1:{free_port()}", data_dir=tmp_path, learn_port=0)
    with pytest.raises(SystemExit) as ended:
        roles.run_learn(settings)
    assert ended.value.code == EXIT_UNAVAILABLE


@pytest.mark.parametrize("error", [StoreError, UnreadableError])
def test_a_store_that_is_away_for_a_while_is_no_reason_to_give_up(
    error: type[StreamsError],
) -> None:
    with pytest.raises(SystemExit) as ended, roles.ended_when_away():
        raise error("503")
    assert ended.value.code == EXIT_FAILED
    assert EXIT_FAILED not in NEVER_AGAIN


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_role_ends_at_once_when_it_is_told_to_while_it_starts(number: signal.Signals) -> None:
    program = "with as_process('learn'):\n    print('starting', flush=True)\n    time.sleep(600)"
    with role_process(program) as role:
        assert role.stdout is not None
        role.stdout.readline()
        role.send_signal(number)
        assert role.wait(120) == 0


def test_a_role_hears_that_it_is_to_end_while_its_processes_meet() -> None:
    program = (
        "from headrace.streams.learn.processes import _join; import tempfile\n"
        "with as_process('learn'), tempfile.NamedTemporaryFile() as file:\n"
        "    print('meeting', flush=True)\n"
        "    _join(0, 2, file.name, limit_s=600)"  # nobody comes
    )
    with role_process(program) as role:
        assert role.stdout is not None
        role.stdout.readline()
        time.sleep(1)  # until it waits in C++, which tells nobody that it does
        role.send_signal(signal.SIGTERM)
        assert role.wait(120) == 0


def test_a_role_that_has_stopped_does_not_wait_for_a_thread_that_has_not() -> None:
    program = (
        "with as_process('adapt'):\n    threading.Thread(target=time.sleep, args=[600]).start()"
    )
    with role_process(program) as role:
        assert role.wait(120) == 0


def role_process(program: str) -> subprocess.Popen[str]:
    """Start a process that calls itself a role; an end is no pytest's."""
    imports = "import threading, time; from headrace.streams.roles import as_process\n"
    return subprocess.Popen(
        [sys.executable, "-c", imports + program], stdout=subprocess.PIPE, text=True
    )


def test_what_the_kafka_clients_repeat_is_told_once_in_a_while_and_what_we_say_always(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seldom = logs.Seldom()

    def is_told(name: str, text: str, *, at_s: float) -> bool:
        monkeypatch.setattr(logs, "time", SimpleNamespace(monotonic=lambda: at_s))
        return seldom.filter(logging.LogRecord(name, logging.ERROR, "", 0, text, None, None))

    assert is_told("aiokafka.conn", "no %s", at_s=0)
    assert not is_told("aiokafka.conn", "no %s", at_s=1)
    assert is_told("aiokafka.conn", "another", at_s=1)
    assert is_told("kafka.conn", "no %s", at_s=1)
    assert [is_told("headrace.streams.process", "ended", at_s=2) for _ in range(2)] == [True] * 2
    assert is_told("aiokafka.conn", "no %s", at_s=logs.SELDOM_S)
    for number in range(2 * logs.MOST_MESSAGES):
        assert is_told("aiokafka.conn", f"{number}", at_s=3)
    assert len(seldom._told_s) <= logs.MOST_MESSAGES
