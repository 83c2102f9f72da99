"""The network between workers and brokers: one that can cut a single worker off from all brokers.

Every broker advertises a port of this proxy to the workers. Who opened a connection is told by the
process that holds the other end, so one port serves all workers and one of them can be cut.
"""

import asyncio
import threading
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

HOST = "127.0.0.1"
CHUNK_BYTES = 65_536

NameOf = Callable[[int], str | None]
"""The worker that holds a local port, if it still lives."""


class Network:
    """Forwards connections; ``cut`` holds back every byte of a worker until ``heal``."""

    def __init__(self) -> None:
        self.name_of: NameOf = lambda _: None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="network", daemon=True)
        # An event is set while the worker's bytes pass. Only the loop touches them.
        self._passes: defaultdict[str, asyncio.Event] = defaultdict(_set_event)
        self._servers: list[asyncio.Server] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def forward(self, target: int) -> int:
        """Listen on a free port for a broker's, and return it."""

        async def listen() -> int:
            async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                await self._serve(reader, writer, target)

            server = await asyncio.start_server(serve, HOST, 0)
            self._servers.append(server)
            port: int = server.sockets[0].getsockname()[1]
            return port

        return asyncio.run_coroutine_threadsafe(listen(), self._loop).result()

    def cut(self, name: str) -> None:
        """Let no byte of a worker pass; its connections stay, new ones hang."""
        self._loop.call_soon_threadsafe(lambda: self._passes[name].clear())

    def heal(self, name: str) -> None:
        """Let what was held back, and all that follows, pass."""
        self._loop.call_soon_threadsafe(lambda: self._passes[name].set())

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: int
    ) -> None:
        _, port = writer.get_extra_info("peername")
        name = self.name_of(port)
        with suppress(OSError):
            if name is not None:
                await self._passes[name].wait()
                its_reader, its_writer = await asyncio.open_connection(HOST, target)
                ways = [(reader, its_writer), (its_reader, writer)]
                pumps = {asyncio.create_task(self._pump(name, *way)) for way in ways}
                # The end of one way is the end of both, a broker or a worker went; but not even
                # that passes a cut.
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
                await self._passes[name].wait()
                for pump in pumps:
                    pump.cancel()
                its_writer.close()
        writer.close()

    async def _pump(
        self, name: str, source: asyncio.StreamReader, sink: asyncio.StreamWriter
    ) -> None:
        with suppress(OSError):
            while chunk := await source.read(CHUNK_BYTES):
                await self._passes[name].wait()
                sink.write(chunk)
                await sink.drain()

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


def _set_event() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event
