"""Both roles as children: their settings, and what happens when one ends."""

import logging
import os
import sys
from pathlib import Path
from signal import SIGTERM
from types import SimpleNamespace

import pytest

from headrace.streams import up
from headrace.streams.child import Child
from headrace.streams.errors import RoleFailedError, SettingsError
from headrace.streams.guards import EXIT_WRONG
from headrace.streams.settings import Settings, load
from headrace.streams.up import (
    FIRST_PAUSE_S,
    NEVER_AGAIN,
    ROLES,
    STEADY_S,
    Roles,
    environment_of,
    workers_of,
)

LIMIT_S = 30.0


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith("HEADRACE_"):
            monkeypatch.delenv(name)


@pytest.mark.parametrize(
    "settings",
    [
        Settings(),
        Settings(
            bootstrap="one:9092,two:9092",
            micro_batch_wait_s=0.125,
            leave_out={"purchase": 3, "click": -1},
            data_dir=Path("some where/data"),
            meta_learning="reptile",
            compression="zstd",
            log_level="debug",
            security_protocol="SASL_SSL",
            ssl_ca_file="ca.crt",
            sasl_username="me",
            sasl_password="secret",
            http_token_file="token",
        ),
    ],
)
def test_the_environment_gives_a_child_the_same_settings(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment_of(settings).items():
        monkeypatch.setenv(name, value)
    assert load() == settings


class Programs(Roles):
    """Runs small programs in place of the roles, and keeps the children."""

    def __init__(self, program: str, *, n_workers: int = 1) -> None:
        super().__init__(Settings(), n_workers=n_workers, is_quiet=True)
        self.started: list[tuple[str, Child]] = []
        self._program = program

    def _start(self, name: str) -> Child:
        child = Child([sys.executable, "-c", self._program], env=os.environ)
        self.started.append((name, child))
        return child

    def names(self) -> list[str]:
        """Return what was started, in order."""
        return [name for name, _ in self.started]


def test_both_roles_run_for_the_length_of_the_block() -> None:
    with Programs("import time; time.sleep(60)") as roles:
        roles.tend()
        assert roles.names() == list(ROLES)
        assert [child.poll() for _, child in roles.started] == [None, None]
    assert [child.poll() for _, child in roles.started] == [-SIGTERM, -SIGTERM]


class Clock:
    """Stands for the time module, and lets nobody sleep."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 100.0
        monkeypatch.setattr(up, "time", SimpleNamespace(monotonic=lambda: self.now_s))


def test_a_role_that_failed_is_started_again_after_a_pause_that_nobody_else_waits_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(monkeypatch)
    with Programs("raise SystemExit(1)") as roles:
        for n, pause_s in enumerate((FIRST_PAUSE_S, 2 * FIRST_PAUSE_S), 1):
            for _, child in roles.started:
                assert child.wait(LIMIT_S) == 1
            roles.tend()
            clock.now_s += pause_s / 2
            roles.tend()
            assert roles.names() == [*ROLES] * n
            clock.now_s += pause_s / 2
            roles.tend()
            assert roles.names() == [*ROLES] * (n + 1)


@pytest.mark.parametrize("status", NEVER_AGAIN)
def test_a_role_with_wrong_settings_is_not_started_again_and_its_last_words_are_shown(
    status: int,
) -> None:
    with Programs(f"print('bad setting'); raise SystemExit({status})") as roles:
        for _, child in roles.started:
            child.wait(LIMIT_S)
        with pytest.raises(RoleFailedError, match="learn cannot run: bad setting"):
            roles.tend()
        assert roles.names() == list(ROLES)


@pytest.mark.parametrize("status", NEVER_AGAIN)
def test_brokers_that_took_us_until_now_may_refuse_us_for_a_moment(
    status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    with Programs(f"raise SystemExit({status})") as roles:
        for _, child in roles.started:
            child.wait(LIMIT_S)
        clock.now_s += STEADY_S + 1
        if status == EXIT_WRONG:
            with pytest.raises(RoleFailedError):
                roles.tend()
            return
        for n in (2, 3):  # the second time soon after it began
            roles.tend()
            clock.now_s += 2 * FIRST_PAUSE_S
            roles.tend()
            assert roles.names() == [*ROLES] * n
            for _, child in roles.started:
                child.wait(LIMIT_S)


def test_a_role_whose_log_is_not_kept_has_said_why_above() -> None:
    with Programs("raise SystemExit(2)") as roles:  # its output is empty, as where it is not kept
        roles.started[0][1].wait(LIMIT_S)
        with pytest.raises(RoleFailedError, match="learn cannot run: its last line above says why"):
            roles.tend()


def test_workers_have_ports_and_names_of_their_own() -> None:
    settings = Settings(adapt_port=8600, learn_port=8602, group_instance_id="a")
    workers = workers_of(settings, 3)
    assert list(workers) == ["adapt-1", "adapt-2", "adapt-3"]
    assert [one.adapt_port for one in workers.values()] == [8600, 8601, 8603]
    assert [one.group_instance_id for one in workers.values()] == ["a-1", "a-2", "a-3"]
    any_port = workers_of(Settings(adapt_port=0), 2).values()
    assert [(one.adapt_port, one.group_instance_id) for one in any_port] == [(0, ""), (0, "")]
    assert workers_of(settings, 1) == {"adapt": settings}


@pytest.mark.parametrize(
    ("name", "value", "refused"),
    [("adapt_port", 65_535, "65536"), ("group_instance_id", "a" * 248, f"'{'a' * 248}-1'")],
)
def test_a_worker_whose_settings_would_be_refused_is_not_begun_with(
    name: str, value: object, refused: str
) -> None:
    settings = load({name: value})
    with pytest.raises(SettingsError, match=f"{name}={refused}"):
        workers_of(settings, 2)


def test_each_worker_runs_and_is_started_again_and_its_process_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock(monkeypatch)
    caplog.set_level(logging.INFO, up.logger.name)
    with Programs("import time; time.sleep(60)", n_workers=2) as roles:
        assert roles.names() == ["learn", "adapt-1", "adapt-2"]
        roles.started[-1][1].stop(limit_s=LIMIT_S)
        roles.tend()
        clock.now_s += FIRST_PAUSE_S
        roles.tend()
        assert roles.names()[3:] == ["adapt-2"]
        for name, child in roles.started:
            assert f"{name} runs as process {child.pid}" in caplog.messages
