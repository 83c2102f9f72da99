"""The pipeline where a fault comes: what is written again, and what ends the role."""

import time

import pytest
from aiokafka.errors import InvalidTimestampError
from delivery_rig import Rig, run

from headrace.streams.adapt.delivery import ATTEMPTS
from headrace.streams.errors import TopicMismatchError
from headrace.streams.kafka.batches import LostBatchError
from headrace.streams.state import UserState


def test_events_of_a_topic_that_was_made_anew_are_not_acknowledged_as_if_they_were_replays() -> (
    None
):
    async def check(rig: Rig) -> None:
        rig.table[0, b"ann"] = UserState(last_offset=5_000, n_events=1).encode()
        await rig.delivery.take(rig.batch(0, 1))
        await rig.until(lambda: rig.intake.acknowledged != [])

    with pytest.raises(
        TopicMismatchError, match=r"events', partition=0\) ends at 1000, before 5001"
    ):
        run(check)


def test_a_batch_that_went_missing_ends_the_role() -> None:
    async def check(rig: Rig) -> None:
        await rig.delivery.take(rig.batch(0))
        rig.batch(1)  # fetched, and lost on its way
        with pytest.raises(LostBatchError):
            await rig.delivery.take(rig.batch(2))

    run(check)


def test_a_failed_write_acknowledges_nothing_and_ends_the_role() -> None:
    async def check(rig: Rig) -> None:
        rig.writer.error = OSError("the broker did not take a record")
        try:
            await rig.delivery.take(rig.batch(0, 1, 2, 3))
            await rig.until(lambda: False)
        finally:
            assert (rig.intake.acknowledged, dict(rig.table)) == ([], {})

    with pytest.raises(OSError, match="did not take"):
        run(check)


def test_a_paused_process_is_ended_before_it_writes() -> None:
    async def check(rig: Rig) -> None:
        rig.guard.tick()
        rig.clock[0] = 2.5
        rig.writer.gate.clear()
        await rig.delivery.take(rig.batch(0, 1, 2, 3))
        await rig.writer.begun.wait()  # here, the end is only noted
        assert rig.ended == [75]

    run(check)


def test_a_worker_the_group_does_not_count_in_is_ended_before_it_writes() -> None:
    async def check(rig: Rig) -> None:
        rig.coordinator.is_member = False
        batch = rig.batch(0, 1, 2, 3)
        await rig.delivery.take(batch)
        await rig.until(lambda: bool(rig.writer.written))
        assert rig.ended == [75]
        assert rig.coordinator.asked_with == [batch]

    run(check)


def test_what_was_on_its_way_for_too_long_is_written_again_with_a_new_stamp() -> None:
    async def check(rig: Rig) -> None:
        rig.writer.gate.clear()
        rig.writer.n_too_late = 1
        await rig.delivery.take(rig.batch(0, 1, 2, 3))
        await rig.writer.begun.wait()
        rig.clock[0] = 1.5
        rig.writer.gate.set()
        await rig.until(lambda: bool(rig.intake.acknowledged))
        assert rig.writer.stamps_ms == [0, 1500]
        assert rig.writer.written == [[0, 1, 2, 3]]

    run(check)


def test_what_never_arrives_in_time_ends_the_role() -> None:
    async def check(rig: Rig) -> None:
        rig.writer.n_too_late = ATTEMPTS
        started_s = time.monotonic()
        try:
            await rig.delivery.take(rig.batch(0, 1, 2, 3))
            await rig.until(lambda: False)
        finally:
            assert len(rig.writer.stamps_ms) == ATTEMPTS
            # Refused at once, as with clocks apart, they are not all used up by a step of a clock.
            assert time.monotonic() - started_s >= (ATTEMPTS - 1) * 0.4
            assert (rig.intake.acknowledged, dict(rig.table)) == ([], {})

    with pytest.raises(InvalidTimestampError):
        run(check)
