"""How long events waited for their lists, worked out by hand."""

import pytest

from headrace.streams.bench.latency import Due, latencies_ms
from headrace.streams.errors import StreamsError
from headrace.streams.records import Recommendation, Source


def written(at_ms: int, user: str, offset: int, partition: int = 0) -> tuple[int, Recommendation]:
    """Return a list that knows of a user's events up to an offset, and when it was written."""
    source = Source(topic="events", partition=partition, offset=offset, time_ms=0)
    made = Recommendation(
        user=user,
        rec_id="",
        items=(),
        scores=(),
        reasons=(),
        model_version=1,
        source=source,
        generated_ms=0,
    )
    return at_ms, made


def test_each_event_waits_for_the_first_list_that_knows_of_it() -> None:
    sent = [Due(0, 5, "ann", 100), Due(0, 7, "ann", 120), Due(1, 5, "bob", 130)]
    lists = [
        written(90, "ann", 4),  # of an event before
        written(150, "ann", 7),  # answers both
        written(160, "ann", 9),
        written(170, "bob", 5, partition=1),
    ]
    assert latencies_ms(sent, lists) == [50, 30, 40]


def test_an_event_without_a_list_is_an_error() -> None:
    with pytest.raises(StreamsError, match="1 events have no list"):
        latencies_ms([Due(0, 5, "ann", 100)], [written(150, "ann", 4), written(160, "bob", 5)])
