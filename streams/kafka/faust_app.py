"""The Faust app both roles run in: every Faust setting, and the three classes that differ.

Differences to stock Faust: intake by record batches (intake.py), a stream buffer that keeps them
when flow resumes, and a table store that recovers the state with the larger offset.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import faust
import msgpack
from faust.auth import SASLCredentials, SSLCredentials
from faust.stores import memory
from faust.types.tuples import TP
from mode.utils.queues import ThrowableQueue

from headrace.streams.decoding import AT_A_STRETCH_S
from headrace.streams.errors import SettingsError
from headrace.streams.guards import end_process, tell_failure
from headrace.streams.kafka.batches import BatchSchema, ChangelogMessage, RecordBatch
from headrace.streams.kafka.intake import IntakeConsumer, IntakeOptions, IntakeTransport
from headrace.streams.kafka.security import client_options, uses_sasl, uses_tls
from headrace.streams.settings import Settings
from headrace.streams.state import Recovered, StateKey, offset_of

logger = logging.getLogger(__name__)

FETCHED_RECORDS = 1_024  # taken at once: each may have a thousand headers, made as objects
BUFFERED_BATCHES = 32  # in the agent's buffer; enough to never starve, little to drop
BUFFERED_BYTES = 2**24  # likewise: a batch is hundreds of records, and they may be large
RECOVERY_BUFFER_BATCHES = 8  # applied at once; Faust's 1000 would hold a million states in memory
HEARTBEATS_PER_SESSION = 5  # Kafka advises at least three
LONGEST_HEARTBEAT_S = 3.0  # Kafka's default; a worker hears of a rebalance with the next one
METADATA_AGE_MS = 30_000  # until a topic that is gone, or has more partitions, is noticed
COMMIT_INTERVAL_S = 0.5  # what a crash replays
BROKER_REQUEST_LIMIT_S = 90.0  # Faust's own default
PRODUCER_BATCH_BYTES = 1_000_000  # all states of a micro-batch; brokers take 1,048,588 by default
PRODUCER_REQUEST_LIMIT_S = 30.0  # Faust's default is 20 minutes
LARGEST_RECORD_BYTES = 1_048_576  # the broker's own default, less its batch header


class BatchQueue(ThrowableQueue):
    """An agent's buffer that keeps its record batches when flow resumes.

    faust-streaming #596: at the end of recovery ``flow_control.resume()`` clears the buffers after
    the fetcher has delivered events of the new generation to them, and they are lost. Stale
    batches need no clearing: they are recognised by their epoch.

    It is full of so many bytes as well as of so many batches.
    """

    def full(self) -> bool:
        """Return whether the next batch has to wait."""
        n_bytes = sum(event.message.batch.n_bytes for event in self._queue)
        return bool(n_bytes >= BUFFERED_BYTES or super().full())

    def clear(self) -> None:
        """Clear the buffer of changelogs only."""
        if all(isinstance(event.message, ChangelogMessage) for event in self._queue):
            super().clear()


class StateStore(memory.Store):
    """User states by ``StateKey``, least recently written first.

    Recovery keeps the state with the larger offset, so the late write of a worker that was
    paused and replaced cannot undo what its successor wrote before.
    """

    def __post_init__(self) -> None:
        """Create the mapping; Faust's stores are built in two steps."""
        self.data: OrderedDict[StateKey, bytes] = OrderedDict()

    def apply_changelog_batch(self, batch: Iterable[Any], to_key: Any, to_value: Any) -> None:  # noqa: ARG002
        """Apply changelog records in order."""
        for event in batch:
            for record in event.message.batch.records:
                key: StateKey = (record.partition, record.key)
                if record.value is None:
                    self.data.pop(key, None)
                elif self._is_newer(key, record):
                    self.data[key] = Recovered(record.value)
                    self.data.move_to_end(key)

    def _is_newer(self, key: StateKey, record: Any) -> bool:
        held = self.data.get(key)
        try:
            return offset_of(record.value) >= (-1 if held is None else offset_of(held))
        except (TypeError, ValueError, msgpack.UnpackException):
            logger.error(
                "skipped a changelog record that is no state topic=%s partition=%d offset=%d",
                *(record.topic, record.partition, record.offset),
            )
            return False

    async def on_recovery_completed(self, active_tps: set[TP], standby_tps: set[TP]) -> None:  # noqa: ARG002
        """Drop the states of partitions that went to other workers, while the event loop goes on.

        In one go, half a million took longer than a worker may stand still.
        """
        partitions = {tp.partition for tp in active_tps}
        assigned, rested_s = self.app.rebalances_assigned, time.monotonic()
        # As a plain dict's: an ordered one looks each up, which takes a second for a million.
        for key in list(dict.keys(self.data)):
            if key[0] not in partitions:
                del self.data[key]
            if time.monotonic() - rested_s > AT_A_STRETCH_S:
                await asyncio.sleep(0)
                rested_s = time.monotonic()
                if self.app.rebalances_assigned != assigned:
                    return  # Faust does not wait for us: what is left is seen to the next time


class StateTable(faust.Table):
    """A table whose store is a ``StateStore``, and whose changelog is read in batches."""

    def _new_store(self) -> StateStore:
        return StateStore("memory://", self.app, self, table_name=self.name, loop=self.loop)


