"""The pipeline where partitions move: the epoch barrier, settling and draining."""

import asyncio

import pytest
from delivery_rig import LIMIT_S, LONG_WAIT_S, Rig, run

from headrace.streams.state import UserState


def test_nothing_of_an_old_epoch_is_written_or_acknowledged() -> None:
    async def check(rig: Rig) -> None:
        rig.engine.gate.clear()
        await rig.delivery.take(rig.batch(0, 1, 2, 3))
        await rig.until(lambda: rig.engine.n_begun == 1)
        rig.intake.epoch = 2  # a rebalance, while the micro-batch is being computed
        taken = asyncio.create_task(rig.delivery.take(rig.batch(0, 1, epoch=2)))
        await asyncio.sleep(0)  # it waits at the barrier
        rig.engine.gate.set()
        await asyncio.wait_for(taken, LIMIT_S)
        await rig.until(lambda: bool(rig.intake.acknowledged))
        assert rig.writer.written == [[0, 1]]
        assert rig.intake.acknowledged == [(0, 2)]
        # Built on the table, not on what the dropped micro-batch had overlaid.
        assert rig.state("ann").items == ["i0", "i1"]

    run(check)


def test_a_new_epoch_waits_for_recovery_and_then_starts_from_the_table() -> None:
    async def check(rig: Rig) -> None:
        await rig.delivery.take(rig.batch(0))
        await rig.until(lambda: len(rig.intake.acknowledged) == 1)
        rig.serving.clear()
        rig.intake.epoch = 2
        taken = asyncio.create_task(rig.delivery.take(rig.batch(8, epoch=2)))
        done, _ = await asyncio.wait({taken}, timeout=0.05)
        assert not done
        recovered = UserState(7, 8, 0, ["another worker's"], ["view"], [1_000])
        rig.table[0, b"ann"] = recovered.encode()
        rig.serving.set()
        await asyncio.wait_for(taken, LIMIT_S)
        await rig.until(lambda: len(rig.intake.acknowledged) == 2)
        assert rig.state("ann").items == ["another worker's", "i8"]

    run(check)


def test_users_who_came_with_a_new_epoch_stay_for_a_while_though_they_are_too_many() -> None:
    async def check(rig: Rig) -> None:
        rig.table |= {(1, b"%d" % n): UserState().encode() for n in range(5)}
        await rig.delivery.take(rig.batch(0))
        await rig.until(lambda: len(rig.intake.acknowledged) == 1)
        assert rig.writer.evicted == [(1, b"0")]  # for ann, who is new

    run(check, max_users=2)


def test_what_was_filled_before_a_barrier_is_left_to_the_replay() -> None:
    async def check(rig: Rig) -> None:
        await rig.delivery.take(rig.batch(0))
        rig.intake.epoch = 2
        await rig.delivery.take(rig.batch(0, 1, 2, 3, epoch=2))
        await rig.until(lambda: bool(rig.intake.acknowledged))
        assert rig.writer.written == [[0, 1, 2, 3]]

    run(check, micro_batch_wait_s=LONG_WAIT_S)


def test_what_came_too_late_is_not_written_again_once_the_partitions_are_asked_for() -> None:
    async def check(rig: Rig) -> None:
        rig.writer.gate.clear()
        rig.writer.n_too_late = 1
        await rig.delivery.take(rig.batch(0, 1, 2, 3))
        await rig.writer.begun.wait()
        rig.intake.epoch = 2
        rig.writer.gate.set()
        await asyncio.wait_for(rig.delivery.settle(), LIMIT_S)
        assert len(rig.writer.stamps_ms) == 1
        assert (rig.intake.acknowledged, dict(rig.table)) == ([], {})

    run(check)


def test_partitions_are_given_up_after_the_running_write_only() -> None:
    async def check(rig: Rig) -> None:
        rig.writer.gate.clear()
        await rig.delivery.take(rig.batch(0, 1, 2, 3))
        await rig.writer.begun.wait()
        settling = asyncio.create_task(rig.delivery.settle())
        done, _ = await asyncio.wait({settling}, timeout=0.05)
        assert not done
        rig.writer.gate.set()
        await asyncio.wait_for(settling, LIMIT_S)
        assert rig.intake.acknowledged == [(0, 4)]

    run(check)


def test_draining_finishes_what_is_in_flight_and_takes_nothing_more() -> None:
    async def check(rig: Rig) -> None:
        rig.writer.gate.clear()
        await rig.delivery.take(rig.batch(0, 1, 2, 3))
        await rig.writer.begun.wait()
        draining = asyncio.create_task(rig.delivery.drain())
        await asyncio.sleep(0)  # it has begun
        await rig.delivery.take(rig.batch(4, 5, 6, 7))
        done, _ = await asyncio.wait({draining}, timeout=0.05)
        assert not done
        rig.writer.gate.set()
        await asyncio.wait_for(draining, LIMIT_S)
        assert rig.intake.acknowledged == [(0, 4)]

    run(check)


def test_what_is_being_filled_is_left_to_the_replay_when_it_drains() -> None:
    async def check(rig: Rig) -> None:
        await rig.delivery.take(rig.batch(0))
        await rig.delivery.drain()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(rig.delivery.submit_forever(), 0.3)  # its wait is over by then

    run(check, micro_batch_wait_s=0.1)
