"""The topics of a deployment: names, partitions, clean-up, all made before a role starts.

Topics by user have PARTITIONS partitions, and so has the changelog of the adapt role's users: a
user's state lives in the partition its events come from. What everyone reads has one.
"""

import logging
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from kafka.admin import ConfigResource, OffsetSpec
from kafka.errors import GroupAuthorizationFailedError, GroupIdNotFoundError, RetriableError

from headrace.streams.errors import StreamsError, TopicMismatchError
from headrace.streams.kafka.broker import is_embedded
from headrace.streams.kafka.clients import admin
from headrace.streams.kafka.lease import CLOCKS_DIFFER_S, STALE_AFTER_S
from headrace.streams.settings import Settings

logger = logging.getLogger(__name__)

Configs = dict[str, dict[str, Any]]  # topic to its configs, as the broker has them

KEPT = {"cleanup.policy": "delete"}
COMPACTED = {"cleanup.policy": "compact"}
# By default a broker compacts when it pays, which may be never: what was written of a user who is
# forgotten must go (KIP-354).
WITHIN_A_DAY = {"max.compaction.lag.ms": str(24 * 60 * 60 * 1000)}
# By default a tombstone is gone after a day, and who starts later does not know what was withdrawn.
FOR_TEN_YEARS = {"delete.retention.ms": str(10 * 365 * 24 * 60 * 60 * 1000)}
KEPT_6_H = KEPT | {"retention.ms": str(6 * 60 * 60 * 1000)}  # a checkpoint has all before it
# Whoever writes here holds a lease (lease.py): what was on its way for too long must not arrive.
LEASED = COMPACTED | {
    "message.timestamp.type": "CreateTime",
    "message.timestamp.before.max.ms": str(int(STALE_AFTER_S * 1000)),
    "message.timestamp.after.max.ms": str(int(CLOCKS_DIFFER_S * 1000)),
}
# By default what one broker alone has is acknowledged while the others lag, and lost with its disk.
BY_TWO_BROKERS = {"min.insync.replicas": "2"}
COPIES_FOR_TWO = 3  # of two copies both would have to be there: any restart of a broker halts all
LEAST_LIMIT_BYTES = 1_000_000  # of a topic that roles write: their batches are no larger
DEFAULT_LIMIT_BYTES = 1_048_588
ATTEMPTS = 10  # a second apart
TOPIC_EXISTS = 36  # TOPIC_ALREADY_EXISTS, Kafka protocol


@dataclass(frozen=True, slots=True)
class Topic:
    """What a topic must be like."""

    name: str
    partitions: int
    configs: dict[str, str]
    advised: dict[str, str] = field(default_factory=dict)
    """What it gets when it is created here; one that exists may do without."""
    is_ours: bool = True  # roles write there
    is_shared: bool = False  # everyone reads all of it: one partition, whatever is set


def users_changelog(settings: Settings) -> str:
    """Return the changelog of the adapt role's users, as Faust names it."""
    return f"{settings.group}-adapt-users-changelog"


def topics_of(settings: Settings) -> list[Topic]:
    """Return every topic of the deployment."""
    by_user = settings.partitions
    topics = [
        Topic(settings.topic("events"), by_user, KEPT, is_ours=False),
        Topic(settings.topic("items"), 1, COMPACTED, FOR_TEN_YEARS, is_ours=False, is_shared=True),
        Topic(settings.topic("recommendations"), by_user, LEASED, WITHIN_A_DAY),
        Topic(settings.topic("models"), 1, COMPACTED, is_shared=True),
        Topic(settings.topic("deltas"), 1, KEPT_6_H, is_shared=True),
        Topic(settings.topic("dead-letters"), by_user, KEPT),
        Topic(users_changelog(settings), by_user, LEASED, WITHIN_A_DAY),
    ]
    if settings.replication < COPIES_FOR_TWO:
        return topics
    return [replace(topic, advised=topic.advised | BY_TWO_BROKERS) for topic in topics]


