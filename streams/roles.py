"""The two roles as processes: what `headrace adapt` and `headrace learn` run."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from headrace.streams import adapt, http, learn, metrics
from headrace.streams.access import require_access
from headrace.streams.broadcast import Broadcast
from headrace.streams.errors import BrokerRefusedError, BrokerUnreachableError
from headrace.streams.guards import EXIT_REFUSED, EXIT_UNAVAILABLE
from headrace.streams.logs import start_logging
from headrace.streams.model_settings import pick_device
from headrace.streams.process import Readiness
from headrace.streams.serving import Serving
from headrace.streams.settings import Settings

logger = logging.getLogger(__name__)


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
    metrics.leave_out(metrics.OF_LEARN)
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
        broadcast.follower.close()
        server.close()


@ended_without_broker()
def run_learn(settings: Settings, *, anew: bool = False) -> None:
    """Run the learn role until it is told to stop; ``anew`` leaves out the versions so far.

    Raises:
        StreamsError: a topic is missing, or does not fit, or no version can be read.
    """
    start_logging(settings)
    metrics.leave_out(metrics.OF_ADAPT)
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
        learn.run(settings, readiness=readiness, anew=anew)
    finally:
        server.close()
