"""Events a second that one adapt worker carries, with the model and with a no-op in its place.

    python tests/bench/throughput.py --events 20000 [--no-op]

The events wait on the topic before the worker starts; the clock runs from a tenth of them to the
last. With the model, the learn role has learned them first and is gone, so the worker has the
machine to itself beside the broker.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from headrace.streams import adapt, http
from headrace.streams.broker import EmbeddedBroker, free_port
from headrace.streams.engine import UserResult, UserWork
from headrace.streams.files import events_of, load_events
from headrace.streams.process import Readiness
from headrace.streams.produce import publish_events
from headrace.streams.scrape import Scrape, scrape
from headrace.streams.settings import Settings, load
from headrace.streams.topics import create_topics
from headrace.streams.up import environment_of
from headrace.streams.wire import Recommendation, rec_id_of

LIST_LENGTH = 20
POLL_S = 0.05


class NoOp:
    """Applies events and answers with the user's last items: all but the model."""

    def process(self, work: list[UserWork]) -> list[UserResult]:
        """Return one result for each user."""
        for one in work:
            for offset, event in one.events:
                one.state.apply(event, offset=offset, history_length=100)
        return [
            UserResult(
                one.state,
                Recommendation(
                    user=one.user,
                    rec_id=rec_id_of(one.user, one.source),
                    items=tuple(one.state.items[-LIST_LENGTH:]),
                    scores=(1.0,) * LIST_LENGTH,
                    reasons=(),
                    model_version=1,
                    source=one.source,
                    generated_ms=0,
                ),
            )
            for one in work
        ]


def run_no_op() -> None:
    """Run the worker with the no-op."""
    settings, readiness = load(), Readiness()
    http.serve(
        settings.http_host, settings.adapt_port, is_live=readiness.is_live, is_ready=readiness
    )
    adapt.run(settings, NoOp(), readiness=readiness)


def start(settings: Settings, *arguments: str) -> subprocess.Popen[bytes]:
    """Start a role in a process of its own."""
    environment = os.environ | environment_of(settings)
    return subprocess.Popen([sys.executable, *arguments], env=environment)


def wait_for(port: int, n_events: int) -> Scrape:
    """Wait until a role has applied so many events."""
    while (metrics := scrape(port)).get("events_total") < n_events:
        time.sleep(POLL_S)
    return metrics


def measure(settings: Settings, n_events: int, *, is_no_op: bool) -> str:
    """Return a line with the figures."""
    if not is_no_op:
        learn = start(settings, "-m", "headrace.streams", "learn")
        wait_for(settings.learn_port, n_events)
        learn.terminate()
        learn.wait()
    role = [__file__, "--run-no-op"] if is_no_op else ["-m", "headrace.streams", "adapt"]
    worker = start(settings, *role)
    before, before_s = wait_for(settings.adapt_port, n_events // 10), time.monotonic()
    after, after_s = wait_for(settings.adapt_port, n_events), time.monotonic()
    worker.terminate()
    worker.wait()
    rates = [
        (after.get(name) - before.get(name)) / (after_s - before_s)
        for name in ("events_total", "lists_total")
    ]
    model = "no-op" if is_no_op else "model"
    return f"{model}: {rates[0]:,.0f} events/s, {rates[1]:,.0f} lists/s"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--no-op", action="store_true")
    parser.add_argument("--run-no-op", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run_no_op:
        run_no_op()
        return
    with EmbeddedBroker() as broker, tempfile.TemporaryDirectory() as folder:
        settings = load().model_copy(
            update={
                "bootstrap": broker.bootstrap,
                "data_dir": Path(folder),
                "session_timeout_s": 6.0,
                "adapt_port": free_port(),
                "learn_port": free_port(),
            }
        )
        create_topics(settings)
        publish_events(settings, events_of(load_events("completejourney").head(given.events)))
        print(measure(settings, given.events, is_no_op=given.no_op))


if __name__ == "__main__":
    main()
