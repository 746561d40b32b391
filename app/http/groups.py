"""Live groups: subscribers who ask the same and may see the same share one execution and one spelling of an event.

A subscriber runs alone until it is level with the ledger. From there on it reads what its group has run and spelled,
by position. A group that ends, or that a slow subscriber has fallen behind, costs nobody anything: the subscriber goes
on alone from where it stands, and comes back when it is level again.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Hashable, Iterable
from contextlib import aclosing
from typing import Any

from strawberry.types.execution import PreExecutionError
from strawberry.types.graphql import OperationType

from app.context import Context, Request
from app.engine.masking import ToldError
from app.http.exchange import Exchange
from app.http.likeness import likeness
from app.http.operation import Asked
from app.http.running import ALL, Runner, body_of, cost_of, is_request_error
from app.http.told import Group, Told
from app.http.wire import encode
from app.kit.tasks import end

log = logging.getLogger("escrowgrid.live")

# Of one group; and of all together, but that each may have the least.
GROUP_BYTES_MAX = 4 * 1024 * 1024
GROUP_BYTES_MIN = 64 * 1024
GROUPS_BYTES_MAX = 64 * 1024 * 1024
_OVER = object()


class _LevelError(Exception):
    """There is nothing to tell at the moment."""


class Groups:
    """The groups of one process."""

    def __init__(self) -> None:
        self._groups: dict[Hashable, Group] = {}
        self._tasks: dict[Hashable, asyncio.Task[None]] = {}
        self.executions = 0

    def __len__(self) -> int:
        return len(self._groups)

    @property
    def bytes(self) -> int:
        """What all groups together keep."""
        return sum(group.bytes for group in self._groups.values())

    def share(self) -> int:
        """How much each may keep, so that many keep no more than a few."""
        each = GROUPS_BYTES_MAX // max(len(self._groups), 1)
        return max(min(each, GROUP_BYTES_MAX), GROUP_BYTES_MIN)

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
                    context.resume_at = entry.told.cursor or context.resume_at
                    yield entry.told
        finally:
            group.members -= 1
            if group.members == 0:
                self._close(key, group)

    def _open(self, key: Hashable, runner: Runner, member: Context, asked: Asked, position: int) -> Group:
        before = self.share()
        group = self._groups[key] = Group(position, self.share)
        if self.share() < before:
            for other in self._groups.values():
                other.trim()
        context = Context(member.services, member.principal, Request(id=member.services.ids.new("grp")))
        context.resume_at = member.resume_at
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
