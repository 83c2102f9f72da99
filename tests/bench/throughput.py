"""Events a second that one adapt worker carries, with the model and with a no-op in its place.

    python tests/bench/throughput.py --events 20000 [--no-op]

The events wait on the topic before the worker starts; the clock runs from a tenth of them to the
last. With the model, the learn role has learned them first and is gone, so the worker has the
machine to itself beside the broker.
"""

import argparse
import sys

from headrace.streams.bench import contenders, stage
from headrace.streams.child import Child
from headrace.streams.kafka.broker import EmbeddedBroker, free_port
from headrace.streams.kafka.topics import create_topics
from headrace.streams.settings import Settings, load
from headrace.streams.tools.files import events_of, load_events
from headrace.streams.tools.produce import publish_events
from headrace.streams.up import child_environment

NO_OP = ("-m", contenders.__name__, contenders.no_op.__name__, "0")


def start(settings: Settings, *arguments: str) -> Child:
    """Start a role in a process of its own."""
    return Child([sys.executable, *arguments], env=child_environment(settings))


def measure(settings: Settings, n_events: int, *, is_no_op: bool) -> str:
    """Return a line with the figures."""
    if not is_no_op:
        learn = start(settings, "-m", "headrace.streams", "learn")
        stage.Workers([settings.learn_port], [learn]).wait_for(n_events)
        learn.stop(limit_s=stage.STOP_LIMIT_S)
    worker = start(settings, *(NO_OP if is_no_op else stage.ADAPT_ROLE))
    workers = stage.Workers([settings.adapt_port], [worker])
    events, lists = workers.per_second(n_events // 10, n_events, "events_total", "lists_total")
    worker.stop(limit_s=stage.STOP_LIMIT_S)
    model = "no-op" if is_no_op else "model"
    return f"{model}: {events:,.0f} events/s, {lists:,.0f} lists/s"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--no-op", action="store_true")
    given = parser.parse_args()
    with EmbeddedBroker() as broker, stage.on_its_own(load(), has_topics=False) as settings:
        settings = broker.settings(settings).model_copy(update={"learn_port": free_port()})
        create_topics(settings)
        publish_events(settings, events_of(load_events("completejourney").head(given.events)))
        print(measure(settings, given.events, is_no_op=given.no_op))


if __name__ == "__main__":
    main()
