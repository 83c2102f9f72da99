"""Events a second of several adapt workers, and the CPU time of an event in each process.

Each run has topics of its own: all workers share the partitions before the first event is written,
so none begins with what was another's.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from headrace.streams.bench import stage
from headrace.streams.bench.measuring import Figure, Row
from headrace.streams.bench.shop import Shop, open_shop
from headrace.streams.child import Child
from headrace.streams.errors import StreamsError
from headrace.streams.settings import Settings
from headrace.streams.tools.produce import publish_events

TO_US = 1e6
PARTS = ("fold", "model", "states")  # as the worker's metric has them


class Counts(NamedTuple):
    """What all workers together have done by a moment, in events and seconds."""

    at_s: float
    events: float
    broker_cpu_s: float
    worker_cpu_s: float
    fold_cpu_s: float  # of the worker's, as the three that follow
    model_cpu_s: float  # judge, adapt and rank
    states_cpu_s: float  # read, and encoded with the lists


class Run(NamedTuple):
    """One run: events a second, and microseconds an event."""

    events_per_s: float
    broker_us: float
    worker_us: float
    fold_us: float
    model_us: float
    states_us: float
    client_us: float  # the rest: fetch, decode, coalesce, produce


def sizes(most: int | None) -> list[int]:
    """Return the numbers of workers to measure: from one by doubling, at least two of them."""
    most = most or max(2, len(os.sched_getaffinity(0)))
    return [2**power for power in range(most.bit_length()) if 2**power <= most]


def measure(
    settings: Settings,
    *,
    workers: Sequence[int],
    n_events: int,
    n_users: int,
    n_items: int,
    repeats: int,
    broker: Child | None,
    on_progress: Callable[[int], None] = lambda _: None,
) -> list[Row]:
    """Return a row for each number of workers; ``on_progress`` is called once for each run.

    The CPU time of a ``broker`` that is not given is told as zero. On Linux.

    Raises:
        StreamsError: a worker did not get through; the text has its last lines. Or there are too
            few events to be timed.
    """
    settings = settings.model_copy(
        update={"partitions": max(settings.partitions, *workers), "threads": 1}
    )
    shop = open_shop(settings, n_items=n_items, n_users=n_users, n_events=n_events)
    runs: dict[int, list[Run]] = {n: [] for n in workers}
    for _ in range(repeats):
        for n, found in runs.items():
            found.append(run(settings, shop, n, broker))
            on_progress(1)
    return [row_of(n, found, alone=runs[workers[0]]) for n, found in runs.items()]


def row_of(n: int, runs: Sequence[Run], *, alone: Sequence[Run]) -> Row:
    """Sum the runs of one number of workers up, beside those of the first number."""
    events_per_s, *parts = (Figure.of(found) for found in zip(*runs, strict=True))
    names = ("broker us", "worker us", "fold us", "model us", "states us", "client us")
    return {
        "workers": f"{n}",
        "events/s": events_per_s,
        "of one": events_per_s.median / Figure.of([run.events_per_s for run in alone]).median,
        **dict(zip(names, parts, strict=True)),
    }


def run(settings: Settings, shop: Shop, n_workers: int, broker: Child | None) -> Run:
    """Let so many workers carry all events; the clock runs from a tenth of them to nine tenths."""
    n_events = len(shop.events)
    with stage.on_its_own(settings) as settings:
        stage.announce(settings, shop)
        with stage.workers(settings, shop, n_workers) as workers:

            def at(n: float, *, poll_s: float) -> Counts:
                metrics, at_s = workers.wait_for(n, poll_s=poll_s)
                return Counts(
                    at_s,
                    metrics.get("events_total"),
                    cpu_s(broker.pid) if broker else 0.0,
                    sum(cpu_s(child.pid) for child in workers.children),
                    *(metrics.get("cpu_seconds_total", part) for part in PARTS),
                )

            publish_events(settings, shop.events)
            before = at(0.1 * n_events, poll_s=stage.POLL_S)
            after = at(0.9 * n_events, poll_s=stage.RATE_POLL_S)
    if after.events == before.events:
        raise StreamsError(f"{n_events:,} events are too few to be timed here: ask for more")
    return between(before, after)


def cpu_s(process: int) -> float:
    """Return the CPU seconds of a process, all its threads and both modes."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # utime, stime


def between(before: Counts, after: Counts) -> Run:
    """Return what an event took between two moments."""
    seconds, events, broker, worker, *parts = (b - a for a, b in zip(before, after, strict=True))
    parts = [broker, worker, *parts, worker - sum(parts)]
    return Run(events / seconds, *(TO_US * part / events for part in parts))
