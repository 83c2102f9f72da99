"""The Faust app: the buffer, the state store, the serving flag and the settings."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from faust.types.tuples import TP

from headrace.streams.errors import SettingsError, TopicMismatchError
from headrace.streams.guards import EXIT_FAILED, EXIT_WRONG
from headrace.streams.kafka import faust_app
from headrace.streams.kafka.batches import BatchMessage, ChangelogMessage, RecordBatch, Watermarks
from headrace.streams.kafka.faust_app import BUFFERED_BYTES, IntakeApp, StateStore, make_app
from headrace.streams.kafka.intake import IntakeOptions
from headrace.streams.settings import Settings
from headrace.streams.state import UserState

EVENTS, CHANGELOG = "headrace.events", "headrace-adapt-users-changelog"
P0 = TP(EVENTS, 0)


def with_app(folder: Path, check: Callable[[IntakeApp], Awaitable[None]], **settings: Any) -> None:
    """Run ``check`` with an app that is never started."""

    async def run() -> None:
        options = IntakeOptions(topics=frozenset({EVENTS}), batch_records=2)
        await check(
            make_app(Settings(data_dir=folder / "deep" / "down", **settings), "adapt", options)
        )

    asyncio.run(run())


def event_with(message_type: type[BatchMessage], *records: Any) -> Any:
    receipt = Watermarks().deliver(P0, 1, epoch=1)
    return SimpleNamespace(message=message_type(RecordBatch(records, receipt), generation=1))


def record(partition: int, key: bytes, value: bytes | None) -> Any:
    return SimpleNamespace(
        topic=CHANGELOG,
        partition=partition,
        offset=0,
        key=key,
        value=value,
        timestamp=1_000,
        timestamp_type=0,
        headers=(),
    )


def test_a_data_folder_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "deep").write_text("a file")

    async def never(_: IntakeApp) -> None:
        raise AssertionError

    with pytest.raises(
        SettingsError, match=r"data_dir=.*deep/down cannot be used: Not a directory"
    ):
        with_app(tmp_path, never)


def test_a_folder_that_faust_cannot_make_is_the_data_folders_fault(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    (tmp_path / "adapt").mkdir()
    (tmp_path / "adapt" / "v1").write_text("a file")
    with pytest.raises(SettingsError, match=r"data_dir=.* cannot be used"):
        make_app(settings, "adapt", IntakeOptions(frozenset({"t"}), batch_records=1))


@pytest.mark.parametrize(
    ("failure", "status"),
    [(ValueError("a defect"), EXIT_FAILED), (TopicMismatchError("made anew"), EXIT_WRONG)],
)
def test_a_batch_that_cannot_be_taken_ends_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception, status: int
) -> None:
    ended: list[int] = []
    monkeypatch.setattr(faust_app, "end_process", ended.append)

    async def take(_: RecordBatch) -> None:
        raise failure

    async def check(app: IntakeApp) -> None:
        async def events() -> AsyncIterator[Any]:
            yield event_with(BatchMessage, record(0, b"", b""))

        app.take_batches(EVENTS, take)
        (agent,) = app.agents.values()
        await agent.fun(SimpleNamespace(events=events))

    with_app(tmp_path, check)
    assert ended == [status]


# ------------------------------------------------------------------------------------ the buffer


def test_resumed_flow_leaves_record_batches_in_the_buffer(tmp_path: Path) -> None:
    # faust-streaming #596: with Faust's own queue this buffer is empty afterwards.
    async def check(app: IntakeApp) -> None:
        buffer = app.FlowControlQueue(maxsize=1, clear_on_resume=True)
        first, second = (event_with(BatchMessage, record(0, b"", b"")) for _ in range(2))
        app.flow_control.resume()
        await buffer.put(first)
        waiting = asyncio.create_task(buffer.put(second))
        await asyncio.sleep(0)  # the task runs until it waits for room
        app.flow_control.resume()
        assert await buffer.get() is first
        await waiting
        assert await buffer.get() is second

    with_app(tmp_path, check)


def test_the_buffer_is_full_of_few_records_that_are_large(tmp_path: Path) -> None:
    async def check(app: IntakeApp) -> None:
        buffer = app.FlowControlQueue(maxsize=32)
        half = record(0, b"", bytes(BUFFERED_BYTES // 2))
        for _ in range(2):
            assert not buffer.full()
            buffer.put_nowait(event_with(BatchMessage, half))
        assert buffer.full()
        buffer.get_nowait()
        assert not buffer.full()

    with_app(tmp_path, check)


def test_resumed_flow_still_clears_changelogs(tmp_path: Path) -> None:
    async def check(app: IntakeApp) -> None:
        buffer = app.FlowControlQueue(maxsize=1, clear_on_resume=True)
        app.flow_control.resume()
        await buffer.put(event_with(ChangelogMessage, record(0, b"ann", None)))
        app.flow_control.resume()
        assert buffer.empty()

    with_app(tmp_path, check)


# ------------------------------------------------------------------------------- the state store


def state(last_offset: int) -> bytes:
    return UserState(last_offset=last_offset).encode()


def with_store(folder: Path, check: Callable[[StateStore], Awaitable[None]]) -> None:
    async def run(app: IntakeApp) -> None:
        await check(app.state_table("users").data)

    with_app(folder, run)


def apply(store: StateStore, *records: Any) -> None:
    events = [event_with(ChangelogMessage, record) for record in records]
    store.apply_changelog_batch(events, to_key=None, to_value=None)


def test_recovery_keeps_the_state_with_the_larger_offset(tmp_path: Path) -> None:
    async def check(store: StateStore) -> None:
        apply(store, record(0, b"ann", state(9)), record(0, b"ann", state(5)))  # a zombie's write
        assert store.data[0, b"ann"] == state(9)
        apply(store, record(0, b"ann", state(12)))
        assert store.data[0, b"ann"] == state(12)

    with_store(tmp_path, check)


def test_one_user_in_two_partitions_has_two_states(tmp_path: Path) -> None:
    async def check(store: StateStore) -> None:
        apply(store, record(0, b"ann", state(900)), record(1, b"ann", state(3)))
        assert store.data == {(0, b"ann"): state(900), (1, b"ann"): state(3)}

    with_store(tmp_path, check)


def test_a_tombstone_removes_and_a_later_state_returns_the_user(tmp_path: Path) -> None:
    async def check(store: StateStore) -> None:
        apply(store, record(0, b"ann", state(9)), record(0, b"ann", None))
        assert not store.data
        apply(store, record(0, b"ann", None), record(0, b"ann", state(11)))
        assert store.data[0, b"ann"] == state(11)

    with_store(tmp_path, check)


def test_recovery_orders_users_by_their_last_write(tmp_path: Path) -> None:
    async def check(store: StateStore) -> None:
        apply(store, *(record(0, key, state(1)) for key in (b"ann", b"bob")))
        apply(store, record(0, b"ann", state(2)))
        assert [key for _, key in store.data] == [b"bob", b"ann"]

    with_store(tmp_path, check)


def test_a_changelog_record_that_is_no_state_does_not_stop_recovery(tmp_path: Path) -> None:
    async def check(store: StateStore) -> None:
        junk = [b"", b"junk", b"\x90", b"\x91\xa1x", b"\xc1"]
        apply(store, *(record(0, b"bob", value) for value in junk))
        apply(store, record(0, b"ann", state(1)))
        apply(store, *(record(0, b"ann", value) for value in junk))
        assert store.data == {(0, b"ann"): state(1)}

    with_store(tmp_path, check)


def test_states_of_partitions_that_moved_away_are_dropped(tmp_path: Path) -> None:
    async def check(store: StateStore) -> None:
        apply(store, record(0, b"ann", state(1)), record(1, b"bob", state(1)))
        await store.on_recovery_completed({TP(CHANGELOG, 1)}, set())
        assert set(store.data) == {(1, b"bob")}

    with_store(tmp_path, check)


def test_dropping_states_lets_others_work_and_ends_where_a_newer_assignment_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faust_app, "AT_A_STRETCH_S", -1)

    async def check(store: StateStore) -> None:
        apply(store, *(record(0, b"%d" % n, state(n)) for n in range(20)))
        dropping = asyncio.ensure_future(store.on_recovery_completed({TP(CHANGELOG, 1)}, set()))
        for _ in range(5):
            await asyncio.sleep(0)
        assert 0 < len(store.data) < 20
        store.app.rebalances_assigned += 1  # its partitions may be among the new ones
        n_left = len(store.data)
        await dropping
        assert len(store.data) == n_left
        await store.on_recovery_completed({TP(CHANGELOG, 1)}, set())
        assert not store.data

    with_store(tmp_path, check)


# ------------------------------------------------------------------------------ the serving flag


def test_serving_begins_when_the_newest_rebalance_has_ended(tmp_path: Path) -> None:
    async def check(app: IntakeApp) -> None:
        assigned = app._on_partitions_assigned
        app.agents.on_rebalance = app.topics.on_partitions_assigned = no_op
        app.tables.on_rebalance = no_op
        app._consumer = SimpleNamespace(pause_partitions=lambda _: None)
        app.on_rebalance_start()
        assert not app.serving.is_set()
        await assigned(set())
        app.on_rebalance_start()  # the next begins before the first has ended
        app.on_rebalance_end()
        assert not app.serving.is_set()
        await assigned(set())
        app.on_rebalance_end()
        assert app.serving.is_set()

    async def no_op(*_: Any) -> None:
        pass

    with_app(tmp_path, check)


# ---------------------------------------------------------------------------------- the settings


def test_our_settings_become_fausts(tmp_path: Path) -> None:
    async def check(app: IntakeApp) -> None:
        conf = app.conf
        assert [str(url) for url in conf.broker] == ["kafka://one:9092", "kafka://two:9092"]
        assert conf.id == "shop-adapt"
        assert (conf.broker_session_timeout, conf.broker_heartbeat_interval) == (6.0, 1.2)
        assert (conf.broker_rebalance_timeout, conf.broker_request_timeout) == (12.0, 90.0)
        assert conf.topic_partitions == 7
        assert conf.producer_compression_type == "gzip"
        assert conf.stream_wait_empty is False
        assert conf.table_standby_replicas == 0
        assert conf.consumer_group_instance_id == "worker-1"
        assert conf.datadir.is_dir()

    with_app(
        tmp_path,
        check,
        bootstrap="one:9092,two:9092",
        group="shop",
        group_instance_id="worker-1",
        session_timeout_s=6,
        partitions=7,
        compression="gzip",
    )


def test_a_worker_without_a_name_is_a_new_member(tmp_path: Path) -> None:
    async def check(app: IntakeApp) -> None:
        assert app.conf.consumer_group_instance_id is None  # an empty name would be one, of all

    with_app(tmp_path, check)


def test_a_long_session_makes_requests_wait_as_long(tmp_path: Path) -> None:
    # Faust refuses to start with a session longer than a request.
    async def check(app: IntakeApp) -> None:
        assert app.conf.broker_request_timeout == 300.0
        assert app.conf.broker_heartbeat_interval == 3.0  # else a rebalance goes unheard for 60 s

    with_app(tmp_path, check, session_timeout_s=300, rebalance_limit_s=600)
