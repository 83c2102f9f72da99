"""Replay: when each event is due, and what is done when the world is late."""

from headrace.streams.records import Event
from headrace.streams.tools.replay import Clock, at_rate, at_speed, paced


class FakeClock:
    """A clock that moves only when it is waited on, or when a test moves it."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.waits: list[float] = []

    def wait(self, seconds: float) -> None:
        """Pass the time."""
        self.waits.append(seconds)
        self.now_s += seconds

    def clock(self) -> Clock:
        """Return it as replay takes it."""
        return Clock(now_s=lambda: self.now_s, wait_s=self.wait, wall_s=lambda: self.now_s)


def events_at(*times_ms: int) -> list[Event]:
    """Return events of one user at these times."""
    return [Event(user="u", item="i", time_ms=time_ms) for time_ms in times_ms]


def test_rate_spaces_events_evenly_whatever_their_times() -> None:
    due = [due_s for due_s, _ in at_rate(events_at(0, 9_000, 9_000), events_per_s=4)]
    assert due == [0, 0.25, 0.5]


def test_speed_divides_recorded_gaps() -> None:
    due = [due_s for due_s, _ in at_speed(events_at(5_000, 6_000, 6_000, 9_000), speed=2)]
    assert due == [0, 0.5, 0.5, 2]  # 0, 1, 1 and 4 s after the first, twice as fast


def test_events_wait_until_they_are_due_and_keep_their_times() -> None:
    fake = FakeClock()
    events = events_at(0, 1_000, 3_000)
    assert list(paced(at_speed(events, speed=1), clock=fake.clock())) == events
    assert fake.waits == [1, 2]


def test_lost_time_is_caught_up() -> None:
    fake = FakeClock()
    replayed = paced(at_speed(events_at(0, 1_000, 2_000, 3_000), speed=1), clock=fake.clock())
    next(replayed)
    fake.now_s += 2.5  # the broker was slow
    list(replayed)
    assert fake.waits == [0.5]  # the events of seconds 1 and 2 at once, the last on time


def test_restamped_events_carry_the_time_they_are_sent() -> None:
    fake = FakeClock()
    replayed = paced(at_rate(events_at(5, 6), events_per_s=2), restamp=True, clock=fake.clock())
    assert [event.time_ms for event in replayed] == [1_000_000, 1_000_500]


def test_a_wait_of_centuries_is_waited_in_days() -> None:
    fake = FakeClock()
    events = events_at(0, 3 * 86_400_000)
    assert list(paced(at_speed(events, speed=1), clock=fake.clock())) == events
    assert fake.waits == [86_400] * 3


def test_no_events_are_no_wait() -> None:
    fake = FakeClock()
    assert list(paced(at_speed([], speed=1), clock=fake.clock())) == []
    assert fake.waits == []
