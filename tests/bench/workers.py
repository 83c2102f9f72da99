"""One adapt worker of several threads against as many workers of one thread, in turn.

    python tests/bench/workers.py [--cores 2] [--events 8000] [--repeats 5]

The runs are those of `headrace bench scale`, on an embedded broker.
"""

import argparse
import json

from headrace.streams.bench import scale
from headrace.streams.bench.measuring import Figure, Row, as_json, machine, show
from headrace.streams.bench.shop import open_shop
from headrace.streams.kafka.broker import EmbeddedBroker
from headrace.streams.settings import load


def main() -> None:
    """Measure in turn, print a table and, as JSON, what is in it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--events", type=int, default=8_000)
    parser.add_argument("--repeats", type=int, default=5)
    asked = parser.parse_args()
    with EmbeddedBroker() as broker:
        settings = broker.settings(load())
        shop = open_shop(settings, n_items=10_000, n_users=5_000, n_events=asked.events)

        def rate(workers: int, threads: int) -> float:
            own = settings.model_copy(update={"threads": threads})
            return scale.run(own, shop, workers, None).events_per_s

        turns = [(rate(1, asked.cores), rate(asked.cores, 1)) for _ in range(asked.repeats)]
    one, several = zip(*turns, strict=True)
    rows: list[Row] = [
        {"workers": "1", "threads": asked.cores, "events/s": Figure.of(one)},
        {"workers": f"{asked.cores}", "threads": 1, "events/s": Figure.of(several)},
    ]
    show("workers and threads", rows)
    ratio = Figure.of([b / a for a, b in turns])
    about = machine(device="cpu", threads=asked.cores)
    told = {"machine": about, "rows": as_json(rows), "ratio": ratio._asdict()}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
