"""An announcer: a version arrives during every fault, even while the learn role is down."""

from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition

from headrace.streams.settings import Settings
from headrace.streams.versions.publication import ANNOUNCEMENT_KEY


class Announcer:
    """Announces the newest version once more when asked, as one does who takes a model back."""

    def __init__(self, settings: Settings) -> None:
        self._topic = settings.topic("models")
        self._newest: bytes | None = None
        common = {"bootstrap.servers": settings.bootstrap, "log_level": 0}
        self._producer = Producer(common | {"enable.idempotence": True})
        self._consumer = Consumer(common | {"group.id": "announcer", "enable.auto.commit": False})
        self._consumer.assign([TopicPartition(self._topic, 0, OFFSET_BEGINNING)])

    def tend(self) -> None:
        """Note what was announced meanwhile; does not wait."""
        while record := self._consumer.poll(0):
            if record.error() is None:  # other errors are tried again by the client
                self._newest = record.value()
        self._producer.poll(0)

    def announce(self) -> None:
        """Announce the newest version; does not wait."""
        if self._newest is not None:
            self._producer.produce(self._topic, self._newest, ANNOUNCEMENT_KEY, partition=0)

    def close(self) -> None:
        """Wait until all is announced."""
        left = self._producer.flush(60.0)
        self._consumer.close()
        assert not left, f"{left} announcements were never answered"
