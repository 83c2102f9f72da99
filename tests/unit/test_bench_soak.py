"""What the soak's samples add up to, worked out by hand, and the load that it makes."""

import itertools

import pytest

from headrace.streams.bench.soak import NEW, REGULARS, Samples, summed_up, visitors
from headrace.streams.errors import StreamsError

BOUND = 100


def samples(held: list[float], memory: list[float]) -> Samples:
    """Return samples ten seconds apart: users and items of both roles, and one's memory."""
    found: Samples = {"seconds": [10.0 * i for i in range(len(held))]}
    found |= {f"{role}: {what}": held for role in ("learn", "adapt") for what in ("users", "items")}
    return found | {"adapt: resident MB": memory}


def test_memory_is_told_by_thirds_and_by_its_slope_once_the_bounds_are_at_work() -> None:
    soak = summed_up(
        samples([0, 50, 95, 100, 95, 96], [10.0, 20.0, 30.0, 31.0, 32.0, 33.0]), bound=BOUND
    )
    assert soak.bounded_s == 20
    row = next(row for row in soak.rows if row["held"] == "adapt: resident MB")
    assert row == {
        "held": "adapt: resident MB",
        "first third": 15.0,
        "last third": 32.5,
        "highest": 33.0,
        "an hour, when bounded": 360.0,  # 1 MB in 10 s
        "an hour, second half": 360.0,
    }


def test_a_soak_that_did_not_reach_its_bounds_says_so() -> None:
    with pytest.raises(StreamsError, match="94 of 100 users or items after 20 s"):
        summed_up(samples([0, 50, 94], [1.0, 1.0, 1.0]), bound=BOUND)


def test_ever_new_users_take_ever_newer_items() -> None:
    n = int(20 * BOUND / NEW)  # as many as bring twenty times the bound
    events = list(itertools.islice(visitors(BOUND, seed=0), n))
    users = {event.user for event in events}
    items = {event.item for event in events}
    assert sum(user.startswith("regular") for user in users) == REGULARS
    assert len(users) > 10 * BOUND
    assert len(items) > 10 * BOUND
    late = [int(event.item[1:]) for event in events[-1_000:]]
    assert sum(item > NEW * n - 2 * BOUND for item in late) > 950
