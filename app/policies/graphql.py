"""Queries and mutations on policies."""

from typing import Annotated

import strawberry

from app.audit.model import Action
from app.context import Context, Info, may, only_institution
from app.engine.connection import After, Before, Connection, First, Last, connection
from app.engine.failures import UserError
from app.engine.roles import Scope
from app.policies import service
from app.policies.inputs import PolicyOrder, PolicyWhere, SetPolicyInput, order_of, tests
from app.policies.types import Policy, policy_by_id

__all__ = ["Mutation", "Policy", "Query", "node", "policy_by_id"]


@strawberry.type(description="What setPolicy answers.")
class SetPolicyPayload:
    """The version made, or why it was not."""

    policy: Policy | None = strawberry.field(
        default=None, description="The version made; null when it was refused."
    )
    user_errors: list[UserError] = strawberry.field(
        default_factory=list, description="Why it was refused; empty when it was done."
    )


@strawberry.type
class Query:
    """Reads of this slice."""

    @strawberry.field(permission_classes=[may(Scope.READ)], description="One version of a policy.")
    async def policy(
        self, info: Info, id: Annotated[strawberry.ID, strawberry.argument(description="The version's id.")]
    ) -> Policy | None:
        """Null when it is not there, or not yours."""
        return await node(info.context, id)

    @strawberry.field(
        permission_classes=[may(Scope.READ)],
        description="Policies, each version a row, the newest first; `current` picks what holds now.",
    )
    async def policies(
        self,
        info: Info,
        first: First = None,
        after: After = None,
        last: Last = None,
        before: Before = None,
        where: Annotated[
            PolicyWhere | None, strawberry.argument(description="Only rows that pass every test.")
        ] = None,
        order_by: Annotated[
            PolicyOrder | None,
            strawberry.argument(description="The order; without it the newest come first."),
        ] = None,
    ) -> Connection[Policy]:
        """One page."""
        context, conditions = info.context, tests(where)
        current = None if where is None else where.current
        order, descending = order_of(order_by)
        request = context.page(first, after, last, before)
        async with context.reading() as reading:
            page = await service.page(
                reading,
                context.scope,
                request,
                conditions,
                current=current,
                order_by=order,
                descending=descending,
            )

        async def count() -> int:
            async with context.reading() as reading:
                return await service.count(reading, context.scope, conditions, current=current)

        return connection(page, Policy.of, count)


@strawberry.type
class Mutation:
    """Writes of this slice."""

    @strawberry.mutation(
        permission_classes=[may(Scope.POLICIES_WRITE)],
        description="Replace what an institution allows in a region by a new version, which holds at once. "
        "Money already held can always be released, refunded and expired.",
    )
    async def set_policy(
        self,
        info: Info,
        input: Annotated[SetPolicyInput, strawberry.argument(description="What is allowed.")],
    ) -> SetPolicyPayload:
        """One transaction with its audit row."""
        context = info.context

        async def attempt() -> SetPolicyPayload:
            institution_id = only_institution(context, input.institution_id)
            async with context.working(institution_id) as work:
                made = await service.set_policy(work, institution_id, input.region, input.limits())
            return SetPolicyPayload(policy=Policy.of(made))

        return await context.answer(
            SetPolicyPayload,
            Action.POLICY_UPDATED,
            service.RESOURCE,
            attempt,
            institution_id=input.institution_id,
        )


async def node(context: Context, id: str) -> Policy | None:
    """The policy of that id, None when there is none to see."""
    found: Policy | None = await context.load(policy_by_id, id)
    return found
