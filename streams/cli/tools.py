"""Commands around the roles: broker and topics, publishing, reading back."""

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING, TypeVar

import click

from headrace.streams.cli.options import PORT, FiniteRange, context_columns, with_settings
from headrace.streams.settings import Settings

if TYPE_CHECKING:
    import polars as pl

    from headrace.streams.records import Recommendation

T = TypeVar("T")
DAY_MS = 86_400_000


@click.command()
@click.option(
    "--port", type=PORT, default=9092, show_default=True, help="Port on 127.0.0.1; 0 for any."
)
def broker(port: int) -> None:
    """Run a Kafka-compatible broker in memory, until Ctrl-C.

    It listens on this machine only, and forgets everything when it ends: for the demo, tests and
    first steps. For what must last, run Apache Kafka.

    \b
    Example:  headrace broker --port 9092
    Next:     headrace topics
    """
    from headrace.streams.errors import SettingsError
    from headrace.streams.kafka.broker import HOST, EmbeddedBroker

    with ExitStack() as stack:
        try:
            running = stack.enter_context(EmbeddedBroker(port))
        except SettingsError as exc:
            use = f"or use what listens there with --bootstrap {HOST}:{port}"
            raise SettingsError(f"{exc}, {use}") from exc
        click.echo(f"broker ready at {running.bootstrap}; it forgets everything at Ctrl-C")
        click.echo(f"next: headrace topics --bootstrap {running.bootstrap}")
        running.serve()


@click.command()
@with_settings("topic_prefix", "partitions", "replication", "group")
def topics(settings: Settings) -> None:
    """Create the topics, or check that they fit.

    \b
    Example:  headrace topics --partitions 8
    Next:     headrace up
    """
    from headrace.streams.kafka.topics import create_topics, topics_of

    created = set(create_topics(settings))
    for topic in topics_of(settings):
        state = "created" if topic.name in created else "fits"
        click.echo(f"{state:8} {topic.name}  ({_number(topic.partitions, 'partition')})")


@click.command()
@click.option("--create", "is_to_create", is_flag=True, help="Create them, as this user.")
@click.option(
    "--principal",
    "principals",
    metavar="ROLE=PRINCIPAL",
    multiple=True,
    help="Who has a role; User:headrace-ROLE if not said. Repeatable.",
)
@with_settings("topic_prefix", "group")
def acls(settings: Settings, is_to_create: bool, principals: tuple[str, ...]) -> None:
    """Print, or create, the rights that each role needs.

    For brokers with an authorizer: admin (runs `headrace topics`), adapt, learn, publisher of
    events and items, reader of lists. What is printed are calls of Kafka's kafka-acls.sh.

    \b
    Example:  headrace acls
              headrace acls --principal adapt=User:CN=adapt,O=shop --create
    Next:     headrace topics
    """
    from headrace.streams.kafka import access

    chosen = {role: f"User:headrace-{role}" for role in access.TOPICS}
    for text in principals:
        role, equals, principal = text.partition("=")
        if role not in chosen or not (equals and principal):
            raise click.UsageError(
                f"--principal {text}: it must be ROLE=PRINCIPAL, ROLE one of {', '.join(chosen)}"
            )
        chosen[role] = principal
    if is_to_create:
        click.echo(f"{access.grant(settings, chosen)} rights are given")
    else:
        click.echo("\n".join(access.command_lines(settings, chosen)))


