"""Asks for many keys with one call: those who ask at once share it, and who goes away takes it from nobody."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from itertools import islice
from typing import Generic, TypeVar

from app.kit.tasks import end

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

AT_ONCE_MAX = 500


class Gathering(Generic[K, V]):
    """One call at a time; what is asked meanwhile goes with the next one."""

    def __init__(
        self, answer: Callable[[Sequence[K]], Awaitable[Mapping[K, V]]], at_once_max: int = AT_ONCE_MAX
    ) -> None:
        self._answer = answer
        self._at_once_max = at_once_max
        self._asked: dict[K, asyncio.Future[V | None]] = {}
        self._task: asyncio.Task[None] | None = None

    async def ask(self, key: K) -> V | None:
        """The answer for `key`, None when there is none; raises what the call raised."""
        return await asyncio.shield(self.ask_soon(key))

    def ask_soon(self, key: K) -> "asyncio.Future[V | None]":
        """Have `key` asked for, without waiting."""
        found = self._asked.get(key)
        if found is None:
            found = self._asked[key] = asyncio.get_running_loop().create_future()
            # Nobody may be left to look at a failure; that is no error of ours.
            found.add_done_callback(lambda future: future.cancelled() or future.exception())
            if self._task is None or self._task.done():
                self._task = asyncio.create_task(self._work(), name="gathering")
        return found

    async def close(self) -> None:
        """Ask no more; who waits is cancelled."""
        await end(self._task)
        for future in self._asked.values():
            future.cancel()
        self._asked.clear()

    async def _work(self) -> None:
        while self._asked:
            asked = {key: self._asked.pop(key) for key in list(islice(self._asked, self._at_once_max))}
            try:
                found = await self._answer(list(asked))
            except asyncio.CancelledError:
                for future in asked.values():
                    future.cancel()
                raise
            except Exception as error:  # noqa: BLE001 - whatever it was, it is told to those who asked
                for future in asked.values():
                    if not future.done():
                        future.set_exception(error)
            else:
                for key, future in asked.items():
                    if not future.done():
                        future.set_result(found.get(key))
