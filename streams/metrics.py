"""Every metric of both roles, in base units, with few labels.

Each role is its own process and serves on ``/metrics`` what both have and what is its own.
"""

from bisect import bisect_left
from collections import Counter as Counts
from collections.abc import Iterable, Sequence
from typing import Any, Literal, get_args

from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from prometheus_client.registry import Collector

from headrace.streams.errors import Malformation

_NAMESPACE = "headrace"
_LATENCY_BUCKETS_S = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
)  # fmt: skip - around the targets: 50 ms an adaptation, 100 ms an event to its list
_WAIT_BUCKETS_S = (*_LATENCY_BUCKETS_S, 60.0, 300.0, 1800.0, 7200.0)  # after an outage, too
_SIZE_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)


def _counter(name: str, text: str, *labels: str) -> Counter:
    return Counter(name, text, labels, namespace=_NAMESPACE)


def _counter_by_reason(name: str, text: str, values: Any) -> Counter:
    """Return a counter that has each value of a ``Literal`` from the start: a rate needs a zero."""
    counter = _counter(name, text, "reason")
    for value in get_args(values):
        counter.labels(value)
    return counter


def _gauge(name: str, text: str, *labels: str) -> Gauge:
    return Gauge(name, text, labels, namespace=_NAMESPACE)


def _histogram(
    name: str, text: str, *labels: str, buckets: tuple[float, ...] = _LATENCY_BUCKETS_S
) -> Histogram:
    return Histogram(name, text, labels, namespace=_NAMESPACE, buckets=buckets)


def observe_all(histogram: Histogram, values: Sequence[float]) -> None:
    """Observe many values at once: one by one, each takes half as long as to decode an event."""
    bounds = histogram._upper_bounds
    for bucket, n in Counts(bisect_left(bounds, value) for value in values).items():
        histogram._buckets[bucket].inc(n)
    histogram._sum.inc(sum(values))


# ------------------------------------------------------------------------------------ both roles
EVENTS = _counter("events_total", "Events applied to state.")
FORGOTTEN = _counter(
    "forgotten_total", "Users forgotten, once in each partition where an event asked for it."
)
MISSED = _counter("missed_events_total", "Events removed from the topic before they were read.")
CHECKPOINTS_REFUSED = _counter("checkpoints_refused_total", "Versions that failed a check.")
LAG = _gauge("consumer_lag_events", "End offset less committed offset.", "partition")
USERS = _gauge("users", "Users held in state.")
ITEMS = _gauge("items", "Items in the vocabulary.")
READY = _gauge(
    "ready",
    "1 when the role serves: model loaded, state recovered, a broker and its topics are there.",
)
MODEL_VERSION = _gauge("model_version", "Version of the meta-parameters in use.")
MODEL_PUBLISHED = _gauge(
    "model_published_timestamp_seconds", "When the version in use was published, Unix time."
)