@click.command()
@click.argument("file")
@click.option("--items", "is_catalogue", is_flag=True, help="FILE is a catalogue of items.")
@context_columns
@with_settings("topic_prefix")
def produce(settings: Settings, file: str, is_catalogue: bool, context: tuple[str, ...]) -> None:
    """Publish the events, or the catalogue, of FILE.

    As fast as the broker takes them; - reads typed events from standard input, up to its end
    (Ctrl-D). A file that is published twice counts twice, but for events with an event_id among
    their user's latest 32.

    FILE is TSV, CSV, JSON lines or Parquet, also .gz or .xz, with the columns user, item, event
    and timestamp (seconds, milliseconds, ISO text or a day such as 20261129), and optionally
    event_id and rec_id. ISO text is in UTC where it names no zone, as 2026-11-29T10:15:00+02:00
    does. A whole number from 19700101 to 99991231 is always a day, never seconds. Typed events are
    JSON lines or TSV; a missing event means click, a missing timestamp now. A catalogue (--items)
    has the column item, and may have title, categories (as Food|Drinks|Tea or a list, the widest
    first; or department, category, type), price, text, active (true or false, 1 or 0) and, in
    JSON lines and Parquet, vectors (name to numbers).
    The name "completejourney" stands for a year of real purchases (pip install 'headrace[demo]').

    \b
    Example:  headrace produce --items products.csv
              headrace produce events.tsv.gz
              echo '{"user": "u1", "item": "i1"}' | headrace produce -
    Next:     headrace consume --user u1
    """
    from headrace.streams.cli.progress import tracked
    from headrace.streams.tools.files import events_of, load_events, refuse_future
    from headrace.streams.tools.files_items import load_items
    from headrace.streams.tools.produce import publish_events, publish_items

    if is_catalogue:
        with _before_any_is_published():
            items = load_items(file)
        _publish(settings, publish_items, tracked(items, total=len(items), label="items"), "item")
    else:
        with _before_any_is_published():
            events = load_events(file, context=context, is_named=True)
            refuse_future(events, file)
        _note_oddities(events)
        steps = tracked(events_of(events), total=len(events), label="events")
        _publish(settings, publish_events, steps, "event")


def _publish(
    settings: Settings,
    publish: Callable[[Settings, Iterable[T]], int],
    steps: Generator[T, None, None],
    noun: str,
) -> None:
    """Publish what a bar counts, and say how many were, also if Ctrl-C stopped it."""
    from headrace.streams.tools.produce import Stopped

    try:
        with closing(steps):  # and so the bar, before anything is said
            n_sent = publish(settings, steps)
    except Stopped as stopped:
        click.echo(f"stopped: {_number(stopped.n_sent, noun)} published", err=True)
        raise SystemExit(1) from None
    click.echo(f"{_number(n_sent, noun)} published", err=True)


