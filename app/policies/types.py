"""The GraphQL type of policies, and the loaders that fill it level by level."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import Annotated

import strawberry

from app.context import Context, Info
from app.engine.connection import After, Before, Connection, First, Last, Node, connection
from app.institutions.graphql import Institution, institution_by_id
from app.institutions.model import Region
from app.policies import model, service
from app.storage.paging import Page, PageRequest


@strawberry.type(
    description="One version of what an institution allows in a region. It judges positions when they are "
    "created and when they are funded; it never stops a release, a refund or an expiry."
)
class Policy(Node):
    """A version of a policy; it never changes."""

    institution_id: strawberry.ID = strawberry.field(description="The institution's id.")
    region: Region = strawberry.field(description="Where it applies.")
    version: int = strawberry.field(
        description="Counts the versions for this institution and region, from 1; the highest one holds."
    )
    min_amount: Decimal | None = strawberry.field(description="The least amount; null when there is none.")
    max_amount: Decimal | None = strawberry.field(description="The greatest amount; null when there is none.")
    allowed_currencies: list[str] | None = strawberry.field(
        description="The currencies allowed; null when all are."
    )
    created_at: datetime = strawberry.field(description="When this version was made.")

    @classmethod
    def of(cls, policy: model.Policy) -> "Policy":
        """The type that shows `policy`."""
        currencies = policy.allowed_currencies
        return cls(
            id=strawberry.ID(policy.id),
            institution_id=strawberry.ID(policy.institution_id),
            region=policy.region,
            version=policy.version,
            min_amount=policy.min_amount,
            max_amount=policy.max_amount,
            allowed_currencies=None if currencies is None else list(currencies),
            created_at=policy.created_at,
        )

    @strawberry.field(description="The institution it belongs to.")
    async def institution(
        self, info: Info
    ) -> Annotated["Institution", strawberry.lazy("app.institutions.graphql")]:
        """Loaded with those of the whole level."""
        found: Institution = await info.context.load(institution_by_id, str(self.institution_id))
        return found

    @strawberry.field(description="Whether this version holds now: no later one has replaced it.")
    async def current(self, info: Info) -> bool:
        """Asked for the whole level."""
        return bool(await info.context.load(policy_is_current, str(self.id)))

    @strawberry.field(
        description="Every version for this institution and region, this one included, newest first."
    )
    async def history(
        self, info: Info, first: First = None, after: After = None, last: Last = None, before: Before = None
    ) -> Connection[Annotated["Policy", strawberry.lazy(__name__)]]:
        """One page for each policy of the level, in one statement."""
        context, key = info.context, str(self.id)
        page: Page[model.Policy] = await context.load(
            policy_history, key, context.page(first, after, last, before)
        )
        return connection(page, Policy.of, partial(context.load, policy_history_count, key))


async def policy_by_id(context: Context, keys: Sequence[str]) -> Mapping[str, Policy]:
    """Loader: policies by id."""
    async with context.reading() as reading:
        found = await service.fetch_each(reading, context.scope, keys)
    return {key: Policy.of(policy) for key, policy in found.items()}


async def policy_is_current(context: Context, keys: Sequence[str]) -> Mapping[str, bool]:
    """Loader: whether each policy holds now."""
    async with context.reading() as reading:
        found = await service.current_ids(reading, context.scope, keys)
    return {key: key in found for key in keys}


async def policy_history(
    context: Context, keys: Sequence[str], request: PageRequest
) -> Mapping[str, Page[model.Policy]]:
    """Loader: for each policy a page of the versions of its region."""
    async with context.reading() as reading:
        return await service.history_each(reading, context.scope, keys, request)


async def policy_history_count(context: Context, keys: Sequence[str]) -> Mapping[str, int]:
    """Loader: for each policy how many versions its region has."""
    async with context.reading() as reading:
        return await service.history_counts(reading, context.scope, keys)
