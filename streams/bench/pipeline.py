"""Events a second from broker to acknowledged lists and states, against other ways of reading.

All contenders read the same events from the same broker, in turn, each as a group of its own. The
two that are Headrace recover the users' states first; the clock runs from a tenth of the events to
the last one asked for.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgpack

from headrace.streams.bench import contenders, stage
from headrace.streams.bench.measuring import Figure, Row
from headrace.streams.bench.shop import Shop, open_shop, states_of
from headrace.streams.settings import Settings
from headrace.streams.tools.produce import publish_events


class Contender(NamedTuple):
    """One way of doing the job."""

    name: str
    program: str  # of ``contenders``; empty for the adapt role itself
    share: float  # of the events; slow ones need fewer to be measured
    is_headrace: bool

    def arguments(self, n_events: int) -> tuple[str, ...]:
        """Return the arguments of the interpreter."""
        if not self.program:
            return stage.ADAPT_ROLE
        return ("-m", contenders.__name__, self.program, str(n_events))


CONTENDERS = (
    Contender("no-op model", "no_op", 0.8, is_headrace=True),  # the rest is under way at the end
    Contender("stock Faust, take(512), only reads", "stock_reader", 1.0, is_headrace=False),
    Contender("bare aiokafka, only reads", "bare_consumer", 1.0, is_headrace=False),
    Contender("real model", "", 0.25, is_headrace=True),
    Contender("textbook Faust, real model", "textbook", 0.02, is_headrace=False),
)


class Speed(NamedTuple):
    """What one run reached."""

    events_per_s: float
    lists_per_s: float


def measure(
    settings: Settings,
    *,
    n_events: int,
    n_users: int,
    n_items: int,
    repeats: int,
    on_progress: Callable[[int], None] = lambda _: None,
) -> list[Row]:
    """Return a row for each contender; ``on_progress`` is called once for each run.

    In topics of their own (``topic_prefix``) of the broker that the settings name.

    Raises:
        StreamsError: a contender did not get through; the text has its last lines.
    """
    speeds: dict[str, list[Speed]] = {each.name: [] for each in CONTENDERS}
    with stage.on_its_own(settings) as settings:
        shop = open_shop(settings, n_items=n_items, n_users=n_users, n_events=n_events)
        stage.announce(settings, shop)
        publish_events(settings, shop.events)
        states = {user: state.encode() for user, state in states_of(shop.learner).items()}
        Path(settings.data_dir, contenders.STATES_FILE).write_bytes(msgpack.packb(states))
        for repeat in range(repeats):
            for number, each in enumerate(CONTENDERS):
                group = f"{settings.topic_prefix}-{repeat}-{number}"
                own = settings.model_copy(update={"group": group})
                asked = max(10, int(each.share * n_events))
                if each.is_headrace:
                    speed = _run_headrace(own, each, shop, asked)
                else:
                    speed = _run_other(own, each, asked)
                speeds[each.name].append(speed)
                on_progress(1)
    return [
        {
            "job": name,
            "events/s": Figure.of([speed.events_per_s for speed in found]),
            "lists/s": Figure.of([speed.lists_per_s for speed in found]),
        }
        for name, found in speeds.items()
    ]


def _run_headrace(settings: Settings, job: Contender, shop: Shop, n_events: int) -> Speed:
    """Run an adapt worker that recovers the states, and read its own metrics."""
    with stage.worker(settings, shop, job.arguments(n_events)) as worker:
        return Speed(*worker.per_second(n_events // 10, n_events, "events_total", "lists_total"))


def _run_other(settings: Settings, job: Contender, n_events: int) -> Speed:
    """Run a contender that tells its rate itself."""
    arguments = job.arguments(n_events)
    told = stage.measured(settings, job.name, arguments, limit_s=stage.LIMIT_S)
    rate = told["events_per_s"]
    return Speed(rate, rate if job.program == contenders.textbook.__name__ else 0.0)
