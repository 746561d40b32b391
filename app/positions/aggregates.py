"""`positionSummary` as GraphQL tells it, and the points in the past that queries can name."""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any
from zoneinfo import available_timezones

import strawberry

from app.context import Context, Info, may
from app.errors import BadRequest
from app.ledger import past
from app.ledger.past import Place
from app.positions import reads
from app.positions.inputs import AsOfInput, PositionWhere, SummaryGroup, tests_of
from app.positions.model import State
from app.positions.reads import Conditions
from app.principal import Scope

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

GROUPS_MAX = 1_000
# "localtime" is a link that some systems have; the database knows no such zone.
ZONES = frozenset(available_timezones() - {"localtime"})

Where = Annotated[PositionWhere | None, strawberry.argument(description="Which positions.")]
AsOf = Annotated[
    AsOfInput | None, strawberry.argument(description="As of a point in the past; as it is now when absent.")
]


@strawberry.type(description="Counts and sums of the positions of one group in one currency.")
class PositionSummary:
    """A group; the keys that were not asked for are null."""

    state: State | None = strawberry.field(description="The group's state.")
    stage: str | None = strawberry.field(description="The group's stage.")
    asset_id: strawberry.ID | None = strawberry.field(description="The group's asset.")
    holder_reference: str | None = strawberry.field(description="The group's holder.")
    institution_id: strawberry.ID | None = strawberry.field(description="The group's institution.")
    created_day: str | None = strawberry.field(description="The group's day, YYYY-MM-DD.")
    created_month: str | None = strawberry.field(description="The group's month, YYYY-MM.")
    currency: str = strawberry.field(description="The currency's code: sums never mix currencies.")
    count: int = strawberry.field(description="How many positions.")
    amount: Decimal = strawberry.field(description="What was agreed on, in sum.")
    funded: Decimal = strawberry.field(description="What came in, in sum.")
    released: Decimal = strawberry.field(description="What went to beneficiaries, in sum.")
    refunded: Decimal = strawberry.field(description="What went back to funders, in sum.")
    held: Decimal = strawberry.field(description="What is held, in sum.")


@strawberry.type
class Aggregates:
    """Sums over positions."""

    @strawberry.field(
        permission_classes=[may(Scope.READ)],
        description="Positions counted and summed up in groups, always split by currency.",
        # It looks at every position that passes.
        metadata={"cost": 100},
    )
    async def position_summary(
        self,
        info: Info,
        where: Where = None,
        group_by: Annotated[
            list[SummaryGroup],
            strawberry.argument(description="What to group by; by currency alone when empty."),
        ] = [],  # noqa: B006 - Strawberry wants the default itself; it is never changed
        time_zone: Annotated[
            str,
            strawberry.argument(description="Whose days and months, as an IANA name such as Europe/Paris."),
        ] = "UTC",
        as_of: AsOf = None,
    ) -> list[PositionSummary]:
        """Groups in the order of their keys."""
        if time_zone not in ZONES:
            raise BadRequest("the time zone is not known; give an IANA name such as Europe/Paris")
        context, names, tests = (
            info.context,
            [group.value for group in dict.fromkeys(group_by)],
            tests_of(where),
        )
        async with context.reading() as reading:
            place = (
                None if as_of is None else await place_of(context, reading, as_of, _only_one(context, tests))
            )
            rows = await reads.summarise(
                reading, context.scope, tests, names, time_zone, GROUPS_MAX + 1, place
            )
        if len(rows) > GROUPS_MAX:
            raise BadRequest(f"more than {GROUPS_MAX} groups: narrow `where` or group by less")
        return [_summary(row) for row in rows]


async def place_of(
    context: Context, reading: "AsyncConnection", as_of: AsOfInput, owner: str | None
) -> Place:
    """The point that `asOf` names; a time is looked up in the ledger of `owner`."""
    if isinstance(as_of.sequence, int):
        return await past.at_sequence(reading, context.scope, as_of.sequence)
    if owner is None:
        raise BadRequest("as root, a time needs one institution: where: {institutionId: {eq: …}}")
    assert isinstance(as_of.time, datetime), "GraphQL has seen to it that one of the two is given"
    return await past.at_time(reading, context.services.database, owner, as_of.time)


def _only_one(context: Context, tests: Conditions) -> str | None:
    named = [test.value for test in tests if test.field == "institution_id" and test.operator == "eq"]
    return context.principal.institution_id or (str(named[0]) if named else None)


def _summary(row: reads.SummaryRow) -> PositionSummary:
    keys: Mapping[str, Any] = row.keys
    return PositionSummary(
        state=State(keys["STATE"]) if "STATE" in keys else None,
        stage=keys.get("STAGE"),
        asset_id=keys.get("ASSET"),
        holder_reference=keys.get("HOLDER"),
        institution_id=keys.get("INSTITUTION"),
        created_day=keys.get("CREATED_DAY"),
        created_month=keys.get("CREATED_MONTH"),
        currency=row.currency,
        count=row.count,
        amount=row.amount,
        funded=row.funded,
        released=row.released,
        refunded=row.refunded,
        held=row.held,
    )
