"""Queries on positions, and the loaders that others use."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated

import strawberry

from app.assets import service as assets
from app.context import Context, Info, may
from app.engine.connection import Connection, OrderDirection, connection
from app.engine.enums import describe
from app.errors import BadRequest, Problem
from app.kit.money import CURRENCIES, CurrencyKind
from app.policies import model as policies
from app.policies import service as policy_service
from app.positions import reads
from app.positions.aggregates import AsOf, Where, place_of
from app.positions.inputs import PositionOrder, PositionOrderField, PositionWhere, tests_of
from app.positions.model import Position as PositionModel
from app.positions.reads import Conditions
from app.positions.types import Lifecycle, Position
from app.principal import ALL_INSTITUTIONS, Scope
from app.storage.conditions import Condition
from app.storage.paging import Order, Page, PageRequest

OrderBy = Annotated[
    PositionOrder | None, strawberry.argument(description="In which order; newest first when absent.")
]
First = Annotated[int | None, strawberry.argument(description="At most this many, from the start.")]
After = Annotated[
    str | None, strawberry.argument(description="Only what follows this cursor of the same list.")
]
Last = Annotated[int | None, strawberry.argument(description="At most this many, from the end.")]
Before = Annotated[
    str | None, strawberry.argument(description="Only what precedes this cursor of the same list.")
]


describe(
    CurrencyKind,
    "Who issues a currency.",
    {
        CurrencyKind.FIAT: "A country or a union of them.",
        CurrencyKind.TOKEN: "No country: it lives on a chain.",
    },
)


@strawberry.type(description="A currency and the digits its amounts have.")
class Currency:
    """A currency."""

    code: str = strawberry.field(description="ISO 4217 code, or a token's.")
    exponent: int = strawberry.field(description="Fraction digits of its amounts; more are refused.")
    kind: CurrencyKind = strawberry.field(description="Who issues it.")


@strawberry.type
class Query:
    """Reads of positions."""

    @strawberry.field(
        permission_classes=[may(Scope.READ)], description="One position; null when there is no such position."
    )
    async def position(
        self,
        info: Info,
        id: Annotated[strawberry.ID, strawberry.argument(description="The position's id.")],
        as_of: AsOf = None,
    ) -> Position | None:
        """By id, as it is or as it was."""
        context = info.context
        if as_of is None:
            return await node(context, str(id))
        async with context.reading() as reading:
            found = (await reads.fetch_many(reading, context.scope, [str(id)])).get(str(id))
            if found is None:
                return None
            place = await place_of(context, reading, as_of, found.institution_id)
            lifecycles = context.services.lifecycles
            then = await reads.fetch_as_of(reading, context.scope, str(id), place, lifecycles)
        return None if then is None else Position.of(then, past=True)

    @strawberry.field(
        permission_classes=[may(Scope.READ)], description="Positions, newest first unless said otherwise."
    )
    async def positions(
        self,
        info: Info,
        first: First = None,
        after: After = None,
        last: Last = None,
        before: Before = None,
        where: Where = None,
        order_by: OrderBy = None,
    ) -> Connection[Position]:
        """One page."""
        context, tests = info.context, tests_of(where)
        request, order = context.page(first, after, last, before), order_of(context, order_by, tests)
        async with context.reading() as reading:
            page = await reads.fetch_list(reading, context.scope, tests, order, request)
        return connection(page, Position.of, partial(_count, context, tests))

    @strawberry.field(permission_classes=[may(Scope.READ)], description="The currencies amounts can have.")
    def currencies(self) -> list[Currency]:
        """All of them."""
        return [Currency(code=c.code, exponent=c.exponent, kind=c.kind) for c in CURRENCIES.values()]

    @strawberry.field(
        permission_classes=[may(Scope.READ)], description="One lifecycle; null when there is no such version."
    )
    def lifecycle(
        self,
        info: Info,
        name: Annotated[str, strawberry.argument(description="Its name, such as escrow.")],
        version: Annotated[
            int | None, strawberry.argument(description="Its version; the newest when absent.")
        ] = None,
    ) -> Lifecycle | None:
        """By name and version."""
        known = info.context.services.lifecycles
        newest = max((number for found, number in known if found == name), default=0)
        found = known.get((name, newest if version is None else version))
        return None if found is None else Lifecycle.of(found)

    @strawberry.field(permission_classes=[may(Scope.READ)], description="Every version of every lifecycle.")
    def lifecycles(self, info: Info) -> list[Lifecycle]:
        """All of them."""
        return [Lifecycle.of(found) for found in info.context.services.lifecycles.values()]


async def node(context: Context, id: str) -> Position | None:
    """A position by id, or None."""
    found: Position | None = await context.load(position_by_id, id)
    return found


async def position_by_id(context: Context, ids: Sequence[str]) -> Mapping[str, Position]:
    """Loads positions."""
    async with context.reading() as reading:
        found = await reads.fetch_many(reading, context.scope, ids)
    return {key: Position.of(model) for key, model in found.items()}


async def positions_connection(
    context: Context,
    asset_id: str,
    request: PageRequest,
    where: PositionWhere | None,
    order_by: PositionOrder | None,
) -> Connection[Position]:
    """A page of the positions of an asset, asked together with those of the other assets of the level."""
    tests = tests_of(where)
    page = await context.load(positions_of_asset, asset_id, tests, named_order(order_by), request)
    return connection(page, Position.of, partial(context.load, positions_count_of_asset, asset_id, tests))


async def positions_of_asset(
    context: Context,
    asset_ids: Sequence[str],
    tests: Conditions,
    order_by: tuple[str, bool],
    request: PageRequest,
) -> Mapping[str, Page[PositionModel]]:
    """Loads a page of the positions of each asset."""
    order = reads.order(order_by[0], descending=order_by[1])
    async with context.reading() as reading:
        return await reads.fetch_each(reading, context.scope, asset_ids, tests, order, request)


async def positions_count_of_asset(
    context: Context, asset_ids: Sequence[str], tests: Conditions
) -> Mapping[str, int]:
    """Loads how many positions each asset has."""
    async with context.reading() as reading:
        return await reads.count_of_each(reading, context.scope, asset_ids, tests)


async def policy_verdicts(
    context: Context, positions: Sequence[PositionModel]
) -> Mapping[PositionModel, tuple[Problem, ...]]:
    """Loads what the current policies say against funding each position."""
    async with context.reading() as reading:
        terms = await assets.fetch_terms_each(reading, context.scope, sorted({p.asset_id for p in positions}))
        tests = (Condition("institution_id", "in", tuple(sorted({p.institution_id for p in positions}))),)
        request = PageRequest(context.services.settings.page_size_max)
        page = await policy_service.page(reading, context.scope, request, tests, current=True)
    current = {(policy.institution_id, policy.region): policy for _cursor, policy in page.rows}
    return {
        position: policies.judge(
            current.get((position.institution_id, terms[position.asset_id][1].region)),
            amount=position.amount,
            currency=position.currency,
        )
        for position in positions
    }


def named_order(order_by: PositionOrder | None) -> tuple[str, bool]:
    """An order as (name, descending)."""
    if order_by is None:
        return PositionOrderField.CREATED.value, True
    return order_by.field.value, order_by.direction is OrderDirection.DESC


def order_of(context: Context, order_by: PositionOrder | None, tests: Conditions) -> Order:
    """The order of a list; across institutions only the order of creation has an index."""
    name, descending = named_order(order_by)
    alone = of_one_institution(context, tests)
    if name != PositionOrderField.CREATED.value and not alone:
        raise BadRequest("as root, order by that within one institution: where: {institutionId: {eq: …}}")
    return reads.order(name, descending=descending, alone=alone)


def of_one_institution(context: Context, tests: Conditions) -> bool:
    """Whether a list is of one institution alone."""
    return context.scope != ALL_INSTITUTIONS or any(
        test.field == "institution_id" and test.operator == "eq" for test in tests
    )


async def _count(context: Context, tests: Conditions) -> int:
    async with context.reading() as reading:
        return await reads.count_list(reading, context.scope, tests)
