"""`/metrics` and `/health` of a role, from threads of their own: a busy event loop stays visible.

`/health/live` says whether to restart the process, `/health/ready` whether it serves. Nothing else
is there to be asked, and nothing is changed by asking. From other machines, only requests that
carry the token are answered.
"""

import errno
import hmac
import ipaddress
import logging
import re
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from socketserver import ThreadingMixIn
from typing import Any, ClassVar
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from prometheus_client import make_wsgi_app

from headrace.streams.errors import SettingsError
from headrace.streams.kafka.security import secret_of
from headrace.streams.settings import Settings

logger = logging.getLogger(__name__)

MOST_CONNECTIONS = 32  # at once: probes, and Prometheus now and then
SILENCE_LIMIT_S = 5.0  # for a client that connects and says nothing; probes give up sooner
STOP_POLL_S = 0.1  # how long ``close`` waits at most for the listener to notice
UNAUTHORIZED = "unauthorized: send the header Authorization: Bearer, with the role's http_token"
NOT_LIVE = "not live: the role has stopped working; restart it"
TOKEN_FORM = re.compile(r"[A-Za-z0-9._~+/=-]{16,}")  # RFC 6750, and too long to be guessed
NOT_READY = (
    "not ready: no model version is loaded yet, states are still being recovered, or no broker"
    " answers"
)


@dataclass(frozen=True, slots=True)
class HttpHandle:
    """A running server."""

    server: WSGIServer
    thread: threading.Thread

    @property
    def port(self) -> int:
        """The port it listens on; chosen by the system if 0 was asked for."""
        return self.server.server_port

    def close(self) -> None:
        """Stop listening and free the port."""
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def token_of(settings: Settings) -> str:
    """Return what requests must show; empty if any program of this machine is answered.

    Raises:
        SettingsError: there must be one, or it is not fit to be one.
    """
    token = secret_of(settings, "http_token")
    if not token and not _is_loopback(settings.http_host):
        raise SettingsError(
            f"http_host={settings.http_host} can be reached from other machines: set http_token or"
            " http_token_file, for instance to what `openssl rand -hex 32` prints"
        )
    if token and not TOKEN_FORM.fullmatch(token):
        raise SettingsError(
            "http_token must have 16 characters or more, of letters, digits and ._~+/=-: for"
            " instance what `openssl rand -hex 32` prints"
        )
    return token


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def serve(
    host: str,
    port: int,
    *,
    is_live: Callable[[], bool],
    is_ready: Callable[[], bool],
    token: str = "",
) -> HttpHandle:
    """Serve until the handle is closed or the process ends. The checks run in other threads.

    If there is a ``token``, who does not show it is refused.

    Raises:
        SettingsError: nothing can listen there; the text names the setting.
    """
    app = _route(is_live, is_ready)
    if token:
        app = _guard(app, token)
    try:
        server = make_server(host, port, app, server_class=_Server, handler_class=_Handler)
    except OSError as exc:
        is_port = exc.errno in (errno.EADDRINUSE, errno.EACCES)
        setting = "adapt_port or learn_port" if is_port else "http_host"
        raise SettingsError(
            f"cannot listen on {host}:{port}: {exc.strerror or exc}; set another {setting}"
        ) from exc
    thread = threading.Thread(
        target=server.serve_forever, args=(STOP_POLL_S,), name="http", daemon=True
    )
    thread.start()
    logger.info("serving /metrics and /health on %s:%d", host, server.server_port)
    return HttpHandle(server, thread)


def _route(is_live: Callable[[], bool], is_ready: Callable[[], bool]) -> WSGIApplication:
    metrics_app: WSGIApplication = make_wsgi_app()
    checks = {"/health/live": (is_live, NOT_LIVE), "/health/ready": (is_ready, NOT_READY)}

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            return metrics_app(environ, start_response)
        if path not in checks:
            return _answer(start_response, "404 Not Found", "not found")
        is_well, reason = checks[path]
        if is_well():
            return _answer(start_response, "200 OK", "ok")
        return _answer(start_response, "503 Service Unavailable", reason)

    return app


def _guard(app: WSGIApplication, token: str) -> WSGIApplication:
    """Return the application for those who show the token (RFC 6750)."""
    expected = f"Bearer {token}".encode()

    def guarded(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        shown = environ.get("HTTP_AUTHORIZATION", "").encode("latin-1")  # as WSGI decodes headers
        if hmac.compare_digest(shown, expected):  # takes the same time however much is right
            return app(environ, start_response)
        ask = ("WWW-Authenticate", "Bearer")
        return _answer(start_response, "401 Unauthorized", UNAUTHORIZED, ask)

    return guarded


def _answer(
    start_response: StartResponse, status: str, line: str, *more: tuple[str, str]
) -> list[bytes]:
    body = f"{line}\n".encode()
    about = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))]
    headers = [*about, *more]
    start_response(status, headers)
    return [body]


class _Server(ThreadingMixIn, WSGIServer):
    """One thread a request, so that a slow reader of metrics does not fail a probe.

    Of more connections than ``MOST_CONNECTIONS`` the oldest gives way: who dribbles bytes, for a
    token is shown last, would else take every descriptor of the role.
    """

    daemon_threads = True

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._open: deque[socket.socket] = deque()  # oldest first

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread of its own, and end the oldest connection that is one too many."""
        self._open.append(request)
        if len(self._open) > MOST_CONNECTIONS:
            with suppress(IndexError, OSError):  # they ended meanwhile
                self._open.popleft().shutdown(socket.SHUT_RDWR)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection that was answered, or ended."""
        with suppress(ValueError):  # it gave way
            self._open.remove(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """Note a client that hung up or said nothing; the role is not touched by it."""
        logger.debug("dropped a request of %s", client_address, exc_info=True)


class _Handler(WSGIRequestHandler):
    timeout: ClassVar[float] = SILENCE_LIMIT_S

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's name
        """Leave requests out of the log: there is one every few seconds."""
