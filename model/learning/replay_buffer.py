"""Replay buffer: the latest rows, sampled new ones first (experience replay)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace.model.arrays import Longs

Array = npt.NDArray[Any]


class ReplayBuffer:
    """The latest rows of several columns."""

    def __init__(self, size: int) -> None:
        self.size, self.filled = size, 0
        self._next = 0
        self._n_new = 0  # added since the last sample
        self._columns: list[Array] = []
        self._owners = np.zeros(size, np.int64)

    def add(self, columns: Sequence[Array], owners: Longs) -> None:
        """Keep rows, in place of the oldest. The first call fixes each column's shape and type.

        ``owners`` are numbers to drop them by.
        """
        if not self._columns:
            self._columns = [np.zeros((self.size, *c.shape[1:]), c.dtype) for c in columns]
        n = len(columns[0])
        places = (self._next + np.arange(n)) % self.size
        for column, values in zip(self._columns, columns, strict=True):
            column[places] = values
        self._owners[places] = owners
        self._next = (self._next + n) % self.size
        self.filled = min(self.size, self.filled + n)
        self._n_new = min(self.filled, self._n_new + n)

    def drop(self, owner: int) -> None:
        """Let go of an owner's rows; the oldest of the others take their places."""
        places = (self._next - self.filled + np.arange(self.filled)) % self.size  # oldest first
        is_gone = self._owners[places] == owner
        n = int(is_gone.sum())
        moved, gaps = places[:n][~is_gone[:n]], places[n:][is_gone[n:]]
        for column in (*self._columns, self._owners):
            column[gaps] = column[moved]
            column[places[:n]] = 0
        self.filled -= n
        self._n_new = min(self._n_new, self.filled)

    def sample(self, n: int, random: np.random.Generator) -> list[Array]:
        """Draw ``n`` rows: the oldest of those not drawn yet, then evenly, with replacement."""
        n_new = min(n, self._n_new)
        new = (self._next - self._n_new + np.arange(n_new)) % self.size
        self._n_new -= n_new
        rows = np.concatenate([new, self._draw(n - n_new, random)])
        return [column[rows] for column in self._columns]

    def peek(self, n: int, random: np.random.Generator) -> list[Array]:
        """Draw ``n`` rows evenly, with replacement."""
        rows = self._draw(n, random)
        return [column[rows] for column in self._columns]

    def _draw(self, n: int, random: np.random.Generator) -> Longs:
        first = 0 if self.filled == self.size else self._next - self.filled
        return (first + random.integers(0, self.filled, n)) % self.size
