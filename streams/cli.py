"""The command line. Commands are a few lines: read the settings, call a function, say what next.

What a command needs is imported when it runs, so that ``headrace --help`` answers at once.
"""

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from headrace.streams.errors import InputFileError, StreamsError
from headrace.streams.options import with_settings
from headrace.streams.settings import Settings

if TYPE_CHECKING:
    import polars as pl

    from headrace.streams.wire import Item, Recommendation

WRONG_INPUT = 2  # as click's own usage errors
SAMPLE = "completejourney"  # stands for a file: a year of real purchases


class Failure(click.ClickException):
    """An error of ours: one line that says what to do, and no traceback."""

    exit_code = WRONG_INPUT

    def show(self, file: Any = None) -> None:
        """Write the line to standard error."""
        click.echo(f"headrace: {' '.join(self.message.split())}", err=True, file=file)


class Headrace(click.Group):
    """Lists commands in the order they are used, and turns our errors into one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - the hook's signature
        """Return the commands as they were added."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except StreamsError as exc:
            raise Failure(str(exc)) from exc


@click.group(cls=Headrace, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="headrace", message="headrace %(version)s")
def main() -> None:
    """Headrace: events in from Kafka, refreshed recommendation lists out.

    Every user is re-learned as they act. First steps, each in its own terminal:

    \b
      headrace broker               a broker to try things on (or run Apache Kafka)
      headrace topics               create what Headrace reads and writes
      headrace produce events.tsv   publish what users did
      headrace consume --follow     watch the lists

    Every setting can be given as a flag, as HEADRACE_<NAME> in the environment, or in a TOML file
    (--settings); flags win over the environment, and it wins over the file.
    """
    # What its errors mean is said by ours, which also name the cure.
    logging.getLogger("kafka").setLevel(logging.CRITICAL)


@main.command()
@click.option("--port", default=9092, show_default=True, help="Port on 127.0.0.1; 0 for any.")
def broker(port: int) -> None:
    """Run a Kafka-compatible broker in memory, until Ctrl-C.

    It listens on this machine only, and forgets everything when it ends: for the demo, tests and
    first steps. For what must last, run Apache Kafka.

    \b
    Example:  headrace broker --port 9092
    Next:     headrace topics
    """
    from headrace.streams.broker import EmbeddedBroker

    with EmbeddedBroker(port) as running:
        click.echo(f"broker ready at {running.bootstrap}; it forgets everything at Ctrl-C")
        click.echo(f"next: headrace topics --bootstrap {running.bootstrap}")
        running.serve()


@main.command()
@with_settings("topic_prefix", "partitions", "replication", "group")
def topics(settings: Settings) -> None:
    """Create the topics, or check that they fit.

    \b
    Example:  headrace topics --partitions 8
    Next:     headrace produce events.tsv
    """
    from headrace.streams.topics import create_topics, topics_of

    created = set(create_topics(settings))
    for topic in topics_of(settings):
        state = "created" if topic.name in created else "fits"
        click.echo(f"{state:8} {topic.name}  ({topic.partitions} partitions)")


MODEL_FLAGS = ("device", "seed")
ROLE_FLAGS = ("topic_prefix", "partitions", "group", "model_store", "http_host", "log_level")


@main.command()
@with_settings(*ROLE_FLAGS, "adapt_port", "list_length", "device")
def adapt(settings: Settings) -> None:
    """Run an adapt worker: events in, each user re-learned, refreshed lists out.

    Start as many as there are partitions to share; each holds the state of its partitions' users.
    It serves once the learn role has announced a model version. A failure ends the process with
    its own exit status and without a commit: start it again, and the replay repairs.

    \b
    Example:  headrace adapt --bootstrap broker:9092 --model-store s3://shop/models
    Next:     headrace consume --follow; curl http://127.0.0.1:8601/metrics
    """
    from headrace.streams.roles import run_adapt

    run_adapt(settings)


@main.command()
@with_settings(*ROLE_FLAGS, "learn_port", *MODEL_FLAGS)
def learn(settings: Settings) -> None:
    """Run the learn role: events in, item signals and model versions out. Exactly one of them.

    It goes on from the version it announced last, or from nothing.

    \b
    Example:  headrace learn --bootstrap broker:9092 --model-store s3://shop/models
    Next:     headrace adapt
    """
    from headrace.streams.roles import run_learn

    run_learn(settings)


