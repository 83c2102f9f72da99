"""What delivery reports of a written micro-batch, and of the intake."""

from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import REGISTRY

from headrace.streams.adapt.compute import Computed
from headrace.streams.adapt.micro_batch import Arrivals, MicroBatch
from headrace.streams.adapt.observe import observe
from headrace.streams.kafka.dead_letters import DeadLetter
from headrace.streams.process import observe_intake
from headrace.streams.records import Source


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"headrace_{name}", labels) or 0.0


def a_written_micro_batch() -> tuple[MicroBatch, Computed]:
    source = Source(topic="events", partition=0, offset=9, time_ms=0)
    ann = Arrivals(user="ann", events=[], source=source, oldest_record_ms=4_000)
    letter = DeadLetter(reason="empty", key=None, value=None, headers=[])
    micro_batch = MicroBatch(opened_s=10.0, users={(0, b"ann"): ann}, dead_letters=[letter])
    micro_batch.n_records = 4
    computed = Computed(lists={(0, b"ann"): b"list"}, n_applied=2, n_replayed=1)
    computed.started_s, computed.ended_s = 10.25, 11.0
    return micro_batch, computed


def test_a_written_micro_batch_is_counted_once_and_by_stage() -> None:
    counted = ["events_total", "replayed_events_total", "lists_total"]
    seconds = [
        ("stage_duration_seconds_sum", {"stage": "queue"}),
        ("stage_duration_seconds_sum", {"stage": "compute"}),
        ("stage_duration_seconds_sum", {"stage": "write"}),
        ("event_to_list_seconds_sum", {}),
        ("micro_batch_events_sum", {}),
        ("dead_letters_total", {"reason": "empty"}),
    ]
    names = [(name, {}) for name in counted] + seconds
    before = [value(name, **labels) for name, labels in names]
    observe(*a_written_micro_batch(), now_s=12.5, now_ms=6_000)
    after = [value(name, **labels) for name, labels in names]
    # Two events applied, one replayed, one list; 0.25 s queued, 0.75 s computed, 1.5 s written;
    # the list came 2 s after the record; four records, one of them a dead letter.
    expected = [2, 1, 1, 0.25, 0.75, 1.5, 2.0, 4, 1]
    assert [b - a for a, b in zip(before, after, strict=True)] == pytest.approx(expected)


def test_a_scrape_while_lag_is_asked_for_finds_that_of_before() -> None:
    labels, found = {"partition": "3"}, list[float | None]()

    def lag() -> dict[int, int]:
        found.append(REGISTRY.get_sample_value("headrace_consumer_lag_events", labels))
        return {3: 7}

    consumer: Any = SimpleNamespace(lag=lag)
    for _ in range(2):
        observe_intake(consumer, n_users=42)
    assert found[1] == 7


def test_lag_is_reported_for_the_partitions_held_now() -> None:
    consumer: Any = SimpleNamespace(lag=lambda: {0: 5, 3: 7})
    observe_intake(consumer, n_users=42)
    consumer = SimpleNamespace(lag=lambda: {3: 6})
    observe_intake(consumer, n_users=41)
    assert REGISTRY.get_sample_value("headrace_users") == 41
    assert REGISTRY.get_sample_value("headrace_consumer_lag_events", {"partition": "3"}) == 6
    assert REGISTRY.get_sample_value("headrace_consumer_lag_events", {"partition": "0"}) is None
