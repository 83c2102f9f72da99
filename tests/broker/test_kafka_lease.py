"""The brokers' half of the lease: a list or a state that was on its way for too long is refused."""

import time

import pytest
from confluent_kafka import KafkaError, Producer
from harness import deploy

from headrace.streams.kafka.lease import CLOCKS_DIFFER_S, STALE_AFTER_S
from headrace.streams.kafka.topics import users_changelog
from headrace.streams.settings import Settings


def answer_to(settings: Settings, topic: str, *, stamped_s: float) -> KafkaError | None:
    """Return what the broker answers to a record with this time, in seconds from now."""
    answers: list[KafkaError | None] = []
    producer = Producer({"bootstrap.servers": settings.bootstrap})
    producer.list_topics(topic)  # it is connected: the time is not of before that
    producer.produce(
        topic,
        key=b"ann",
        value=b"{}",
        timestamp=int((time.time() + stamped_s) * 1000),
        on_delivery=lambda error, _: answers.append(error),
    )
    producer.flush()
    return answers[0]


@pytest.mark.parametrize("kind", ["lists", "states"])
def test_what_is_stamped_too_early_or_too_late_is_refused(settings: Settings, kind: str) -> None:
    settings = deploy(settings)
    topic = settings.topic("recommendations") if kind == "lists" else users_changelog(settings)
    for stamped_s in (-STALE_AFTER_S - 0.001, CLOCKS_DIFFER_S + 30):
        error = answer_to(settings, topic, stamped_s=stamped_s)
        assert error is not None
        assert error.code() == KafkaError.INVALID_TIMESTAMP
    assert answer_to(settings, topic, stamped_s=0) is None


def test_events_may_be_as_old_as_they_like(settings: Settings) -> None:
    settings = deploy(settings)
    assert answer_to(settings, settings.topic("events"), stamped_s=-86_400) is None
