"""What an adapt worker follows: versions, deltas and the catalogue, handed to its engine."""

import logging
from typing import Any

from headrace.streams.errors import CheckpointError, MalformedRecordError
from headrace.streams.follower import Follower
from headrace.streams.publication import Announcement, Assembler, Fragment
from headrace.streams.serving import Serving
from headrace.streams.settings import Settings
from headrace.streams.wire import decode_item

logger = logging.getLogger(__name__)


class Broadcast:
    """Reads the broadcast topics; a record that does not fit is logged and passed over."""

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
            first=[settings.topic("items")],  # no list may have in it what was withdrawn
        )

    def _model(self, record: Any) -> bool:
        """Load an announced version; one with item signals goes on with the deltas after it.

        False if it is refused: where nothing newer was taken, the one announced before will do.
        """
        try:
            announcement = Announcement.decode(record.value)
            has_signals = self._serving.serve(announcement)
        except (MalformedRecordError, CheckpointError) as exc:
            logger.error("passed over models offset=%d: %s", record.offset, exc)
            return False
        if has_signals:
            self._assembler = Assembler()
            self.follower.seek(self._deltas, announcement.delta_offset)
        return True

    def _delta(self, record: Any) -> None:
        try:
            fragment = Fragment.decode(record.value)
            delta = self._assembler.add(fragment)
            if delta is not None:
                self._serving.apply(
                    fragment.epoch,
                    delta,
                    sequence=fragment.sequence,
                    published_ms=fragment.published_ms,
                )
        except (MalformedRecordError, CheckpointError) as exc:
            logger.error("passed over deltas offset=%d: %s", record.offset, exc)

    def _item(self, record: Any) -> None:
        try:
            self._serving.note_item(decode_item(record.value, key=record.key))
        except MalformedRecordError as exc:
            logger.warning("passed over items offset=%d: %s", record.offset, exc)
