"""One schedule, played: roles, a publisher and faults, then quiet, then a reference run."""

import heapq
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from cluster import Cluster
from confluent_kafka import Producer
from ledger import Ledger
from network import Network
from schedule import ADAPT, JOINER, LEARN, NODES, Fault
from supervisor import Deployment
from topics_read import read_all
from verdict import is_drained

from headrace.streams.settings import Settings
from headrace.streams.topics import create_topics

EVENTS_PER_S = 100
TICK_S = 0.1
READY_LIMIT_S = 240.0  # compiling, once after a change, beside others on a busy machine
DRAIN_LIMIT_S = (
    180.0  # two watchdogs (a rebalance that hangs ends after a minute), and their starts
)
DRAINED_POLL_S = 1.0
ROLES = (*ADAPT, JOINER, LEARN)

Action = tuple[float, int, Callable[[], None]]  # when, a number that breaks ties, what


class Play:
    """Plays a schedule on a cluster, for the length of a ``with`` block."""

    def __init__(
        self,
        cluster: Cluster,
        network: Network,
        deployment: Deployment,
        ledger: Ledger,
        *,
        direct: Settings,
    ) -> None:
        self._cluster, self._network = cluster, network
        self._deployment, self._ledger = deployment, ledger
        self._direct = direct
        self._filler = Path(deployment.settings.store_url) / "filler"
        self._actions: list[Action] = []
        self.began_ms = 0  # Unix

    def start(self) -> None:
        """Publish a little, and wait until all roles serve."""
        self._ledger.publish(EVENTS_PER_S)
        deadline = time.monotonic() + READY_LIMIT_S
        while not self._deployment.is_serving():
            assert time.monotonic() < deadline, "the roles did not start in time"
            self._deployment.tend()
            time.sleep(TICK_S)  # a log offers nothing to wait for

    def play(self, faults: Sequence[Fault], *, seconds: float) -> None:
        """Publish at a steady pace while the faults come and go."""
        for fault in faults:
            begin, end = self._effects(fault)
            self._at(fault.at_s, begin)
            self._at(fault.at_s + fault.lasts_s, end)
        n_before, started_s = self._ledger.n_sent, time.monotonic()
        self.began_ms = int(time.time() * 1000)
        while (now_s := time.monotonic() - started_s) < seconds or self._actions:
            while self._actions and self._actions[0][0] <= now_s:
                heapq.heappop(self._actions)[2]()
            n_due = int(min(now_s, seconds) * EVENTS_PER_S) + n_before - self._ledger.n_sent
            self._ledger.publish(n_due)
            self._deployment.tend()
            self._cluster.tend()
            time.sleep(TICK_S)  # the pace of the publisher and of the supervisor
        self._ledger.close()

    def drain(self) -> None:
        """Let everything recover, and wait until every event is committed by both roles."""
        self._cluster.mend()
        wait_until_drained(self._direct, self._deployment)
        self._deployment.stop()

    def _at(self, at_s: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._actions, (at_s, len(self._actions), action))

    def _effects(self, fault: Fault) -> tuple[Callable[[], None], Callable[[], None]]:
        """Return what begins a fault and what ends it."""
        cluster, network, target = self._cluster, self._network, fault.target
        if target in NODES:
            begin = cluster.ask_to_end if fault.kind == "restart_broker" else cluster.kill
            return lambda: begin(target), lambda: cluster.want(target)
        if fault.kind == "full_disk":
            return self._fill_disk, lambda: self._filler.unlink(missing_ok=True)
        if fault.kind == "cut":
            return lambda: network.cut(target), lambda: network.heal(target)
        role = self._deployment.roles[target]
        if fault.kind == "pause":
            return lambda: role.send(signal.SIGSTOP), lambda: role.send(signal.SIGCONT)

        def let(number: signal.Signals | None, *, is_wanted: bool) -> None:
            role.is_wanted = is_wanted
            if number is not None:
                role.send(number)

        if fault.kind == "join":
            return (
                lambda: let(None, is_wanted=True),
                lambda: let(signal.SIGTERM, is_wanted=False),
            )
        number = {"kill": signal.SIGKILL, "leave": signal.SIGTERM}[fault.kind]
        return lambda: let(number, is_wanted=False), lambda: let(None, is_wanted=True)

    def _fill_disk(self) -> None:
        with suppress(OSError), self._filler.open("wb") as filler:
            filler.write(bytes(shutil.disk_usage(self._filler.parent).free + 1))


def wait_until_drained(direct: Settings, deployment: Deployment) -> None:
    """Wait until both groups have committed all there is; failed roles are started again."""
    deadline = time.monotonic() + DRAIN_LIMIT_S
    while not is_drained(direct):
        assert time.monotonic() < deadline, "not drained in time"
        deployment.tend()
        time.sleep(DRAINED_POLL_S)  # committed offsets offer nothing to wait for


def run_reference(settings: Settings, reference: Settings, folder: Path) -> None:
    """Run both roles on a copy of the events, with nothing in their way."""
    create_topics(reference)
    producer = Producer({"bootstrap.servers": reference.bootstrap, "enable.idempotence": True})
    for record in read_all(settings, settings.topic("events")):
        producer.produce(
            reference.topic("events"),
            partition=record.partition(),
            key=record.key(),
            value=record.value(),
            timestamp=record.timestamp()[1],
        )
        producer.poll(0)
    producer.flush()
    with Deployment(reference, folder, (ADAPT[0], LEARN)) as deployment:
        wait_until_drained(reference, deployment)
        deployment.stop()
