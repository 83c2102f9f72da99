"""No password and no token is in what the roles print, serve or write, or in command lines."""

import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest
from pydantic import SecretStr
from roles_harness import POLL_S, RoleProcess, shoppers
from secure_kafka import As, SecureKafka

from headrace.streams import child
from headrace.streams.kafka.clients import outbox
from headrace.streams.settings import Settings
from headrace.streams.tools import consume
from headrace.streams.tools.produce import publish_events

pytestmark = pytest.mark.timeout(900)  # with the start of the node, on a loaded machine

TOKEN = "a-token-that-nothing-may-show"
LIMIT_S = 240.0
PATHS = ("metrics", "health/live", "health/ready", "elsewhere")


def answers(settings: Settings, port: int) -> list[tuple[int, str]]:
    """Return what a role answers at every path, without the token and with it."""
    found = []
    for path in PATHS:
        for headers in ({}, {"Authorization": f"Bearer {TOKEN}"}):
            url = f"http://{settings.http_host}:{port}/{path}"
            try:
                with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
                    found.append((answer.status, answer.read().decode()))
            except urllib.error.HTTPError as refusal:
                with refusal:
                    found.append((refusal.code, f"{refusal.headers}{refusal.read().decode()}"))
    return found


def processes(role: RoleProcess) -> list[psutil.Process]:
    process = psutil.Process(role.child.pid)
    return [process, *process.children(recursive=True)]


@pytest.mark.parametrize("deployed", ["PLAIN"], indirect=True)  # where a password travels as it is
def test_no_secret_is_printed_served_or_written(
    deployed: As, secure_node: SecureKafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "LOG_TAIL_BYTES", 100_000_000)  # all of it
    shown: list[str] = []
    told = {"http_token": SecretStr(TOKEN), "log_level": "debug"}
    names = ("learn", "adapt")
    settings = {name: deployed(name).model_copy(update=told) for name in names}
    running = [RoleProcess(settings[name], name) for name in names]
    try:
        events = shoppers(100)
        publish_events(deployed("publisher"), events)
        with outbox(deployed("publisher"), deployed("publisher").topic("events")) as box:
            box.send(key="u", value=b"no event")  # what is logged of it is no secret either
        deadline = time.monotonic() + LIMIT_S
        while len(list(consume.current_lists(deployed("reader")))) < len({e.user for e in events}):
            assert time.monotonic() < deadline, [role.child.log_tail() for role in running]
            time.sleep(POLL_S)  # a compacted topic offers nothing to wait for
        for role in running:
            served = answers(settings[role.role], role.port)
            assert [status for status, _ in served] == [401, 200, 401, 200, 401, 200, 401, 404]
            assert "headrace_events_total" in served[1][1]
            shown += [text for _, text in served]
            shown += [" ".join(process.cmdline()) for process in processes(role)]
            listening = {
                (each.laddr.ip, each.laddr.port)
                for process in processes(role)
                for each in process.net_connections("inet")
                if each.status == psutil.CONN_LISTEN
            }
            assert listening == {("127.0.0.1", role.port)}
    finally:
        logs = []
        for role in running:
            role.child.hang_up()
            role.child.wait(LIMIT_S)
            logs.append(role.child.log_tail())
            role.stop()
    assert all("INFO headrace.streams" in log for log in logs)
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert any(file.suffix == ".safetensors" for file in files)
    shown += [*logs, *(file.read_bytes().decode("latin-1") for file in files)]
    shown += [repr(each) for each in settings.values()]
    secrets = [*secure_node.passwords.values(), TOKEN]
    assert [secret for secret in secrets if any(secret in text for text in shown)] == []


def test_a_refused_password_is_not_printed(deployed: As) -> None:
    wrong = "another-secret-that-is-wrong"
    told = {"sasl_password": SecretStr(wrong), "log_level": "debug"}
    role = RoleProcess(deployed("learn").model_copy(update=told), "learn")
    role.child.wait(LIMIT_S)
    words = role.child.log_tail()
    role.stop()
    assert "ended: the broker at" in words
    assert wrong not in words
