"""Ask the roles to forget users, and say what they cannot delete: records on the shop's topics."""

import time
from collections.abc import Sequence

from kafka.admin import ConfigResource

from headrace.streams.actions import FORGET
from headrace.streams.errors import MalformedRecordError
from headrace.streams.kafka.clients import admin, outbox
from headrace.streams.kafka.topics import users_changelog
from headrace.streams.records import Event
from headrace.streams.settings import Settings
from headrace.streams.wire import decode_event, encode

_UNITS = (("days", 86_400_000), ("hours", 3_600_000), ("minutes", 60_000), ("seconds", 1_000))
_LONGEST_MS = 2**63 - 1  # the brokers' way of saying never


def ask_to_forget(settings: Settings, users: Sequence[str]) -> int:
    """Publish an event for each user in every partition; return how many partitions there are.

    Which of them hold a user's events is known to the clients that wrote them alone, and one that
    holds none has nothing to forget.

    Raises:
        MalformedRecordError: one of the users cannot be the user of an event; none is asked for.
    """
    now_ms = int(time.time() * 1000)
    values = {}
    for user in users:
        try:
            values[user] = encode(Event(user=user, item="", action=FORGET, time_ms=now_ms))
        except UnicodeEncodeError:  # bytes of the command line that are no text
            raise MalformedRecordError("undecodable", f"user {user!a} is not UTF-8") from None
        decode_event(values[user], key=None, record_time_ms=now_ms)
    with outbox(settings, settings.topic("events")) as box:
        partitions = box.partitions()
        for user, value in values.items():
            for partition in partitions:
                box.send(key=user, value=value, partition=partition)
    return len(partitions)


def how_long(settings: Settings) -> dict[str, str]:
    """Return until when the topics that hold records of users do so, in words."""
    compacted = [users_changelog(settings), settings.topic("recommendations")]
    kept = [settings.topic("events"), settings.topic("dead-letters")]
    with admin(settings) as client:
        resources = [ConfigResource("TOPIC", name) for name in (*compacted, *kept)]
        found = client.describe_configs(resources, config_filter="all")["topic"]
    limits = dict.fromkeys(compacted, "max.compaction.lag.ms") | dict.fromkeys(kept, "retention.ms")
    return {
        topic: f"{_in_words(found.get(topic, {}).get(limit, {}).get('value'))} ({limit})"
        for topic, limit in limits.items()
    }


def _in_words(value: str | None) -> str:
    if value is None:
        return "as its broker is set"
    if not 0 <= int(value) < _LONGEST_MS:
        return "without limit"
    unit, size = next((each for each in _UNITS if int(value) >= 2 * each[1]), _UNITS[-1])
    return f"{int(value) / size:g} {unit}"
