"""A wire between the server and its database that tests can cut at the worst moment."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import Enum, auto
from urllib.parse import urlsplit, urlunsplit

COMMIT = b"COMMIT"


class Cut(Enum):
    """When the wire breaks next."""

    NEVER = auto()
    BEFORE_COMMIT = auto()
    AFTER_COMMIT = auto()
    SILENT_AT_COMMIT = auto()


class Wire:
    """Passes bytes on; breaks once at the armed moment, or refuses everything while it is down."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.cut = Cut.NEVER
        self.down = False
        self.cuts = 0
        self._passing = asyncio.Event()
        self._passing.set()

    def silence(self) -> None:
        """Nothing passes any more and nothing breaks: what is sent waits for `mend`."""
        self._passing.clear()

    def mend(self) -> None:
        """What waited passes on."""
        self._passing.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of the server."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if self.down:
            writer.close()
            return
        try:
            up_reader, up_writer = await asyncio.open_connection(self._host, self._port)
        except OSError:
            # The database is away: as it refuses, so does the wire.
            writer.transport.abort()
            return
        both = {writer, up_writer}
        self._open |= both
        # Set when a COMMIT went up whose answer shall not come down.
        doomed = asyncio.Event()
        try:
            await asyncio.wait(
                [
                    asyncio.create_task(self._up(reader, up_writer, doomed)),
                    asyncio.create_task(self._down(up_reader, writer, doomed)),
                ],
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            for one in both:
                one.transport.abort()
            self._open -= both

    async def _up(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, doomed: asyncio.Event
    ) -> None:
        while data := await _read(reader):
            if COMMIT in data and self.cut is not Cut.NEVER:
                self.cuts += 1
                now, self.cut = self.cut, Cut.NEVER
                if now is Cut.BEFORE_COMMIT:
                    return
                if now is Cut.AFTER_COMMIT:
                    doomed.set()
                else:
                    # It arrives, and nothing is heard of that.
                    writer.write(data)
                    self.silence()
                    continue
            await self._passing.wait()
            writer.write(data)
            await _drained(writer)

    async def _down(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, doomed: asyncio.Event
    ) -> None:
        while data := await _read(reader):
            if doomed.is_set() and COMMIT in data:
                return
            await self._passing.wait()
            writer.write(data)
            await _drained(writer)

    def break_all(self) -> None:
        """Every connection breaks now."""
        for writer in self._open:
            writer.transport.abort()


async def _read(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read(65_536)
    except OSError:
        return b""


async def _drained(writer: asyncio.StreamWriter) -> None:
    try:
        await writer.drain()
    except OSError:
        return


@asynccontextmanager
async def wired(url: str) -> AsyncIterator[tuple[Wire, str]]:
    """A wire to the database of `url`, and the URL of its near end."""
    parts = urlsplit(url)
    wire = Wire(parts.hostname or "127.0.0.1", parts.port or 5432)
    server = await asyncio.start_server(wire.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    login = parts.netloc.rpartition("@")[0]
    try:
        yield wire, urlunsplit(parts._replace(netloc=f"{login}@127.0.0.1:{port}"))
    finally:
        server.close()
        wire.mend()
        wire.break_all()
        await asyncio.sleep(0)
        await asyncio.gather(*wire._tasks, return_exceptions=True)
