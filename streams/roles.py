"""The two roles as processes: what `headrace adapt` and `headrace learn` run."""

import logging
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from headrace.streams import http, metrics
from headrace.streams.adapt import role as adapt
from headrace.streams.adapt.broadcast import Broadcast
from headrace.streams.adapt.serving import Serving
from headrace.streams.errors import (
    BrokerRefusedError,
    BrokerUnreachableError,
    StoreError,
    UnreadableError,
)
from headrace.streams.guards import end_process, tell_failure
from headrace.streams.kafka.access import require_access
from headrace.streams.learn import role as learn
from headrace.streams.logs import start_logging
from headrace.streams.model_settings import pick_device
from headrace.streams.process import Readiness
from headrace.streams.settings import Settings

logger = logging.getLogger(__name__)

THREAD_LIMIT_S = 2.0  # for those that are about to end; all that matters is committed


@contextmanager
def as_process(role: Literal["adapt", "learn"]) -> Iterator[None]:
    """Be the process of a role: its metrics alone, and an end when it is told to, at any time.

    1. Until ``run_role`` listens to signals, nothing is in flight, and one ends the process at
    once: the first process of a container would not hear it. 2. A stop that comes while Faust joins
    its group leaves a thread of its behind, which Python would wait for.
    """
    metrics.leave_out(metrics.OF_LEARN if role == "adapt" else metrics.OF_ADAPT)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: end_process(0))  # 1
    yield
    for thread in threading.enumerate():  # 2
        if thread is not threading.main_thread() and not thread.daemon:
            thread.join(THREAD_LIMIT_S)
            if thread.is_alive():
                logger.warning("ended without waiting for the thread %s any longer", thread.name)
                end_process(0)


@contextmanager
def ended_when_away() -> Iterator[None]:
    """End with a line that says what to do if brokers or the store are away, or one refuses us."""
    try:
        yield
    except (BrokerUnreachableError, BrokerRefusedError, StoreError, UnreadableError) as exc:
        sys.exit(tell_failure(exc, "the role could not start"))


@contextmanager
def _answering(settings: Settings, role: Literal["adapt", "learn"]) -> Iterator[Readiness]:
    """Log, see what this user may do, and answer for metrics and health until the role has ended.

    Raises:
        StreamsError: an address or a right is missing.
    """
    start_logging(settings)
    token = http.token_of(settings)
    require_access(settings, role)
    readiness = Readiness()
    server = http.serve(
        settings.http_host,
        settings.adapt_port if role == "adapt" else settings.learn_port,
        is_live=readiness.is_live,
        is_ready=readiness,
        token=token,
    )
    try:
        yield readiness
    finally:
        server.close()


@ended_when_away()
def run_adapt(settings: Settings) -> None:
    """Run an adapt worker until it is told to stop.

    Raises:
        StreamsError: a topic is missing, or does not fit.
    """
    with _answering(settings, "adapt") as readiness:
        serving = Serving(settings, device=pick_device(settings))
        readiness.is_model_ready = serving.is_ready
        broadcast = Broadcast(settings, serving)
        broadcast.follower.start()
        try:
            adapt.run(settings, serving, readiness=readiness)
        finally:
            broadcast.follower.close()


@ended_when_away()
def run_learn(settings: Settings, *, anew: bool = False) -> None:
    """Run the learn role until it is told to stop; ``anew`` leaves out the versions so far.

    Raises:
        StreamsError: a topic is missing, or does not fit, or no version can be read.
    """
    with _answering(settings, "learn") as readiness:
        learn.run(settings, readiness=readiness, anew=anew)
