"""What an adapt worker follows: versions, deltas and the catalogue, handed to its engine."""

from typing import Any

from headrace.streams.adapt.serving import Serving
from headrace.streams.kafka.follower import Follower
from headrace.streams.settings import Settings
from headrace.streams.versions.publication import Announcement, Assembler, Fragment
from headrace.streams.versions.store import WHICH_STORE
from headrace.streams.wire import decode_item


class Broadcast:
    """Reads the broadcast topics."""

    def __init__(self, settings: Settings, serving: Serving) -> None:
        self._serving = serving
        self._deltas = settings.topic("deltas")
        self._assembler = Assembler()
        self.follower = Follower(
            settings,
            {
                settings.topic("items"): self._item,
                settings.topic("models"): self._model,
                self._deltas: self._delta,
            },
            latest_only=[settings.topic("models")],  # the files of older versions may be gone
            if_none=WHICH_STORE,
            first=[settings.topic("items")],  # no list may have in it what was withdrawn
        )

    def _model(self, record: Any) -> None:
        """Load an announced version; one with item signals goes on with the deltas after it."""
        announcement = Announcement.decode(record.value)
        if self._serving.serve(announcement):
            self._assembler = Assembler()
            self.follower.seek(self._deltas, announcement.delta_offset)

    def _delta(self, record: Any) -> None:
        fragment = Fragment.decode(record.value)
        delta = self._assembler.add(fragment)
        if delta is not None:
            self._serving.apply(delta, fragment)

    def _item(self, record: Any) -> None:
        self._serving.note_item(decode_item(record.value, key=record.key))
