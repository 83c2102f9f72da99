"""Names and shapes of the topics; that they are created so is for tests/broker."""

import pytest

from headrace.streams.kafka.topics import topics_of, users_changelog
from headrace.streams.settings import Settings

SETTINGS = Settings(topic_prefix="shop", group="shop-eu", partitions=6)


def test_topics_by_user_share_their_partition_count_with_the_changelog() -> None:
    partitions = {topic.name: topic.partitions for topic in topics_of(SETTINGS)}
    assert partitions == {
        "shop.events": 6,
        "shop.items": 1,
        "shop.recommendations": 6,
        "shop.models": 1,
        "shop.deltas": 1,
        "shop.dead-letters": 6,
        "shop-eu-adapt-users-changelog": 6,
    }


def test_what_holds_the_latest_by_key_is_compacted() -> None:
    compacted = [
        topic.name for topic in topics_of(SETTINGS) if topic.configs["cleanup.policy"] == "compact"
    ]
    assert compacted == [
        "shop.items",
        "shop.recommendations",
        "shop.models",
        users_changelog(SETTINGS),
    ]


def test_what_holds_users_is_compacted_within_a_day() -> None:
    soon = {t.name for t in topics_of(SETTINGS) if "max.compaction.lag.ms" in t.advised}
    assert soon == {"shop.recommendations", users_changelog(SETTINGS)}


@pytest.mark.parametrize(("copies", "needed"), [(1, None), (2, None), (3, "2"), (5, "2")])
def test_of_three_copies_two_acknowledge(copies: int, needed: str | None) -> None:
    topics = topics_of(SETTINGS.model_copy(update={"replication": copies}))
    assert {topic.advised.get("min.insync.replicas") for topic in topics} == {needed}


def test_deltas_are_kept_for_six_hours() -> None:
    deltas = next(topic for topic in topics_of(SETTINGS) if topic.name == "shop.deltas")
    assert deltas.configs["retention.ms"] == str(6 * 3600 * 1000)
