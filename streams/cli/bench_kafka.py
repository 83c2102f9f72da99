"""Commands that measure the roles through Kafka: an embedded broker, or one that is named."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import click

from headrace.streams.cli.bench import items_option, plot_option, repeats_option
from headrace.streams.cli.options import FiniteRange, is_given, number, with_settings
from headrace.streams.settings import Settings

if TYPE_CHECKING:
    from headrace.streams.child import Child

users_option = number(
    "--users", 5_000, "Users who act in turn, each with 60 earlier interactions.", least=100
)

# Not the broker of the environment: that one may be at work.
with_broker_and_settings = partial(
    with_settings, bootstrap_help="Broker to measure on; an embedded one if not given."
)


@click.command()
@number(
    "--events", 40_000, "Events for the fastest job; slower ones get a part of them.", least=1_000
)
@users_option
@items_option
@repeats_option
@with_broker_and_settings("device", "threads")
def pipeline(settings: Settings, events: int, users: int, items: int, repeats: int) -> None:
    """Measure events a second, from broker to acknowledged lists.

    One adapt worker, with the real model and with a no-op in its place, against a stock Faust agent
    that only reads, a bare aiokafka consumer, and the same job written as Faust's own guide does,
    on the same events of the same broker: an embedded one, or that of --bootstrap, in topics that
    start with "bench-".

    \b
    Example:  headrace bench pipeline --users 100000
    Next:     headrace bench adapt, for what a user costs
    """
    from headrace.streams.bench import pipeline as job
    from headrace.streams.bench.telling import tell
    from headrace.streams.cli.progress import counted

    items, users = _fitting(items, users)
    with (
        _broker(settings) as (settings, _),
        counted(total=repeats * len(job.CONTENDERS), label="runs") as advance,
    ):
        rows = job.measure(
            settings,
            n_events=events,
            n_users=users,
            n_items=items,
            repeats=repeats,
            on_progress=advance,
        )
    title = f"{users:,} users, {items:,} items"
    asked = _asked(settings, events=events, users=users, items=items, repeats=repeats)
    tell(settings, "pipeline", title, rows, **asked)


@click.command()
@number("--seconds", 20.0, "Seconds at each load.", least=1)
@users_option
@items_option
@number("--workers", 1, "Adapt workers, which share the events.", least=1, most=64)
@plot_option
@with_broker_and_settings("device", "threads")
def latency(
    settings: Settings, seconds: float, users: int, items: int, workers: int, plot: str | None
) -> None:
    """Measure how soon a list follows its event.

    At 25, 50, 75 and 90 % of what the adapt workers carry: events are due at fixed times, whatever
    they do, and are written to an embedded broker, or that of --bootstrap, in topics that start
    with "bench-". With where the time goes, by stage; the last one, to write, comes on top.

    \b
    Example:  headrace bench latency --seconds 60 --plot latency.svg
              headrace bench latency --workers 2
    Next:     headrace bench scale, for what so many workers carry
    """
    from headrace.streams.bench import latency as job
    from headrace.streams.bench import plots as bench_plots
    from headrace.streams.bench.telling import tell
    from headrace.streams.cli.progress import counted
    from headrace.streams.evaluation import plots

    if plot:
        plots.check(plot)
    items, users = _fitting(items, users)
    n_runs = 1 + len(job.LOADS)
    with _broker(settings) as (settings, _), counted(total=n_runs, label="loads") as advance:
        rows = job.measure(
            settings,
            n_workers=workers,
            n_users=users,
            n_items=items,
            seconds=seconds,
            on_progress=advance,
        )
    title = f"{workers} workers, {users:,} users, {items:,} items"
    asked = _asked(settings, seconds=seconds, users=users, items=items, workers=workers)
    told = tell(settings, "latency", title, rows, **asked)
    if plot:
        bench_plots.latency(told, plot)


@click.command()
@number("--minutes", 30.0, "Minutes of load.", least=0.2)
@click.option(
    "--events-per-s",
    default=30.0,
    show_default=True,
    type=FiniteRange(min=0, min_open=True),
    help="The load; far from what the roles carry, so that time decides nothing.",
)
@with_broker_and_settings("device")
def soak(settings: Settings, minutes: float, events_per_s: float) -> None:
    """Watch what both roles hold over half an hour of load.

    Memory, file descriptors, threads, lag, users and items, while ever new users take ever newer
    items: the bounds on both are set so low that they are at work after a sixth of the time. The
    slope is from then on. On an embedded broker, which keeps all topics in memory and is told
    apart, or that of --bootstrap, in topics that start with "bench-". On Linux.

    \b
    Example:  headrace bench soak --minutes 5 > soak.json
    Next:     headrace bench recover, for what a crash costs
    """
    from headrace.streams.bench import soak as job
    from headrace.streams.bench.measuring import as_json, show
    from headrace.streams.bench.telling import tell_programs
    from headrace.streams.cli.progress import counted

    with (
        _broker(settings) as (settings, broker),
        counted(total=job.SAMPLES, label="samples") as advance,
    ):
        found = job.measure(
            settings,
            minutes=minutes,
            events_per_s=events_per_s,
            broker=broker,
            on_progress=advance,
        )
    show(f"soak: {minutes:g} minutes, bounds at work after {found.bounded_s:.0f} s", found.rows)
    asked = _asked(settings, minutes=minutes, events_per_s=events_per_s)
    tell_programs(settings, "soak", asked, rows=as_json(found.rows), samples=found.samples)


@click.command()
@number(
    "--seconds",
    300.0,
    "Seconds at twice the load; to work off what waits takes as long again.",
    least=1,
)
@users_option
@items_option
@with_broker_and_settings("device", "threads")
def overload(settings: Settings, seconds: float, users: int, items: int) -> None:
    """Send one adapt worker twice what it carries.

    For minutes, and then until nothing waits any more: the memory it holds, how far behind it is,
    whether it was expelled from its group, whether every user's lists came in the order of the
    events, and whether a user with several waiting events got one list for them. On an embedded
    broker, or that of --bootstrap, in topics that start with "bench-". On Linux.

    \b
    Example:  headrace bench overload --seconds 60
    Next:     headrace bench scale, for what a second worker adds
    """
    from headrace.streams.bench import overload as job
    from headrace.streams.bench.measuring import as_json, show
    from headrace.streams.bench.telling import tell_programs
    from headrace.streams.cli.progress import counted

    items, users = _fitting(items, users)
    with (
        _broker(settings) as (settings, _),
        counted(total=2 * job.SAMPLES, label="samples") as advance,
    ):
        found = job.measure(
            settings, n_users=users, n_items=items, seconds=seconds, on_progress=advance
        )
    show(f"overload: twice {found.capacity:,.0f} events/s", found.rows)
    counts = {name: value for name, value in found._asdict().items() if name.startswith("n_")}
    asked = _asked(settings, seconds=seconds, users=users, items=items)
    series = job.as_series(found)
    tell_programs(settings, "overload", asked, **counts, rows=as_json(found.rows), samples=series)


@click.command()
@number("--up-to", 1_000_000, "Users' states in the changelog, of the largest size.", least=100)
@repeats_option
@with_broker_and_settings("session_timeout_s", "device")
def recover(settings: Settings, up_to: int, repeats: int) -> None:
    """Measure how soon a worker serves, and serves again.

    From the start of an adapt worker until it is ready, by how many states it recovers. From a kill
    -9 of one of two workers until every partition has lists again: where it is not restarted, is
    restarted at once, and is a static member of the group besides (group_instance_id). On an
    embedded broker, which has no static membership, or that of --bootstrap, in topics that start
    with "bench-". On Linux.

    \b
    Example:  headrace bench recover --up-to 100000 --bootstrap 127.0.0.1:9092
    Next:     headrace bench latency, for how soon a list follows its event
    """
    from headrace.streams.bench import recover as job
    from headrace.streams.bench.measuring import fitting
    from headrace.streams.bench.telling import tell_tables
    from headrace.streams.cli.progress import counted

    sizes = job.sizes(fitting(up_to, bytes_each=job.STATE_BYTES, what="states"))
    with _broker(settings) as (settings, embedded):
        failovers = [each for each in job.FAILOVERS if not (each.is_static and embedded)]
        n_steps = len(sizes) + repeats * (len(sizes) + len(failovers))
        with counted(total=n_steps, label="steps") as advance:
            tables = job.measure(
                settings, sizes=sizes, failovers=failovers, repeats=repeats, on_progress=advance
            )
    session_s = settings.session_timeout_s
    asked = _asked(settings, up_to=up_to, repeats=repeats, session_timeout_s=session_s)
    tell_tables(settings, "recover", tables, **asked)


@click.command()
@number("--events", 10_000, "Events in a run.", least=1_000)
@click.option(
    "--workers",
    type=click.IntRange(min=2),
    help="Largest number of adapt workers, from one by doubling.  [default: the cores]",
)
@users_option
@items_option
@repeats_option
@with_broker_and_settings("device")
def scale(
    settings: Settings, events: int, workers: int | None, users: int, items: int, repeats: int
) -> None:
    """Measure events a second of one adapt worker, of two, of four...

    With the CPU time of an event in the workers, by part, and in the broker: an embedded one, or
    that of --bootstrap, whose CPU time is not known. One compute thread a worker. On Linux.

    \b
    Example:  headrace bench scale --workers 4
    Next:     headrace bench recover, for what a worker's end costs the others
    """
    from headrace.streams.bench import scale as job
    from headrace.streams.bench.telling import tell
    from headrace.streams.cli.progress import counted

    items, users = _fitting(items, users)
    sizes = job.sizes(workers)
    with (
        _broker(settings) as (settings, broker),
        counted(total=repeats * len(sizes), label="runs") as advance,
    ):
        rows = job.measure(
            settings,
            workers=sizes,
            n_events=events,
            n_users=users,
            n_items=items,
            repeats=repeats,
            broker=broker,
            on_progress=advance,
        )
    title = f"{users:,} users, {items:,} items"
    asked = _asked(
        settings, workers=sizes[-1], events=events, users=users, items=items, repeats=repeats
    )
    tell(settings, "scale", title, rows, **asked)


def _fitting(items: int, users: int) -> tuple[int, int]:
    """Return how many items and users fit into memory twice: here and in the worker."""
    from headrace.streams.bench.measuring import fitting
    from headrace.streams.bench.shop import ITEM_BYTES, USER_BYTES

    return (
        fitting(items, bytes_each=2 * ITEM_BYTES, what="items"),
        fitting(users, bytes_each=2 * USER_BYTES, what="users"),
    )


@contextmanager
def _broker(settings: Settings) -> Iterator[tuple[Settings, "Child | None"]]:
    """Yield settings of the broker that was asked for, or else of an embedded one, and its process.

    A broker that was asked for is no process of ours.
    """
    from headrace.streams.kafka.broker import EmbeddedBroker

    if is_given("bootstrap"):
        yield settings, None
        return
    with EmbeddedBroker() as broker:
        yield broker.settings(settings), broker.child


def _asked(settings: Settings, **asked: object) -> dict[str, object]:
    """Return what was asked, with the broker: none is the embedded one."""
    return asked | {"bootstrap": settings.bootstrap if is_given("bootstrap") else None}
