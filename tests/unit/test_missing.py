"""Events that were removed before they were read are counted, once, and told."""

from pathlib import Path

import pytest
from intake_rig import EVENTS, P0, Rig, offsets_of, records, with_rig
from prometheus_client import REGISTRY


def missed() -> float:
    return REGISTRY.get_sample_value("headrace_missed_events_total") or 0.0


@pytest.mark.parametrize(("beginning", "n_missed"), [(0, 0), (7, 0), (12, 5), (20, 13)])
def test_events_that_were_removed_before_they_were_read_are_counted_once(
    beginning: int, n_missed: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = missed()

    async def check(rig: Rig) -> None:
        rig.kafka.beginning = beginning
        await rig.consumer.perform_seek()
        first = max(beginning, 8)  # 7 is the mark of a transaction, where it is still there
        assert offsets_of(await rig.poll({P0: records(P0, first)})) == [(0, [first])]
        assert missed() == before + n_missed
        await rig.poll({P0: records(P0, first + 9)})
        assert missed() == before + n_missed
        rig.kafka.beginning = first + 40  # it fell behind
        await rig.poll({P0: records(P0, first + 40)})
        assert missed() == before + n_missed + 30

    with_rig(tmp_path, check, commits={P0: 7})
    told = [record.getMessage().partition(" ")[0] for record in caplog.records]
    assert told == [str(n) for n in (n_missed, 30) if n]


def test_what_a_role_has_read_beyond_its_commit_is_not_missed(tmp_path: Path) -> None:
    before = missed()

    async def check(rig: Rig) -> None:
        rig.kafka.beginning = 20
        await rig.consumer.perform_seek()
        await rig.poll({P0: records(P0, 20)})
        assert missed() == before

    with_rig(tmp_path, check, commits={P0: 7}, position_of=lambda _: 20)


def test_missed_events_are_counted_once_though_a_rebalance_comes_between(tmp_path: Path) -> None:
    before = missed()

    async def check(rig: Rig) -> None:
        rig.kafka.beginning = 20
        await rig.consumer.perform_seek()
        rig.thread.while_asking = rig.consumer._open_epoch
        assert await rig.poll({P0: records(P0, 20)}) == []
        rig.thread.while_asking = lambda: None
        await rig.consumer.perform_seek()
        assert offsets_of(await rig.poll({P0: records(P0, 20)})) == [(0, [20])]
        assert missed() == before + 13

    with_rig(tmp_path, check, commits={P0: 7})


def test_a_partition_that_was_read_and_has_no_offset_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def check(rig: Rig) -> None:
        await rig.consumer.perform_seek()

    with_rig(tmp_path, check, commits={P0: 0}, has_read=lambda _: True)
    with_rig(tmp_path, check, has_read=lambda _: False)
    (told,) = (record.getMessage() for record in caplog.records if "made anew" in record.message)
    assert f"in partition 1 of {EVENTS}" in told
