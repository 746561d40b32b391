"""Live positions: first as they are, then once for every version, each as of its event."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Annotated

import strawberry

from app.context import Context, Info, may
from app.errors import BadRequest, NotFound, Unavailable
from app.ledger import live, service
from app.ledger.graphql import After, Heartbeat
from app.ledger.model import Event
from app.ledger.types import LedgerEvent
from app.positions import reads
from app.positions.aggregates import Where
from app.positions.graphql import of_one_institution
from app.positions.inputs import tests_of
from app.positions.model import Position as PositionModel
from app.positions.model import stamped
from app.positions.reads import Conditions
from app.positions.types import Position
from app.principal import Scope
from app.storage.conditions import Condition
from app.storage.paging import PageRequest

INITIAL_MAX = 1_000


@strawberry.type(description="One message of a live stream of positions.")
class PositionChange:
    """A position as it is at first, or as an event left it."""

    cursor: str | None = strawberry.field(
        description="Where the stream stands: resume with it as `after`. Null while the first positions are still "
        "being told: who is cut off there starts over."
    )
    position: Position | None = strawberry.field(
        description="The position as of `event`; as it is when `event` is null; null in a heartbeat."
    )
    event: LedgerEvent | None = strawberry.field(
        description="The event that made this version; null for a position told at first, and in a heartbeat."
    )
    heartbeat: bool = strawberry.field(
        description="Whether this message only tells that the stream is alive."
    )


@strawberry.type
class Subscription:
    """Live positions."""

    @strawberry.subscription(
        permission_classes=[may(Scope.READ)],
        description="The positions that pass, first as they are (at most 1,000; none with `after`), then each version "
        "as of its event. A position that leaves the states of `where` is told once more as it leaves.",
    )
    async def positions_changed(
        self, info: Info, where: Where = None, after: After = None, heartbeat_seconds: Heartbeat = None
    ) -> AsyncGenerator[PositionChange, None]:
        """Many positions."""
        async with aclosing(_changes(info.context, tests_of(where), after, heartbeat_seconds)) as changes:
            async for change in changes:
                yield change

    @strawberry.subscription(
        permission_classes=[may(Scope.READ)],
        description="One position, first as it is (not with `after`), then each version as of its event.",
    )
    async def position_changed(
        self,
        info: Info,
        id: Annotated[strawberry.ID, strawberry.argument(description="The position's id.")],
        after: After = None,
        heartbeat_seconds: Heartbeat = None,
    ) -> AsyncGenerator[PositionChange, None]:
        """One position; one that is not there is an error, so that nobody waits in vain."""
        context = info.context
        async with context.reading() as reading:
            if not await reads.fetch_many(reading, context.scope, context.holders, [str(id)]):
                raise NotFound("position", "id")
        await context.renew()
        tests = (Condition("id", "eq", str(id)),)
        async with aclosing(_changes(context, tests, after, heartbeat_seconds)) as changes:
            async for change in changes:
                yield change


async def _changes(
    context: Context, tests: Conditions, after: str | None, heartbeat_seconds: int | None
) -> AsyncGenerator[PositionChange, None]:
    resumed = live.resumed(context, after)
    if resumed is None:
        resumed, found = await _initial(context, tests)
        for number, model in enumerate(found, start=1):
            # Only with the last of them is the first picture whole, and its cursor good to resume from.
            cursor = resumed if number == len(found) else None
            context.last_cursor = cursor
            await context.renew()
            yield PositionChange(cursor=cursor, position=Position.of(model), event=None, heartbeat=False)
    wanted = [Condition("position_id", t.operator, t.value) for t in tests if t.field == "id"]
    wanted += [t for t in tests if t.field in ("institution_id", "currency")]
    async with aclosing(live.events(context, resumed, wanted, heartbeat_seconds)) as messages:
        async for cursor, event in messages:
            if event is None:
                yield PositionChange(cursor=cursor, position=None, event=None, heartbeat=True)
                continue
            model = await _as_of(context, event)
            if passes(model, event, tests):
                told = LedgerEvent.of(event, context)
                yield PositionChange(cursor=cursor, position=Position.of(model), event=told, heartbeat=False)
            else:
                # Nothing is told that would end the reading: the next event may be hours away.
                await context.renew()


async def _initial(context: Context, tests: Conditions) -> tuple[str, list[PositionModel]]:
    """The positions that pass and the head, of one snapshot: what follows the head is neither missed nor repeated."""
    order = reads.order("CREATED", descending=False, alone=of_one_institution(context, tests))
    async with context.reading() as reading:
        head = await service.head(reading, context.scope, context.services.tail.epochs)
        page = await reads.fetch_list(
            reading, context.scope, context.holders, tests, order, PageRequest(INITIAL_MAX)
        )
    await context.renew()
    if page.has_next:
        raise BadRequest(
            f"more than {INITIAL_MAX} positions pass: narrow `where`, or read them with `positions` and "
            "`ledgerHead { cursor }` in one query and subscribe `after` that cursor"
        )
    return head.cursor, [model for _cursor, model in page.rows]


async def _as_of(context: Context, event: Event) -> PositionModel:
    async with context.reading() as reading:
        found = (await reads.fetch_many(reading, context.scope, context.holders, [event.position_id])).get(
            event.position_id
        )
    if found is None:
        raise Unavailable("a position of the ledger cannot be read; this server needs its operator")
    lifecycle = context.services.lifecycles[event.lifecycle_name, event.lifecycle_version]
    return stamped(found, event, closed=lifecycle.is_terminal(event.new_stage))


def passes(position: PositionModel, event: Event, tests: Sequence[Condition]) -> bool:
    """Whether a change concerns the filter: states and stages count before as well as after the event."""
    return all(_passes(position, event, test) for test in tests)


def _passes(position: PositionModel, event: Event, test: Condition) -> bool:
    judge = live.TESTS[test.operator]
    before = {"state": event.previous_state, "stage": event.previous_stage}
    if test.field in before and before[test.field] is not None and judge(before[test.field], test.value):
        return True
    return judge(getattr(position, test.field), test.value)
