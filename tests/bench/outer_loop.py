"""Events a second that the learner learns, by how many processes compute the gradients.

    python tests/bench/outer_loop.py [--processes 1 2] [--events 6000] [--repeats 3]

Real purchases, without Kafka, in micro-batches; the clock runs over the second half of them.
"""

import argparse
import json

from headrace.streams.bench.measuring import Figure, Row, as_json, machine, seconds_of, show
from headrace.streams.files import events_of, load_events
from headrace.streams.learn_ranks import ranks_of
from headrace.streams.learner import Learner, pick_device
from headrace.streams.settings import Settings, load
from headrace.streams.wire import Event


def events_per_s(settings: Settings, events: list[Event]) -> float:
    """Learn all events; return the rate over the second half."""
    with ranks_of(settings) as ranks:
        learner, half = Learner(settings, ranks=ranks), len(events) // 2
        learner.warm_up()

        def learn(first: int, end: int) -> None:
            for at in range(first, end, settings.micro_batch_events):
                block = enumerate(events[at : min(at + settings.micro_batch_events, end)], at)
                learner.learn([(event.user, offset, event) for offset, event in block])
            learner.publish_version()  # it settles what is due

        learn(0, half)
        return (len(events) - half) / seconds_of(lambda: learn(half, len(events)))


def main() -> None:
    """Measure in turn, print a table and, as JSON, what is in it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--events", type=int, default=6_000)
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    settings = load()
    events = list(events_of(load_events("completejourney").head(asked.events)))
    rates: dict[int, list[float]] = {n: [] for n in asked.processes}
    for _ in range(asked.repeats):
        for n in asked.processes:
            rates[n].append(
                events_per_s(settings.model_copy(update={"learn_processes": n}), events)
            )
    alone = Figure.of(rates[asked.processes[0]]).median
    rows: list[Row] = [
        {"processes": n, "events/s": (f := Figure.of(found)), "ratio": f.median / alone}
        for n, found in rates.items()
    ]
    show("learning", rows)
    about = machine(device=pick_device(settings), threads=settings.threads)
    print(json.dumps({"machine": about, "events": len(events), "learning": as_json(rows)}))


if __name__ == "__main__":
    main()
