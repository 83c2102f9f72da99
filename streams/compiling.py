"""Say that the counting loops are compiled, when they are: numba keeps them for the next start."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from numba.core.event import Listener, install_listener

TOLD = "compiling the counting loops, which are kept: it takes up to a minute or two"


class _First(Listener):  # type: ignore[misc] # numba's classes carry no types
    """Tells of the first loop alone."""

    def __init__(self, tell: Callable[[str], object]) -> None:
        self._tell = tell
        self._is_told = False

    def on_start(self, _: Any) -> None:
        """Hear that a loop is about to be compiled."""
        if not self._is_told:
            self._is_told = True
            self._tell(TOLD)

    def on_end(self, _: Any) -> None:
        """Hear that it is compiled."""


@contextmanager
def told_of_compiling(tell: Callable[[str], object]) -> Iterator[None]:
    """Tell once if anything is compiled meanwhile; nothing is where all loops have been kept."""
    with install_listener("numba:compile", _First(tell)):
        yield
