"""One partition and two workers that hand it over.

The schedule says when a computation runs and when it is over, when brokers answer, when a rebalance
begins and how far it is, who crashes or is cut off, and when time passes. The broker is a list.
"""

from aiokafka.errors import InvalidTimestampError
from handover_worker import SESSION_S, Sent, Worker
from rules_log import EVENTS, EXPECTED, LOG, N_RECORDS, OFFSETS

from headrace.streams.kafka.batches import RecordBatch
from headrace.streams.kafka.lease import STALE_AFTER_S
from headrace.streams.state import StateKey, UserState, offset_of

MOVE_S = 0.01  # what each move takes
MOST_ROUNDS = 200  # of a schedule's end, in each of which everybody goes on


class Handover:
    """Everything there is. Each public method from ``deliver`` to ``finish`` is a move."""

    def __init__(self, *, max_users: int = 10) -> None:
        self.max_users = max_users
        self.clock_s = SESSION_S
        self.committed = 0
        self.changelog: list[tuple[StateKey, bytes | None]] = []
        self.newest = dict.fromkeys(EXPECTED, -1)  # offset of each user's last event written
        self.last = dict.fromkeys(EXPECTED, -1)  # the same, of the record that compaction keeps
        self.under_way: list[Sent] = []  # of workers that are gone
        self.workers = [Worker(self), Worker(self)]
        self.owner: Worker | None = None
        self.free_s = 0.0  # when somebody else may own the partition
        self.assign(0)
        self.recover(0)

    def now_s(self) -> float:
        """Return the time."""
        return self.clock_s

    def commit_to(self, offset: int | None) -> None:
        """Take a commit, and check that all below is written."""
        self.committed = self.committed if offset is None else offset
        for key, offsets in OFFSETS.items():
            below = max((offset for offset in offsets if offset < self.committed), default=-1)
            assert self.newest[key] >= below, f"{self.committed} passes an event"

    def _append(self, sent: Sent) -> bool:
        """Take records, if they are not too old."""
        if self.clock_s - sent.stamp_s > STALE_AFTER_S:
            return False
        for key, value in sent.rows:
            offset = offset_of(value) if value else -1
            assert value is None or offset >= self.last[key], f"{key} goes back to {offset}"
            self.newest[key] = max(self.newest[key], offset)
            self.last[key] = offset
            self.changelog.append((key, value))
        return True

    # ------------------------------------------------------------------------------- moves

    def deliver(self, at: int) -> None:
        """Deliver some records to who owns the partition."""
        worker = self.owner
        if worker and not worker._is_revoking and not worker.delivered.full():
            records = LOG[worker.position : worker.position + 1 + at % 3]
            if records:
                worker.position += len(records)
                receipt = worker.watermarks.deliver(EVENTS, worker.position, worker.epoch)
                worker.delivered.put_nowait(RecordBatch(records, receipt))
                self.turn(worker)

    def compute(self, at: int) -> None:
        """Let a compute thread take up what is next; it is over soon, or with another move."""
        worker = self.workers[at % 2]
        if worker.to_compute:
            worker.to_compute.popleft()()
        if at < 4:
            self.end_compute(at)

    def end_compute(self, at: int) -> None:
        """Let the result of a compute thread be known."""
        worker = self.workers[at % 2]
        if worker.computed:
            worker.computed.popleft()()
            self.turn(worker)

    def arrive(self, at: int) -> None:
        """Let the broker take what was sent first, or refuse it."""
        worker = self.workers[at % 2]
        if worker.sent and worker.network.is_set():
            sent = worker.sent.popleft()
            if self._append(sent):
                sent.answer.set_result(None)
            else:
                sent.answer.set_exception(InvalidTimestampError())
            self.turn(worker)

    def go_on(self, at: int) -> None:
        """Let everybody go on by a step, and commit."""
        self.deliver(at)
        for slot in (0, 1):
            self.compute(slot)
            self.arrive(slot)
        self.commit()

    def arrive_late(self, at: int) -> None:
        """Let arrive what somebody had sent who is gone; or it is lost."""
        if self.under_way:
            sent = self.under_way.pop()
            if at % 2:
                self._append(sent)

    def commit(self, _: int = 0) -> None:
        """Let it be time for a commit."""
        if self.owner:
            self.owner.commit()

    def revoke(self, _: int = 0) -> None:
        """Begin a rebalance: it can end once its write is over."""
        if self.owner and not self.owner._is_revoking:
            self.owner.begin(self.owner.revoke())
            self.turn(self.owner)

    def assign(self, at: int) -> None:
        """Give a free partition to somebody; to see that one is silent takes a session."""
        worker = self.workers[at % 2]
        if self.owner is None and worker.is_free and worker.network.is_set():
            self.clock_s = max(self.clock_s, self.free_s)
            self.owner = worker
            worker.assign()
            if at < 6:
                self.recover()

    def recover(self, _: int = 0) -> None:
        """Let the recovery end."""
        if self.owner and self.owner.is_behind and not self.owner._is_revoking:
            self.owner.recover()
            self.turn(self.owner)

    def crash(self, at: int) -> None:
        """Kill a worker; another starts in its place."""
        self.workers[at % 2].crash()
        self._replace()

    def cut_or_mend(self, at: int) -> None:
        """Cut a worker off, or let it hear what the group has done meanwhile."""
        worker = self.workers[at % 2]
        if worker.network.is_set():
            worker.network.clear()
            self._go_on_without(worker)
        else:
            worker.network.set()
            if not worker._is_revoking:
                worker.begin(worker.revoke())
            self.turn(worker)

    def take_over(self, at: int) -> None:
        """Cut the owner off, and give the partition to another."""
        if self.owner and self.owner.network.is_set():
            slot = self.workers.index(self.owner)
            self.cut_or_mend(slot)
            self.assign(1 - slot)
            for move in (self.deliver, self.compute, self.arrive):
                move(1 - slot + at // 2 * 2)

    def wait(self, at: int) -> None:
        """Let time pass."""
        self.clock_s += (0.01, 0.1, 2, 4)[at % 4]
        self.turn(*self.workers)

    def finish(self) -> None:
        """Mend everything and let it run, then compare with an uninterrupted fold."""
        for at, worker in enumerate(self.workers):
            if not worker.network.is_set():
                self.cut_or_mend(at)
        for at in range(MOST_ROUNDS):
            if self.committed == N_RECORDS:
                break
            self.assign(at)
            self.recover()
            self.go_on(2)
            for worker in self.workers:
                self.turn(worker)
        assert self.committed == N_RECORDS, "the events were not all committed"
        kept = {key: UserState.decode(value).items for key, value in self.changelog_kept().items()}
        if self.max_users >= len(EXPECTED):
            assert kept == EXPECTED
        for key, items in kept.items():  # who was evicted started over: nothing twice, no gap
            assert items == EXPECTED[key][-len(items) :]

    def close(self) -> None:
        """End every process."""
        for worker in self.workers:
            worker.loop.kill()

    # ------------------------------------------------------------------------------- inside

    def changelog_kept(self) -> dict[StateKey, bytes]:
        """Return what compaction leaves of the changelog."""
        return {key: value for key, value in dict(self.changelog).items() if value}

    def turn(self, *workers: Worker) -> None:
        """Let a moment pass, and some do what needs no answer."""
        self.clock_s += MOVE_S
        for worker in workers:
            worker.turn()
        self._replace()

    def _replace(self) -> None:
        for slot, worker in enumerate(self.workers):
            if not worker.is_alive:
                self._go_on_without(worker)
                self.workers[slot] = Worker(self)

    def _go_on_without(self, worker: Worker) -> None:
        if self.owner is worker:
            self.owner, self.free_s = None, self.clock_s + SESSION_S
