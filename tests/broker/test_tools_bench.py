"""`headrace bench` on a real broker, at a size that takes seconds."""

import time

import pytest

from headrace.streams.bench import latency, overload, pipeline, recover, scale, soak, stage
from headrace.streams.bench.measuring import Figure
from headrace.streams.kafka.clients import admin
from headrace.streams.kafka.topics import create_topics
from headrace.streams.settings import Settings

N_EVENTS, N_USERS = 1_000, 50
ROOM_BYTES = 250_000_000  # for histories that fill up, and the largest micro-batch


@pytest.mark.timeout(900)  # it starts five processes in turn, each with a tensor library
def test_every_contender_gets_through_the_same_events(settings: Settings) -> None:
    small = {"encoder_width": 8, "encoder_length": 8, "neighbours": 8, "micro_batch_events": 20}
    runs: list[int] = []
    rows = pipeline.measure(
        settings.model_copy(update=small),
        n_events=N_EVENTS,
        n_users=N_USERS,
        n_items=60,
        repeats=1,
        on_progress=runs.append,
    )
    assert len(runs) == len(rows) == len(pipeline.CONTENDERS)
    speeds = {row["job"]: (row["events/s"], row["lists/s"]) for row in rows}
    for name, (events, lists) in speeds.items():
        assert isinstance(events, Figure)
        assert isinstance(lists, Figure)
        assert events.median > 0, name
        assert (lists.median > 0) == (name.find("only reads") < 0), name


def test_a_bench_leaves_no_topic_behind(settings: Settings) -> None:
    with stage.on_its_own(settings) as own:
        made = create_topics(own)
    deadline_s = time.monotonic() + 60  # Kafka answers before they are gone
    with admin(settings) as client:
        while {*made} & {*client.list_topics()}:
            assert time.monotonic() < deadline_s
            time.sleep(0.1)


def test_a_soak_samples_both_roles_until_its_bounds_are_at_work(settings: Settings) -> None:
    small = {"encoder_width": 8, "encoder_length": 8, "neighbours": 8, "replay_batches": 0}
    samples: list[int] = []
    found = soak.measure(
        settings.model_copy(update=small),
        minutes=0.4,
        events_per_s=40,
        broker=None,
        on_progress=samples.append,
    )
    assert 0 < found.bounded_s < 24
    assert len(samples) == len(found.samples["seconds"])
    told = {row["held"]: row["last third"] for row in found.rows}
    for role in ("adapt", "learn"):
        memory, users, items = (
            told[f"{role}: {what}"] for what in ("resident MB", "users", "items")
        )
        assert isinstance(memory, float)
        assert memory > 50  # no Python with this many libraries is smaller
        assert isinstance(users, float)
        assert isinstance(items, float)
        assert users > 0
        assert 0 < items <= 16


@pytest.mark.timeout(900)  # it drains what a busy machine let wait
def test_a_worker_at_twice_its_load_holds_its_memory_its_place_and_the_order(
    settings: Settings,
) -> None:
    small = {"encoder_width": 8, "encoder_length": 8, "neighbours": 8, "pause_limit_s": 30.0}
    found = overload.measure(settings.model_copy(update=small), n_users=100, n_items=100, seconds=6)
    assert found.n_expulsions == 0
    assert found.n_out_of_order == 0
    assert found.n_unanswered == 0
    assert found.n_doubled == 0
    # A list for each user of a micro-batch: half of the events are of two users.
    assert 0 < found.n_lists < 0.8 * found.n_events
    samples = [*found.phases.overload, *found.phases.drain]
    assert max(sample.lag for sample in samples) > 0
    assert samples[-1].lag == 0
    held = [sample.resident_bytes for sample in samples]
    assert max(held) - held[0] < ROOM_BYTES


def test_a_killed_workers_partitions_are_served_again(
    settings: Settings, request: pytest.FixtureRequest
) -> None:
    small = {"encoder_width": 8, "encoder_length": 8, "neighbours": 8}
    is_kafka = request.config.getoption("--broker") == "kafka"  # else no static membership
    failovers = recover.FAILOVERS[::2] if is_kafka else recover.FAILOVERS[:1]
    steps: list[int] = []
    tables = recover.measure(
        settings.model_copy(update=small),
        sizes=[0, 200],
        failovers=failovers,
        repeats=1,
        on_progress=steps.append,
    )
    assert len(steps) == 2 + 2 + len(failovers)
    assert [row["states"] for row in tables["start"]] == ["0", "200"]
    assert [row["one of two killed"] for row in tables["failover"]] == [f.name for f in failovers]
    for row in tables["failover"]:
        taken = row["s until served again"]
        assert isinstance(taken, Figure)
        assert taken.median > 0


def test_every_event_that_was_due_has_a_list_at_each_load(settings: Settings) -> None:
    small = {"encoder_width": 8, "encoder_length": 8, "neighbours": 8}
    runs: list[int] = []
    rows = latency.measure(
        settings.model_copy(update=small),
        n_workers=2,
        n_users=100,
        n_items=100,
        seconds=0.5,
        on_progress=runs.append,
    )
    assert [row["load"] for row in rows] == ["25%", "50%", "75%", "90%"]
    assert len(runs) == 1 + len(rows)
    for row in rows:
        p50, p95, p99 = (float(str(row[f"p{q} ms"])) for q in (50, 95, 99))
        assert 0 < p50 <= p95 <= p99


def test_workers_that_scale_out_share_the_events_and_tell_their_parts(settings: Settings) -> None:
    small = {"encoder_width": 8, "encoder_length": 8, "neighbours": 8}
    runs: list[int] = []
    one, two = scale.measure(
        settings.model_copy(update=small),
        workers=[1, 2],
        n_events=3_000,
        n_users=100,
        n_items=100,
        repeats=1,
        broker=None,
        on_progress=runs.append,
    )
    assert len(runs) == 2
    assert [one["workers"], two["workers"], one["of one"]] == ["1", "2", 1]
    for row in (one, two):
        for name in ("events/s", "worker us", "fold us", "model us", "states us"):
            figure = row[name]
            assert isinstance(figure, Figure)
            assert figure.median > 0
