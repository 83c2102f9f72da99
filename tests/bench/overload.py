"""`headrace bench overload` with a real Prometheus beside it: which alerts of rules.yml fire, when.

python tests/bench/overload.py --seconds 300 > overload.json
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "ops"))

from prometheus_process import running
from prometheus_tools import find_or_download

from headrace.streams.bench import overload
from headrace.streams.bench.measuring import as_json, machine, show
from headrace.streams.kafka.broker import EmbeddedBroker, free_port
from headrace.streams.settings import load


def main() -> None:
    """Print what was found as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--users", type=int, default=5_000)
    parser.add_argument("--items", type=int, default=10_000)
    asked = parser.parse_args()
    port = free_port()
    ports = {"adapt": port, "learn": free_port()}  # nobody is at the second: that is an alert too
    with (
        EmbeddedBroker() as broker,
        tempfile.TemporaryDirectory() as folder,
        running(find_or_download(), ports, Path(folder)) as prometheus,
    ):

        def firing() -> list[str]:
            found = prometheus.query('ALERTS{alertstate="firing", job!="learn"}')
            return sorted({one["metric"]["alertname"] for one in found})

        settings = load({"bootstrap": broker.bootstrap})
        found = overload.measure(
            settings,
            n_users=asked.users,
            n_items=asked.items,
            seconds=asked.seconds,
            adapt_port=port,
            firing=firing,
        )
    show("overload", found.rows)
    told = found._asdict() | {"rows": as_json(found.rows), "phases": overload.as_series(found)}
    on = machine(device="cpu", threads=settings.threads)
    print(json.dumps({"bench": "overload", "asked": vars(asked), "machine": on, **told}))


if __name__ == "__main__":
    main()
