"""One schedule, played: roles, a publisher and faults, then quiet; and a run without faults."""

import heapq
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from announcer import Announcer
from cluster import Cluster
from confluent_kafka import Producer
from ledger import Ledger
from network import Network
from schedule import ADAPT, JOINER, LEARN, NODES, SESSION_S, Fault
from supervisor import Deployment
from topics_read import ends_of, read_all
from verdict import is_drained, lags

from headrace.streams.kafka.topics import create_topics
from headrace.streams.settings import Settings

EVENTS_PER_S = 50  # a busy machine keeps up with it, and is at the end soon after
N_FIRST = 100
TICK_S = 0.1
READY_LIMIT_S = 240.0  # compiling, once after a change, beside others on a busy machine
DRAIN_LIMIT_S = 300.0  # two watchdogs (a rebalance that hangs ends after a minute), and starts
DRAINED_POLL_S = 1.0
COPY_LIMIT_S = 60.0
ROLES = (*ADAPT, JOINER, LEARN)

Action = tuple[float, int, Callable[[], None]]  # when, a number that breaks ties, what


def small_settings(bootstrap: str, name: str, store: Path) -> Settings:
    """Return the settings of a deployment with a small model, and versions every two seconds."""
    return Settings(
        bootstrap=bootstrap,
        topic_prefix=name,
        group=name,
        replication=3,
        session_timeout_s=SESSION_S,
        model_store=str(store),
        version_interval_s=2.0,
        history_length=20,  # histories are cut, too
        adapt_port=0,
        learn_port=0,
        encoder_width=8,
        encoder_length=8,
        neighbours=16,
        replay_tasks=256,
        replay_batches=0,  # rehearsal moves what nobody compares, for two thirds of the time
    )


class Play:
    """Plays a schedule against a deployment on a cluster."""

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
        self._ledger.publish(N_FIRST)
        deadline = time.monotonic() + READY_LIMIT_S
        while not self._deployment.is_serving():
            assert time.monotonic() < deadline, "the roles did not start in time"
            self._deployment.tend()
            time.sleep(TICK_S)  # a log offers nothing to wait for

    def play(self, faults: Sequence[Fault], *, seconds: float) -> None:
        """Publish at a steady pace while the faults come and go, and a version during each."""
        announcer = Announcer(self._direct)
        for fault in faults:
            begin, end = self._effects(fault)
            self._at(fault.at_s, begin)
            self._at(fault.at_s + fault.lasts_s / 2, announcer.announce)
            self._at(fault.at_s + fault.lasts_s, end)
        n_before, started_s = self._ledger.n_sent, time.monotonic()
        self.began_ms = int(time.time() * 1000)
        while (now_s := time.monotonic() - started_s) < seconds or self._actions:
            while self._actions and self._actions[0][0] <= now_s:
                heapq.heappop(self._actions)[2]()
            n_due = int(min(now_s, seconds) * EVENTS_PER_S) + n_before - self._ledger.n_sent
            self._ledger.publish(n_due)
            announcer.tend()
            self._deployment.tend()
            self._cluster.tend()
            time.sleep(TICK_S)  # the pace of the publisher and of the supervisor
        self._cluster.mend()
        announcer.close()
        self._ledger.flush()

    def drain(self, *others: tuple[Settings, Deployment]) -> None:
        """Let everything recover, wait until every event is committed by both roles, and stop."""
        runs = ((self._direct, self._deployment), *others)
        deadline = time.monotonic() + DRAIN_LIMIT_S
        while not all(is_drained(direct) for direct, _ in runs):
            if time.monotonic() > deadline:
                raise AssertionError(f"not drained in time: {[lags(direct) for direct, _ in runs]}")
            for _, deployment in runs:
                deployment.tend()
            time.sleep(DRAINED_POLL_S)  # committed offsets offer nothing to wait for
        for _, deployment in runs:
            deployment.stop()

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


def copy_events(settings: Settings, other: Settings) -> None:
    """Let a deployment have the same events at the same offsets."""
    create_topics(other)
    producer = Producer({"bootstrap.servers": other.bootstrap, "enable.idempotence": True})
    for record in read_all(settings, settings.topic("events")):
        producer.produce(
            other.topic("events"),
            partition=record.partition(),
            key=record.key(),
            value=record.value(),
            timestamp=record.timestamp()[1],
        )
        producer.poll(0)
    left = producer.flush(COPY_LIMIT_S)
    assert not left, f"{left} events were not copied"
    assert ends_of(settings) == ends_of(other)
