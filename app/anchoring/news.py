"""Tells those that wait in this process that some anchor changed."""

import asyncio
from contextlib import suppress


class News:
    """Rung by the bell; who waits looks at least so often anyway."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self) -> None:
        """Something changed."""
        event, self._event = self._event, asyncio.Event()
        event.set()

    async def wait(self, seconds: float) -> None:
        """Until something changes, or so long."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._event.wait(), seconds)
