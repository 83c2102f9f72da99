"""Delivery's part of the metrics: what was written, and how long it took."""

from headrace.streams import metrics
from headrace.streams.adapt.compute import Computed
from headrace.streams.adapt.micro_batch import MicroBatch


def observe(micro_batch: MicroBatch, computed: Computed, *, now_s: float, now_ms: float) -> None:
    """Count a micro-batch once the broker has acknowledged everything it wrote."""
    metrics.EVENTS.inc(computed.n_applied)
    metrics.REPLAYED.inc(computed.n_replayed)
    listed = [key for key, value in computed.lists.items() if value is not None]
    metrics.LISTS.inc(len(listed))
    metrics.FORGOTTEN.inc(computed.n_forgotten)
    for letter in micro_batch.dead_letters:
        metrics.DEAD_LETTERS.labels(letter.reason).inc()
    metrics.MICRO_BATCH_EVENTS.observe(micro_batch.n_records)
    metrics.MICRO_BATCH_USERS.observe(len(micro_batch.users))
    for stage, seconds in (
        ("queue", computed.started_s - micro_batch.opened_s),
        ("compute", computed.ended_s - computed.started_s),
        ("write", now_s - computed.ended_s),
    ):
        metrics.STAGE_SECONDS.labels(stage).observe(seconds)
    oldest_ms = [micro_batch.users[key].oldest_record_ms for key in listed]
    ages_s = [max(now_ms - record_ms, 0) / 1000 for record_ms in oldest_ms]
    metrics.observe_all(metrics.EVENT_TO_LIST_SECONDS, ages_s)