def _number(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"


def _note_oddities(events: "pl.DataFrame") -> None:
    from headrace.streams.tools.files import days_before_1973, misspelt

    if days := days_before_1973(events):
        told = "note: the times begin on {} and end on {}: are they in another unit?".format(*days)
        click.echo(told, err=True)
    for action, meant in misspelt(events).items():
        told = f"note: {action!r} is no action that the model knows: did you mean {meant!r}?"
        click.echo(told, err=True)


@click.command()
@click.argument("file")
@click.option("--speed", type=FiniteRange(min=0, min_open=True), help="Times recorded time.")
@click.option("--rate", type=FiniteRange(min=0, min_open=True), help="Events a second.")
@click.option("--limit", type=click.IntRange(min=1), help="Only the first so many events.")
@click.option("--now", "restamp", is_flag=True, help="Stamp each event with the time it is sent.")
@context_columns
@with_settings("topic_prefix")
def replay(
    settings: Settings,
    file: str,
    speed: float | None,
    rate: float | None,
    limit: int | None,
    restamp: bool,
    context: tuple[str, ...],
) -> None:
    """Replay the events of FILE at a chosen pace.

    At --speed times recorded time (1 if not given), or at --rate events a second.

    Event times stay as recorded, so that what is learned from them does too; --now replaces them.

    \b
    Example:  headrace replay events.parquet --speed 3600     an hour a second
              headrace replay completejourney --rate 200 --limit 10000
    Next:     headrace consume --follow
    """
    from headrace.streams.cli.progress import tracked
    from headrace.streams.tools.files import events_of, load_events, refuse_future
    from headrace.streams.tools.produce import publish_events
    from headrace.streams.tools.replay import at_rate, at_speed, paced

    if speed and rate:
        raise click.UsageError("give --speed or --rate, not both")
    with _before_any_is_published():
        table = load_events(file, context=context, is_named=True)
        if not restamp:
            refuse_future(table, file)
    table = table.head(limit) if limit else table
    _note_oddities(table)
    span_ms = 0 if rate or table.is_empty() else table["time_ms"][-1] - table["time_ms"][0]
    if (days := span_ms / DAY_MS / (speed or 1)) > 1:
        click.echo(f"note: at this speed it takes {days:,.1f} days", err=True)
    events = events_of(table)
    schedule = at_rate(events, events_per_s=rate) if rate else at_speed(events, speed=speed or 1)
    steps = tracked(paced(schedule, restamp=restamp), total=len(table), label="replay")
    _publish(settings, publish_events, steps, "event")


@click.command()
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
    import shutil
    import sys
    from itertools import islice

    from headrace.streams.tools import consume as lists

    if user == "":
        raise click.UsageError("--user is empty: name one, or leave it out for all users' lists")
    found: Iterable[Recommendation]
    if follow:
        waits = f"waiting for lists on {settings.topic('recommendations')}, until Ctrl-C"
        found = lists.follow_lists(
            settings,
            user=user,
            from_beginning=from_beginning,
            on_start=lambda: click.echo(waits, err=True),
        )
    elif from_beginning:
        found = lists.all_lists(settings, user=user)
    else:
        found = lists.current_lists(settings, user=user)
    titles = {} if is_json else lists.read_titles(settings)
    is_empty = True
    try:
        for each in islice(found, limit):
            is_empty = False
            width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
            text = lists.as_json(each) if is_json else lists.as_text(each, titles, width=width)
            click.echo(text)
    except KeyboardInterrupt:
        return  # how following ends
    if is_empty:
        why = "no lists yet: they need events, and both roles running"
        if user and next(lists.current_lists(settings), None):
            why = f"no list of {user}: no event yet, or forgotten"
        click.echo(why, err=True)


@click.command()
@click.argument("users", nargs=-1, required=True, metavar="USER...")
@with_settings("topic_prefix", "group")
def forget(settings: Settings, users: tuple[str, ...]) -> None:
    """Forget users: their states, lists and histories.

    Publishes an event with the action "forget" for each; your own programs may, in the partition
    of the user's other events. It takes effect in the order of the events: who acts later is a new
    user. Both roles must be running, all of them at this release or a later one. What is printed
    says until when which topics hold records of users: the last two are yours to see to.

    \b
    Example:  headrace forget 42
    Next:     headrace consume --user 42, which finds no list
    """
    from headrace.streams.tools.forget import ask_to_forget, how_long

    n_partitions = ask_to_forget(settings, users)
    click.echo(f"asked to forget {', '.join(users)} in {_number(n_partitions, 'partition')}")
    within_s = settings.versions_kept * settings.version_interval_s
    click.echo(
        f"gone from every checkpoint that is kept: {within_s:.0f} s after learn has read it, or"
        f" {settings.versions_kept} times twenty times as long as writing one takes, if longer"
    )
    click.echo("once adapt has read it, records of them stay on these topics for at most")
    for topic, limit in how_long(settings).items():
        click.echo(f"  {topic:40} {limit}")


@click.command("dead-letters")
@click.option("--json", "is_json", is_flag=True, help="One JSON object a line, whole.")
@with_settings("topic_prefix")
def dead_letters(settings: Settings, is_json: bool) -> None:
    """Print the records that were set aside, with reasons.

    Long ones are cut; --json prints them whole, for a program to mend, less their own headers. A
    key or value that is no UTF-8 is in key_base64 or value_base64 there; msgpack is read, too.

    \b
    Example:  headrace dead-letters
              headrace dead-letters --json > set-aside.jsonl
              jq -c '{user: .key, time_ms} + (.value | fromjson? // empty)' set-aside.jsonl
    Next:     fix what produces them; what jq prints can be mended and published again:
              headrace produce - < mended.jsonl
    """
    from headrace.streams.tools.set_aside import as_json, as_text, read_dead_letters

    n_letters = 0
    for letter in read_dead_letters(settings):
        click.echo(as_json(letter) if is_json else as_text(letter))
        n_letters += 1
    click.echo(f"{_number(n_letters, 'record')} set aside", err=True)


@contextmanager
def _before_any_is_published() -> Iterator[None]:
    from headrace.streams.errors import InputFileError

    try:
        yield
    except InputFileError as exc:
        raise InputFileError(f"{exc}; nothing was published") from exc
