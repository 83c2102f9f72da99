"""Events a second that the learner learns: with further processes, and while it is behind.

    python tests/bench/outer_loop.py [--processes 1 2] [--behind 1 0.25 0] [--events 6000]

Real purchases, without Kafka, in micro-batches; the clock runs over the second half of them. While
it is behind, nothing is rehearsed, and it learns from a share of the users.
"""

import argparse
import json

from headrace.streams.bench.measuring import Figure, Row, as_json, machine, seconds_of, show
from headrace.streams.learn.learner import Learner
from headrace.streams.learn.processes import processes_of
from headrace.streams.model_settings import pick_device
from headrace.streams.records import Event
from headrace.streams.settings import Settings, load
from headrace.streams.tools.files import events_of, load_events


def events_per_s(settings: Settings, events: list[Event], *, is_behind: bool) -> float:
    """Learn all events; return the rate over the second half."""
    with processes_of(settings) as processes:
        learner, half = Learner(settings, processes=processes), len(events) // 2
        learner.warm_up()

        def learn(first: int, end: int) -> None:
            for at in range(first, end, settings.micro_batch_events):
                block = enumerate(events[at : min(at + settings.micro_batch_events, end)], at)
                triples = [(event.user, offset, event) for offset, event in block]
                learner.learn(triples, is_behind=is_behind and first > 0)
            learner.serve_version()  # it settles what is due

        learn(0, half)
        return (len(events) - half) / seconds_of(lambda: learn(half, len(events)))


def main() -> None:
    """Measure in turn, print a table and, as JSON, what is in it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--behind", type=float, nargs="+", default=[1, 0.5, 0.25, 0])
    parser.add_argument("--events", type=int, default=6_000)
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    usual = load()
    changes = [{"learn_processes": n} for n in asked.processes]
    changes += [{"behind_share": share} for share in asked.behind]
    events = list(events_of(load_events("completejourney").head(asked.events)))
    rates: list[list[float]] = [[] for _ in changes]
    for _ in range(asked.repeats):
        for change, found in zip(changes, rates, strict=True):
            settings = usual.model_copy(update=change)
            found.append(events_per_s(settings, events, is_behind="behind_share" in change))
    alone = Figure.of(rates[0]).median
    rows: list[Row] = [
        {"with": f"{name}={value}", "events/s": (f := Figure.of(found)), "ratio": f.median / alone}
        for change, found in zip(changes, rates, strict=True)
        for name, value in change.items()
    ]
    show("learning", rows)
    about = machine(device=pick_device(usual), threads=usual.threads)
    print(json.dumps({"machine": about, "events": len(events), "learning": as_json(rows)}))


if __name__ == "__main__":
    main()
