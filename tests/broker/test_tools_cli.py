"""The tools on a real broker: what is published is what is read back."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from kafka import KafkaProducer

from headrace.streams.cli.main import main
from headrace.streams.errors import StreamsError
from headrace.streams.kafka.clients import admin, outbox, reader
from headrace.streams.kafka.dead_letters import dead_letter_headers
from headrace.streams.kafka.topics import create_topics
from headrace.streams.records import Event, Item, Recommendation, Source
from headrace.streams.settings import Settings
from headrace.streams.tools.consume import all_lists, current_lists, follow_lists
from headrace.streams.wire import decode_event, decode_item, encode

LIMIT_S = 30


@pytest.fixture
def deployed(settings: Settings) -> Settings:
    """Return settings whose topics exist."""
    create_topics(settings)
    return settings


def run(settings: Settings, *arguments: str, stdin: str | None = None) -> tuple[str, str]:
    """Run a command that must succeed; return its standard output and standard error."""
    flags = ["--bootstrap", settings.bootstrap, "--topic-prefix", settings.topic_prefix]
    result = CliRunner().invoke(main, [arguments[0], *flags, *arguments[1:]], input=stdin)
    assert result.exit_code == 0, result.output
    return result.stdout, result.stderr


def events_on(settings: Settings) -> dict[int, list[Event]]:
    """Return what lies on the events topic, by partition, in offset order."""
    found: dict[int, list[Event]] = {}
    with reader(settings, settings.topic("events")) as events:
        for record in events.to_end():
            event = decode_event(record.value, key=record.key, record_time_ms=record.timestamp)
            assert record.key == event.user.encode()
            found.setdefault(record.partition, []).append(event)
    return found


def a_list(user: str, offset: int, *items: str) -> Recommendation:
    """Return a list of ``user`` made at time ``offset``."""
    return Recommendation(
        user=user,
        rec_id=f"{user}-0-{offset}",
        items=items,
        scores=tuple(1.0 for _ in items),
        reasons=(),
        model_version=1,
        source=Source(topic="t", partition=0, offset=offset, time_ms=offset),
        generated_ms=offset,
    )


def publish_lists(settings: Settings, *lists: Recommendation) -> None:
    """Write lists as the adapt role does."""
    with outbox(settings, settings.topic("recommendations")) as box:
        for each in lists:
            box.send(key=each.user, value=encode(each))


# ------------------------------------------------------------------------------------ publishing


def test_every_event_of_a_file_is_published_once_in_order_of_its_user(
    deployed: Settings, tmp_path: Path
) -> None:
    n_events, n_users = 2_000, 50
    rows = [f"u{n % n_users},i{n},view,{n + 1_000_000_000}" for n in range(n_events)]
    path = tmp_path / "events.csv"
    path.write_text("\n".join(["user,item,event,timestamp", *rows]))
    _, err = run(deployed, "produce", str(path))
    assert f"{n_events} events published" in err
    by_partition = events_on(deployed)
    assert sum(map(len, by_partition.values())) == n_events
    assert len(by_partition) == deployed.partitions  # 50 users reach all four
    for user in range(n_users):
        homes = [[e.item for e in found if e.user == f"u{user}"] for found in by_partition.values()]
        expected = [f"i{n}" for n in range(user, n_events, n_users)]
        assert [items for items in homes if items] == [expected]  # one partition, its own order


def test_typed_event_is_published(deployed: Settings) -> None:
    run(deployed, "produce", "-", stdin='{"user": "u", "item": "i", "time_ms": 5}\n')
    [[event]] = events_on(deployed).values()
    assert event == Event(user="u", item="i", action="click", time_ms=5)


def test_catalogue_is_published_by_item(deployed: Settings, tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    path.write_text('{"item": 7, "title": "Tea", "categories": ["Drinks"]}\n{"item": 8}\n')
    run(deployed, "produce", "--items", str(path))
    with reader(deployed, deployed.topic("items")) as items:
        found = {r.key: decode_item(r.value, key=r.key) for r in items.to_end()}
    assert found == {
        b"7": Item(item="7", title="Tea", categories=("Drinks",)),
        b"8": Item(item="8"),
    }


def test_replay_keeps_times_and_stops_at_its_limit(deployed: Settings, tmp_path: Path) -> None:
    path = tmp_path / "events.tsv"
    path.write_text(
        "user\titem\tevent\ttime_ms\n" + "".join(f"u\ti\tview\t{n}\n" for n in range(9))
    )
    run(deployed, "replay", str(path), "--rate", "1000", "--limit", "4")
    [events] = events_on(deployed).values()
    assert [event.time_ms for event in events] == [0, 1, 2, 3]


def test_publishing_without_topics_says_how_to_create_them(settings: Settings) -> None:
    with (
        pytest.raises(StreamsError, match=f"{settings.topic('events')} does not exist: .*topics"),
        outbox(settings, settings.topic("events")),
    ):
        pass


def test_refused_record_is_an_error_and_not_a_loss(deployed: Settings) -> None:
    with (
        pytest.raises(StreamsError, match="refused"),
        outbox(deployed, deployed.topic("events")) as box,
    ):
        box.send(key="u", value=b"x" * 2_000_000)  # brokers take 1 MB


# --------------------------------------------------------------------------------------- reading


def test_current_lists_are_the_latest_of_each_user(deployed: Settings) -> None:
    first, second, other = a_list("u", 1, "a"), a_list("u", 3, "b"), a_list("w", 2, "c")
    publish_lists(deployed, first, other, second)
    assert list(current_lists(deployed)) == [other, second]
    assert list(current_lists(deployed, user="u")) == [second]
    assert sorted(each.generated_ms for each in all_lists(deployed)) == [1, 2, 3]


def test_a_list_that_was_withdrawn_is_no_current_list(deployed: Settings) -> None:
    gone, kept, again = a_list("u", 1, "a"), a_list("w", 2, "b"), a_list("u", 3, "c")
    publish_lists(deployed, gone, kept)
    producer = KafkaProducer(bootstrap_servers=deployed.bootstrap)
    producer.send(deployed.topic("recommendations"), key=b"u", value=None).get(LIMIT_S)
    producer.close()
    assert list(current_lists(deployed)) == [kept]
    assert list(current_lists(deployed, user="u")) == []
    publish_lists(deployed, again)
    assert list(current_lists(deployed)) == [kept, again]


def test_following_starts_with_what_comes_after(deployed: Settings) -> None:
    # One batch of more records than one poll returns: the embedded broker takes its second record
    # for the end of the topic.
    producer = KafkaProducer(
        bootstrap_servers=deployed.bootstrap, batch_size=1_000_000, linger_ms=60_000
    )
    for n in range(1_500):
        old = a_list("u", n, "old")
        producer.send(deployed.topic("recommendations"), key=b"u", value=encode(old))
    producer.flush(LIMIT_S)
    producer.close()
    new = a_list("u", 1_500, "new")
    lists = follow_lists(deployed, on_start=lambda: publish_lists(deployed, new))
    assert next(lists) == new
    lists.close()


def test_following_from_the_beginning_goes_on_with_what_comes(deployed: Settings) -> None:
    old, new = a_list("u", 1, "old"), a_list("u", 2, "new")
    publish_lists(deployed, old)
    lists = follow_lists(
        deployed, from_beginning=True, on_start=lambda: publish_lists(deployed, new)
    )
    assert [next(lists), next(lists)] == [old, new]
    lists.close()


def test_lists_are_printed_with_titles(deployed: Settings, tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("item,title\na,Green tea\n")
    run(deployed, "produce", "--items", str(tmp_path / "items.csv"))
    publish_lists(deployed, a_list("u", 1, "a"), a_list("w", 2, "b"))
    out, _ = run(deployed, "consume", "--user", "u")
    assert "Green tea" in out
    assert out.count("model 1") == 1
    out, _ = run(deployed, "consume", "--json", "--from-beginning")
    assert {json.loads(line)["user"] for line in out.splitlines()} == {"u", "w"}
    out, err = run(deployed, "consume", "--json", "--follow", "--from-beginning", "--limit", "2")
    assert len(out.splitlines()) == 2
    assert err == f"waiting for lists on {deployed.topic('recommendations')}, until Ctrl-C\n"


def test_no_lists_is_said(deployed: Settings) -> None:
    out, err = run(deployed, "consume")
    assert (out, err.split(":")[0]) == ("", "no lists yet")


def test_a_user_without_a_list_is_told_apart_from_no_lists_at_all(deployed: Settings) -> None:
    publish_lists(deployed, a_list("u", 1, "a"))
    out, err = run(deployed, "consume", "--user", "nobody")
    assert (out, err) == ("", "no list of nobody: no event yet, or forgotten\n")


def test_record_that_is_no_list_does_not_stop_the_reading(deployed: Settings) -> None:
    with outbox(deployed, deployed.topic("recommendations")) as box:
        box.send(key="u", value=b"not a list")
    good = a_list("u", 1, "a")
    publish_lists(deployed, good)
    assert list(current_lists(deployed)) == [good]


def test_dead_letters_are_printed_with_reason_and_origin(deployed: Settings) -> None:
    headers = dead_letter_headers(
        reason="undecodable",
        detail="neither",
        topic="shop.events",
        partition=1,
        offset=7,
        time_ms=1_000,
    ) | {"headrace.omitted": b"headers"}
    producer = KafkaProducer(bootstrap_servers=deployed.bootstrap)
    producer.send(
        deployed.topic("dead-letters"), key=b"u", value=b"\xff", headers=list(headers.items())
    ).get(LIMIT_S)
    producer.close()
    out, err = run(deployed, "dead-letters")
    assert out == "shop.events/1@7  undecodable: neither\n  key   u\n  value \\xff\n"
    assert err == "1 record set aside\n"
    out, _ = run(deployed, "dead-letters", "--json")
    assert json.loads(out) == {
        "reason": "undecodable",
        "detail": "neither",
        "topic": "shop.events",
        "partition": 1,
        "offset": 7,
        "time_ms": 1_000,
        "omitted": ["headers"],
        "key": "u",
        "value_base64": "/w==",
    }


def test_reading_joins_no_group(deployed: Settings) -> None:
    publish_lists(deployed, a_list("u", 1, "a"))
    with admin(deployed) as client:
        before = {group["group_id"] for group in client.list_groups()}
        assert list(current_lists(deployed))
        assert {group["group_id"] for group in client.list_groups()} == before
