"""The rules alone, without Faust and without time: fold, watermark, overlay, recovery, eviction.

Acknowledged in any order, delivered again from any commit, taken over while writes are under way,
recovered from a changelog in which old records arrive late: each guard is judged by itself here,
where none stands before it. Thousands of schedules a second.
"""

import random
from collections import OrderedDict
from collections.abc import Mapping
from types import SimpleNamespace

import pytest
from guards_off import (
    WATERMARK,
    Off,
    accept,
    read_table_only,
    read_without_offset,
)
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from rules_log import EVENTS, EXPECTED, LOG, N_RECORDS, OFFSETS, Folding, leave_out

from headrace.streams.adapt.compute import Computed, compute
from headrace.streams.adapt.micro_batch import MicroBatch
from headrace.streams.adapt.user_states import UserStates
from headrace.streams.decoding import decoded
from headrace.streams.kafka.batches import Receipt, RecordBatch, Watermarks
from headrace.streams.kafka.faust_app import StateStore
from headrace.streams.state import StateKey, UserState, offset_of

N_MOVES = 25
MOVES = ("deliver", "write", "acknowledge", "commit")
CHOICES = 6  # of a move: how many, which
GUARD_SEEDS = range(1_000)  # enough for each
IN_FLIGHT = 3

Written = tuple[StateKey, bytes | None, int]  # with the offset of the last event, -1 for none


class Rules:
    """One worker after another on one partition. Each public method is a move."""

    def __init__(self, *, max_users: int = 10) -> None:
        self.max_users = max_users
        self.changelog: list[Written] = []
        self.under_way: list[Written] = []  # sent by workers that are gone; may arrive, or not
        self.newest = dict.fromkeys(EXPECTED, -1)  # offset of each user's last event written
        self.committed = 0
        self.jobs: list[tuple[MicroBatch, Computed]] = []
        self.begin()

    def begin(self, _: int = 0) -> None:
        """Recover, and read on from the commit: after a crash, or elsewhere."""
        self.under_way += [one for _, computed in self.jobs for one in written(computed.states)]
        store = StateStore.__new__(StateStore)
        store.__post_init__()
        recovered = [
            SimpleNamespace(topic="users", partition=0, offset=at, key=key[1], value=value)
            for at, (key, value, _) in enumerate(self.changelog)
        ]
        batch = SimpleNamespace(records=recovered)
        event = SimpleNamespace(message=SimpleNamespace(batch=batch))
        store.apply_changelog_batch([event], None, None)
        self.table: OrderedDict[StateKey, bytes] = store.data
        self.states = UserStates(self.table, max_users=self.max_users)
        self.watermarks = Watermarks()
        self.position = self.committed
        self.jobs = []
        self.written: list[Receipt] = []

    def deliver(self, n: int = 3) -> None:
        """Deliver some records and compute with them."""
        records = LOG[self.position : self.position + 1 + n % 3]
        if not records or len(self.jobs) == IN_FLIGHT:
            return
        self.position += len(records)
        receipt = self.watermarks.deliver(EVENTS, self.position, epoch=1)
        micro_batch = MicroBatch(0.0)
        micro_batch.add(RecordBatch(records, receipt), decoded(records, now_ms=0))
        self.jobs.append((micro_batch, compute(Folding(), self.states, micro_batch)))

    def write(self, at: int = 0) -> None:
        """Write a micro-batch; those that share no user may overtake one another."""
        at %= len(self.jobs) or 1
        earlier = {key for _, computed in self.jobs[:at] for key in computed.states}
        if self.jobs and not earlier.intersection(self.jobs[at][1].states):
            micro_batch, computed = self.jobs.pop(at)
            evicted = self.states.overflow(computed.states)
            self._append(*written(computed.states | dict.fromkeys(evicted)))
            self.states.write(computed.states, evicted)
            self.states.release(micro_batch, computed.states)
            self.written += [batch.receipt for batch in micro_batch.batches]

    def acknowledge(self, at: int = 0) -> None:
        """Acknowledge one of those written, in any order."""
        if self.written:
            self.written.pop(at % len(self.written)).acknowledged = True

    def arrive_late(self, at: int) -> None:
        """Let a state arrive behind newer ones: written before, or by a worker that is gone."""
        if late := [*self.under_way, *self.changelog]:
            self._append(late[at % len(late)])

    def _append(self, *records: Written) -> None:
        self.changelog += records
        for key, _, offset in records:
            self.newest[key] = max(self.newest[key], offset)

    def commit(self, _: int = 0) -> None:
        """Commit, and check that all below is written."""
        for tp in self.watermarks.partitions():
            self.committed = self.watermarks.take(tp) or self.committed
        for key, offsets in OFFSETS.items():
            below = max((offset for offset in offsets if offset < self.committed), default=-1)
            assert self.newest[key] >= below, f"{self.committed} passes an event"

    def finish(self) -> None:
        """Let everything run, then compare with an uninterrupted fold."""
        while self.committed < N_RECORDS:
            self.deliver(2)
            self.write()
            self.acknowledge()
            self.commit()
        self.begin()
        found = {key: UserState.decode(value).items for key, value in self.table.items()}
        if self.max_users >= len(EXPECTED):
            assert found == EXPECTED
        for key, items in found.items():  # who was evicted started over: nothing twice, no gap
            assert items == EXPECTED[key][-len(items) :]


