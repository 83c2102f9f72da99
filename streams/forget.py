"""Ask the roles to forget users, and say what they cannot delete: records on the shop's topics."""

import time
from collections.abc import Sequence

from kafka.admin import ConfigResource

from headrace.streams.clients import admin, outbox
from headrace.streams.settings import Settings
from headrace.streams.wire import FORGET, Event, decode_event, encode

_UNITS = (("days", 86_400_000), ("hours", 3_600_000), ("minutes", 60_000), ("seconds", 1_000))


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
        values[user] = encode(Event(user=user, item="", action=FORGET, time_ms=now_ms))
        decode_event(values[user], key=None, record_time_ms=now_ms)
    with outbox(settings.bootstrap, settings.topic("events")) as box:
        partitions = box.partitions()
        for user, value in values.items():
            for partition in partitions:
                box.send(key=user, value=value, partition=partition)
    return len(partitions)


def kept_for(settings: Settings) -> dict[str, str]:
    """Return how long each topic keeps records of a user that no role can delete."""
    names = [settings.topic(name) for name in ("events", "dead-letters")]
    with admin(settings.bootstrap) as client:
        resources = [ConfigResource("TOPIC", name) for name in names]
        found = client.describe_configs(resources, config_filter="all")["topic"]
    return {name: _in_words(found.get(name, {}).get("retention.ms", {})) for name in names}


def _in_words(config: dict[str, str | None]) -> str:
    value = config.get("value")
    if value is None:
        return "as long as the broker's retention says"
    if int(value) < 0:
        return "for ever"
    unit, size = next((each for each in _UNITS if int(value) >= each[1]), _UNITS[-1])
    return f"for {int(value) / size:g} {unit}"
