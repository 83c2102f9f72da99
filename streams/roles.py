"""The two roles as processes: what `headrace adapt` and `headrace learn` run."""

import logging
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from headrace.streams import adapt, http, learn
from headrace.streams.access import require_access
from headrace.streams.broadcast import Broadcast
from headrace.streams.errors import BrokerRefusedError, BrokerUnreachableError
from headrace.streams.guards import EXIT_REFUSED, EXIT_UNAVAILABLE
from headrace.streams.learner import pick_device
from headrace.streams.process import Readiness
from headrace.streams.serving import Serving
from headrace.streams.settings import Settings

logger = logging.getLogger(__name__)

# Their info lines are about every join, fetch and future; what matters to us we log ourselves.
NOISY = (
    *("aiokafka", "faust", "kafka", "mode", "numba"),
    *("headrace.streams.faust_app", "headrace.streams.intake"),  # Faust logs under our names here
)


SELDOM_S = 10.0
MOST_MESSAGES, SHOWN_LETTERS = 1_000, 200  # by which they are told apart


class Seldom(logging.Filter):
    """Lets each message of the Kafka clients through once in ten seconds.

    While no broker answers they tell so hundreds of times a second, and hide what we say of it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._told_s: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether it is ours, or has not been told lately."""
        if not record.name.startswith(("aiokafka", "kafka")):
            return True
        what = f"{record.name} {record.msg}"[:SHOWN_LETTERS]
        is_new = record.created - self._told_s.get(what, -math.inf) >= SELDOM_S
        if is_new:
            if len(self._told_s) >= MOST_MESSAGES:
                self._told_s.clear()
            self._told_s[what] = record.created
        return is_new


def start_logging(settings: Settings) -> None:
    """Log to standard error, one line an event."""
    level = settings.log_level.upper()
    handler = logging.StreamHandler()
    handler.addFilter(Seldom())
    form = "%(asctime)s %(levelname)s %(name)s %(message)s"
    logging.basicConfig(level=level, format=form, handlers=[handler])
    for name in NOISY:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLevelName(level)))


@contextmanager
def ended_without_broker() -> Iterator[None]:
    """End with a line that says what to do if no broker answers, or one refuses us."""
    try:
        yield
    except BrokerUnreachableError as exc:
        logger.error("ended: %s", exc)
        sys.exit(EXIT_UNAVAILABLE)
    except BrokerRefusedError as exc:
        logger.error("ended: %s", exc)
        sys.exit(EXIT_REFUSED)


@ended_without_broker()
def run_adapt(settings: Settings) -> None:
    """Run an adapt worker until it is told to stop.

    Raises:
        StreamsError: a topic is missing, or does not fit.
    """
    start_logging(settings)
    token = http.token_of(settings)
    require_access(settings, "adapt")
    serving = Serving(settings, device=pick_device(settings))
    readiness = Readiness(is_model_ready=serving.is_ready)
    server = http.serve(
        settings.http_host,
        settings.adapt_port,
        is_live=readiness.is_live,
        is_ready=readiness,
        token=token,
    )
    broadcast = Broadcast(settings, serving)
    broadcast.follower.start()
    try:
        adapt.run(settings, serving, readiness=readiness)
    finally:
        serving.close()
        broadcast.follower.close()
        server.close()


@ended_without_broker()
def run_learn(settings: Settings) -> None:
    """Run the learn role until it is told to stop.

    Raises:
        StreamsError: a topic is missing, or does not fit, or no version can be read.
    """
    start_logging(settings)
    token = http.token_of(settings)
    require_access(settings, "learn")
    readiness = Readiness()
    server = http.serve(
        settings.http_host,
        settings.learn_port,
        is_live=readiness.is_live,
        is_ready=readiness,
        token=token,
    )
    try:
        learn.run(settings, readiness=readiness)
    finally:
        server.close()
