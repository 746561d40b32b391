"""Live groups: subscribers who ask the same and may see the same share one execution and one spelling of an event.

A subscriber runs alone until it is level with the ledger. From there on it reads what its group has run and spelled,
by position. A group that ends, or that a slow subscriber has fallen behind, costs nobody anything: the subscriber goes
on alone from where it stands, and comes back when it is level again.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Hashable, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from strawberry.types.execution import PreExecutionError
from strawberry.types.graphql import OperationType

from app.context import Context, Request
from app.engine.masking import ToldError
from app.http.exchange import Exchange
from app.http.likeness import likeness
from app.http.operation import Asked
from app.http.running import ALL, Runner, body_of, cost_of, is_request_error
from app.http.tolls import Cost, Toll
from app.http.wire import encode
from app.kit.tasks import end

log = logging.getLogger("escrowgrid.live")

ENTRIES_MAX = 1_024
ENTRY_BYTES_MAX = 4 * 1024 * 1024
_OVER = object()


@dataclass(frozen=True, slots=True)
class Told:
    """One result, spelled: `refused` when the operation was not executed at all.

    The `stem` is what all subscribers share of it; each has an `ending` of its own.
    """

    body: bytes
    stem: str
    cursor: str | None
    refused: bool = False
    is_charged: bool = False

    @classmethod
    def of(cls, body: bytes, cursor: str | None, cost: Cost | None, *, refused: bool) -> "Told":
        """That answer; what it cost belongs to its extensions."""
        stem = body[:-1].decode()
        if cost is not None:
            costs = f'"requested":{cost.requested},"actual":{cost.actual},"available":'
            stem = f'{stem},"extensions":{{"cost":{{{costs}'
        return cls(body, stem, cursor, refused, cost is not None)

    def ending(self, context: Context) -> str:
        """What this subscriber has left to spend, and the braces that are still open."""
        if not self.is_charged:
            return "}"
        toll = context.toll
        available = toll.available() if isinstance(toll, Toll) else None
        return f"{'null' if available is None else available}}}}}}}"


@dataclass(frozen=True, slots=True)
class _Entry:
    """`again`: at a position that was told before, so a heartbeat."""

    position: int
    told: Told
    again: bool


class _LevelError(Exception):
    """There is nothing to tell at the moment."""


class Group:
    """One execution for all its members: what it told last, within a bound, by position in the ledger."""

    def __init__(self, floor: int) -> None:
        # Every result above `floor` is here, or yet to come.
        self.floor = floor
        self.members = 0
        self.is_over = False
        self._entries: deque[_Entry] = deque()
        self._first = 0
        self._bytes = 0
        self._last = floor
        self._news = asyncio.Event()

    def tell(self, position: int, told: Told) -> None:
        """Append a result and wake the members."""
        self._entries.append(_Entry(position, told, again=position <= self._last))
        self._last = position
        self._bytes += len(told.body)
        while len(self._entries) > ENTRIES_MAX or self._bytes > ENTRY_BYTES_MAX:
            gone = self._entries.popleft()
            self._first += 1
            self._bytes -= len(gone.told.body)
            self.floor = max(self.floor, gone.position)
        self._wake()

    def close(self) -> None:
        """Nothing more will be told."""
        self.is_over = True
        self._wake()

    def forget(self) -> None:
        """Keep nothing of what was told: who is behind reads it again, as it is now."""
        self.floor = max(self.floor, self._last)
        self._first += len(self._entries)
        self._entries.clear()
        self._bytes = 0
        self._wake()

    def _wake(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def results(self, position: int) -> AsyncGenerator[_Entry, None]:
        """Every result above `position`, until the group is over or has forgotten what comes next."""
        index = self._first
        while True:
            while index < self._first + len(self._entries):
                if index < self._first:
                    return
                entry = self._entries[index - self._first]
                index += 1
                if entry.position > position or (entry.again and entry.position == position):
                    position = entry.position
                    yield entry
            if self.is_over or index < self._first:
                return
            await self._news.wait()


class Groups:
    """The groups of one process."""

    def __init__(self) -> None:
        self._groups: dict[Hashable, Group] = {}
        self._tasks: dict[Hashable, asyncio.Task[None]] = {}
        self.executions = 0

    def __len__(self) -> int:
        return len(self._groups)

    def forget(self) -> None:
        """Something that may have been told was erased: no group keeps it."""
        for group in self._groups.values():
            group.forget()

    async def follow(
        self,
        runner: Runner,
        context: Context,
        asked: Asked,
        exchange: Exchange,
        allowed: Iterable[OperationType] = ALL,
    ) -> AsyncGenerator[Told, None]:
        """The results of any operation; those of a subscription alone at first, then with its group."""
        admitted = await runner.admitted(context, asked)
        if isinstance(admitted, ToldError):
            yield await _spelled(PreExecutionError(None, [admitted]), context, exchange)
            return
        asked = admitted
        key = likeness(context, asked)
        while True:
            try:
                results = await runner.stream(context, asked, allowed)
                async with aclosing(
                    self._alone(results, runner, context, exchange, grouped=key is not None)
                ) as own:
                    async for told in own:
                        yield told
            except _LevelError:
                assert key is not None, "only who can join a group is told to"
            else:
                return
            async with aclosing(self._together(key, runner, context, asked)) as shared:
                async for told in shared:
                    yield told
            context.level.clear()
            assert context.position is not None, "who was level stands somewhere"
            context.resume_at = context.services.tail.epochs.cursor(context.scope, context.position)

    async def _alone(
        self, results: Any, runner: Runner, context: Context, exchange: Exchange, *, grouped: bool
    ) -> AsyncGenerator[Told, None]:
        """Its own execution, until it is over; a grouped one raises `_LevelError` when it is level with the ledger."""
        async with aclosing(results):
            while True:
                result = (
                    await self._next_or_level(results, context) if grouped else await anext(results, _OVER)
                )
                if result is _OVER:
                    return
                told = await _spelled(result, context, exchange)
                if context.telling is not None:
                    context.position = context.telling
                yield told
                if told.refused:
                    return

    @staticmethod
    async def _next_or_level(results: Any, context: Context) -> Any:
        following = asyncio.ensure_future(anext(results, _OVER))
        level = asyncio.ensure_future(context.level.wait())
        try:
            await asyncio.wait((following, level), return_when=asyncio.FIRST_COMPLETED)
            # What was made is told first, level or not. Nobody who has not been told where it stands can move.
            if following.done() or context.position is None:
                return await following
        finally:
            await end(following, level)
        raise _LevelError

    async def _together(
        self, key: Hashable, runner: Runner, context: Context, asked: Asked
    ) -> AsyncGenerator[Told, None]:
        assert context.position is not None, "who is level stands somewhere"
        group = self._groups.get(key)
        if group is None or group.is_over:
            group = self._open(key, runner, context, asked, context.position)
        if context.position < group.floor:
            # The group has forgotten what comes next; alone it is found in the ledger's own ring or table.
            return
        group.members += 1
        await context.renew()
        try:
            async with aclosing(group.results(context.position)) as entries:
                async for entry in entries:
                    context.last_cursor, context.position = entry.told.cursor, entry.position
                    yield entry.told
        finally:
            group.members -= 1
            if group.members == 0:
                self._close(key, group)

    def _open(self, key: Hashable, runner: Runner, member: Context, asked: Asked, position: int) -> Group:
        group = Group(position)
        self._groups[key] = group
        context = Context(member.services, member.principal, Request(id=member.services.ids.new("grp")))
        context.resume_at = member.services.tail.epochs.cursor(member.scope, position)
        context.position = position
        self._tasks[key] = asyncio.create_task(
            self._run(key, group, runner, context, asked), name="live-group"
        )
        return group

    def _close(self, key: Hashable, group: Group) -> None:
        group.close()
        if self._groups.get(key) is group:
            del self._groups[key]
            self._tasks.pop(key).cancel()

    async def _run(self, key: Hashable, group: Group, runner: Runner, context: Context, asked: Asked) -> None:
        """The group's one execution. Whatever ends it, its members go on alone and meet it there themselves."""
        exchange = Exchange(context.request.id)
        try:
            async with aclosing(await runner.stream(context, asked)) as results:
                async for result in results:
                    told = await _spelled(result, context, exchange)
                    if told.refused or context.telling is None:
                        return
                    self.executions += 1
                    group.tell(context.telling, told)
        except Exception:
            log.exception("a live group ended; its members go on alone")
        finally:
            group.close()
            if self._groups.get(key) is group:
                del self._groups[key]
                self._tasks.pop(key, None)
            await context.close()


async def _spelled(result: Any, context: Context, exchange: Exchange) -> Told:
    body = encode(body_of(result, context, exchange))
    # Until the next event nothing is read: others may have the connection.
    await context.renew()
    cost = cost_of(result, context, exchange)
    return Told.of(body, context.last_cursor, cost, refused=is_request_error(result))