class IntakeApp(faust.App):
    """A Faust app that takes record batches in and knows when it is serving."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.serving = asyncio.Event()
        """Set while positions are assigned and tables recovered; the readiness of the role."""
        self._rebalances_begun = 0
        self.rebalances_assigned = 0

    @property
    def intake(self) -> IntakeConsumer:
        """The consumer, by the name of what it offers the roles."""
        consumer: IntakeConsumer = self.consumer
        return consumer

    def batch_producer(self) -> Any:
        """Return aiokafka's own producer, which takes whole batches; Faust's takes records."""
        return self.producer._ensure_producer()

    def state_table(self, name: str) -> StateTable:
        """Make the table of user states; its changelog is GROUP-ROLE-NAME-changelog."""
        table: StateTable = self.Table(
            name, schema=BatchSchema(), recovery_buffer_size=RECOVERY_BUFFER_BATCHES
        )
        return table

    def take_batches(self, topic: str, take: Callable[[RecordBatch], Awaitable[None]]) -> None:
        """Await ``take`` with each batch of ``topic``, in order. It says when one is done."""

        async def hand_over(stream: Any) -> None:
            stream.enable_acks = False  # a batch is acknowledged when its results are written
            try:
                async for event in stream.events():
                    await take(event.message.batch)
            except Exception as exc:
                end_process(tell_failure(exc, f"a batch of {topic} could not be taken"))

        self.agent(self.topic(topic, schema=BatchSchema()), name="intake")(hand_over)

    def FlowControlQueue(self, maxsize: int | None = None, *, clear_on_resume: bool = False) -> Any:  # noqa: N802
        """Build the buffer of an agent or of the changelogs."""
        return BatchQueue(
            maxsize=maxsize, flow_control=self.flow_control, clear_on_resume=clear_on_resume
        )

    def on_rebalance_start(self) -> None:
        """Stop serving. Faust calls this from the consumer's thread."""
        self._rebalances_begun += 1
        self.serving.clear()
        super().on_rebalance_start()

    async def _on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        self.rebalances_assigned = self._rebalances_begun
        await super()._on_partitions_assigned(assigned, generation_id)

    def on_rebalance_end(self) -> None:
        """Serve again: positions are set and tables recovered."""
        super().on_rebalance_end()
        # Faust ends a rebalance without asking whether the next one has begun meanwhile.
        if self.rebalances_assigned == self._rebalances_begun:
            self.serving.set()


def broker_options(settings: Settings) -> dict[str, Any]:
    """Return what a Faust app takes to reach the brokers.

    Raises:
        SettingsError: a file cannot be read, or is none of what it should be.
    """
    options = client_options(settings)
    credentials: Any = None
    if uses_sasl(settings):
        credentials = SASLCredentials(
            username=options["sasl_plain_username"],
            password=options["sasl_plain_password"],
            mechanism=options["sasl_mechanism"],
            ssl_context=options.get("ssl_context"),
        )
    elif uses_tls(settings):
        credentials = SSLCredentials(options["ssl_context"])
    return {
        "broker": "kafka://" + settings.bootstrap.replace(",", ";"),
        "broker_credentials": credentials,
    }


def make_app(settings: Settings, role: str, options: IntakeOptions) -> IntakeApp:
    """Build the app of a role, inside a running event loop.

    Raises:
        SettingsError: there can be no such ``data_dir``.
    """
    data_dir = settings.data_dir / role
    try:
        # Faust creates its folder without parents, and where it cannot, with a traceback.
        (data_dir / "v1").mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise SettingsError(f"data_dir={settings.data_dir} cannot be used: {exc.strerror}") from exc
    session_s = settings.session_timeout_s
    app = IntakeApp(
        f"{settings.group}-{role}",
        **broker_options(settings),
        datadir=str(data_dir),
        store="memory://",
        id_format="{id}",
        key_serializer="raw",
        value_serializer="raw",
        Table=StateTable,
        topic_partitions=settings.partitions,
        topic_replication_factor=settings.replication,
        topic_disable_leader=True,
        topic_allow_declare=False,  # `headrace topics` has: a role needs no right to create any
        table_standby_replicas=0,  # standby records are lost when flow resumes
        consumer_auto_offset_reset="earliest",
        consumer_metadata_max_age_ms=METADATA_AGE_MS,
        consumer_group_instance_id=settings.group_instance_id or None,
        broker_session_timeout=session_s,
        broker_request_timeout=max(BROKER_REQUEST_LIMIT_S, session_s),  # Faust insists
        broker_heartbeat_interval=min(LONGEST_HEARTBEAT_S, session_s / HEARTBEATS_PER_SESSION),
        broker_rebalance_timeout=2 * session_s,
        broker_commit_interval=COMMIT_INTERVAL_S,
        broker_max_poll_records=FETCHED_RECORDS,
        producer_linger=0.0,  # a micro-batch is handed over at once, and goes in one request
        producer_max_batch_size=PRODUCER_BATCH_BYTES,
        producer_max_request_size=LARGEST_RECORD_BYTES,
        producer_request_timeout=PRODUCER_REQUEST_LIMIT_S,
        producer_compression_type=None if settings.compression == "none" else settings.compression,
        stream_buffer_maxsize=BUFFERED_BATCHES,
        stream_wait_empty=False,  # with it, Faust waits for events that were never acknowledged
        agent_supervisor="mode.supervisors.CrashingSupervisor",  # the default loses what failed
        web_enabled=False,
        web_in_thread=False,
    )
    app.transport = IntakeTransport(app.conf.broker_consumer, app, options)
    return app
