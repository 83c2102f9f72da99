"""Twice what one adapt worker carries, for minutes: what waits, what is held, and what comes after.

The worker must hold no more memory than before, keep its partitions, say how far behind it is, and
work the backlog off in the order of each user's events. A user with several waiting events gets one
list for all of them in a micro-batch.
"""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from headrace.streams.bench import stage
from headrace.streams.bench.measuring import Row
from headrace.streams.bench.shop import EVENTS_EACH, open_shop
from headrace.streams.bench.soak import held, sampled
from headrace.streams.errors import StreamsError
from headrace.streams.kafka.clients import reader
from headrace.streams.records import Event
from headrace.streams.settings import Settings
from headrace.streams.tools.produce import publish_events
from headrace.streams.tools.replay import at_rate, paced
from headrace.streams.tools.scrape import Scrape, scrape
from headrace.streams.wire import decode_recommendation

CAPACITY_EVENTS = 3_000  # that wait, while what a worker carries is measured
SAMPLES = 60  # while too much comes, and as often afterwards
TIMES = 2.0  # what the worker carries
BUSY_USERS = 0.02  # of the users, who make half of the events: several of theirs wait at once
DRAIN_LIMIT = 4.0  # times as long as the overload: a busy machine works off less than it could


class Sample(NamedTuple):
    """One moment."""

    at_s: float
    resident_bytes: float
    lag: float
    metrics: Scrape
    firing: Sequence[str]  # alerts

    def of(self, name: str) -> float:
        """Return one of the worker's metrics."""
        return self.metrics.get(name)


@dataclass
class Phases:
    """What was sampled, by what the worker went through."""

    overload: list[Sample] = field(default_factory=list)
    drain: list[Sample] = field(default_factory=list)


class Overload(NamedTuple):
    """What became of it."""

    capacity: float  # events/s
    rows: list[Row]  # one for each phase
    firing: dict[str, float]  # alerts that fired, each with when it was first seen, in seconds
    n_events: int
    n_lists: int
    n_expulsions: int  # samples at which the worker did not serve
    n_out_of_order: int  # lists that answer an older event than one before
    n_unanswered: int  # users whose last event has no list
    n_doubled: int  # lists beyond one for each user of a micro-batch
    phases: Phases


