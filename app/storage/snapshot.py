"""One operation's view of the database: a single read-only transaction, opened when first needed."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncConnection

from app.storage.losses import UNDONE, telling_loss

Begin = Callable[[], AbstractAsyncContextManager[AsyncConnection]]


class OverError(Exception):
    """The operation is over: what it had still to read is read for nobody."""


class Snapshot:
    """What is seen at one instant. Loaders that run at once take turns on the one connection."""

    def __init__(self, begin: Begin) -> None:
        """`begin` begins a transaction wherever it is read."""
        self._begin = begin
        self._turn = asyncio.Lock()
        # Made when something is read: most live operations wait with nothing to read.
        self._stack: AsyncExitStack | None = None
        self._connection: AsyncConnection | None = None
        self._ending: asyncio.Future[None] | None = None

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[AsyncConnection]:
        """The connection, for one statement or a few that belong together; raises `OverError` after the end."""
        async with self._turn:
            if self._ending is not None:
                raise OverError
            if self._connection is None:
                self._stack = AsyncExitStack()
                self._connection = await self._stack.enter_async_context(self._begin())
            with telling_loss(UNDONE):
                yield self._connection

    async def close(self) -> None:
        """End the transaction; the next use begins another, at a later instant."""
        if self._is_unused():
            return
        async with self._turn:
            stack, self._stack, self._connection = self._stack, None, None
            if stack is not None:
                await stack.aclose()

    async def end(self) -> None:
        """Give the connection back for good, also when whoever waits for that is cancelled."""
        if self._ending is None and self._is_unused():
            # Most mutations read nothing: there is nothing to wait for, and no task is made for it.
            self._ending = asyncio.get_running_loop().create_future()
            self._ending.set_result(None)
            return
        if self._ending is None:
            self._ending = asyncio.ensure_future(self.close())
        await asyncio.shield(self._ending)

    def _is_unused(self) -> bool:
        """Whether there is no transaction, and nobody is about to begin one."""
        return self._connection is None and not self._turn.locked()
