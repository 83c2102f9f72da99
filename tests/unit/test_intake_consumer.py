"""IntakeConsumer: what is delivered, where reading starts, and what may be committed."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
from aiokafka import TopicPartition
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.errors import CommitFailedError, IllegalStateError
from faust.types.tuples import TP
from intake_rig import CHANGELOG, EVENTS, P0, P1, Record, Rig, offsets_of, records, with_rig

from headrace.streams.errors import TopicMismatchError
from headrace.streams.guards import EXIT_WRONG
from headrace.streams.kafka import intake
from headrace.streams.kafka.batches import ChangelogMessage
from headrace.streams.kafka.fetching import IntakeThread
from headrace.streams.settings import Settings


def test_batches_hold_at_most_n_records_of_one_partition_and_take_turns(tmp_path: Path) -> None:
    async def check(rig: Rig) -> None:
        await rig.consumer.perform_seek()
        messages = await rig.poll({P0: records(P0, 0, 1, 2, 3, 4), P1: records(P1, 0)})
        assert offsets_of(messages) == [(0, [0, 1]), (1, [0]), (0, [2, 3]), (0, [4])]
        sequences = [m.batch.receipt.sequence for m in messages if m.partition == 0]
        assert sequences == [0, 1, 2]

    with_rig(tmp_path, check)


def test_a_consumer_is_connected_while_its_coordinator_and_its_topics_are_known(
    tmp_path: Path,
) -> None:
    async def check(rig: Rig) -> None:
        known: dict[str, set[int]] = {EVENTS: {0, 1}}
        coordinator = SimpleNamespace(coordinator_id=None)
        rig.thread._consumer = SimpleNamespace(
            _coordinator=coordinator, partitions_for_topic=known.get
        )
        assert not rig.consumer.is_connected()
        coordinator.coordinator_id = 1
        assert rig.consumer.is_connected()
        known.clear()
        assert not rig.consumer.is_connected()

    with_rig(tmp_path, check)


def test_partitions_that_were_added_end_the_role_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class EndedError(BaseException):
        pass

    def end(code: int) -> None:
        raise EndedError(code)

    monkeypatch.setattr(intake, "end_process", end)

    async def check(rig: Rig) -> None:
        with pytest.raises(EndedError, match=f"^{EXIT_WRONG}$"):
            await rig.consumer.on_partitions_assigned({TP(EVENTS, Settings().partitions)})

    with_rig(tmp_path, check)
    assert f"partitions were added to {EVENTS}" in caplog.text


def test_a_record_of_the_oldest_format_has_no_time_and_is_delivered(tmp_path: Path) -> None:
    async def check(rig: Rig) -> None:
        await rig.consumer.perform_seek()
        timeless = Record(EVENTS, 0, 4, timestamp=None)
        assert offsets_of(await rig.poll({P0: [timeless]})) == [(0, [4])]

    with_rig(tmp_path, check)


def test_changelogs_come_in_batches_that_commit_nothing(tmp_path: Path) -> None:
    async def check(rig: Rig) -> None:
        (message,) = await rig.poll({CHANGELOG: records(CHANGELOG, 4, 5, 7)})
        assert isinstance(message, ChangelogMessage)
        assert message.offset == 7
        rig.consumer.acknowledge(message.batch.receipt)
        assert rig.to_commit() == {}

    with_rig(tmp_path, check)


def test_commit_never_passes_an_unfinished_batch(tmp_path: Path) -> None:
    async def check(rig: Rig) -> None:
        await rig.consumer.perform_seek()
        messages = await rig.poll({P0: records(P0, 5, 6, 7, 8, 9, 10)})
        first, second, third = (m.batch.receipt for m in messages)
        rig.consumer.acknowledge(second)
        assert rig.to_commit() == {}  # stock Faust would commit 9 here, past the first batch
        rig.consumer.acknowledge(first)
        assert rig.to_commit() == {P0: 9}
        assert rig.to_commit() == {}
        rig.consumer.acknowledge(third)
        assert rig.to_commit() == {P0: 11}

    for committed in ({}, {P0: 0}, {P0: 5}):
        with_rig(tmp_path, check, commits=committed)


def test_an_acknowledgement_from_before_a_seek_commits_nothing(tmp_path: Path) -> None:
    async def check(rig: Rig) -> None:
        await rig.consumer.perform_seek()
        (before,) = await rig.poll({P0: records(P0, 0, 1)})
        await rig.consumer.perform_seek()
        assert not rig.consumer.is_current(before.batch.receipt)
        (after,) = await rig.poll({P0: records(P0, 0)})
        rig.consumer.acknowledge(before.batch.receipt)
        assert rig.to_commit() == {}
        rig.consumer.acknowledge(after.batch.receipt)
        assert rig.to_commit() == {P0: 1}

    with_rig(tmp_path, check)


@pytest.mark.parametrize(("committed", "start"), [(None, 0), (0, 0), (7, 7)])
def test_reading_starts_at_the_commit_or_at_the_beginning(
    tmp_path: Path, committed: int | None, start: int
) -> None:
    async def check(rig: Rig) -> None:
        rig.kafka.positions = {P0: 150, P1: 150}  # fetched, then dropped by a rebalance
        await rig.consumer.perform_seek()
        assert rig.kafka.positions == {P0: start, P1: 0}

    with_rig(tmp_path, check, commits={} if committed is None else {P0: committed})


@pytest.mark.parametrize(
    ("committed", "latest", "start"),
    [(7, 3, 3), (7, 7, 7), (7, 9, 7), (7, None, 7), (None, 3, 3), (None, 0, 0), (7, 0, 0)],
)
def test_reading_starts_at_the_commit_or_earlier_where_the_role_says_so(
    committed: int | None, latest: int | None, start: int, tmp_path: Path
) -> None:
    async def check(rig: Rig) -> None:
        await rig.consumer.perform_seek()
        assert rig.kafka.positions[P0] == start

    commits = {} if committed is None else {P0: committed}
    with_rig(tmp_path, check, commits=commits, position_of=lambda _: latest)


def test_all_partitions_are_positioned_in_one_step(tmp_path: Path) -> None:
    async def check(rig: Rig) -> None:
        await rig.consumer.perform_seek()
        assert rig.kafka.positions == {P0: 0, P1: 0}
        assert rig.kafka.n_resets == 1  # each waits for the fetch that is under way
        rig.kafka.commits = {P0: 3, P1: 4}
        await rig.consumer.perform_seek()
        assert rig.kafka.positions == {P0: 3, P1: 4}
        assert rig.kafka.n_resets == 1  # none is named: that would be all of them

    with_rig(tmp_path, check)


def test_records_of_a_partition_without_a_position_are_read_again(tmp_path: Path) -> None:
    async def check(rig: Rig) -> None:
        assert await rig.poll({P0: records(P0, 40, 41)}) == []
        assert rig.kafka.positions[P0] == 7
        assert len(await rig.poll({P0: records(P0, 7, 8)})) == 1

    with_rig(tmp_path, check, commits={P0: 7})


def test_a_seek_that_meets_a_revocation_is_left_to_the_next_epoch(tmp_path: Path) -> None:
    async def check(rig: Rig) -> None:
        def refuse(tp: TopicPartition, offset: int) -> None:
            raise IllegalStateError(f"{tp} is no longer assigned, cannot seek to {offset}")

        rig.kafka.seek = refuse
        assert await rig.poll({P0: records(P0, 40, 41)}) == []
        assert await rig.poll({P0: records(P0, 40, 41)}) == []  # still without a position

    with_rig(tmp_path, check, commits={P0: 7})


def test_records_below_the_last_offset_seen_are_delivered_after_a_seek_back(
    tmp_path: Path,
) -> None:
    async def check(rig: Rig) -> None:
        await rig.consumer.perform_seek()
        rig.consumer._read_offset[P0] = 500  # left by a delivery that ended after the seek
        (message,) = await rig.poll({P0: records(P0, 7, 8)})
        assert message.offset == 8
        assert rig.consumer._read_offset[P0] is None  # Faust's drain looks at it next

    with_rig(tmp_path, check, commits={P0: 7})


def test_records_fetched_across_a_seek_are_not_of_the_new_epoch(tmp_path: Path) -> None:
    async def check(rig: Rig) -> None:
        await rig.consumer.perform_seek()

        def seek_meanwhile() -> None:
            rig.consumer._open_epoch()
            rig.consumer._positioned = {P0, P1}

        rig.thread.while_fetching = seek_meanwhile
        assert await rig.poll({P0: records(P0, 2, 3)}) == []
        assert rig.kafka.positions[P0] == 2

    with_rig(tmp_path, check)


def test_changelog_records_that_are_not_delivered_are_read_again(tmp_path: Path) -> None:
    async def check(rig: Rig) -> None:
        rig.thread.while_fetching = rig.consumer.stop_flow  # a rebalance begins
        assert await rig.poll({CHANGELOG: records(CHANGELOG, 50, 51)}) == []
        assert rig.kafka.positions[CHANGELOG] == 50

    with_rig(tmp_path, check)


def test_a_position_that_recovery_has_set_further_back_stays(tmp_path: Path) -> None:
    async def check(rig: Rig) -> None:
        def recovery_seeks_meanwhile() -> None:
            rig.consumer.stop_flow()
            rig.kafka.positions[CHANGELOG] = 10

        rig.thread.while_fetching = recovery_seeks_meanwhile
        assert await rig.poll({CHANGELOG: records(CHANGELOG, 50, 51)}) == []
        assert rig.kafka.positions[CHANGELOG] == 10

    with_rig(tmp_path, check)


def test_recovery_reads_to_the_later_of_two_end_offsets(tmp_path: Path) -> None:
    async def check(rig: Rig) -> None:
        # A batch of 10 at offset 0: ListOffsets of the embedded broker says 1, a fetch says 10.
        rig.thread.listed_ends = {CHANGELOG: 1}
        rig.kafka.fetched_ends = {CHANGELOG: 10}
        assert await rig.consumer.highwaters(CHANGELOG) == {CHANGELOG: 10}
        rig.thread.listed_ends = {CHANGELOG: 12}  # written since the fetch
        assert await rig.consumer.highwaters(CHANGELOG) == {CHANGELOG: 12}
        rig.thread.listed_ends, rig.kafka.fetched_ends = {CHANGELOG: 0}, {}
        assert await rig.consumer.highwaters(CHANGELOG) == {CHANGELOG: 0}

    with_rig(tmp_path, check)


@pytest.mark.parametrize(
    ("fetched", "listed"), [(None, 0), (100, 100), (100, 1), (90, 100)], ids=str
)
def test_a_partition_that_reaches_as_far_as_it_was_read_is_the_one_that_was_read(
    fetched: int | None, listed: int, tmp_path: Path
) -> None:
    async def check(rig: Rig) -> None:
        rig.thread.highwater = {P0: fetched}.__getitem__
        rig.kafka.fetched_ends = {P0: fetched} if fetched else {}
        rig.thread.listed_ends = {P0: listed}  # a new leader may tell too early an end in a fetch
        await rig.consumer.require_end(P0, 100)

    with_rig(tmp_path, check)


def test_a_partition_that_ends_before_what_was_read_of_it_is_refused(tmp_path: Path) -> None:
    async def check(rig: Rig) -> None:
        rig.thread.highwater = {P0: 100}.__getitem__
        rig.kafka.fetched_ends, rig.thread.listed_ends = {P0: 100}, {P0: 100}
        with pytest.raises(TopicMismatchError, match=r"partition 0 .* end at 100, before 5001"):
            await rig.consumer.require_end(P0, 5001)

        def is_revoked(tp: TP) -> int:
            raise IllegalStateError(f"{tp} is not assigned")

        rig.thread.highwater = is_revoked
        await rig.consumer.require_end(P0, 5001)  # whoever has it now will see

    with_rig(tmp_path, check)


def test_partitions_are_given_up_after_the_running_write_and_its_commit(tmp_path: Path) -> None:
    async def check(rig: Rig) -> None:
        await rig.consumer.perform_seek()
        (message,) = await rig.poll({P0: records(P0, 0, 1)})
        receipt, order = message.batch.receipt, []

        async def settle() -> None:
            assert not rig.consumer.is_current(receipt)  # no other write may begin ...
            rig.consumer.acknowledge(receipt)  # ... and the running one ends
            order.append("settled")

        async def commit(offsets: Mapping[TP, int]) -> bool:
            order.append(f"committed {dict(offsets)[P0]}")
            return True

        async def revoked(_: set[TP]) -> None:
            order.append("given up")

        rig.consumer.options.settle = settle
        rig.consumer._commit_offsets = lambda offsets, **_: commit(offsets)
        rig.consumer._on_partitions_revoked = revoked
        await rig.consumer.on_partitions_revoked({P0})
        assert order == ["settled", "committed 2", "given up"]

    with_rig(tmp_path, check)


def test_a_member_is_one_whose_commit_the_coordinator_takes(tmp_path: Path) -> None:
    async def check(rig: Rig) -> None:
        await rig.consumer.perform_seek()
        first, second = await rig.poll({P0: records(P0, 4, 5, 6)})
        rig.consumer.acknowledge(first.batch.receipt)
        assert await rig.consumer.is_member(second.batch)
        assert rig.kafka.commits == {P0: 6}  # no further than what is acknowledged
        rig.kafka.refusal = CommitFailedError("the group has rebalanced")
        assert not await rig.consumer.is_member(second.batch)
        rig.kafka.refusal = IllegalStateError("the partition is not assigned")
        assert not await rig.consumer.is_member(second.batch)
        rig.kafka.refusal = OSError("whatever else it is")
        with pytest.raises(OSError, match="whatever"):
            await rig.consumer.is_member(second.batch)

    with_rig(tmp_path, check)


@pytest.mark.parametrize(("before", "after"), [(-1, -1), (7, -1), (7, 8)])
def test_a_commit_outside_the_generation_makes_no_member(
    before: int, after: int, tmp_path: Path
) -> None:
    async def check(rig: Rig) -> None:
        await rig.consumer.perform_seek()
        (message,) = await rig.poll({P0: records(P0, 0, 1)})
        rig.kafka.generation, rig.kafka.generation_after = before, after
        assert not await rig.consumer.is_member(message.batch)

    with_rig(tmp_path, check)


@pytest.mark.parametrize(
    ("commits", "latest", "lag"),
    [
        ({P0: 7}, None, 3),
        ({P0: 7}, 6, 3),
        ({}, None, 6),  # all there is: retention has removed the first four
        ({P0: 0}, None, 6),
        ({}, 5, 5),  # all that the role has not
    ],
)
def test_lag_is_end_offset_less_committed_offset_or_where_reading_starts_without(
    commits: dict[TP, int], latest: int | None, lag: int, tmp_path: Path
) -> None:
    async def check(rig: Rig) -> None:
        rig.kafka.beginning = 4
        await rig.consumer.perform_seek()
        rig.thread.highwater = {P0: 10, P1: None}.__getitem__
        assert rig.consumer.lag() == {0: lag}

    with_rig(tmp_path, check, commits=commits, position_of=lambda _: latest)


def test_marks_of_transactions_behind_the_last_event_are_no_lag(tmp_path: Path) -> None:
    async def check(rig: Rig) -> None:
        await rig.consumer.perform_seek()
        rig.thread.highwater = {P0: 10, P1: None}.__getitem__
        (batch,) = await rig.poll({P0: records(P0, 7, 8)})
        rig.kafka.positions[P0] = 10  # what lies at 9 is no record
        assert rig.consumer.lag() == {0: 3}  # it is not done yet
        rig.consumer.acknowledge(batch.batch.receipt)
        assert rig.consumer.lag() == {0: 3}  # nor committed
        assert rig.to_commit() == {P0: 9}
        assert rig.consumer.lag() == {0: 0}

    with_rig(tmp_path, check, commits={P0: 7})


def test_what_was_fetched_and_waits_behind_other_partitions_is_lag(tmp_path: Path) -> None:
    async def check(rig: Rig) -> None:
        await rig.consumer.perform_seek()
        rig.thread.highwater = {P0: 4, P1: None}.__getitem__
        rig.kafka.positions[P0] = 4
        rig.thread.fetches.append({P0: records(P0, 0, 1, 2, 3)})
        delivering = rig.consumer.getmany(timeout=1.0)
        _, first = await anext(delivering)  # of two batches
        rig.consumer.acknowledge(first.batch.receipt)
        assert rig.to_commit() == {P0: 2}
        assert rig.consumer.lag() == {0: 4}

    with_rig(tmp_path, check)


def test_a_partition_is_read_once_aiokafkas_position_is_at_its_end() -> None:
    async def check() -> None:
        subscription = SubscriptionState()
        subscription.subscribe({EVENTS})
        subscription.assign_from_subscribed({TopicPartition(*P0)})
        thread = object.__new__(IntakeThread)
        thread._ensure_consumer = lambda: SimpleNamespace(_subscription=subscription)
        assert not thread.is_read(P0, 0)  # not positioned yet
        assert not thread.is_read(P1, 0)  # nor assigned
        subscription.seek(TopicPartition(*P0), 7)
        assert [thread.is_read(P0, end) for end in (6, 7, 8)] == [True, True, False]

    asyncio.run(check())


def test_a_look_at_partitions_that_are_being_positioned_does_not_end_the_worker(
    tmp_path: Path,
) -> None:
    async def check(rig: Rig) -> None:
        await rig.consumer.verify_all_partitions_active()

    with_rig(tmp_path, check)
