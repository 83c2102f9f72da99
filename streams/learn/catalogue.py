"""Catalogue: what the learn role keeps of catalogue records to make content vectors of.

All vectors of a model can be compared with each other: the first record that says anything decides
whether they are of given vectors, and how wide, or of text.
"""

import logging
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from headrace.model.arrays import Floats, Halves
from headrace.streams import metrics
from headrace.streams.learn.content import Embedder, given_vector, text_of, unit
from headrace.streams.records import Item

logger = logging.getLogger(__name__)


class ContentSource(NamedTuple):
    """What an item's vector is made from."""

    arrived: int  # when its record was published, in ms, or a running count
    stamp: int  # differs with the content; never 0
    content: str | Halves  # text, or a vector as the model takes it: wide ones are projected


class Catalogue:
    """The latest records, up to ``max_items``; none if it is switched off."""

    def __init__(self, embedder: Embedder, *, max_items: int, is_on: bool = True) -> None:
        self._embedder = embedder
        self._max_items = max_items
        self._is_on = is_on
        self._sources: OrderedDict[str, ContentSource] = OrderedDict()
        self.space = ""  # which vectors those of the model can be compared with
        self.n_arrived = 0  # the highest order of a record
        self._known_to = 0  # what came until then is no newer than what a restored learner holds

    def note(self, item: Item, *, time_ms: int | None = None) -> bool:
        """Keep what a record says of its item; return whether its vector may be another now.

        ``time_ms`` is when the record was published. After a restart the whole topic is read again:
        what was published before the checkpoint counts as oldest, so that it displaces nothing that
        the restored learner holds. An item that is withdrawn or refused has no content.
        """
        old = self._sources.pop(item.item, None)
        content = self._content_of(item) if item.active and self._is_on else None
        if content is None:
            return self._is_on
        data = content.encode(errors="replace") if isinstance(content, str) else content.tobytes()
        stamp = 1 + zlib.crc32(data)
        arrived = self.n_arrived + 1 if time_ms is None else time_ms
        if old and old.stamp == stamp:
            self.n_arrived = max(time_ms or 0, self.n_arrived)
            self._sources[item.item] = old  # no newer by being published again
            return False
        self.n_arrived = max(arrived, self.n_arrived)
        if arrived <= self._known_to:
            arrived = 0
        kept = content if isinstance(content, str) else unit(content[None])[0]
        self._sources[item.item] = ContentSource(arrived, stamp, kept)
        if len(self._sources) > self._max_items:
            self._sources.popitem(last=False)
        return True

    def source_of(self, item: str) -> ContentSource | None:
        """Return what the item's vector is made from, None if nothing is known of it."""
        return self._sources.get(item)

    def vectors_of(self, sources: Sequence[ContentSource]) -> Halves:
        """Return the (n, V) content vectors."""
        texts = [source.content for source in sources if isinstance(source.content, str)]
        if texts:  # one space: then all are
            return unit(self._embedder.embed(texts))
        return np.stack([np.asarray(source.content) for source in sources])

    def restore(self, space: str, n_arrived: int) -> bool:
        """Go on in a space; False if its vectors cannot be compared with those made from now on."""
        if not self._is_on or not (space == self._embedder.name or space.startswith("given/")):
            return False
        self.space, self.n_arrived, self._known_to = space, n_arrived, n_arrived
        return True

    def _content_of(self, item: Item) -> str | Floats | None:
        """Return the item's content in the model's space, None if it has none there."""
        vector, text = given_vector(item), text_of(item)
        found: dict[str, str | Floats] = {}
        if vector.any():
            found[f"given/{len(vector)}"] = vector
        if text:
            found[self._embedder.name] = text
        if not found:
            return None
        self.space = self.space or next(iter(found))
        if self.space not in found:
            is_given = vector.any() and self.space.startswith("given/")
            reason: metrics.ContentRefusal = "width" if is_given else "kind"
            metrics.CONTENT_REFUSED.labels(reason).inc()
            logger.warning("item %r keeps no vector: %s, not %s", item.item, [*found], self.space)
        return found.get(self.space)
