"""Begins tasks that nobody waits for, so that none stops unheard, and ends tasks for certain."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

log = logging.getLogger("escrowgrid.tasks")

AGAIN_SECONDS = 0.5


def _never() -> bool:
    return False


def _nothing() -> None:
    pass


def begin(
    work: Coroutine[Any, Any, None],
    name: str,
    *,
    over: Callable[[], bool] = _never,
    stopped: Callable[[], None] = _nothing,
) -> "asyncio.Task[None]":
    """Run `work` in a task of its own until somebody cancels it.

    Where it stops by itself, the log says so at CRITICAL with its name and why, and then `stopped` is called once.
    It may return where `over` says that its work is done; whoever raises has stopped even so.
    """
    task = asyncio.create_task(work, name=name)

    def done(task: "asyncio.Task[None]") -> None:
        why = _why(task, over)
        if why is not None:
            error = None if task.cancelled() else task.exception()
            log.critical("%s has stopped by itself: %s", name, why, exc_info=error)
            stopped()

    task.add_done_callback(done)
    return task


def _why(task: "asyncio.Task[None]", over: Callable[[], bool]) -> str | None:
    """Why a task has stopped by itself; None where it was told to, or is over."""
    asked = task.cancelling() > 0
    if task.cancelled():
        # Something that it waited for was cancelled, and took it along.
        return None if asked else "what it waited for was cancelled"
    error = task.exception()
    if error is None:
        return None if asked or over() else "it returned"
    if asked:
        log.warning("%s ended with an error", task.get_name(), exc_info=error)
        return None
    return f"{type(error).__name__}: {error}"


async def end(*tasks: "asyncio.Task[object] | None") -> None:
    """Cancel tasks and wait until they are over, whatever they end with.

    A cancellation can be lost where a task awaits something that finishes at the same moment, so it is repeated.
    """
    waiting = {task for task in tasks if task is not None and not task.done()}
    while waiting:
        for task in waiting:
            task.cancel()
        _done, waiting = await asyncio.wait(waiting, timeout=AGAIN_SECONDS)
