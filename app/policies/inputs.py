"""What queries and mutations on policies take."""

from dataclasses import replace
from decimal import Decimal
from enum import StrEnum

import strawberry

from app.engine import filters
from app.engine.connection import OrderDirection
from app.engine.enums import describe
from app.engine.filters import IDFilter, TimeFilter
from app.institutions.inputs import RegionFilter
from app.institutions.model import Region
from app.policies.model import Limits
from app.storage.conditions import Condition


class PolicyOrderField(StrEnum):
    """What policies are ordered by."""

    CREATED_AT = "CREATED_AT"
    REGION = "REGION"


describe(
    PolicyOrderField,
    "What policies are ordered by.",
    {
        PolicyOrderField.CREATED_AT: "When the version was made.",
        PolicyOrderField.REGION: "Region, then version. As root only within one institution (`where`).",
    },
)


@strawberry.input(description="The order of a list of policies; without one, the newest come first.")
class PolicyOrder:
    """An order of policies."""

    field: PolicyOrderField = strawberry.field(description="What they are ordered by.")
    direction: OrderDirection = strawberry.field(
        default=OrderDirection.DESC, description="Which end comes first."
    )


@strawberry.input(description="Which policies a list has: those that pass every test.")
class PolicyWhere:
    """Tests on policies."""

    id: IDFilter | None = strawberry.field(default=None, description="The id of a version.")
    institution_id: IDFilter | None = strawberry.field(default=None, description="The institution's id.")
    region: RegionFilter | None = strawberry.field(default=None, description="The region.")
    current: bool | None = strawberry.field(
        default=None,
        description="True: only versions that hold now. False: only those that a later one replaced.",
    )
    created_at: TimeFilter | None = strawberry.field(default=None, description="When the version was made.")


@strawberry.input(
    description="What an institution allows in a region from now on; what is absent is not limited."
)
class SetPolicyInput:
    """A policy to set."""

    region: Region = strawberry.field(description="The region; one of the institution's.")
    min_amount: Decimal | None = strawberry.field(
        default=None, description="The least amount of a position, whatever its currency."
    )
    max_amount: Decimal | None = strawberry.field(
        default=None, description="The greatest amount of a position, whatever its currency."
    )
    allowed_currencies: list[str] | None = strawberry.field(
        default=None, description="The currencies allowed, such as USD; absent, all are. Never an empty list."
    )
    institution_id: strawberry.ID | None = strawberry.field(
        default=None,
        description="The institution it is for. Root must name it; for everybody else it is their own.",
    )

    def limits(self) -> Limits:
        """The same as a model."""
        currencies = self.allowed_currencies
        return Limits(self.min_amount, self.max_amount, None if currencies is None else tuple(currencies))


def tests(where: PolicyWhere | None) -> tuple[Condition, ...]:
    """The tests of a `where` on columns: all but `current`, which looks at other rows."""
    return filters.conditions(None if where is None else replace(where, current=None))


def order_of(order_by: PolicyOrder | None) -> tuple[str, bool]:
    """What the rows are ordered by, and whether the greatest come first."""
    if order_by is None:
        return PolicyOrderField.CREATED_AT.lower(), True
    return order_by.field.lower(), order_by.direction is OrderDirection.DESC
