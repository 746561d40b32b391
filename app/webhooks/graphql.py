"""Queries on webhooks."""

from typing import Annotated

import strawberry

from app.context import Context, Info, may
from app.engine.connection import After, Before, Connection, First, Last, connection
from app.engine.roles import Scope
from app.webhooks import service
from app.webhooks.inputs import (
    WebhookDeliveryWhere,
    WebhookEndpointWhere,
    WebhookOrder,
    newest_first,
    tests,
)
from app.webhooks.types import WebhookDelivery, WebhookEndpoint, delivery_by_id, endpoint_by_id

__all__ = ["Query", "WebhookDelivery", "WebhookEndpoint", "node"]

_WHERE = "Only rows that pass every test."
_ORDER = "The order; without it the newest come first."


@strawberry.type
class Query:
    """Reads of this slice."""

    @strawberry.field(
        permission_classes=[may(Scope.READ)],
        description="One webhook endpoint; null when it is not there, was deleted, or is not yours.",
    )
    async def webhook_endpoint(
        self, info: Info, id: Annotated[strawberry.ID, strawberry.argument(description="The endpoint's id.")]
    ) -> WebhookEndpoint | None:
        """By id."""
        found: WebhookEndpoint | None = await info.context.load(endpoint_by_id, str(id))
        return found

    @strawberry.field(
        permission_classes=[may(Scope.READ)], description="Webhook endpoints; the newest first."
    )
    async def webhook_endpoints(
        self,
        info: Info,
        first: First = None,
        after: After = None,
        last: Last = None,
        before: Before = None,
        where: Annotated[WebhookEndpointWhere | None, strawberry.argument(description=_WHERE)] = None,
        order_by: Annotated[WebhookOrder | None, strawberry.argument(description=_ORDER)] = None,
    ) -> Connection[WebhookEndpoint]:
        """One page."""
        context, conditions = info.context, tests(where)
        request = context.page(first, after, last, before)
        async with context.reading() as reading:
            page = await service.page_endpoints(
                reading, context.scope, request, conditions, descending=newest_first(order_by)
            )

        async def count() -> int:
            async with context.reading() as reading:
                return await service.count_endpoints(reading, context.scope, conditions)

        return connection(page, WebhookEndpoint.of, count)

    @strawberry.field(
        permission_classes=[may(Scope.READ)],
        description="One delivery; null when it is not there, or not yours.",
    )
    async def webhook_delivery(
        self, info: Info, id: Annotated[strawberry.ID, strawberry.argument(description="The delivery's id.")]
    ) -> WebhookDelivery | None:
        """By id."""
        found: WebhookDelivery | None = await info.context.load(delivery_by_id, str(id))
        return found

    @strawberry.field(
        permission_classes=[may(Scope.READ)],
        description="What was and is to be sent to webhook endpoints, deleted ones included; the newest first.",
    )
    async def webhook_deliveries(
        self,
        info: Info,
        first: First = None,
        after: After = None,
        last: Last = None,
        before: Before = None,
        where: Annotated[WebhookDeliveryWhere | None, strawberry.argument(description=_WHERE)] = None,
        order_by: Annotated[WebhookOrder | None, strawberry.argument(description=_ORDER)] = None,
    ) -> Connection[WebhookDelivery]:
        """One page."""
        context, conditions = info.context, tests(where)
        request = context.page(first, after, last, before)
        async with context.reading() as reading:
            page = await service.page_deliveries(
                reading, context.scope, request, conditions, descending=newest_first(order_by)
            )

        async def count() -> int:
            async with context.reading() as reading:
                return await service.count_deliveries(reading, context.scope, conditions)

        return connection(page, WebhookDelivery.of, count)


async def node(context: Context, id: str) -> WebhookEndpoint | WebhookDelivery | None:
    """The endpoint or the delivery of that id."""
    found: WebhookEndpoint | WebhookDelivery | None = await context.load(
        endpoint_by_id if id.startswith("whe_") else delivery_by_id, id
    )
    return found
