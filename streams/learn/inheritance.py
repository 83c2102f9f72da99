"""Inheritance: items of a new shop start from what another one learned of items of like content.

An item's id means nothing elsewhere; what its catalogue record says does. Its embedding and bias
start from the weighted mean of those of its nearest items there, instead of from noise.

Letters: N items there, n items here, V content width, D embedding width, K nearest.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from headrace.model.arrays import Floats, Halves, Ints
from headrace.model.counts.content import FEW_EVENTS
from headrace.model.counts.signals import ALL_TIME
from headrace.model.learning.outer_loop import OuterLoop
from headrace.streams.versions.blobs import Arrays

logger = logging.getLogger(__name__)

NEAREST = 5  # K
ALIKE = 0.6  # cosine; hashed to one place by chance, words of two short titles make it 0.5
MAX_ITEMS = 50_000  # the most popular there: 100 MB of vectors of the widest kind


class Inheritance:
    """What another shop's items leave to those here."""

    def __init__(self, space: str, vectors: Floats, embeddings: Floats, biases: Floats) -> None:
        self.space = space  # which vectors its own can be compared with
        self.n_matched = 0
        self._vectors = vectors  # (N, V)
        self._embeddings = np.concatenate([embeddings, biases[:, None]], 1)  # (N, D + 1)

    @classmethod
    def of(cls, arrays: Arrays, fields: Mapping[str, Any]) -> "Inheritance":
        """Return what a ``model`` file leaves: its items with content that some users took.

        Raises:
            KeyError: the file lacks a part.
        """
        items = arrays["content.items"]
        popularity = arrays["signals.popularity"][:, ALL_TIME]
        place = np.flatnonzero(popularity[items] >= FEW_EVENTS)
        place = place[np.argsort(-popularity[items[place]], kind="stable")][:MAX_ITEMS]
        return cls(
            fields.get("content_space", ""),
            arrays["content.vectors"][place].astype(np.float32),
            arrays["meta.encoder.items"][items[place]],
            arrays["meta.encoder.bias"][items[place]],
        )

    def pass_on(
        self, heirs: Sequence[OuterLoop], indexes: Ints, vectors: Halves, *, space: str
    ) -> None:
        """Give each heir embeddings of (n,) items by their (n, V) content, where any is alike.

        An item that was already learned from here keeps what was learned.
        """
        if space != self.space:
            self._refuse(space)
        if not len(self._vectors):
            return
        popularity = heirs[0].recommender.signals.arrays.popularity[indexes, ALL_TIME]
        likeness = vectors.astype(np.float32) @ self._vectors.T  # (n, N)
        k = min(NEAREST, len(self._vectors))
        nearest = np.argpartition(-likeness, k - 1, axis=1)[:, :k]
        weights = np.take_along_axis(likeness, nearest, 1)  # (n, K)
        weights = np.where(weights >= ALIKE, weights, 0)
        total = weights.sum(1)
        is_heir = (total > 0) & (popularity < FEW_EVENTS)
        shares = weights[is_heir] / total[is_heir, None]
        start = np.einsum("nk,nkd->nd", shares, self._embeddings[nearest[is_heir]])
        self.n_matched += len(start)
        for heir in heirs:
            heir.start_items(torch.from_numpy(indexes[is_heir]).long(), torch.from_numpy(start))

    def _refuse(self, space: str) -> None:
        """Match nothing from now on: the vectors here are none that those there compare with."""
        logger.warning(
            "no item starts from another shop's: content is %s here and %s there",
            space,
            self.space or "unknown",
        )
        self.space, self._vectors = space, self._vectors[:0]
