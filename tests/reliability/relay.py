"""A port that leads to the database wherever it is started next, so that servers keep one address for it."""

import asyncio
import contextlib

CHUNK_BYTES = 1 << 16


class Relay:
    """Bytes go both ways; connections to a database that is gone are dropped."""

    def __init__(self) -> None:
        self._target = 0
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self, target: int) -> None:
        """Begin to lead to that port."""
        self._target = target
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self._server is not None, "it is open"
        return int(self._server.sockets[0].getsockname()[1])

    def lead_to(self, target: int) -> None:
        """Lead new connections there; the old ones are dropped."""
        self._target = target
        for writer in list(self._writers):
            writer.transport.abort()

    async def close(self) -> None:
        """Stop."""
        if self._server is not None:
            self._server.close()
        self.lead_to(0)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        pair = {writer, inner_writer}
        self._writers |= pair
        ways = [
            asyncio.create_task(_copy(reader, inner_writer)),
            asyncio.create_task(_copy(inner_reader, writer)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            for end in pair:
                end.transport.abort()
            self._writers -= pair


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while chunk := await reader.read(CHUNK_BYTES):
            writer.write(chunk)
            await writer.drain()
