"""Both roles on one machine, each process started again when it fails."""

import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count, islice

from headrace.streams.child import Child
from headrace.streams.errors import RoleFailedError
from headrace.streams.guards import EXIT_REFUSED, EXIT_WRONG
from headrace.streams.kafka.security import SECRETS
from headrace.streams.logs import start_logging
from headrace.streams.settings import PREFIX, Settings, changed

logger = logging.getLogger(__name__)

ROLES = ("learn", "adapt")
STOP_LIMIT_S = 30.0  # the learn role writes a last version
POLL_S = 0.2
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0  # before a failed role is started again
STEADY_S = 60.0  # a role that ran for longer failed for a new reason: back to the first pause
# Wrong settings and passwords do not mend by themselves; but brokers that took ours until now may
# refuse them for a moment, as they do while they start.
NEVER_AGAIN = (EXIT_WRONG, EXIT_REFUSED)


@dataclass(slots=True)
class _Running:
    child: Child
    started_s: float
    pause_s: float
    due_s: float | None = None  # once it has ended: when it is started again


class Roles:
    """Runs both roles for the length of a ``with`` block, adapt in so many workers."""

    def __init__(self, settings: Settings, *, n_workers: int = 1, is_quiet: bool = False) -> None:
        self._settings = {"learn": settings} | workers_of(settings, n_workers)
        self._is_quiet = is_quiet
        self._running: dict[str, _Running] = {}
        self._was_trusted = False  # by the brokers, for long enough to serve

    def __enter__(self) -> "Roles":
        """Start both roles; they are ready some seconds later."""
        for name in self._settings:
            self._run(name)
        return self

    def __exit__(self, *_: object) -> None:
        """Stop both roles, side by side, and wait until they are gone."""
        for running in self._running.values():
            running.child.hang_up()
        for running in self._running.values():
            running.child.stop(limit_s=STOP_LIMIT_S)

    def _start(self, name: str) -> Child:
        command = [sys.executable, "-m", "headrace.streams", name.partition("-")[0]]
        environment = child_environment(self._settings[name])
        return Child(command, env=environment, is_quiet=self._is_quiet)

    def _run(self, name: str, pause_s: float = FIRST_PAUSE_S) -> None:
        child = self._start(name)
        logger.info("%s runs as process %d", name, child.pid)  # which its log lines are told by
        self._running[name] = _Running(child, time.monotonic(), pause_s)

    def tend(self) -> None:
        """Start a role again that has ended, once its pause is over; called now and then.

        Raises:
            RoleFailedError: a role ended for a reason that starting it again cannot mend.
        """
        for name, running in self._running.items():
            now_s = time.monotonic()
            if running.due_s is None:
                status = running.child.poll()
                if status is None:
                    continue
                ran_s = now_s - running.started_s
                self._was_trusted |= ran_s > STEADY_S
                if status in NEVER_AGAIN and not (status == EXIT_REFUSED and self._was_trusted):
                    why = running.child.log_tail() or "its last line above says why"
                    raise RoleFailedError(f"{name} cannot run: {why}")
                if ran_s > STEADY_S:
                    running.pause_s = FIRST_PAUSE_S
                running.due_s = now_s + running.pause_s
                logger.warning(
                    "%s ended with %d; starting it again in %.0f s", name, status, running.pause_s
                )
                running.child.stop(limit_s=STOP_LIMIT_S)  # it has ended: frees its log and its pipe
            if now_s >= running.due_s:
                self._run(name, min(2 * running.pause_s, LONGEST_PAUSE_S))

    def log_tail(self, name: str) -> str:
        """Return the last lines a quiet process logged."""
        return self._running[name].child.log_tail()


def workers_of(settings: Settings, n: int) -> dict[str, Settings]:
    """Return the settings of each adapt worker of this machine, by the worker's name.

    Each has a port of its own, from ``adapt_port`` on without ``learn_port``, and a name of its own
    in the group where it has one.

    Raises:
        SettingsError: there are not so many ports, or the name is too long for a number behind it.
    """
    if n == 1:
        return {"adapt": settings}
    first, member = settings.adapt_port, settings.group_instance_id
    free = (port for port in count(first) if port != settings.learn_port)
    ports = islice(free, n) if first else [0] * n
    return {
        f"adapt-{number}": changed(
            settings, adapt_port=port, group_instance_id=member and f"{member}-{number}"
        )
        for number, port in enumerate(ports, 1)
    }


def environment_of(settings: Settings) -> Mapping[str, str]:
    """Return the environment that gives a child these settings, whatever they were read from."""
    dumped = settings.model_dump(mode="json")
    dumped |= {name: getattr(settings, name).get_secret_value() for name in SECRETS}
    return {
        f"{PREFIX}{name.upper()}": value if isinstance(value, str) else json.dumps(value)
        for name, value in dumped.items()
    }


def child_environment(settings: Settings) -> Mapping[str, str]:
    """Return our environment with these settings in it."""
    return os.environ | environment_of(settings)


def up(settings: Settings, *, n_workers: int = 1) -> None:
    """Run both roles until SIGTERM or Ctrl-C."""
    start_logging(settings)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with Roles(settings, n_workers=n_workers) as roles:
        while not stop.wait(POLL_S):
            roles.tend()
