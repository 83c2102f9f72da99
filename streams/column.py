"""Columns of a user's state: values kept as the msgpack they are written as.

Most events append one value and write all. With a list of objects that is to make, walk through and
drop sixty of them for the sake of one; here it is a copy of some hundred bytes.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar, overload

import msgpack

T = TypeVar("T", str, int)

# msgpack's first byte of an array: a short one's has the length in it, a longer one's comes behind.
_SHORT, _OF_16_BITS, _OF_32_BITS = 0x90, 0xDC, 0xDD
_EMPTY = bytes((_SHORT,))


class Column(Sequence[T]):
    """The latest values, oldest first. To look at any unpacks all, so take them at once."""

    __slots__ = ("array",)

    def __init__(self, array: bytes = _EMPTY) -> None:
        """Take over a msgpack array; what is in it is looked at when it is needed."""
        self.array = array

    @classmethod
    def of(cls, values: Iterable[T]) -> "Column[T]":
        """Return a column of these values."""
        return cls(msgpack.packb(list(values)))

    def append(self, value: T, *, limit: int) -> None:
        """Add a value; the oldest go if there are more than ``limit`` then."""
        n, start = self._header()
        n += 1
        if n > limit:
            oldest = msgpack.Unpacker()
            oldest.feed(self.array[start:])
            for _ in range(n - limit):
                oldest.skip()
            start += oldest.tell()
            n = limit
        packer = msgpack.Packer()
        parts = packer.pack_array_header(n), self.array[start:], packer.pack(value)
        self.array = b"".join(parts)

    def ends_with(self, value: T) -> bool:
        """Return whether a value is the latest."""
        return self.array.endswith(msgpack.packb(value)) and self[-1:] == [value]

    def _header(self) -> tuple[int, int]:
        """Return how many values there are, and where the first begins."""
        array, first = self.array, self.array[0]
        if first < _OF_16_BITS:
            return first - _SHORT, 1
        if first < _OF_32_BITS:
            return int.from_bytes(array[1:3], "big"), 3
        return int.from_bytes(array[1:5], "big"), 5

    def _values(self) -> list[T]:
        values: list[T] = msgpack.unpackb(self.array)
        return values

    def __len__(self) -> int:
        return self._header()[0]

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        return self._values()[index]

    def __iter__(self) -> Iterator[T]:
        return iter(self._values())

    def __reversed__(self) -> Iterator[T]:
        return reversed(self._values())

    def __contains__(self, value: Any) -> bool:
        # The bytes of a value can stand inside another's: alone they only rule most values out.
        return msgpack.packb(value) in self.array and value in self._values()

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Column):
            return self.array == other.array
        return self._values() == other

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __repr__(self) -> str:
        return f"Column.of({self._values()!r})"