@main.command()
@with_settings(*ROLE_FLAGS, "adapt_port", "learn_port", "list_length", *MODEL_FLAGS)
def up(settings: Settings) -> None:
    """Run both roles on this machine, until Ctrl-C; a role that fails is started again.

    \b
    Example:  headrace up
    Next:     headrace produce events.tsv, then headrace consume --follow
    """
    from headrace.streams import up as both

    both.up(settings)


@main.command()
@click.argument("file")
@click.option("--items", "catalogue", metavar="FILE", help="Catalogue, for categories.")
@click.option(
    "--events",
    "n_events",
    type=click.IntRange(min=2),
    default=100_000,
    show_default=True,
    help="Only the first so many interactions.",
)
@click.option("--no-lag", is_flag=True, help="Let shared knowledge reach the lists at once.")
@with_settings(*MODEL_FLAGS, "inner_steps", "replay_batches")
def evaluate(
    settings: Settings, file: str, catalogue: str | None, n_events: int, no_lag: bool
) -> None:
    """Judge the lists on the recorded events of FILE, without Kafka: JSON on standard output.

    Each event is ranked before it is applied and learned from; the second half is scored. The same
    model and passes as in the service, with the service's delay at 200 events a second, beside the
    baselines that learn from every event at once.

    \b
    Example:  headrace evaluate events.tsv.gz
              headrace evaluate completejourney --items completejourney | jq .contenders
    Next:     headrace up
    """
    import json

    from headrace.streams.evaluate import evaluate as judge
    from headrace.streams.progress import counted

    events = _read_events(file)
    items = _read_items(catalogue) if catalogue else []
    with counted(total=min(n_events, len(events)), label="evaluate") as advance:
        report = judge(
            events,
            settings,
            stream=file,
            n_events=n_events,
            items=items,
            has_lag=not no_lag,
            on_progress=advance,
        )
    click.echo(json.dumps(report))


@main.command()
@click.option("--keep", is_flag=True, help="Leave everything running after the summary.")
@click.option("--port", default=0, help="Port of the broker; any free one if not given.")
@click.option("--seconds", default=100.0, show_default=True, help="How long events are replayed.")
@click.option("--rate", default=150.0, show_default=True, help="Events a second.")
@with_settings("adapt_port", "learn_port", "device")
def demo(settings: Settings, keep: bool, port: int, seconds: float, rate: float) -> None:
    """Replay real purchases through a broker and both roles, live on one screen.

    Brings its own broker, and takes everything down again.

    \b
    Example:  headrace demo
              headrace demo --keep --port 9092    then: headrace consume --follow
    Next:     headrace evaluate completejourney
    """
    from headrace.streams.demo import run_demo

    run_demo(settings, broker_port=port, seconds=seconds, events_per_s=rate, keep=keep)


@main.command()
@click.argument("file")
@click.option("--items", "is_catalogue", is_flag=True, help="FILE is a catalogue of items.")
@with_settings("topic_prefix")
def produce(settings: Settings, file: str, is_catalogue: bool) -> None:
    """Publish the events, or the catalogue, of FILE.

    As fast as the broker takes them; - reads typed events from standard input.

    FILE is TSV, CSV, JSON lines or Parquet, also .gz or .xz, with the columns user, item, event
    and timestamp (seconds, milliseconds or ISO text). Typed events are JSON lines or TSV; a missing
    event means click, a missing timestamp now. A catalogue (--items) has the column item, and may
    have title, categories (or department, category, type), price and text. The name
    "completejourney" stands for a year of real purchases (pip install headrace[demo]).

    \b
    Example:  headrace produce --items products.csv
              headrace produce events.tsv.gz
              echo '{"user": "u1", "item": "i1"}' | headrace produce -
    Next:     headrace consume --user u1
    """
    from headrace.streams.produce import events_of, publish_events, publish_items
    from headrace.streams.progress import tracked

    if is_catalogue:
        items = _read_items(file)
        n_sent = publish_items(settings, tracked(items, total=len(items), label="items"))
    else:
        events = _read_events(file)
        steps = tracked(events_of(events), total=len(events), label="events")
        n_sent = publish_events(settings, steps)
    click.echo(f"{n_sent} {'items' if is_catalogue else 'events'} published", err=True)


