"""Rules of the roles' HTTP server: what it answers, to whom, and when."""

import asyncio
import ipaddress
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest

from headrace.streams import metrics
from headrace.streams.errors import SettingsError
from headrace.streams.http import (
    MOST_CONNECTIONS,
    NOT_LIVE,
    NOT_READY,
    UNAUTHORIZED,
    HttpHandle,
    serve,
    token_of,
)
from headrace.streams.settings import Settings

LIMIT_S = 10
TOKEN = "0123456789abcdef0123456789abcdef"


class Role:
    """What a role tells about itself; a test changes it."""

    def __init__(self) -> None:
        self.live = True
        self.ready = True

    def is_live(self) -> bool:
        return self.live

    def is_ready(self) -> bool:
        return self.ready


@pytest.fixture
def role() -> Role:
    return Role()


@pytest.fixture
def handle(role: Role) -> Iterator[HttpHandle]:
    with closing(serve("127.0.0.1", 0, is_live=role.is_live, is_ready=role.is_ready)) as running:
        yield running


def get(handle: HttpHandle, path: str, **headers: str) -> tuple[int, str]:
    url = f"http://127.0.0.1:{handle.port}{path}"
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=LIMIT_S) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.code, refusal.read().decode()


@pytest.mark.parametrize("path", ["/health/live", "/health/ready"])
def test_a_well_role_answers_200(handle: HttpHandle, path: str) -> None:
    assert get(handle, path) == (200, "ok\n")


def test_a_role_that_is_not_ready_is_still_live(handle: HttpHandle, role: Role) -> None:
    role.ready = False
    assert get(handle, "/health/ready") == (503, f"{NOT_READY}\n")
    assert get(handle, "/health/live")[0] == 200
    role.ready = True
    assert get(handle, "/health/ready")[0] == 200


def test_a_role_that_is_not_live_says_so_in_one_line(handle: HttpHandle, role: Role) -> None:
    role.live = False
    assert get(handle, "/health/live") == (503, f"{NOT_LIVE}\n")
    assert NOT_LIVE.count("\n") == NOT_READY.count("\n") == 0


def test_a_check_that_fails_is_no_sign_of_health() -> None:
    def broken() -> bool:
        raise RuntimeError("the check itself broke")

    with closing(serve("127.0.0.1", 0, is_live=broken, is_ready=broken)) as handle:
        assert get(handle, "/health/live")[0] == 500


def test_metrics_are_the_registry_now(handle: HttpHandle) -> None:
    metrics.DEAD_LETTERS.labels("test_http").inc(3)
    status, text = get(handle, "/metrics")
    metrics.DEAD_LETTERS.remove("test_http")
    assert status == 200
    assert 'headrace_dead_letters_total{reason="test_http"} 3.0' in text


@pytest.mark.parametrize("path", ["/", "/health", "/health/", "/metrics/", "/metrics/x", "/%2e%2e"])
def test_nothing_else_is_served(handle: HttpHandle, path: str) -> None:
    assert get(handle, path) == (404, "not found\n")


@pytest.mark.parametrize("path", ["/metrics", "/health/live", "/health/ready", "/", "/x"])
def test_with_a_token_nobody_else_is_answered(role: Role, path: str) -> None:
    wrong = ["", "Bearer", f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}x", f"Basic {TOKEN}", TOKEN, "é"]
    with closing(
        serve("127.0.0.1", 0, is_live=role.is_live, is_ready=role.is_ready, token=TOKEN)
    ) as handle:
        assert get(handle, path) == (401, f"{UNAUTHORIZED}\n")
        for shown in wrong:
            status, text = get(handle, path, Authorization=shown)
            assert (status, text) == (401, f"{UNAUTHORIZED}\n")
        assert get(handle, path, Authorization=f"Bearer {TOKEN}")[0] in (200, 404)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost", "::1"])
def test_this_machine_needs_no_token(host: str) -> None:
    assert token_of(Settings(http_host=host)) == ""


@pytest.mark.parametrize("host", ["0.0.0.0", "", "::", "192.0.2.1", "shop.example"])
def test_what_can_be_reached_from_elsewhere_needs_a_token(host: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="set http_token or http_token_file"):
        token_of(Settings(http_host=host))
    assert token_of(Settings(http_host=host, http_token=TOKEN)) == TOKEN
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    assert token_of(Settings(http_host=host, http_token_file=str(tmp_path / "token"))) == TOKEN


@pytest.mark.parametrize(
    "token", ["short", "x" * 15, "a token with spaces", "späte-schlüssel-für-x"]
)
def test_a_token_that_could_be_guessed_or_not_be_sent_is_refused(token: str) -> None:
    with pytest.raises(SettingsError, match="16 characters or more") as refusal:
        token_of(Settings(http_token=token))
    assert token not in str(refusal.value)


def test_it_answers_while_the_event_loop_is_busy(handle: HttpHandle) -> None:
    async def hold_the_loop_until_answered() -> tuple[int, str]:
        return get(handle, "/health/live")  # no await: the loop can do nothing meanwhile

    assert asyncio.run(hold_the_loop_until_answered())[0] == 200


def test_of_too_many_connections_the_oldest_give_way(handle: HttpHandle) -> None:
    with ExitStack() as stack:
        clients = []
        for _ in range(2 * MOST_CONNECTIONS):
            client = socket.create_connection(("127.0.0.1", handle.port), LIMIT_S)
            clients.append(stack.enter_context(client))
            client.sendall(b"GET /metrics HTTP/1.1\r\nX: ")  # and so on, before any token
        assert get(handle, "/health/live") == (200, "ok\n")
        for client in clients[: MOST_CONNECTIONS + 1]:
            with suppress(ConnectionResetError):
                assert client.recv(1) == b""
        clients[-1].sendall(b"y\r\n\r\n")
        assert clients[-1].recv(15) == b"HTTP/1.0 200 OK"


def test_a_silent_client_does_not_keep_others_waiting(handle: HttpHandle) -> None:
    with socket.create_connection(("127.0.0.1", handle.port), timeout=LIMIT_S):
        assert get(handle, "/health/live")[0] == 200


def test_the_default_address_is_this_machine_only() -> None:
    assert ipaddress.ip_address(Settings.model_fields["http_host"].default).is_loopback


def test_it_listens_on_the_given_address_only(handle: HttpHandle) -> None:
    # 127.0.0.2 is this machine too: a server on all addresses would answer there.
    with pytest.raises(OSError, match=r".+"):
        socket.create_connection(("127.0.0.2", handle.port), timeout=LIMIT_S).close()


def test_a_taken_port_names_the_setting(handle: HttpHandle, role: Role) -> None:
    with pytest.raises(SettingsError, match=rf"127\.0\.0\.1:{handle.port}: .+ adapt_port or learn"):
        serve("127.0.0.1", handle.port, is_live=role.is_live, is_ready=role.is_ready)


def test_an_address_of_another_machine_names_the_setting(role: Role) -> None:
    # 192.0.2.0/24 is set aside for examples: no machine has such an address.
    with pytest.raises(SettingsError, match="http_host"):
        serve("192.0.2.1", 0, is_live=role.is_live, is_ready=role.is_ready)


def test_closing_frees_the_port(role: Role) -> None:
    first = serve("127.0.0.1", 0, is_live=role.is_live, is_ready=role.is_ready)
    port = first.port
    first.close()
    assert not first.thread.is_alive()
    serve("127.0.0.1", port, is_live=role.is_live, is_ready=role.is_ready).close()
