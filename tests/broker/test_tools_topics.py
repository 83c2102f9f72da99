"""Topics on a real broker: what is created, what is accepted, what is refused."""

import pytest
from kafka.admin import ConfigResource

from headrace.streams.errors import BrokerUnreachableError, StreamsError, TopicMismatchError
from headrace.streams.kafka.broker import free_port, is_embedded
from headrace.streams.kafka.clients import admin
from headrace.streams.kafka.topics import create_topics, require_topics, topics_of, users_changelog
from headrace.streams.settings import Settings


def test_topics_have_their_partitions_and_clean_up(settings: Settings) -> None:
    created = create_topics(settings)
    names = ["events", "items", "recommendations", "models", "deltas", "dead-letters"]
    assert created == [*(settings.topic(name) for name in names), users_changelog(settings)]
    with admin(settings) as client:
        described = {t["name"]: len(t["partitions"]) for t in client.describe_topics(created)}
        resources = [ConfigResource("TOPIC", name) for name in created]
        configs = client.describe_configs(resources, config_filter="all")["topic"]
    assert [described[name] for name in created] == [4, 1, 4, 1, 1, 4, 4]
    compacted = [configs[name]["cleanup.policy"]["value"] == "compact" for name in created]
    assert compacted == [False, True, True, True, False, False, True]
    assert configs[settings.topic("deltas")]["retention.ms"]["value"] == "21600000"
    assert configs[users_changelog(settings)]["max.compaction.lag.ms"]["value"] == "86400000"
    assert configs[settings.topic("items")]["delete.retention.ms"]["value"] == "315360000000"


def test_creating_twice_changes_nothing(settings: Settings) -> None:
    assert len(create_topics(settings)) == 7
    assert create_topics(settings) == []


def test_only_what_is_missing_is_created(settings: Settings) -> None:
    create_topics(settings)
    other_group = settings.model_copy(update={"group": f"{settings.group}-b"})
    assert create_topics(other_group) == [users_changelog(other_group)]


def test_other_partition_count_is_refused_with_both_numbers(settings: Settings) -> None:
    create_topics(settings)
    with pytest.raises(TopicMismatchError, match=r"events has 4 partitions, expected 8"):
        create_topics(settings.model_copy(update={"partitions": 8}))


def test_partitions_that_no_setting_asks_for_are_told_with_how_to_make_the_topic_anew(
    settings: Settings,
) -> None:
    items = settings.topic("items")
    with admin(settings) as client:
        # As a broker does by itself, where a client writes before there are topics.
        client.create_topics({items: {"num_partitions": 4, "replication_factor": 1}})
        client.wait_for_topics([items])
        cure = (
            r"End them, and it \(Ctrl-C\)" if is_embedded(client) else f"--delete --topic {items}`"
        )
        told = f"{items} has 4 partitions, expected 1.* the broker made it .*{cure}"
        with pytest.raises(TopicMismatchError, match=told) as refusal:
            create_topics(settings)
        assert "set partitions" not in str(refusal.value)
        client.delete_topics([items])
    assert items in create_topics(settings)


def test_topics_by_user_that_do_not_have_the_same_partitions_are_all_told(
    settings: Settings,
) -> None:
    events, _, lists, *_ = topics_of(settings)
    with admin(settings) as client:
        more = {"num_partitions": 6, "replication_factor": 1, "configs": events.configs}
        client.create_topics({events.name: more, lists.name: more | {"num_partitions": 4}})
        client.wait_for_topics([events.name, lists.name])
    told = f"{events.name} has 6, {lists.name} has 4.*add as many to the others"
    with pytest.raises(TopicMismatchError, match=told):
        create_topics(settings)


def test_topics_without_compaction_are_refused(settings: Settings) -> None:
    misfits = {settings.topic("recommendations"), users_changelog(settings)}
    with admin(settings) as client:
        spec = {
            "num_partitions": 4,
            "replication_factor": 1,
            "configs": {"cleanup.policy": "delete"},
        }
        client.create_topics(dict.fromkeys(misfits, spec))
        client.wait_for_topics([*misfits])
    with pytest.raises(TopicMismatchError) as refusal:
        create_topics(settings)
    for name in misfits:  # all of them at once
        assert f"topic {name} has cleanup.policy=delete, expected compact" in str(refusal.value)
    with admin(settings) as client:
        present = set(client.list_topics())
    assert present.isdisjoint({t.name for t in topics_of(settings)} - misfits)


def test_a_topic_without_what_is_only_advised_fits(settings: Settings) -> None:
    lists = settings.topic("recommendations")
    configs = next(topic.configs for topic in topics_of(settings) if topic.name == lists)
    with admin(settings) as client:
        spec = {"num_partitions": 4, "replication_factor": 1, "configs": configs}
        client.create_topics({lists: spec})
        client.wait_for_topics([lists])
    assert lists not in create_topics(settings)


def test_fewer_copies_than_asked_for_are_told(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    create_topics(settings)
    assert create_topics(settings.model_copy(update={"replication": 3})) == []
    assert "replication=3 is for topics that are made" in caplog.text
    assert f"{settings.topic('events')} has 1" in caplog.text
    caplog.clear()
    create_topics(settings)
    assert caplog.text == ""


def test_a_topic_that_one_broker_alone_acknowledges_is_told(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    by_one, by_two = settings.topic("events"), settings.topic("dead-letters")
    with admin(settings) as client:
        client.create_topics(
            {
                name: {
                    "num_partitions": settings.partitions,
                    "replication_factor": 1,
                    "configs": {"cleanup.policy": "delete", "min.insync.replicas": needed},
                }
                for name, needed in ((by_one, "1"), (by_two, "2"))
            }
        )
        client.wait_for_topics([by_one, by_two])
    create_topics(settings)
    assert "acknowledges" not in caplog.text
    create_topics(settings.model_copy(update={"replication": 3}))
    assert f"topic {by_one} acknowledges what one broker alone has" in caplog.text
    assert f"--alter --topic {by_one} --add-config min.insync.replicas=2`" in caplog.text
    assert f"topic {by_two} acknowledges" not in caplog.text


def test_another_prefix_with_the_same_group_is_refused(settings: Settings) -> None:
    create_topics(settings)
    other = settings.model_copy(update={"topic_prefix": f"{settings.topic_prefix}-b"})
    with pytest.raises(TopicMismatchError, match="each topic_prefix needs a group of its own"):
        create_topics(other)
    with admin(settings) as client:
        assert not [name for name in client.list_topics() if name.startswith(other.topic_prefix)]
    assert len(create_topics(other.model_copy(update={"group": other.topic_prefix}))) == 7


def test_silence_at_the_address_is_named_with_the_cure(settings: Settings) -> None:
    silent = settings.model_copy(update={"bootstrap": f"127.0.0.1:{free_port()}"})
    with pytest.raises(BrokerUnreachableError, match=f"{silent.bootstrap}.*headrace broker"):
        create_topics(silent)


def test_roles_refuse_to_start_on_topics_that_are_missing_or_do_not_fit(
    settings: Settings,
) -> None:
    names = [topic.name for topic in topics_of(settings)]
    with pytest.raises(StreamsError, match="create it with `headrace topics`"):
        require_topics(settings, names)
    create_topics(settings)
    require_topics(settings, names)
    with pytest.raises(TopicMismatchError, match="has 4 partitions, expected 8"):
        require_topics(settings.model_copy(update={"partitions": 8}), names)