def measure(
    settings: Settings,
    *,
    n_users: int,
    n_items: int,
    seconds: float,
    adapt_port: int | None = None,
    firing: Callable[[], Sequence[str]] = lambda: (),
    on_progress: Callable[[int], None] = lambda _: None,
) -> Overload:
    """Return what a worker did under twice its load; ``on_progress`` is called for each sample.

    In topics of their own (``topic_prefix``) of the broker that the settings name. ``firing`` says
    which alerts fire, where a Prometheus watches the worker at ``adapt_port``.

    Raises:
        StreamsError: the worker ended, or did not work the backlog off.
    """
    with stage.on_its_own(settings) as settings:
        if adapt_port:
            settings = settings.model_copy(update={"adapt_port": adapt_port})
        shop = open_shop(settings, n_items=n_items, n_users=n_users, n_events=EVENTS_EACH * n_users)
        stage.announce(settings, shop)
        events = _unevenly(shop.events, n_users)
        publish_events(settings, itertools.islice(events, CAPACITY_EVENTS))
        with stage.worker(settings, shop) as worker:
            (capacity,) = worker.per_second(CAPACITY_EVENTS // 4, CAPACITY_EVENTS, "events_total")
            (child,) = worker.children
            phases, start_s = Phases(), time.monotonic()

            def sample(into: list[Sample]) -> None:
                metrics = scrape(settings.adapt_port)
                lag, resident = metrics.total("consumer_lag_events"), held(child)["resident MB"]
                at_s = time.monotonic() - start_s
                into.append(Sample(at_s, resident * 1e6, lag, metrics, firing()))
                on_progress(1)

            n = int(TIMES * capacity * seconds)
            due = paced(
                at_rate(itertools.islice(events, n), events_per_s=TIMES * capacity), restamp=True
            )
            every_s = seconds / SAMPLES
            publish_events(
                settings, sampled(due, lambda _: sample(phases.overload), every_s=every_s)
            )
            sample(phases.overload)
            _drain(partial(sample, phases.drain), phases, n + CAPACITY_EVENTS, every_s=every_s)
        return _summed_up(settings, capacity, phases, n)


def _unevenly(events: Sequence[Event], n_users: int) -> Iterator[Event]:
    """Yield the shop's events without end; every second one is of one of a few users."""
    busy_users = {event.user for event in events[: max(1, int(BUSY_USERS * n_users))]}
    busy = itertools.cycle([event for event in events if event.user in busy_users])
    for event in itertools.cycle(events):
        yield event
        yield next(busy)


def _drain(sample: Callable[[], None], phases: Phases, n_events: int, *, every_s: float) -> None:
    """Sample until nothing waits any more."""
    begun_s = phases.overload[-1].at_s
    sample()
    while (last := phases.drain[-1]).of("events_total") < n_events or last.lag:
        if last.at_s > begun_s * (1 + DRAIN_LIMIT) + stage.LIMIT_S:
            raise StreamsError(f"{last.lag:,.0f} events wait {last.at_s - begun_s:.0f} s later")
        time.sleep(every_s)
        sample()


def _summed_up(settings: Settings, capacity: float, phases: Phases, n: int) -> Overload:
    samples = [*phases.overload, *phases.drain]
    first, last = samples[0], samples[-1]
    shown_s = phases.overload[-1].at_s - first.at_s
    answered, n_out_of_order = _last_answered(settings)
    wanted = _last_events(settings)
    firing: dict[str, float] = {}
    for one in samples:
        for alert in one.firing:
            firing.setdefault(alert, round(one.at_s, 1))
    n_lists = int(last.of("lists_total") - first.of("lists_total"))
    n_users = int(last.of("micro_batch_users_sum") - first.of("micro_batch_users_sum"))
    return Overload(
        capacity=capacity,
        rows=[
            _row("overload", phases.overload, published=n / shown_s),
            _row("afterwards", [phases.overload[-1], *phases.drain]),
        ],
        firing=firing,
        n_events=n,
        n_lists=n_lists,
        n_expulsions=sum(
            one.of("ready") != 1 or one.of("replayed_events_total") > 0 for one in samples
        ),
        n_out_of_order=n_out_of_order,
        n_unanswered=sum(answered.get(user, -1) != offset for user, offset in wanted.items()),
        n_doubled=n_lists - n_users,
        phases=phases,
    )


def _row(name: str, samples: Sequence[Sample], *, published: float = 0.0) -> Row:
    first, last = samples[0], samples[-1]
    seconds = last.at_s - first.at_s

    def grown(what: str) -> float:
        return last.of(what) - first.of(what)

    rate = grown("events_total") / seconds
    n_batches = max(grown("micro_batch_events_count"), 1)
    return {
        "phase": name,
        "s": round(seconds, 1),
        "published/s": published,
        "events/s": rate,
        "lists/s": grown("lists_total") / seconds,
        "waiting at the end": last.lag,
        "s behind at most": max(one.lag for one in samples) / rate,
        "events a micro-batch": grown("micro_batch_events_sum") / n_batches,
        "users a micro-batch": grown("micro_batch_users_sum") / n_batches,
        "MB first": first.resident_bytes / 1e6,
        "MB highest": max(one.resident_bytes for one in samples) / 1e6,
    }


def _last_events(settings: Settings) -> dict[tuple[int, bytes], int]:
    """Return the offset of each user's last event."""
    with reader(settings, settings.topic("events")) as events:
        return {(record.partition, record.key): record.offset for record in events.to_end()}


def _last_answered(settings: Settings) -> tuple[dict[tuple[int, bytes], int], int]:
    """Return the offset that each user's last list answers, and how many lists went back."""
    last: dict[tuple[int, bytes], int] = {}
    n_back = 0
    with reader(settings, settings.topic("recommendations")) as lists:
        for record in lists.to_end():
            user = (record.partition, record.key)
            offset = decode_recommendation(record.value).source.offset
            n_back += offset <= last.get(user, -1)
            last[user] = offset
    return last, n_back


def as_series(found: Overload) -> dict[str, list[float]]:
    """Return what was sampled, for JSON."""
    samples = [*found.phases.overload, *found.phases.drain]
    return {
        "s": [round(one.at_s, 1) for one in samples],
        "events": [one.of("events_total") for one in samples],
        "lag": [one.lag for one in samples],
        "resident MB": [round(one.resident_bytes / 1e6, 1) for one in samples],
    }
