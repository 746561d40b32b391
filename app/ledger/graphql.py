"""Queries and subscriptions of the ledger."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import Annotated

import strawberry

from app.context import Context, Info, may
from app.engine.connection import Connection, OrderDirection, connection
from app.errors import BadRequest
from app.kit.money import CURRENCIES
from app.ledger import live, service
from app.ledger.inputs import LedgerEventWhere, tests_of
from app.ledger.model import Event
from app.ledger.service import Conditions
from app.ledger.types import LedgerEvent, LedgerHead, StatementLine
from app.principal import Scope
from app.storage.conditions import Condition
from app.storage.paging import Page, PageRequest

After = Annotated[str | None, strawberry.argument(description="Only what follows this ledger cursor.")]
Before = Annotated[str | None, strawberry.argument(description="Only what precedes this ledger cursor.")]
First = Annotated[int | None, strawberry.argument(description="At most this many, from the start.")]
Last = Annotated[int | None, strawberry.argument(description="At most this many, from the end.")]
Heartbeat = Annotated[
    int | None,
    strawberry.argument(
        description="When nothing happens for this many seconds, send a message with the cursor."
    ),
]


Where = Annotated[LedgerEventWhere | None, strawberry.argument(description="Which events.")]
Direction = Annotated[
    OrderDirection,
    strawberry.argument(description="ASC: oldest first, as they were recorded. DESC: newest first."),
]


@strawberry.type(description="One message of a live stream of ledger events.")
class LedgerEventMessage:
    """An edge that may be a heartbeat."""

    cursor: str = strawberry.field(description="Where the stream stands: resume with it as `after`.")
    node: LedgerEvent | None = strawberry.field(description="The event; null in a heartbeat.")
    heartbeat: bool = strawberry.field(
        description="Whether this message only tells that the stream is alive."
    )


@strawberry.type
class Query:
    """Reads of the ledger."""

    @strawberry.field(
        permission_classes=[may(Scope.READ)],
        description="The end of the ledger as this operation sees it: its cursor is the `after` of what follows.",
    )
    async def ledger_head(self, info: Info) -> LedgerHead:
        """The head in this snapshot."""
        context = info.context
        async with context.reading() as reading:
            return LedgerHead.of(await service.head(reading, context.scope, context.services.tail.epochs))

    @strawberry.field(
        permission_classes=[may(Scope.READ)],
        description="The ledger, oldest event first unless said otherwise.",
    )
    async def ledger_events(
        self,
        info: Info,
        first: First = None,
        after: After = None,
        last: Last = None,
        before: Before = None,
        where: Where = None,
        direction: Direction = OrderDirection.ASC,
    ) -> Connection[LedgerEvent]:
        """One page."""
        context = info.context
        request, tests = context.page(first, after, last, before), tests_of(where)
        async with context.reading() as reading:
            page = await service.events(
                reading,
                context.scope,
                context.services.tail.epochs,
                tests,
                request,
                descending=direction is OrderDirection.DESC,
            )
        return connection(page, partial(LedgerEvent.of, context=context), partial(_count, context, tests))

    @strawberry.field(
        permission_classes=[may(Scope.READ)], description="One event; null when there is no such event."
    )
    async def ledger_event(
        self, info: Info, id: Annotated[strawberry.ID, strawberry.argument(description="The event's id.")]
    ) -> LedgerEvent | None:
        """By id."""
        return await node(info.context, str(id))

    @strawberry.field(
        permission_classes=[may(Scope.READ)],
        description="Every posting on an account in one currency, oldest first, with the balance after each.",
    )
    async def account_statement(
        self,
        info: Info,
        account: Annotated[
            str,
            strawberry.argument(
                description="held:<position id>, clearing:in, clearing:out:beneficiary or clearing:out:funder."
            ),
        ],
        currency: Annotated[str, strawberry.argument(description="The currency's code.")],
        institution_id: Annotated[
            strawberry.ID | None, strawberry.argument(description="Whose account; needed as root only.")
        ] = None,
        first: First = None,
        after: After = None,
        last: Last = None,
        before: Before = None,
    ) -> Connection[StatementLine]:
        """One page of lines."""
        context = info.context
        if not service.is_account(account):
            raise BadRequest("no account is named so; see the description of `account`")
        if currency not in CURRENCIES:
            raise BadRequest("the currency is not known; `currencies` lists those that are")
        owner = institution_id or context.principal.institution_id
        if owner is None:
            raise BadRequest("as root, name the institution: institutionId")
        request = context.page(first, after, last, before)
        async with context.reading() as reading:
            page = await service.statement(
                reading, owner, context.services.tail.epochs, account, currency, request
            )
        count = partial(_count_statement, context, owner, account, currency)
        return connection(page, partial(StatementLine.of, context=context), count)


@strawberry.type
class Subscription:
    """The live ledger."""

    @strawberry.subscription(
        permission_classes=[may(Scope.READ)],
        description="Every ledger event after a cursor, for ever: first what was missed, then live. "
        "Without a cursor it begins now.",
    )
    async def ledger_events(
        self, info: Info, after: After = None, where: Where = None, heartbeat_seconds: Heartbeat = None
    ) -> AsyncGenerator[LedgerEventMessage, None]:
        """Past and live are one path."""
        context = info.context
        async with aclosing(live.events(context, after, tests_of(where), heartbeat_seconds)) as messages:
            async for cursor, event in messages:
                told = None if event is None else LedgerEvent.of(event, context)
                yield LedgerEventMessage(cursor=cursor, node=told, heartbeat=event is None)


async def node(context: Context, id: str) -> LedgerEvent | None:
    """An event by id, or None."""
    event: Event | None = await context.load(event_by_id, id)
    return None if event is None else LedgerEvent.of(event, context)


async def event_by_id(context: Context, ids: Sequence[str]) -> Mapping[str, Event]:
    """Loads events."""
    async with context.reading() as reading:
        return await service.fetch_by_id(reading, context.scope, ids)


async def events_of_position(
    context: Context,
    position_ids: Sequence[str],
    request: PageRequest,
    tests: Conditions,
    order: OrderDirection,
) -> Mapping[str, Page[Event]]:
    """Loads a page of the history of each position."""
    async with context.reading() as reading:
        return await service.events_each(
            reading,
            context.scope,
            context.services.tail.epochs,
            position_ids,
            tests,
            request,
            descending=order is OrderDirection.DESC,
        )


async def events_count_of_position(
    context: Context, position_ids: Sequence[str], tests: Conditions
) -> Mapping[str, int]:
    """Loads how many events each position has."""
    async with context.reading() as reading:
        return await service.count_events_each(reading, context.scope, position_ids, tests)


async def _count(context: Context, tests: tuple[Condition, ...]) -> int:
    async with context.reading() as reading:
        return await service.count_events(reading, context.scope, tests)


async def _count_statement(context: Context, owner: str, account: str, currency: str) -> int:
    async with context.reading() as reading:
        return await service.count_statement(reading, owner, account, currency)
