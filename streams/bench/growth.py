"""Memory and time against users, items and the length of histories, one of them varied at a time.

Each size is measured in a process of its own, so that none sees what another left behind.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence

from headrace.streams.bench import probes
from headrace.streams.bench.measuring import Figure, Row, sizes_up_to
from headrace.streams.errors import StreamsError
from headrace.streams.settings import Settings
from headrace.streams.up import child_environment

SIZES = (10_000, 100_000)  # of users and of items, below the largest asked for
HISTORIES = (25, 50, 100, 200, 400)
STATE_BYTES = 2_500  # of a user with 60 interactions
ITEM_BYTES = 60_000  # rows of the learn role, twice of the adapt role, and a version being packed


def sizes(*, users: int, items: int) -> dict[str, list[int]]:
    """Return what is measured up to so many users and items."""
    return {
        "users": sizes_up_to(users, SIZES),
        "items": sizes_up_to(items, SIZES),
        "history": list(HISTORIES),
    }


def measure(
    settings: Settings,
    *,
    sizes: Mapping[str, Sequence[int]],
    repeats: int,
    on_progress: Callable[[int], None] = lambda _: None,
) -> dict[str, list[Row]]:
    """Return a table for each thing that grows; ``on_progress`` is called once for each size.

    Raises:
        StreamsError: a process did not get through; the text has its last lines.
    """
    tables: dict[str, list[Row]] = {}
    for name, of_it in sizes.items():
        for size in of_it:
            found = _probe(settings, name, size, repeats)
            figures = {what: Figure.of(values) for what, values in found.items()}
            tables.setdefault(name, []).append({name: f"{size:,}", **figures})
            on_progress(1)
    return tables


def _probe(settings: Settings, name: str, size: int, repeats: int) -> probes.Found:
    done = subprocess.run(
        [sys.executable, "-m", probes.__name__, name, str(size), str(repeats)],
        env=child_environment(settings),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise StreamsError(f"{size:,} {name} could not be measured: {done.stderr[-2000:]}")
    found: probes.Found = json.loads(done.stdout)
    return found
