"""The roles as a shop runs them: processes that a supervisor starts again whenever they end."""

import os
import signal
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil
import role_process
from schedule import ADAPT, LEARN

from headrace.streams.settings import Settings

STOP_LIMIT_S = 60.0
LOG_TAIL_LINES = 60
SERVING = "serving model version"


@dataclass
class Role:
    """One supervised process, by whatever number it has just now."""

    name: str
    settings: Settings
    log: Path
    is_wanted: bool = False
    process: BaseProcess | None = None
    pid: int | None = None  # of the process; the network's thread reads it
    statuses: Counter[int] = field(default_factory=Counter)  # how it ended, how often

    def tend(self) -> None:
        """Start it if it is wanted and not running."""
        if self.process is not None and self.process.exitcode is not None:
            self.statuses[self.process.exitcode] += 1
            self.process.close()
            self.process = self.pid = None
        if self.is_wanted and self.process is None:
            self.process = role_process.start(self.name.split("-")[0], self.settings, self.log)
            self.pid = self.process.pid

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process, if there is one."""
        if self.process is not None and self.process.exitcode is None:
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(self.pid, number)

    def wait(self) -> None:
        """Wait until the process, if there is one, has ended."""
        if self.process is not None:
            self.process.join(STOP_LIMIT_S)
            assert self.process.exitcode is not None, f"{self.name} did not end"
            self.tend()

    def holds(self, port: int) -> bool:
        """Return whether one of its connections has this local port."""
        if self.pid is None:
            return False
        try:
            connections = psutil.Process(self.pid).net_connections("tcp4")
        except psutil.Error:  # it has just ended
            return False
        return any(one.laddr and one.laddr.port == port for one in connections)


class Deployment:
    """The roles of one deployment by name; whatever still runs is killed at the end."""

    def __init__(self, settings: Settings, folder: Path, names: tuple[str, ...]) -> None:
        self.settings = settings
        folder.mkdir(exist_ok=True)
        self.roles: dict[str, Role] = {}
        for name in names:
            own = settings.model_copy(update={"data_dir": folder / name})
            log = folder / f"{name}.log"
            log.touch()
            self.roles[name] = Role(name, own, log)

    def __enter__(self) -> Self:
        for name in (*ADAPT[: len(self.roles) - 1], LEARN):
            self.roles[name].is_wanted = True
        self.tend()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for role in self.roles.values():
            if role.process is not None:
                role.process.kill()
                role.process.join()
            if exc is not None:
                tail = "\n".join(role.log.read_text().splitlines()[-LOG_TAIL_LINES:])
                print(f"--- {role.name}, ended as {dict(role.statuses)}\n{tail}")

    def is_serving(self) -> bool:
        """Return whether every adapt role that is wanted has taken a model version over."""
        wanted = [role for role in self.roles.values() if role.is_wanted and role.name != LEARN]
        return all(SERVING in role.log.read_text() for role in wanted)

    def tend(self) -> None:
        """Be the supervisor."""
        for role in self.roles.values():
            role.tend()

    def stop(self) -> None:
        """Ask every role to end, and wait: the learn role publishes what it knows."""
        for role in self.roles.values():
            role.is_wanted = False
            role.send(signal.SIGTERM)
        for role in self.roles.values():
            role.wait()

    def name_of(self, port: int) -> str | None:
        """Return whose connection has this local port."""
        return next((role.name for role in self.roles.values() if role.holds(port)), None)

    def statuses(self) -> dict[int, int]:
        """Return how often processes ended in which way."""
        return dict(sum((role.statuses for role in self.roles.values()), Counter()))
