"""The pipeline: filling, one micro-batch at a time, strictly ordered writes."""

import asyncio
from itertools import chain

from delivery_rig import LIMIT_S, LONG_WAIT_S, P0, P1, Rig, run

from headrace.streams import metrics
from headrace.streams.adapt.delivery import IN_FLIGHT, MICRO_BATCH_BYTES


def test_a_full_micro_batch_merges_partitions_and_acknowledges_each_batch() -> None:
    async def check(rig: Rig) -> None:
        await rig.delivery.take(rig.batch(5, 6, tp=P0))
        await rig.delivery.take(rig.batch(70, 71, tp=P1, user="bob"))
        await rig.until(lambda: len(rig.intake.acknowledged) == 2)
        assert rig.writer.written == [[5, 6, 70, 71]]
        assert rig.intake.acknowledged == [(0, 7), (1, 72)]
        assert rig.state("ann").items == ["i5", "i6"]
        assert rig.state("bob", partition=1).last_offset == 71

    run(check, micro_batch_wait_s=LONG_WAIT_S)


def test_a_micro_batch_of_many_bytes_is_full() -> None:
    async def check(rig: Rig) -> None:
        half = (("padding", bytes(MICRO_BATCH_BYTES // 2)),)
        await rig.delivery.take(rig.batch(5, headers=half))
        await rig.delivery.take(rig.batch(6, headers=half))
        await rig.until(lambda: rig.writer.written == [[5, 6]])

    run(check, micro_batch_wait_s=LONG_WAIT_S)


def test_a_micro_batch_goes_when_its_wait_is_over() -> None:
    async def check(rig: Rig) -> None:
        await rig.delivery.take(rig.batch(5))
        await rig.until(lambda: rig.writer.written == [[5]])

    run(check, micro_batch_wait_s=0.01)


def test_micro_batches_are_computed_one_at_a_time_and_written_in_order() -> None:
    async def check(rig: Rig) -> None:
        for offset in range(0, 40, 4):
            await rig.delivery.take(rig.batch(*range(offset, offset + 4)))
        await rig.until(lambda: len(rig.intake.acknowledged) == 10)
        assert list(chain.from_iterable(rig.writer.written)) == list(range(40))
        assert rig.intake.acknowledged == [(0, end) for end in range(4, 44, 4)]
        assert len(rig.engine.threads) == 1
        assert rig.state("ann").n_events == 40

    run(check)


def test_a_slow_broker_holds_the_intake_back() -> None:
    async def check(rig: Rig) -> None:
        rig.writer.gate.clear()
        in_flight = IN_FLIGHT + 1  # and the one being filled
        for number in range(in_flight):
            await rig.delivery.take(rig.batch(*range(4 * number, 4 * number + 4)))
        await rig.until(lambda: rig.engine.n_calls == IN_FLIGHT)
        held = asyncio.create_task(rig.delivery.take(rig.batch(98, 99)))
        done, _ = await asyncio.wait({held}, timeout=0.05)
        assert not done
        rig.writer.gate.set()
        await asyncio.wait_for(held, LIMIT_S)
        await rig.until(lambda: len(rig.intake.acknowledged) == in_flight + 1)

    run(check)


def test_a_micro_batch_goes_on_filling_while_no_slot_is_free() -> None:
    async def check(rig: Rig) -> None:
        rig.writer.gate.clear()
        for number in range(IN_FLIGHT):
            await rig.delivery.take(rig.batch(4 * number, 4 * number + 1, 4 * number + 2))
            await rig.until(lambda n=number: rig.engine.n_calls == n + 1)
        await rig.delivery.take(rig.batch(90))
        await rig.delivery.take(rig.batch(91))
        rig.writer.gate.set()
        await rig.until(lambda: [90, 91] in rig.writer.written)

    run(check)


def test_what_comes_while_another_is_computed_is_one_micro_batch() -> None:
    async def check(rig: Rig) -> None:
        rig.engine.gate.clear()
        await rig.delivery.take(rig.batch(0))
        await rig.until(lambda: rig.engine.n_begun == 1)
        for offset in (1, 2):
            await rig.delivery.take(rig.batch(offset))
            for _ in range(10):  # turns in which it could go
                await asyncio.sleep(0)
        rig.engine.gate.set()
        await rig.until(lambda: len(rig.intake.acknowledged) == 3)
        assert rig.writer.written == [[0], [1, 2]]

    run(check)


def test_users_beyond_the_limit_are_evicted_with_a_tombstone() -> None:
    before = metrics.EVICTED._value.get()

    async def check(rig: Rig) -> None:
        for offset, user in enumerate(("ann", "bob", "cem")):
            await rig.delivery.take(rig.batch(offset, user=user))
            await rig.until(lambda n=offset: len(rig.intake.acknowledged) == n + 1)
        assert rig.writer.evicted == [(0, b"ann")]
        assert set(rig.table) == {(0, b"bob"), (0, b"cem")}
        assert metrics.EVICTED._value.get() == before + 1

    run(check, max_users=2)
