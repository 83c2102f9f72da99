"""Tell what the schedules of some JSON lines came to: ``python tests/faults/table.py FILE ...``."""

import json
import sys
from pathlib import Path
from typing import Any

NAMES = {
    "kill": "`kill -9` of a worker",
    "leave": "SIGTERM of a worker",
    "pause": "SIGSTOP of a worker for 7 to 15 s, its session being 6 s",
    "cut": "network cut between a worker and all brokers, for 1 to 20 s",
    "join": "a third worker joins, and leaves",
    "kill_broker": "`kill -9` of a broker",
    "restart_broker": "SIGTERM of a broker",
    "lose_broker": "a broker lost for 20 to 30 s",
    "full_disk": "full disk for checkpoints, for 4 to 12 s",
}


def row(name: str, seen: list[dict[str, Any]], n_faults: int) -> str:
    """Return a line of the table."""
    n_events, n_differences = (
        sum(one["events"] for one in seen),
        sum(len(one["differences"]) for one in seen),
    )
    return f"| {name} | {n_faults:,} | {len(seen):,} | {n_events:,} | {n_differences:,} |"


def main(paths: list[str]) -> None:
    """Print a table of the faults, and one line for all."""
    seen = [json.loads(line) for path in paths for line in Path(path).read_text().splitlines()]
    print("| fault | times | schedules | events | differences |\n| --- | --- | --- | --- | --- |")
    for kind, name in NAMES.items():
        met = [one for one in seen if kind in one["faults"]]
        print(row(name, met, sum(one["faults"][kind] for one in met)))
    print(row("all", seen, sum(sum(one["faults"].values()) for one in seen)))


if __name__ == "__main__":
    main(sys.argv[1:])
