"""The least that each role needs where brokers check rights: Kafka's ACLs, by role."""

import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from kafka.admin import ACL, ACLOperation, ACLPermissionType, ResourcePattern, ResourceType
from kafka.errors import GroupAuthorizationFailedError, RetriableError

from headrace.streams.errors import BrokerRefusedError
from headrace.streams.kafka.broker import is_embedded
from headrace.streams.kafka.clients import admin
from headrace.streams.kafka.topics import require_topics, topics_of, users_changelog
from headrace.streams.settings import Settings

READ, WRITE = ("Read",), ("Write",)  # each implies to describe
TO_CREATE = ("Create", "Describe", "DescribeConfigs")
TO_CHECK = ("DescribeConfigs",)  # adapt and learn look whether their topics fit when they start
CHANGELOG = "changelog"  # no noun: it is named after the group

# By role, what may be done with topics. The admin runs `headrace topics` and
# `headrace forget`, and reads dead letters.
TOPICS: dict[str, dict[str, tuple[str, ...]]] = {
    "admin": {"dead-letters": READ, "events": WRITE},
    "adapt": {
        **dict.fromkeys(("events", "items", "models", "deltas"), READ + TO_CHECK),
        **dict.fromkeys(("recommendations", "dead-letters"), WRITE + TO_CHECK),
        CHANGELOG: READ + WRITE + TO_CHECK,
    },
    "learn": {
        **dict.fromkeys(("events", "items"), READ + TO_CHECK),
        "models": READ + WRITE + TO_CHECK,
        "deltas": WRITE + TO_CHECK,
    },
    "publisher": {"events": WRITE, "items": WRITE},
    "reader": {"recommendations": READ, "items": READ},
}
WITH_GROUP = ("adapt", "learn")


@dataclass(frozen=True, slots=True)
class Right:
    """What a role may do with one topic or group."""

    kind: Literal["topic", "group"]
    name: str
    operations: tuple[str, ...]


def rights_of(settings: Settings, role: str) -> list[Right]:
    """Return the rights of a role of ``TOPICS``."""
    names = {noun: settings.topic(noun) for noun in TOPICS[role]}
    names[CHANGELOG] = users_changelog(settings)
    rights = [Right("topic", names[noun], operations) for noun, operations in TOPICS[role].items()]
    if role == "admin":
        rights = [Right("topic", topic.name, TO_CREATE) for topic in topics_of(settings)] + rights
        rights.append(Right("group", f"{settings.group}-adapt", ("Describe",)))
    if role in WITH_GROUP:
        rights.append(Right("group", f"{settings.group}-{role}", READ))
    return rights


def require_access(settings: Settings, role: str) -> None:
    """Check that the topics of ``role`` are there and fit, and that this user has its rights.

    The brokers tell. Without, Faust would wait for its group and say nothing.

    Raises:
        BrokerUnreachableError: no broker answers.
        BrokerRefusedError: one side does not trust the other, or a right is missing.
        TopicMismatchError: a topic does not fit.
        StreamsError: a topic is missing.
    """
    rights = rights_of(settings, role)
    names = [right.name for right in rights if right.kind == "topic"]
    require_topics(settings, names)
    with admin(settings) as client:
        topics = client.describe_topics(names)
        told = {topic["name"]: topic["authorized_operations"] for topic in topics}
        for right in rights:
            missing = [
                operation
                for operation in right.operations
                if told.get(right.name) is not None and _constant(operation) not in told[right.name]
            ]
            if right.kind == "group" and not _may_join(client, right.name):
                missing = [*READ]
            if missing:
                raise BrokerRefusedError(
                    f"this user may not {', '.join(missing)} the {right.kind} {right.name}:"
                    f" `headrace acls` prints what {role} needs"
                )


def _may_join(client: Any, group: str) -> bool:
    try:
        client.list_group_offsets(group)
    except GroupAuthorizationFailedError:
        return False
    except RetriableError:  # the first question makes the brokers create the topic of all offsets
        pass
    return True


def command_lines(settings: Settings, principals: Mapping[str, str]) -> Iterator[str]:
    """Yield the calls of Kafka's own kafka-acls.sh that give roles their rights, by principal."""
    for role, principal in principals.items():
        yield f"# {role}"
        for right in rights_of(settings, role):
            operations = " ".join(f"--operation {operation}" for operation in right.operations)
            yield (
                f"kafka-acls.sh --bootstrap-server {settings.bootstrap} --command-config"
                f" admin.properties --add --allow-principal {shlex.quote(principal)} {operations}"
                f" --{right.kind} {right.name}"
            )


def grant(settings: Settings, principals: Mapping[str, str]) -> int:
    """Give roles their rights, by principal; return how many there are.

    Raises:
        BrokerUnreachableError: no broker answers.
        BrokerRefusedError: this user may not, or brokers check no rights.
    """
    return sum(
        give(settings, principal, rights_of(settings, role))
        for role, principal in principals.items()
    )


def give(settings: Settings, principal: str, rights: Iterable[Right]) -> int:
    """Give rights to one; return how many there are. What was given before stays.

    Raises:
        BrokerRefusedError: the broker knows no rights, or may not be told any by this user.
    """
    acls = [
        ACL(
            principal=principal,
            host="*",
            operation=ACLOperation[_constant(operation)],
            permission_type=ACLPermissionType.ALLOW,
            resource_pattern=ResourcePattern(ResourceType[right.kind.upper()], right.name),
        )
        for right in rights
        for operation in right.operations
    ]
    with admin(settings) as client:
        if is_embedded(client):  # it would not even answer
            raise BrokerRefusedError(
                f"the broker at {settings.bootstrap} is the embedded one, where everyone may do"
                " everything: rights need Apache Kafka with an authorizer"
            )
        failed = client.create_acls(acls)["failed"]
    if failed:
        raise BrokerRefusedError(
            f"{len(failed)} of {len(acls)} rights were not given ({failed[0].__name__}): it needs a"
            " user who may alter the cluster, and brokers with an authorizer"
        )
    return len(acls)


def _constant(operation: str) -> str:
    """Return Kafka's name of an operation as kafka-python spells it: DESCRIBE_CONFIGS."""
    return "".join(f"_{c}" if c.isupper() else c for c in operation).strip("_").upper()
