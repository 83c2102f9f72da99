"""Memory and time against users, items and the length of histories, one of them varied at a time.

Each size is measured in a process of its own, so that none sees what another left behind.
"""

from collections.abc import Callable, Mapping, Sequence

from headrace.streams.bench import probes, stage
from headrace.streams.bench.measuring import Figure, Row, sizes_up_to
from headrace.streams.settings import Settings

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
            asked = ("-m", probes.__name__, name, str(size), str(repeats))
            found: probes.Found = stage.measured(settings, f"{size:,} {name}", asked)
            figures = {what: Figure.of(values) for what, values in found.items()}
            tables.setdefault(name, []).append({name: f"{size:,}", **figures})
            on_progress(1)
    return tables
