"""The start of the command, which hears signals while the rest is imported.

Imports take seconds. Ctrl-C would end them in a traceback, and SIGTERM would be lost on the first
process of a container, which hears no signal that it has no handler for.
"""

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

ENDED_BY = 128  # and the signal's number: the status of what a signal ended, as shells have it


def main() -> None:
    """Run the command line."""
    _open_what_is_closed()
    _listen(lambda number, _: os._exit(ENDED_BY + number))
    from headrace.streams.cli.main import main as command

    _listen(_interrupt)  # what is under way cleans up
    command(prog_name="headrace")


def _open_what_is_closed() -> None:
    """Stand in for standard files that are closed: the next socket would get their numbers."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))


def _listen(handler: Callable[[int, FrameType | None], object]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as a shell has it in the background
            signal.signal(number, handler)


def _interrupt(number: int, _: FrameType | None) -> None:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(ENDED_BY + number)