def create_topics(settings: Settings) -> list[str]:
    """Create what is missing, check what is there; return the names created.

    Raises:
        BrokerUnreachableError: no broker answers.
        TopicMismatchError: a topic exists and does not fit, or the group is another's; nothing has
            been changed.
    """
    wanted = topics_of(settings)
    with admin(settings) as client:
        existing = set(client.list_topics())
        found = [topic for topic in wanted if topic.name in existing]
        described, configs = _check(client, found)
        _tell_copies(described, settings.replication)
        _tell_acknowledged(configs, settings.replication)
        _check_group(client, settings, existing)
        created = _create(client, [t for t in wanted if t.name not in existing], settings)
        client.wait_for_topics([topic.name for topic in wanted])
        # Two that start at once may both have found a topic missing: one of them made it.
        made_by_other = [t for t in wanted if t.name not in existing and t.name not in created]
        _check(client, made_by_other)
    return created


def require_topics(settings: Settings, names: Collection[str]) -> None:
    """Check that topics of the deployment are there and fit; no others need be seen by this user.

    Raises:
        BrokerUnreachableError: no broker answers.
        TopicMismatchError: a topic does not fit.
        StreamsError: a topic is missing.
    """
    wanted = [topic for topic in topics_of(settings) if topic.name in names]
    with admin(settings) as client:
        present = set(client.list_topics())
        missing = [topic.name for topic in wanted if topic.name not in present]
        if missing:
            raise StreamsError(
                f"no topic {', '.join(missing)}: create it with `headrace topics`; or this user may"
                " not see it: `headrace acls` prints what each role needs"
            )
        _check(client, wanted)


def _create(client: Any, missing: list[Topic], settings: Settings) -> list[str]:
    if not missing:
        return []
    answer = client.create_topics(
        {
            topic.name: {
                "num_partitions": topic.partitions,
                "replication_factor": settings.replication,
                "configs": topic.configs | topic.advised,
            }
            for topic in missing
        },
        raise_errors=False,
    )
    created = []
    for result in answer["topics"]:
        if result["error_code"] == 0:
            created.append(result["name"])
        elif result["error_code"] != TOPIC_EXISTS:
            raise StreamsError(f"cannot create topic {result['name']}: {result['error_message']}")
    return created


def _check_group(client: Any, settings: Settings, existing: Collection[str]) -> None:
    """Refuse states that are of other events, or gone while the events they held are read.

    By the offsets of the former, new events would be replays; after the latter, users start over.
    """
    events, changelog = settings.topic("events"), users_changelog(settings)
    if changelog in existing and events not in existing:
        raise TopicMismatchError(
            f"topic {changelog} exists and {events} does not: the states in it are of other events,"
            " and new ones would pass for replays. If they are another shop's, set another group:"
            f" each topic_prefix needs a group of its own. If {events} was deleted to begin anew,"
            " set another topic_prefix and group"
        )
    if events in existing and changelog not in existing and _has_read(client, settings):
        group = f"{settings.group}-adapt"
        raise TopicMismatchError(
            f"topic {changelog} is gone, and with it the states of events that group {group} has"
            " read: to make them of the events still kept, stop the workers and let it read anew:"
            f" `kafka-consumer-groups.sh --bootstrap-server HOST:PORT --group {group} --topic"
            f" {events} --reset-offsets --to-earliest --execute`; or set another group, where users"
            " start over"
        )


def _has_read(client: Any, settings: Settings) -> bool:
    """Return whether the adapt role has committed that it read any events, if we may know."""
    group, events = f"{settings.group}-adapt", settings.topic("events")
    found: dict[Any, Any] = {}
    for attempt in range(ATTEMPTS):
        try:
            found = client.list_group_offsets({group: None})[group]
            break
        except (GroupAuthorizationFailedError, GroupIdNotFoundError):
            return False
        except RetriableError:  # a new cluster's coordinators come with the first question
            if attempt + 1 == ATTEMPTS:
                raise
            time.sleep(1)
    read = {tp: at.offset for tp, at in found.items() if tp.topic == events}
    if not read:
        return False
    begins = client.list_partition_offsets(dict.fromkeys(read, OffsetSpec.EARLIEST))
    return any(offset > begins[tp].offset for tp, offset in read.items())


