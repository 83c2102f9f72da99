"""`headrace bench` on a real broker, at a size that takes seconds."""

from headrace.streams.bench import pipeline
from headrace.streams.bench.measuring import Figure
from headrace.streams.settings import Settings

N_EVENTS, N_USERS = 1_000, 50


def test_every_contender_gets_through_the_same_events(settings: Settings) -> None:
    small = {"encoder_width": 8, "encoder_length": 8, "neighbours": 8, "micro_batch_events": 20}
    runs: list[int] = []
    rows = pipeline.measure(
        settings.model_copy(update=small),
        n_events=N_EVENTS,
        n_users=N_USERS,
        n_items=60,
        repeats=1,
        on_progress=runs.append,
    )
    assert len(runs) == len(rows) == len(pipeline.CONTENDERS)
    speeds = {row["job"]: (row["events/s"], row["lists/s"]) for row in rows}
    for name, (events, lists) in speeds.items():
        assert isinstance(events, Figure)
        assert isinstance(lists, Figure)
        assert events.median > 0, name
        assert (lists.median > 0) == (name.find("only reads") < 0), name
