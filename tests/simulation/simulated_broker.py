"""The brokers in memory: logs, the consumer group, and nothing that the code under test does."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiokafka.errors import CommitFailedError, InvalidTimestampError
from faust.types.tuples import TP

SESSION_S = 10.0  # the settings' default
REBALANCE_LIMIT_S = 2 * SESSION_S  # as faust_app.py sets it


@dataclass(slots=True)
class Record:
    """The fields of aiokafka's ConsumerRecord that are looked at."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]
    timestamp_type: int = 0


class Member:
    """What the coordinator knows of one worker's life."""

    def __init__(self, worker: Any, now_s: float) -> None:
        self.worker = worker
        self.heard_s = now_s
        self.has_joined = False
        self.assigned: tuple[int, ...] = ()


@dataclass
class Group:
    """The coordinator of one consumer group: eager rebalances, sessions, committed offsets."""

    n_partitions: int
    committed: dict[TP, int] = field(default_factory=dict)
    members: dict[Any, Member] = field(default_factory=dict)
    generation: int = 0
    is_preparing: bool = False
    prepared_s: float = 0.0
    on_commit: Callable[[TP, int, int], None] = lambda *_: None

    def join(self, worker: Any, now_s: float) -> None:
        """Take a worker in, or note that it is ready for the next generation."""
        member = self.members.setdefault(worker, Member(worker, now_s))
        member.has_joined = True
        self.prepare(now_s)

    def is_current(self, worker: Any) -> bool:
        """Return whether a worker is of this generation, and no other is about to come."""
        generation = worker.kafka._coordinator.generation
        return worker in self.members and generation == self.generation and not self.is_preparing

    def expiries(self) -> list[tuple[float, Any]]:
        """Return when the group goes on without whom, unless they are heard of."""
        found = []
        for worker, member in self.members.items():
            when_s = member.heard_s + SESSION_S
            if self.is_preparing and not member.has_joined:
                when_s = min(when_s, self.prepared_s + REBALANCE_LIMIT_S)
            found.append((when_s, worker))
        return found

    def prepare(self, now_s: float) -> None:
        """Begin a rebalance, or see whether the one that has begun can end."""
        if not self.is_preparing:
            self.is_preparing = True
            self.prepared_s = now_s
            for member in self.members.values():
                if not member.has_joined:
                    member.worker.hear("rebalance")
        if self.members and all(member.has_joined for member in self.members.values()):
            self._assign()

    def _assign(self) -> None:
        """Deal the partitions out, to other members in every generation."""
        self.is_preparing = False
        self.generation += 1
        members = list(self.members.values())
        for at, member in enumerate(members):
            member.has_joined = False
            member.assigned = tuple(
                p
                for p in range(self.n_partitions)
                if (p + self.generation // 2) % len(members) == at
            )
            member.worker.answer_join(self.generation, member.assigned)

    def leave(self, worker: Any, now_s: float) -> None:
        """Go on without a member at once."""
        if self.members.pop(worker, None):
            self._go_on(now_s)

    def expel(self, worker: Any, now_s: float) -> None:
        """Go on without a member that was silent for a session."""
        member = self.members.pop(worker)
        worker.hear_of_expulsion(has_joined=member.has_joined)
        self._go_on(now_s)

    def _go_on(self, now_s: float) -> None:
        if self.members:
            self.prepare(now_s)
        else:
            self.is_preparing = False

    def commit(self, worker: Any, generation: int, offsets: dict[TP, int]) -> None:
        """Store offsets of a member.

        Raises:
            CommitFailedError: it is none, or of an old generation.
        """
        is_empty = not self.members and generation < 0
        if not is_empty and (worker not in self.members or generation != self.generation):
            raise CommitFailedError("the group has already rebalanced")
        for tp, offset in offsets.items():
            self.on_commit(tp, self.committed.get(tp, 0), offset)
            self.committed[tp] = offset


class Broker:
    """Logs by topic and partition. Some topics refuse what was on its way for too long."""

    def __init__(self, configs: dict[str, dict[str, str]]) -> None:
        self.logs: defaultdict[TP, list[Record]] = defaultdict(list)
        self.last_base: defaultdict[TP, int] = defaultdict(int)  # of the last batch
        self._configs = configs
        self.on_append: Callable[[TP, Any, Any, dict[str, Any]], None] = lambda *_: None

    def end(self, tp: TP) -> int:
        """Return the end offset."""
        log = self.logs[tp]
        return log[-1].offset + 1 if log else 0

    def append(
        self, tp: TP, rows: list[tuple[int, bytes | None, bytes | None, Any]], now_s: float
    ) -> None:
        """Append (timestamp, key, value, headers).

        Raises:
            InvalidTimestampError: one is too old for this topic.
        """
        limit_ms = float(self._configs[tp.topic].get("message.timestamp.before.max.ms", "inf"))
        if any(now_s * 1000 - stamp_ms > limit_ms for stamp_ms, *_ in rows):
            raise InvalidTimestampError
        self.last_base[tp] = self.end(tp)
        for stamp_ms, key, value, headers in rows:
            self.logs[tp].append(Record(*tp, self.end(tp), stamp_ms, key, value, list(headers)))
            self.on_append(tp, key, value, dict(headers))

    def read(self, tp: TP, offset: int, limit: int) -> list[Record]:
        """Return the first records at or above an offset."""
        found = []
        for record in self.logs[tp]:
            if record.offset >= offset:
                found.append(record)
                if len(found) == limit:
                    break
        return found

    def compact(self, tp: TP) -> None:
        """Keep the last record of each key, and tombstones, as log compaction does in the end."""
        log = self.logs[tp]
        last = {record.key: record.offset for record in log}
        self.logs[tp] = [record for record in log if last[record.key] == record.offset]