def _check(client: Any, topics: list[Topic]) -> tuple[list[dict[str, Any]], Configs]:
    """Check that topics fit; return how the broker describes them, and their configs."""
    if not topics:
        return [], {}
    names = [topic.name for topic in topics]
    described: list[dict[str, Any]] = client.describe_topics(names)
    partitions = {t["name"]: len(t["partitions"]) for t in described}
    resources = [ConfigResource("TOPIC", name) for name in names]
    configs: Configs = client.describe_configs(resources, config_filter="all")["topic"]
    misfits = []
    by_user = {t.name: partitions[t.name] for t in topics if not t.is_shared}
    if len({*by_user.values()}) > 1:
        told = ", ".join(f"{name} has {n}" for name, n in by_user.items())
        raise TopicMismatchError(
            f"topics by user have different numbers of partitions: {told}. Partitions were added to"
            " one in use: add as many to the others (kafka-topics.sh --alter --partitions), and"
            " users who move to new ones start over; or use another topic_prefix and group"
        )
    for topic in topics:
        if (n := partitions[topic.name]) != topic.partitions:
            told = f"topic {topic.name} has {n} partitions, expected {topic.partitions}"
            if not topic.is_shared:
                raise TopicMismatchError(
                    f"{told}: set partitions={n}, or use another topic_prefix and group (the"
                    " partitions of a topic in use must never change)"
                )
            if is_embedded(client):  # which has no kafka-topics.sh, and nothing that would be lost
                raise TopicMismatchError(
                    f"{told}: the broker made it when somebody first used it, as roles do that go"
                    " on while it is started again. End them, and it (Ctrl-C); then start it, run"
                    " `headrace topics`, and start them"
                )
            raise TopicMismatchError(
                f"{told}, whatever is set: the broker made it when somebody first used it, or some"
                " were added. Stop who uses it, delete it (`kafka-topics.sh --bootstrap-server"
                f" HOST:PORT --delete --topic {topic.name}`), run `headrace topics` and publish"
                " again what you had there; or use another topic_prefix and group"
            )
        limit = configs[topic.name].get("max.message.bytes", {}).get("value")
        if topic.is_ours and limit and int(limit) < LEAST_LIMIT_BYTES:
            more = {"max.message.bytes": str(DEFAULT_LIMIT_BYTES)}
            told = f"takes {limit} bytes at once, and less than roles write"
            misfits.append(_to_set(topic, told, more))
        found = {name: configs[topic.name].get(name, {}).get("value") for name in topic.configs}
        wrong = {name: value for name, value in topic.configs.items() if found[name] != value}
        if wrong:
            told = "; ".join(f"{name}={found[name]}, expected {wrong[name]}" for name in wrong)
            misfits.append(_to_set(topic, f"has {told}", wrong))
    if misfits:
        raise TopicMismatchError("; ".join(misfits))
    return described, configs


def _tell_copies(described: list[dict[str, Any]], expected: int) -> None:
    """Warn of topics with fewer copies than are asked for: all is well, until a broker ends."""
    copies = {t["name"]: min(len(p["replica_nodes"]) for p in t["partitions"]) for t in described}
    if fewer := [f"{name} has {n}" for name, n in copies.items() if n < expected]:
        logger.warning(
            "replication=%d is for topics that are made, and these exist: copies, %s."
            " kafka-reassign-partitions.sh adds some",
            expected,
            ", ".join(fewer),
        )


def _tell_acknowledged(configs: Configs, copies: int) -> None:
    """Warn of topics whose writes are acknowledged by one broker alone, where two are asked for."""
    ((name, needed),) = BY_TWO_BROKERS.items()
    for topic, found in configs.items() if copies >= COPIES_FOR_TWO else ():
        if int(found.get(name, {}).get("value") or needed) < int(needed):
            logger.warning(
                "topic %s acknowledges what one broker alone has: %s",
                topic,
                _how_to_set(topic, BY_TWO_BROKERS),
            )


def _to_set(topic: Topic, why: str, configs: Mapping[str, str]) -> str:
    """Return what a topic is like, and the call that sets what it must be like."""
    return f"topic {topic.name} {why}: {_how_to_set(topic.name, configs)}"


def _how_to_set(topic: str, configs: Mapping[str, str]) -> str:
    config = ",".join(f"{name}={value}" for name, value in configs.items())
    return (
        "run `kafka-configs.sh --bootstrap-server HOST:PORT --alter"
        f" --topic {topic} --add-config {config}`"
    )