# ----------------------------------------------------------------------------------------- adapt
LISTS = _counter("lists_total", "Lists written.")
REPLAYED = _counter("replayed_events_total", "Events skipped because the state held them already.")
DUPLICATES = _counter(
    "duplicate_events_total", "Events applied that had come before, with the same event_id."
)
DEAD_LETTERS = _counter_by_reason("dead_letters_total", "Records set aside.", Malformation)
MICRO_BATCH_EVENTS = _histogram(
    "micro_batch_events", "Events in a micro-batch.", buckets=_SIZE_BUCKETS
)
MICRO_BATCH_USERS = _histogram(
    "micro_batch_users", "Users in a micro-batch.", buckets=_SIZE_BUCKETS
)
STAGE_SECONDS = _histogram(
    "stage_duration_seconds", "Wall time of a micro-batch in a stage.", "stage"
)
EVENT_TO_LIST_SECONDS = _histogram(
    "event_to_list_seconds",
    "From the event's record time to its acknowledged list.",
    buckets=_WAIT_BUCKETS_S,
)
ADAPT_SECONDS = _histogram(
    "adapt_duration_seconds", "Wall time of judging, adapting and ranking a part of a micro-batch."
)
CPU_SECONDS = _counter(
    "cpu_seconds_total",
    "CPU time of the compute threads by part: fold, model (judge, adapt, rank), states (records).",
    "part",
)
DELTAS_APPLIED = _counter("deltas_applied_total", "Deltas of item signals applied.")
DELTAS_REFUSED = _counter(
    "deltas_refused_total", "Deltas that did not fit, or came after one that is missing."
)
DELTA_AGE = _gauge("delta_age_seconds", "Time since the newest delta applied was published.")
STATES_REFUSED = _counter("states_refused_total", "Damaged states whose users start over.")
EVICTED = _counter("users_evicted_total", "Users whose states made room for others (max_users).")
HIT_RATIO = _gauge(
    "prequential_hit_ratio",
    "Share of recent events whose item stood among the first 10 beforehand.",
    "contender",
)
NDCG = _gauge("prequential_ndcg", "NDCG@10 of recent events, judged beforehand.", "contender")
JUDGED = _gauge("prequential_events", "Recent events judged: by them, workers' means are weighed.")
CANDIDATE_RECALL = _gauge("candidate_recall", "Share of recent events whose item was a candidate.")
JUDGED_SHOWN = _counter(
    "judged_shown_total", "Events judged by the list that was kept of their user."
)
ATTRIBUTED = _counter(
    "attributed_events_total",
    "Interactions that carry the rec_id of a list (feedback), doubles too.",
)
OF_ADAPT = (
    LISTS, REPLAYED, DUPLICATES, DEAD_LETTERS, MICRO_BATCH_EVENTS, MICRO_BATCH_USERS, STAGE_SECONDS,
    EVENT_TO_LIST_SECONDS, ADAPT_SECONDS, CPU_SECONDS, DELTAS_APPLIED, DELTAS_REFUSED, DELTA_AGE,
    STATES_REFUSED, EVICTED, HIT_RATIO, NDCG, JUDGED, CANDIDATE_RECALL, JUDGED_SHOWN, ATTRIBUTED,
)  # fmt: skip

# ----------------------------------------------------------------------------------------- learn
TASKS = _counter("tasks_total", "Tasks the outer loop has learned from.")
LEARNED_SHARE = _gauge("learned_share", "Share of users learned from; below 1 while behind.")
LEARNED_SHARE.set(1)
REPLAY_TASKS = _gauge("replay_tasks", "Tasks kept for rehearsal.")
OUTER_LOOP_SECONDS = _histogram("outer_loop_duration_seconds", "Wall time of one outer-loop step.")
QUERY_LOSS = _gauge("query_loss", "Mean query loss of recent outer-loop steps, in nats.")
DELTAS_PUBLISHED = _counter("deltas_published_total", "Deltas of item signals published.")
DELTA_BYTES = _counter("delta_bytes_total", "Bytes of deltas published.")
VERSIONS_PUBLISHED = _counter("versions_published_total", "Model versions published.")
ITEMS_REFUSED = _counter(
    "items_refused_total", "Items taken that found no room in the vocabulary, until others go."
)
ITEMS_EVICTED = _counter("items_evicted_total", "Items evicted from a full vocabulary.")
ContentRefusal = Literal["malformed", "width", "kind"]
CONTENT_REFUSED = _counter_by_reason(
    "content_refused_total",
    "Catalogue records that were passed over, or whose vector does not compare with the others'.",
    ContentRefusal,
)
CHECKPOINT_SECONDS = _histogram("checkpoint_duration_seconds", "Wall time to write a checkpoint.")
CHECKPOINT_BYTES = _gauge("checkpoint_bytes", "Size of the newest checkpoint.")
OF_LEARN = (
    TASKS, LEARNED_SHARE, REPLAY_TASKS, OUTER_LOOP_SECONDS, QUERY_LOSS, DELTAS_PUBLISHED,
    DELTA_BYTES, VERSIONS_PUBLISHED, ITEMS_REFUSED, ITEMS_EVICTED, CONTENT_REFUSED,
    CHECKPOINT_SECONDS, CHECKPOINT_BYTES,
)  # fmt: skip


def leave_out(others: Iterable[Collector]) -> None:
    """Serve what this role has, without the other's: at zero, they would lower every average."""
    for metric in others:
        REGISTRY.unregister(metric)
