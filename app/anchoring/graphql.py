"""Queries on anchors, and the subscription that follows them."""

from collections.abc import AsyncGenerator
from typing import Annotated

import strawberry

from app.anchoring import consistency, model, service
from app.anchoring.model import Mode, State
from app.anchoring.proof import NotProven
from app.anchoring.types import Anchor, AnchorChain, AnchorConsistency, anchor_by_id
from app.context import Context, Info, may
from app.engine.connection import After, Before, Connection, First, Last, OrderDirection, connection
from app.engine.filters import IDFilter, conditions
from app.engine.roles import Scope
from app.errors import BadRequest, Unavailable
from app.ledger.live import TESTS
from app.storage.database import DatabaseRole

__all__ = ["Anchor", "Query", "Subscription", "node"]


@strawberry.input(description="A test on how far an anchor has come.")
class AnchorStateFilter:
    """States."""

    eq: State | None = strawberry.field(default=None, description="Equal to this.")
    in_: list[State] | None = strawberry.field(default=None, name="in", description="One of these.")


@strawberry.input(description="A test on which call an anchor is.")
class AnchorModeFilter:
    """Modes."""

    eq: Mode | None = strawberry.field(default=None, description="Equal to this.")
    in_: list[Mode] | None = strawberry.field(default=None, name="in", description="One of these.")


@strawberry.input(description="Which anchors; all tests must pass.")
class AnchorWhere:
    """Tests on anchors."""

    id: IDFilter | None = strawberry.field(default=None, description="The anchor's id.")
    mode: AnchorModeFilter | None = strawberry.field(default=None, description="Which call.")
    state: AnchorStateFilter | None = strawberry.field(default=None, description="How far it has come.")


Where = Annotated[AnchorWhere | None, strawberry.argument(description="Which anchors; all when absent.")]


@strawberry.type(description="One message of the live anchors.")
class AnchorMessage:
    """An anchor, or a heartbeat."""

    anchor: Anchor | None = strawberry.field(description="The anchor as it is now; null in a heartbeat.")
    heartbeat: bool = strawberry.field(
        description="Whether this message only tells that the stream is alive."
    )


@strawberry.type
class Query:
    """Reads of this slice."""

    @strawberry.field(
        permission_classes=[may(Scope.READ)],
        description="What was and is submitted to a chain, newest first unless said otherwise.",
    )
    async def anchors(
        self,
        info: Info,
        first: First = None,
        after: After = None,
        last: Last = None,
        before: Before = None,
        where: Where = None,
        direction: Annotated[
            OrderDirection, strawberry.argument(description="ASC: oldest first. DESC: newest first.")
        ] = OrderDirection.DESC,
    ) -> Connection[Anchor]:
        """One page."""
        context, tests = info.context, conditions(where)
        request = context.page(first, after, last, before)
        async with context.reading() as reading:
            page = await service.page(
                reading, context.scope, request, tests, descending=direction is OrderDirection.DESC
            )

        async def count() -> int:
            async with context.reading() as reading:
                return await service.count(reading, context.scope, tests)

        return connection(page, Anchor.of, count)

    @strawberry.field(
        permission_classes=[may(Scope.READ)],
        description="The chains that are anchored on, as they looked when they were last asked; none when none is.",
    )
    async def anchor_chains(self, info: Info) -> list[AnchorChain]:
        """All of them."""
        context = info.context
        async with context.reading() as reading:
            return [AnchorChain.of(one) for one in await service.accounts(reading, context.scope)]

    @strawberry.field(
        permission_classes=[may(Scope.READ)],
        description="What proves that one anchored head goes on from another; null unless both are heads that the "
        "chain has taken.",
        metadata={"cost": 20},
    )
    async def anchor_consistency(
        self,
        info: Info,
        since: Annotated[strawberry.ID, strawberry.argument(description="The id of the earlier anchor.")],
        until: Annotated[strawberry.ID, strawberry.argument(description="The id of the later anchor.")],
    ) -> AnchorConsistency | None:
        """Made when asked for."""
        context = info.context
        async with context.reading() as reading:
            found = await service.by_id(reading, context.scope, [since, until])
        older, newer = found.get(since), found.get(until)
        if older is None or newer is None:
            return None
        if not (consistency.is_provable(older) and consistency.is_provable(newer)):
            return None
        async with context.services.database.pool(DatabaseRole.FEED).acquire() as driver:
            try:
                return AnchorConsistency.of(await consistency.prove(driver, older, newer))
            except NotProven as error:
                raise Unavailable(str(error)) from None


@strawberry.type
class Subscription:
    """The live anchors."""

    @strawberry.subscription(
        permission_classes=[may(Scope.READ)],
        description="Every anchor that changes from now on, as it is then. It has no cursor: after a lost connection, "
        "list `anchors`, then follow. What changes twice at once may be told once.",
    )
    async def anchor_changed(
        self,
        info: Info,
        where: Where = None,
        heartbeat_seconds: Annotated[
            int | None,
            strawberry.argument(description="When there is nothing to tell for so many seconds, say so."),
        ] = None,
    ) -> AsyncGenerator[AnchorMessage, None]:
        """For ever."""
        context, tests = info.context, conditions(where)
        least, news = context.services.settings.heartbeat_seconds_min, context.services.anchor_news
        if heartbeat_seconds is not None and heartbeat_seconds < least:
            raise BadRequest(f"a heartbeat comes at most every {least:g} seconds")
        async with news.following() as begun:
            seen = begun
            while True:
                if not await news.wait(seen, heartbeat_seconds):
                    await context.renew()
                    yield AnchorMessage(anchor=None, heartbeat=True)
                for revision, anchor in news.after(seen):
                    seen = revision
                    if all(TESTS[test.operator](getattr(anchor, test.field), test.value) for test in tests):
                        await context.renew()
                        yield AnchorMessage(anchor=Anchor.of(anchor), heartbeat=False)


async def node(context: Context, id: str) -> Anchor | None:
    """An anchor by id, or None."""
    found: model.Anchor | None = await context.load(anchor_by_id, id)
    return None if found is None else Anchor.of(found)
