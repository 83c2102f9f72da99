"""The world of a simulation: workers, brokers, time, and the moves a schedule is made of."""

from collections.abc import Sequence
from typing import Any

from faust.types.tuples import TP
from invariants import Invariants
from simulated_broker import Broker, Group
from simulated_worker import Operation, Worker

from headrace.streams.adapt.delivery import ATTEMPTS
from headrace.streams.guards import EXIT_FAILED, EXIT_PAUSED, EXIT_STUCK
from headrace.streams.kafka.topics import topics_of, users_changelog
from headrace.streams.records import Event
from headrace.streams.settings import Settings
from headrace.streams.wire import encode

START_S = 1_000_000.0
MAX_WORKERS = 2
COMMIT_INTERVAL_S = 0.5
DRAIN_LIMIT_S = 150.0
SOON_S = 1.0  # a worker that waits for its own timer is run up to this far


class World:
    """Everything there is. Each public method up to ``drain`` is a move."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._now_s = START_S
        self.trace: list[str] = []
        self.events = [TP(settings.topic("events"), p) for p in range(settings.partitions)]
        self.changelog = users_changelog(settings)
        self.invariants = Invariants(self)
        self.broker = Broker({topic.name: topic.configs for topic in topics_of(settings)})
        self.broker.on_append = self.invariants.appended
        self.group = Group(settings.partitions, on_commit=self.invariants.committed)
        self.workers: list[Worker] = []
        self.orphans: list[Operation] = []
        self.n_steps = 0
        self._n_started = 0
        self._n_events = 0
        self._is_draining = False

    def now_s(self) -> float:
        """Return the time."""
        return self._now_s

    def note(self, what: str) -> None:
        """Add to the story that a violation is told with."""
        self.trace.append(f"{self._now_s - START_S:8.2f} s  {what}")

    # ------------------------------------------------------------------------------- moves

    def start(self) -> None:
        """Start a worker, if there is room."""
        if len(self.workers) < MAX_WORKERS:
            self._n_started += 1
            self.note(f"worker {self._n_started} starts")
            self.workers.append(Worker(self, f"worker {self._n_started}"))
            self._run_all()

    def produce(self, partition: int, users: Sequence[int], *, is_bad: bool = False) -> None:
        """Publish an event of each user, or one record that is no event."""
        tp = self.events[partition % len(self.events)]
        rows: list[Any] = []
        for user in users:
            self._n_events += 1
            item = f"i{self._n_events}"
            value = encode(Event(user=f"u{user}", item=item, time_ms=self._n_events))
            rows.append((int(self._now_s * 1000), b"u%d" % user, b"?" if is_bad else value, ()))
        self.note(f"published {len(rows)} to partition {tp.partition}" + " (bad)" * is_bad)
        self.broker.append(tp, rows, self._now_s)

    def run(self, slot: int, n_steps: int) -> None:
        """Let a worker go on, its oldest wait first."""
        for worker in self._at(slot):
            for _ in range(n_steps):
                if not self._step(worker) and not self._wait_for(worker):
                    return

    def reorder(self, slot: int, at: int, n_callbacks: int | None = None) -> None:
        """Let something happen out of its turn, and so many callbacks run before what is next."""
        for worker in self._at(slot):
            self._step(worker, at, n_callbacks)

    def stall(self, slot: int, kind: str) -> None:
        """Let something that a worker waits for, or will, take long."""
        for worker in self._at(slot):
            self.note(f"{worker.name}: {kind} takes long")
            worker.stall(kind)

    def release(self, slot: int) -> None:
        """Let what takes long be over soon."""
        for worker in self._at(slot):
            self.note(f"{worker.name}: nothing takes long any more")
            worker.release()

    def go_on(self, seconds: float) -> None:
        """Let all who can go on for a while."""
        self.note(f"for {seconds} s all go on")
        self._go_on(self._now_s + seconds)

    def commit(self, slot: int) -> None:
        """Let the time for a commit come."""
        for worker in self._at(slot):
            worker.commit()

    def rebalance(self) -> None:
        """Let the group deal its partitions out again."""
        if self.group.members and not self.group.is_preparing:
            self.note("a rebalance begins")
            self.group.prepare(self._now_s)

    def kill(self, slot: int) -> None:
        """Kill a worker."""
        for worker in self._at(slot):
            self.note(f"{worker.name} is killed")
            worker.kill()
            self._bury()

    def stop(self, slot: int) -> None:
        """Tell a worker to stop."""
        for worker in self._at(slot):
            self.note(f"{worker.name} is told to stop")
            worker.stop()
            self._run_all()

    def pause(self, slot: int) -> None:
        """Stop a process, or let it go on."""
        for worker in self._at(slot):
            self.note(f"{worker.name} " + ("goes on" if worker.is_paused else "stands still"))
            worker.is_paused, worker.may_end = not worker.is_paused, True
            self._run_all()

    def cut(self, slot: int) -> None:
        """Cut a worker off the brokers, or mend the network."""
        for worker in self._at(slot):
            self.note(f"{worker.name} is " + ("back" if worker.is_cut else "cut off"))
            worker.is_cut, worker.may_end = not worker.is_cut, True

    def arrive(self, at: int, *, is_lost: bool = False) -> None:
        """Let something that a killed worker had sent arrive, or be lost."""
        if self.orphans:
            first = self._first_of_lane(self.orphans[at % len(self.orphans)])
            self.orphans.remove(first)
            if not is_lost:
                self.note(f"a {first.kind} of a killed worker arrives")
                first.happen()

    def compact(self) -> None:
        """Let the brokers compact."""
        self.note("the brokers compact")
        for tp in list(self.broker.logs):
            if tp.topic in (self.changelog, self.settings.topic("recommendations")):
                self.broker.compact(tp)

    # ------------------------------------------------------------------------------- the end

    def drain(self) -> None:
        """Mend everything and let it run; then everything must be done."""
        self.note("everything is mended")
        for worker in self.workers:
            worker.is_paused = worker.is_cut = False
            worker.release()
        while self.orphans:
            self.arrive(0)
        self._run_all()
        self._is_draining = True
        limit_s = self._now_s + DRAIN_LIMIT_S
        while not self.invariants.is_drained():
            if self._now_s > limit_s:
                self.invariants.violate("the events were not all committed in time")
            if not self.workers:
                self.start()
            self._go_on(self._now_s + COMMIT_INTERVAL_S)
        self.invariants.check_drained()
        self._is_draining = False

    def close(self) -> None:
        """End every process."""
        for worker in self.workers:
            worker.kill()

    # ------------------------------------------------------------------------------- inside

    def _at(self, slot: int) -> list[Worker]:
        return [self.workers[slot % len(self.workers)]] if self.workers else []

    def _go_on(self, until_s: float) -> None:
        while True:
            n_steps = -1
            while n_steps != self.n_steps:
                n_steps = self.n_steps
                for worker in list(self.workers):
                    self._step(worker)
            if self._now_s >= until_s:
                return
            self._advance(min(until_s, self._now_s + COMMIT_INTERVAL_S))
            for worker in list(self.workers):
                worker.commit()
                self.invariants.check_bounds(worker)

    def _step(self, worker: Worker, at: int = 0, n_callbacks: int | None = None) -> bool:
        """Let one thing happen that a worker waits for."""
        possible = worker.possible()
        if not possible:
            return False
        operation = possible[at % len(possible)]
        self.note(f"{worker.name}: {operation}")
        self.n_steps += 1
        worker.complete(operation)
        worker.is_midway = False
        if n_callbacks is not None:
            worker.run(n_callbacks)
            worker.is_midway = True
        self._run_all()
        return True

    def _wait_for(self, worker: Worker) -> bool:
        """Let time pass until a worker's next timer, if that is soon."""
        timer_s = worker.next_timer_s()
        if timer_s is None or timer_s > self._now_s + SOON_S:
            return False
        self._advance(timer_s)
        return True

    def _run_all(self) -> None:
        for worker in self.workers:
            if not worker.is_midway:
                worker.run()
        self._bury()

    def _bury(self) -> None:
        for worker in [worker for worker in self.workers if not worker.is_alive]:
            self.workers.remove(worker)
            if worker.exit_code is not None:
                self._judge_exit(worker, worker.exit_code)

    def _judge_exit(self, worker: Worker, code: int) -> None:
        self.note(f"{worker.name} ended with {code}: {worker.failure}")
        may_end = {
            0: True,
            EXIT_PAUSED: worker.may_end,
            EXIT_STUCK: not self._is_draining,
            EXIT_FAILED: worker.n_refused >= ATTEMPTS,
        }
        if not may_end[code]:
            self.invariants.violate(f"{worker.name} ended itself with {code}")

    def _advance(self, until_s: float) -> None:
        """Let time pass: timers ring, and sessions of silent members end."""
        while True:
            for member in self.group.members.values():
                if member.worker.is_heard():
                    member.heard_s = self._now_s
            due_s = [timer_s for w in self.workers if (timer_s := w.next_timer_s()) is not None]
            due_s += [when_s for when_s, _ in self.group.expiries()]
            next_s = min([when_s for when_s in due_s if when_s > self._now_s], default=until_s)
            self._now_s = min(next_s, until_s)
            for worker in self.workers:
                worker.is_midway = False
            for when_s, worker in self.group.expiries():
                if when_s <= self._now_s:
                    self.note(f"the group goes on without {worker.name}")
                    worker.may_end = True
                    self.group.expel(worker, self._now_s)
            self._run_all()
            if next_s >= until_s:
                return

    def _first_of_lane(self, operation: Operation) -> Operation:
        if operation.lane is None:
            return operation
        return next(
            earlier
            for earlier in self.orphans
            if (earlier.lane, earlier.worker) == (operation.lane, operation.worker)
        )
