"""What must hold at every moment, and what once everything has been mended and has run."""

from collections import defaultdict
from typing import Any, NoReturn

from faust.types.tuples import TP

from headrace.streams.adapt.delivery import IN_FLIGHT
from headrace.streams.errors import MalformedRecordError
from headrace.streams.state import StateKey, UserState, offset_of
from headrace.streams.wire import decode_event, decode_recommendation

Fold = tuple[int, int, list[str]]  # last offset, events, items


class ViolationError(AssertionError):
    """Something that must never be."""


class Invariants:
    """Looks at the brokers only: at what was published, written and committed."""

    def __init__(self, world: Any) -> None:
        self._world = world
        self._written: dict[tuple[str, StateKey], int] = {}  # topic and user: newest offset
        self._letters: set[tuple[int, int]] = set()

    def violate(self, what: str) -> NoReturn:
        """Tell the story that led here.

        Raises:
            ViolationError: always.
        """
        raise ViolationError("\n".join([what, *self._world.trace]))

    # --------------------------------------------------------------------- at every moment

    def appended(self, tp: TP, key: bytes, value: bytes, headers: dict[str, bytes]) -> None:
        """Note what a record says is done."""
        world = self._world
        if tp.topic == world.settings.topic("dead-letters"):
            place = int(headers["headrace.partition"]), int(headers["headrace.offset"])
            self._letters.add(place)
            return
        if tp.topic == world.changelog:
            offset = offset_of(value)
        elif tp.topic == world.settings.topic("recommendations"):
            offset = decode_recommendation(value).source.offset
        else:
            return
        at = tp.topic, (tp.partition, key)
        self._written[at] = max(self._written.get(at, -1), offset)

    def committed(self, tp: TP, before: int, offset: int) -> None:
        """Check that everything below a commit is written."""
        if offset < before:
            self.violate(f"the commit of {tp} went back from {before} to {offset}")
        for record in self._world.broker.logs[tp][before:offset]:
            place = tp.partition, record.offset
            key = self._user_of(record)
            if key is None:
                is_done = place in self._letters
            else:
                is_done = all(
                    self._written.get((topic, key), -1) >= record.offset
                    for topic in (
                        self._world.changelog,
                        self._world.settings.topic("recommendations"),
                    )
                )
            if not is_done:
                self.violate(f"{offset} of {tp} was committed, {record.offset} is not written")

    def check_bounds(self, worker: Any) -> None:
        """Check that a worker holds no more micro-batches than it may."""
        n_in_flight = worker.n_in_flight()
        if n_in_flight > IN_FLIGHT:
            self.violate(f"{worker.name} has {n_in_flight} micro-batches in flight")

    # --------------------------------------------------------------------- after everything

    def is_drained(self) -> bool:
        """Return whether every event is committed."""
        world = self._world
        return all(world.group.committed.get(tp, 0) == world.broker.end(tp) for tp in world.events)

    def check_drained(self) -> None:
        """Compare the last states, lists and dead letters with those of an uninterrupted fold."""
        expected, bad = self._expected()
        self._compare(
            "state",
            self._last(self._world.changelog, lambda value: _fold_of(UserState.decode(value))),
            expected,
        )
        lists = self._last(self._world.settings.topic("recommendations"), _fold_of_list)
        self._compare("list", lists, {key: (o, items) for key, (o, _, items) in expected.items()})
        self._compare("dead letter", dict.fromkeys(self._letters), dict.fromkeys(bad))
        for worker in self._world.workers:
            if not worker.is_serving() or not self._world.group.is_current(worker):
                continue
            for key, fold in expected.items():
                if key[0] in worker.assigned:
                    held = _fold_of(worker.state(key))
                    self._compare(f"state in {worker.name}", {key: held}, {key: fold})

    def _expected(self) -> tuple[dict[StateKey, Fold], list[tuple[int, int]]]:
        items: defaultdict[StateKey, list[str]] = defaultdict(list)
        last: dict[StateKey, int] = {}
        bad = []
        for tp in self._world.events:
            for record in self._world.broker.logs[tp]:
                key = self._user_of(record)
                if key is None:
                    bad.append((tp.partition, record.offset))
                else:
                    event = decode_event(record.value, key=record.key, record_time_ms=0)
                    items[key].append(event.item)
                    last[key] = record.offset
        return {key: (last[key], len(of_user), of_user) for key, of_user in items.items()}, bad

    @staticmethod
    def _user_of(record: Any) -> StateKey | None:
        try:
            decode_event(record.value, key=record.key, record_time_ms=0)
        except MalformedRecordError:
            return None
        return record.partition, record.key

    def _last(self, topic: str, fold_of: Any) -> dict[StateKey, Any]:
        """Return what compaction leaves of a topic in the end."""
        return {
            (tp.partition, record.key): fold_of(record.value)
            for tp, log in self._world.broker.logs.items()
            if tp.topic == topic
            for record in log
        }

    def _compare(self, what: str, found: dict[Any, Any], expected: dict[Any, Any]) -> None:
        for key in {**expected, **found}:
            if key not in found or key not in expected or found[key] != expected[key]:
                self.violate(
                    f"{what} of {key}: {found.get(key)} instead of {expected.get(key, 'nothing')}"
                )


def _fold_of(state: UserState) -> Fold:
    return state.last_offset, state.n_events, state.items


def _fold_of_state(value: bytes) -> Fold:
    return _fold_of(UserState.decode(value))


def _fold_of_list(value: bytes) -> tuple[int, list[str]]:
    answer = decode_recommendation(value)
    return answer.source.offset, list(answer.items)
