"""Ends tasks for certain."""

import asyncio

AGAIN_SECONDS = 0.5


async def end(*tasks: "asyncio.Task[object] | None") -> None:
    """Cancel tasks and wait until they are over, whatever they end with.

    A cancellation can be lost where a task awaits something that finishes at the same moment, so it is repeated.
    """
    waiting = {task for task in tasks if task is not None and not task.done()}
    while waiting:
        for task in waiting:
            task.cancel()
        _done, waiting = await asyncio.wait(waiting, timeout=AGAIN_SECONDS)