@main.command()
@click.argument("file")
@click.option("--speed", type=click.FloatRange(min=0, min_open=True), help="Times recorded time.")
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), help="Events a second.")
@click.option("--limit", type=click.IntRange(min=1), help="Only the first so many events.")
@click.option("--now", "restamp", is_flag=True, help="Stamp each event with the time it is sent.")
@with_settings("topic_prefix")
def replay(
    settings: Settings,
    file: str,
    speed: float | None,
    rate: float | None,
    limit: int | None,
    restamp: bool,
) -> None:
    """Replay the events of FILE at a chosen pace.

    At --speed times recorded time (1 if not given), or at --rate events a second.

    Event times stay as recorded, so that what is learned from them does too; --now replaces them.

    \b
    Example:  headrace replay events.parquet --speed 3600     an hour a second
              headrace replay completejourney --rate 200 --limit 10000
    Next:     headrace consume --follow
    """
    from headrace.streams.produce import events_of, publish_events
    from headrace.streams.progress import tracked
    from headrace.streams.replay import at_rate, at_speed, paced

    if speed and rate:
        raise click.UsageError("give --speed or --rate, not both")
    table = _read_events(file).head(limit) if limit else _read_events(file)
    events = events_of(table)
    schedule = at_rate(events, events_per_s=rate) if rate else at_speed(events, speed=speed or 1)
    steps = tracked(paced(schedule, restamp=restamp), total=len(table), label="replay")
    click.echo(f"{publish_events(settings, steps)} events published", err=True)


@main.command()
@click.option("--user", help="Only this user's lists.")
@click.option("--follow", is_flag=True, help="Wait for new lists, until Ctrl-C.")
@click.option("--from-beginning", is_flag=True, help="Also lists that newer ones replaced.")
@click.option("--json", "is_json", is_flag=True, help="One JSON object a line, for programs.")
@click.option("--limit", type=click.IntRange(min=1), help="End after so many lists.")
@with_settings("topic_prefix")
def consume(
    settings: Settings,
    user: str | None,
    follow: bool,
    from_beginning: bool,
    is_json: bool,
    limit: int | None,
) -> None:
    """Print lists, with titles and reasons.

    The current list of each user, if nothing else is said. Reading disturbs nobody: no group is
    joined and nothing is committed.

    \b
    Example:  headrace consume --user 42
              headrace consume --follow --json | jq .items
    Next:     headrace dead-letters, if an event seems to have had no effect
    """
    from itertools import islice

    from headrace.streams import consume as lists

    found: Iterable[Recommendation]
    if follow:
        found = lists.follow_lists(settings, user=user, from_beginning=from_beginning)
    elif from_beginning:
        found = lists.all_lists(settings, user=user)
    else:
        found = lists.current_lists(settings, user=user)
    titles = {} if is_json else lists.read_titles(settings)
    is_empty = True
    try:
        for each in islice(found, limit):
            is_empty = False
            click.echo(lists.as_json(each) if is_json else lists.as_text(each, titles))
    except KeyboardInterrupt:
        return  # how following ends
    if is_empty:
        click.echo("no lists yet: they need events, and both roles running", err=True)


@main.command("dead-letters")
@with_settings("topic_prefix")
def dead_letters(settings: Settings) -> None:
    """Print the records that were set aside, each with its reason.

    \b
    Example:  headrace dead-letters
    Next:     fix what produces them, and publish them again
    """
    from headrace.streams import dead_letters as letters

    n_letters = 0
    for letter in letters.read_dead_letters(settings):
        click.echo(letters.as_text(letter))
        n_letters += 1
    click.echo(f"{n_letters} records set aside", err=True)


def _read_events(file: str) -> "pl.DataFrame":
    import time

    from headrace.streams.files import completejourney, read_events
    from headrace.streams.tables import STDIN

    if file == SAMPLE:
        return completejourney()[0]
    events = read_events(file, now_ms=int(time.time() * 1000) if file == STDIN else None)
    if events.is_empty():
        raise InputFileError(f"{file}: there are no events in it")
    return events


def _read_items(file: str) -> "list[Item]":
    from headrace.streams.files import completejourney, read_items

    return completejourney()[1] if file == SAMPLE else read_items(file)