def written(states: Mapping[StateKey, bytes | None]) -> list[Written]:
    """Return states as the changelog has them; None is a tombstone."""
    return [(k, value, offset_of(value) if value else -1) for k, value in states.items()]


def play(seed: int, *, max_users: int = 10) -> Rules:
    """Play the schedule of a seed."""
    chance, rules = random.Random(seed), Rules(max_users=max_users)
    moves = [*MOVES, *MOVES, "begin"]
    if max_users >= len(EXPECTED):  # a late state could bring back who was evicted: see the lease
        moves.append("arrive_late")
    for _ in range(N_MOVES):
        getattr(rules, chance.choice(moves))(chance.randrange(CHOICES))
    rules.finish()
    return rules


def play_all(seeds: range, *, max_users: int = 10) -> list[Rules]:
    """Play the schedules of all seeds."""
    return [play(seed, max_users=max_users) for seed in seeds]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    leave_out(monkeypatch)


def test_no_order_of_the_rules_loses_or_doubles_anything(rule_seeds: range) -> None:
    play_all(rule_seeds)


def test_who_is_evicted_starts_over_and_nothing_is_doubled_or_left_out(rule_seeds: range) -> None:
    played = play_all(rule_seeds, max_users=1)
    evictions = [sum(value is None for _, value, _ in rules.changelog) for rules in played]
    assert min(evictions) == 0 < max(evictions)


class AnyOrder(RuleBasedStateMachine):
    """The same moves, chosen and made fewer by hypothesis."""

    def __init__(self) -> None:
        super().__init__()
        self.rules = Rules()

    @rule(move=st.sampled_from([*MOVES, "begin", "arrive_late"]), choice=st.integers(0, 5))
    def make(self, move: str, choice: int) -> None:
        getattr(self.rules, move)(choice)

    def teardown(self) -> None:
        self.rules.finish()


def test_no_moves_that_hypothesis_finds_lose_or_double_anything() -> None:
    examples = settings(
        max_examples=100, stateful_step_count=N_MOVES, deadline=None, derandomize=True
    )
    run_state_machine_as_test(AnyOrder, settings=examples)


@pytest.mark.parametrize(
    "off",
    [
        pytest.param(WATERMARK, id="a commit passes no gap"),
        pytest.param([(StateStore, "_is_newer", accept)], id="recovery keeps the larger offset"),
        pytest.param([(UserStates, "read", read_table_only)], id="states in flight are seen"),
        pytest.param([(UserStates, "read", read_without_offset)], id="what is in is not applied"),
    ],
)
def test_a_rule_that_is_off_is_missed(off: list[Off], monkeypatch: pytest.MonkeyPatch) -> None:
    for one in off:
        monkeypatch.setattr(*one)
    with pytest.raises(AssertionError):
        play_all(GUARD_SEEDS)
