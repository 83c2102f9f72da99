"""Tell what the schedules of some JSON lines came to: ``python tests/faults/table.py FILE ...``."""

import json
import sys
from collections.abc import Collection
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


def row(name: str, kinds: Collection[str], seen: list[dict[str, Any]]) -> str:
    """Return a line of the table: the schedules with faults of some kinds."""
    met = [one for one in seen if any(kind in one["faults"] for kind in kinds)]
    counts = (
        sum(one["faults"].get(kind, 0) for one in met for kind in kinds),
        sum(one["met_by_a_version"].get(kind, 0) for one in met for kind in kinds),
        len(met),
        sum(one["events"] for one in met),
        sum(len(one["differences"]) for one in met),
    )
    return f"| {name} | {' | '.join(f'{count:,}' for count in counts)} |"


def main(paths: list[str]) -> None:
    """Print a table of the faults, and one line for all."""
    seen = [json.loads(line) for path in paths for line in Path(path).read_text().splitlines()]
    print("| fault | times | met by a new version | schedules | events | differences |")
    print("| --- | --- | --- | --- | --- | --- |")
    for kind, name in NAMES.items():
        print(row(name, [kind], seen))
    print(row("all", NAMES, seen))


if __name__ == "__main__":
    main(sys.argv[1:])
