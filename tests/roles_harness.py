"""Both real roles as processes, for the tests that need them at work."""

import os
import random
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

from headrace.streams.child import Child
from headrace.streams.kafka.broker import free_ports
from headrace.streams.kafka.topics import create_topics
from headrace.streams.records import Event
from headrace.streams.settings import PREFIX, Settings
from headrace.streams.tools.produce import publish_events
from headrace.streams.tools.scrape import Scrape, scrape
from headrace.streams.up import environment_of

START_LIMIT_S = 120.0  # importing the tensor library and compiling the loops, on a busy machine
STOP_LIMIT_S = 40.0
WAIT_LIMIT_S = 90.0
POLL_S = 0.2
SMALL = {"encoder_width": 8, "encoder_length": 8, "neighbours": 16, "replay_tasks": 256}
SMALL |= {"pause_limit_s": 30.0}  # a busy machine is no pause; the guard has tests of its own


def small_deployment(settings: Settings, **changes: object) -> Settings:
    """Create the topics of a deployment with a small model and ports of its own."""
    ports = dict(zip(("adapt_port", "learn_port"), free_ports(2), strict=True))
    settings = settings.model_copy(update=SMALL | ports | changes)
    create_topics(settings)
    return settings


class RoleProcess:
    """One role as its users start it, of the release in ``environment`` (else this one)."""

    def __init__(
        self, settings: Settings, role: str, *, environment: Mapping[str, str] = os.environ
    ) -> None:
        set_here = environment_of(settings).items()
        named = {f"{PREFIX}{field.upper()}" for field in settings.model_fields_set}
        self._environment = {**environment, **{k: v for k, v in set_here if k in named}}
        self.role = role
        self.port = settings.adapt_port if role == "adapt" else settings.learn_port
        self.child = self._start()

    def _start(self) -> Child:
        command = [sys.executable, "-m", "headrace.streams", self.role]
        return Child(command, env=self._environment)

    def kill(self) -> None:
        """End it as a power failure would."""
        os.kill(self.child.pid, signal.SIGKILL)
        self.child.stop(limit_s=STOP_LIMIT_S)

    def kill_and_restart(self) -> None:
        """End it as a power failure would, and start it again."""
        self.kill()
        self.start_again()

    def start_again(self) -> None:
        """Start it once it has ended."""
        self.child.stop(limit_s=STOP_LIMIT_S)
        self.child = self._start()

    def metrics(self) -> Scrape:
        """Return its metrics now."""
        return scrape(self.port)

    def until(
        self, is_met: Callable[[Scrape], bool], what: str, *, limit_s: float = WAIT_LIMIT_S
    ) -> None:
        """Wait until its metrics meet a condition."""
        deadline = time.monotonic() + limit_s
        while not is_met(self.metrics()):
            assert self.child.poll() is None, f"{self.role} ended: {self.child.log_tail()}"
            assert time.monotonic() < deadline, f"not in time: {what}\n{self.child.log_tail()}"
            time.sleep(POLL_S)  # HTTP offers nothing to wait for

    def health(self, check: str) -> int:
        """Return the status of ``/health/live`` or ``/health/ready``."""
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{self.port}/health/{check}", timeout=POLL_S * 10
            ) as answer:
                status: int = answer.status
        except urllib.error.HTTPError as refusal:
            with refusal:
                status = refusal.code
        return status

    def stop(self) -> int:
        """Ask it to end and return its exit status."""
        return self.child.stop(limit_s=STOP_LIMIT_S)


@contextmanager
def roles(
    settings: Settings, *names: str, environment: Mapping[str, str] = os.environ
) -> Iterator[list[RoleProcess]]:
    """Run roles, ready, for the length of a ``with`` block; a failure shows what they logged."""
    with ExitStack() as stack:
        processes = []
        for name in names:
            process = RoleProcess(settings, name, environment=environment)
            stack.callback(lambda p=process: p.child.stop(limit_s=STOP_LIMIT_S))
            processes.append(process)
        for process in processes:
            process.until(lambda m: m.get("ready") == 1, "ready", limit_s=START_LIMIT_S)
        try:
            yield processes
        except BaseException:
            for process in processes:
                print(f"{process.role} ({process.child.poll()}):\n{process.child.log_tail()}")
            raise


def shoppers(n_events: int, *, n_users: int = 30, seed: int = 0) -> list[Event]:
    """Return events of users who mostly go round a ring of items, each from their own place."""
    draw = random.Random(seed)
    place = {f"user-{i}": draw.randrange(40) for i in range(n_users)}
    events = []
    for number in range(n_events):
        user = draw.choice(sorted(place))
        place[user] = (place[user] + (1 if draw.random() < 0.8 else draw.randrange(40))) % 40
        events.append(
            Event(
                user=user,
                item=f"item-{place[user]}",
                action=draw.choice(["click", "purchase"]),
                time_ms=1_700_000_000_000 + 1000 * number,
            )
        )
    return events


def publish(settings: Settings, events: list[Event]) -> None:
    """Publish events at once."""
    publish_events(settings, events)
