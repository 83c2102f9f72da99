"""A learn role's publisher, without a broker."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from headrace.streams.guards import PauseGuard
from headrace.streams.learn.learner_state import Positions
from headrace.streams.learn.publisher import Publisher, Send
from headrace.streams.versions.publication import ANNOUNCEMENT_KEY, Announcement, Fragment

GUARD = PauseGuard(60)


class Sent:
    """What was published to a broker that keeps it."""

    def __init__(self) -> None:
        self.announced: list[Announcement] = []
        self.fragments: list[Fragment] = []

    async def send(self, _: str, key: bytes | None, value: bytes) -> int:
        """Keep a record and return its offset, as a ``Send``."""
        if key == ANNOUNCEMENT_KEY:
            self.announced.append(Announcement.decode(value))
        else:
            self.fragments.append(Fragment.decode(value))
        return len(self.fragments)


@asynccontextmanager
async def publishing(
    publisher: Publisher, send: Send, acknowledge: Callable[[Positions], None]
) -> AsyncIterator[None]:
    """Let a publisher publish for ever, for the length of a ``with`` block."""
    periodic = asyncio.create_task(publisher.publish_forever(send, GUARD, acknowledge))
    try:
        yield
    finally:
        periodic.cancel()
        with suppress(asyncio.CancelledError):
            await periodic
