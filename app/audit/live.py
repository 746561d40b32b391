"""The audit as it happens: refusals, ordinary mutations and the ledger's events, in one stream."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Annotated

import strawberry

from app.audit import timeline
from app.audit.graphql import AuditEventType, AuditEventWhere
from app.audit.model import AuditEvent, of_ledger
from app.audit.watch import Watch
from app.context import Context, Info, may
from app.engine.filters import conditions
from app.engine.roles import Scope
from app.errors import BadRequest
from app.kit.tasks import end
from app.ledger.live import TESTS
from app.ledger.model import Event
from app.principal import ALL_INSTITUTIONS
from app.storage.conditions import Condition

Pages = AsyncIterator[Sequence[Event]]


@strawberry.type(description="One message of the live audit.")
class AuditEventMessage:
    """An audit event, or a heartbeat."""

    node: AuditEventType | None = strawberry.field(description="The event; null in a heartbeat.")
    heartbeat: bool = strawberry.field(
        description="Whether this message only tells that the stream is alive."
    )


@strawberry.type
class Subscription:
    """The live audit."""

    @strawberry.subscription(
        permission_classes=[may(Scope.AUDIT_READ)],
        description="Every audit event from now on, once each and about in the order of time, as `auditEvents` lists "
        "them. It has no cursor: after a lost connection, list what has `occurredAt` since a little before. Who takes "
        "nothing until 10,000 rows wait is told so by an error.",
    )
    async def audit_events(
        self,
        info: Info,
        where: Annotated[
            AuditEventWhere | None, strawberry.argument(description="Which events; all when absent.")
        ] = None,
        heartbeat_seconds: Annotated[
            int | None,
            strawberry.argument(description="When there is nothing to tell for so many seconds, say so."),
        ] = None,
    ) -> AsyncGenerator[AuditEventMessage, None]:
        """For ever."""
        context, tests = info.context, conditions(where)
        least = context.services.settings.heartbeat_seconds_min
        if heartbeat_seconds is not None and heartbeat_seconds < least:
            raise BadRequest(f"a heartbeat comes at most every {least:g} seconds")
        async with aclosing(_events(context, tests, heartbeat_seconds)) as events:
            async for event in events:
                told = None if event is None else AuditEventType.of(event)
                yield AuditEventMessage(node=told, heartbeat=event is None)


async def _events(
    context: Context, tests: Sequence[Condition], heartbeat_seconds: float | None
) -> AsyncGenerator[AuditEvent | None, None]:
    """Every event that passes, and None when there was none for so long."""
    wanted = timeline.wanted(context.scope, tests)
    tail, watch = context.services.tail, context.services.watch
    place = await tail.head(wanted.scope)
    async with watch.following() as number, aclosing(tail.stream(wanted.scope, place)) as pages:
        arrivals = _Arrivals(watch, number, pages if wanted.event_tests is not None else None)
        try:
            told = _now()
            while True:
                left = None if heartbeat_seconds is None else max(0.0, told + heartbeat_seconds - _now())
                found = await arrivals.next(left)
                for event in sorted(found, key=lambda one: (one.occurred_at, one.id)):
                    if _passes(event, wanted.scope, tests):
                        await context.renew()
                        yield event
                        told = _now()
                if heartbeat_seconds is not None and _now() - told >= heartbeat_seconds:
                    await context.renew()
                    yield None
                    told = _now()
        finally:
            await arrivals.close()


class _Arrivals:
    """Audit rows and pages of ledger events, whichever come first."""

    def __init__(self, watch: Watch, number: int, pages: Pages | None) -> None:
        self._watch = watch
        self._number = number
        self._pages = pages
        self._page: asyncio.Task[Sequence[Event]] | None = None

    async def next(self, seconds: float | None) -> list[AuditEvent]:
        """What has come; nothing after so many seconds."""
        if self._page is None and self._pages is not None:
            self._page = asyncio.create_task(_next(self._pages))
        fresh = asyncio.create_task(self._watch.wait(self._number))
        waiting: set[asyncio.Task[object]] = {fresh, *([self._page] if self._page else [])}
        try:
            await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await end(fresh)
        rows = list(self._watch.after(self._number))
        self._number += len(rows)
        if self._page is not None and self._page.done():
            page, self._page = self._page, None
            rows += map(of_ledger, page.result())
        return rows

    async def close(self) -> None:
        """Stop waiting."""
        await end(self._page)


async def _next(pages: Pages) -> Sequence[Event]:
    return await anext(pages)


def _passes(event: AuditEvent, scope: str, tests: Sequence[Condition]) -> bool:
    """Whether somebody of that scope may see it, and wants to."""
    if scope not in (ALL_INSTITUTIONS, event.institution_id):
        return False
    return all(TESTS[test.operator](getattr(event, test.field), test.value) for test in tests)


def _now() -> float:
    return asyncio.get_running_loop().time()
