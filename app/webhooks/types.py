"""The GraphQL types of webhooks, and the loaders that fill them level by level."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Annotated

import strawberry

from app.context import Context, Info
from app.engine.connection import After, Before, Connection, First, Last, Node, connection
from app.institutions.graphql import Institution, institution_by_id
from app.ledger.graphql import event_by_id
from app.ledger.model import Event, Kind
from app.ledger.types import LedgerEvent
from app.positions.model import State
from app.storage.conditions import Condition
from app.storage.paging import Page, PageRequest
from app.webhooks import model, service
from app.webhooks.inputs import WebhookDeliveryWhere, WebhookOrder, newest_first, tests
from app.webhooks.model import DeliveryState, DisabledReason

# An endpoint by its institution and id: every index of deliveries starts with the institution.
OfEndpoint = tuple[str, str]


@strawberry.type(
    description="Since when and until when a signing secret signs. Its value is told once, when it is made."
)
class WebhookSecret:
    """A secret without its value."""

    created_at: datetime = strawberry.field(description="Since when it signs.")
    ends_at: datetime | None = strawberry.field(
        description="When it stops to sign; null for the one that was made last."
    )


@strawberry.type(
    description="Where an institution wants its ledger's events sent, by Standard Webhooks 1.0: POST of "
    '{"type": "position.created" or "position.state_changed", "timestamp", "data"} with the headers webhook-id, '
    "webhook-timestamp and webhook-signature. `data` has the fields of LedgerEvent, without reason and metadata, and "
    "the ledger cursor. Every event is sent at least once, those of a position in their order."
)
class WebhookEndpoint(Node):
    """An endpoint."""

    institution_id: strawberry.ID = strawberry.field(description="The institution's id.")
    url: str = strawberry.field(description="Where events are sent.")
    description: str = strawberry.field(description="What people call it.")
    kinds: list[Kind] | None = strawberry.field(
        description="Only events of these kinds are sent; null for all."
    )
    states: list[State] | None = strawberry.field(
        description="Only events that leave a position in one of these states are sent; null for all."
    )
    enabled: bool = strawberry.field(description="Whether events are sent to it.")
    disabled_reason: DisabledReason | None = strawberry.field(
        description="Why nothing is sent to it; null while it is enabled."
    )
    created_by: strawberry.ID = strawberry.field(description="The id of the key that made it, or `root`.")
    created_at: datetime = strawberry.field(description="When it was made.")
    updated_at: datetime = strawberry.field(description="When it was last changed.")

    @classmethod
    def of(cls, endpoint: model.Endpoint) -> "WebhookEndpoint":
        """The type that shows `endpoint`."""
        wanted = endpoint.wanted
        return cls(
            id=strawberry.ID(endpoint.id),
            institution_id=strawberry.ID(endpoint.institution_id),
            url=endpoint.url,
            description=endpoint.description,
            kinds=None if wanted.kinds is None else list(wanted.kinds),
            states=None if wanted.states is None else list(wanted.states),
            enabled=endpoint.enabled,
            disabled_reason=endpoint.disabled_reason,
            created_by=strawberry.ID(endpoint.created_by),
            created_at=endpoint.created_at,
            updated_at=endpoint.updated_at,
        )

    @strawberry.field(description="The institution it belongs to.")
    async def institution(
        self, info: Info
    ) -> Annotated["Institution", strawberry.lazy("app.institutions.graphql")]:
        """Loaded with those of the whole level."""
        found: Institution = await info.context.load(institution_by_id, str(self.institution_id))
        return found

    @strawberry.field(description="The secrets that sign now, the newest first.")
    async def secrets(self, info: Info) -> list[WebhookSecret]:
        """Loaded with those of the whole level."""
        found: tuple[model.Secret, ...] = await info.context.load(secrets_by_endpoint, str(self.id))
        return [WebhookSecret(created_at=secret.created_at, ends_at=secret.ends_at) for secret in found]

    @strawberry.field(description="What was and is to be sent to it.")
    async def deliveries(
        self,
        info: Info,
        first: First = None,
        after: After = None,
        last: Last = None,
        before: Before = None,
        where: Annotated[
            WebhookDeliveryWhere | None, strawberry.argument(description="Only rows that pass every test.")
        ] = None,
        order_by: Annotated[
            WebhookOrder | None,
            strawberry.argument(description="The order; without it the newest come first."),
        ] = None,
    ) -> Connection[Annotated["WebhookDelivery", strawberry.lazy(__name__)]]:
        """One page for each endpoint of the level, in one statement."""
        key: OfEndpoint = (self.institution_id, self.id)
        conditions, descending = tests(where), newest_first(order_by)
        request = info.context.page(first, after, last, before)
        page = await info.context.load(deliveries_by_endpoint, key, request, conditions, descending)
        counted = partial(info.context.load, delivery_count_by_endpoint, key, conditions)
        return connection(page, WebhookDelivery.of, counted)


@strawberry.type(
    description="One event (or a test, which has none) on its way to one endpoint. It is tried up to ten times: at "
    "once, then 5 seconds, 5 and 30 minutes, 2, 5, 10, 14, 20 and 24 hours after the attempt before, each pause up to "
    "a tenth longer or shorter. A test is tried once."
)
class WebhookDelivery(Node):
    """A delivery."""

    institution_id: strawberry.ID = strawberry.field(description="The institution's id.")
    endpoint_id: strawberry.ID = strawberry.field(description="The endpoint's id.")
    webhook_id: str = strawberry.field(
        description="The header webhook-id: the same at every attempt and every replay, for telling repeats."
    )
    event_id: strawberry.ID | None = strawberry.field(description="The ledger event's id; null for a test.")
    position_id: strawberry.ID | None = strawberry.field(
        description="The id of the position that the event is about; null for a test."
    )
    state: DeliveryState = strawberry.field(description="Where it is.")
    attempt_count: int = strawberry.field(description="How many attempts were made, replays included.")
    next_attempt_at: datetime | None = strawberry.field(
        description="When it is tried next; null when it is settled, or waits behind an earlier event of its position."
    )
    last_status: int | None = strawberry.field(
        description="The HTTP status of the last answer; null when there was none."
    )
    last_error: str | None = strawberry.field(
        description="Why the last attempt got no answer; null when it got one."
    )
    last_response: str | None = strawberry.field(
        description="The first 500 bytes of the last answer; null when it was empty."
    )
    last_attempt_at: datetime | None = strawberry.field(
        description="When the last attempt was made; null before the first."
    )
    delivered_at: datetime | None = strawberry.field(
        description="When it was last delivered; null when it never was."
    )
    created_at: datetime = strawberry.field(description="When it was queued.")
    updated_at: datetime = strawberry.field(description="When it last changed.")

    @classmethod
    def of(cls, delivery: model.Delivery) -> "WebhookDelivery":
        """The type that shows `delivery`."""
        return cls(
            id=strawberry.ID(delivery.id),
            institution_id=strawberry.ID(delivery.institution_id),
            endpoint_id=strawberry.ID(delivery.endpoint_id),
            webhook_id=delivery.webhook_id,
            event_id=None if delivery.event_id is None else strawberry.ID(delivery.event_id),
            position_id=None if delivery.position_id is None else strawberry.ID(delivery.position_id),
            state=delivery.state,
            attempt_count=delivery.attempts,
            next_attempt_at=delivery.next_attempt_at,
            last_status=delivery.last_status,
            last_error=delivery.last_error,
            last_response=delivery.last_response,
            last_attempt_at=delivery.last_attempt_at,
            delivered_at=delivery.delivered_at,
            created_at=delivery.created_at,
            updated_at=delivery.updated_at,
        )

    @strawberry.field(description="The ledger event; null for a test.")
    async def event(self, info: Info) -> LedgerEvent | None:
        """Loaded with those of the whole level."""
        if self.event_id is None:
            return None
        found: Event | None = await info.context.load(event_by_id, str(self.event_id))
        return None if found is None else LedgerEvent.of(found, info.context)

    @strawberry.field(description="The endpoint; null when it has been deleted.")
    async def endpoint(self, info: Info) -> WebhookEndpoint | None:
        """Loaded with those of the whole level."""
        found: WebhookEndpoint | None = await info.context.load(endpoint_by_id, str(self.endpoint_id))
        return found


async def endpoint_by_id(context: Context, keys: Sequence[str]) -> Mapping[str, WebhookEndpoint]:
    """Endpoints of one level."""
    async with context.reading() as reading:
        found = await service.fetch_endpoints(reading, context.scope, keys)
    return {key: WebhookEndpoint.of(endpoint) for key, endpoint in found.items()}


async def delivery_by_id(context: Context, keys: Sequence[str]) -> Mapping[str, WebhookDelivery]:
    """Deliveries of one level."""
    async with context.reading() as reading:
        found = await service.fetch_deliveries(reading, context.scope, keys)
    return {key: WebhookDelivery.of(delivery) for key, delivery in found.items()}


async def secrets_by_endpoint(
    context: Context, keys: Sequence[str]
) -> Mapping[str, tuple[model.Secret, ...]]:
    """What is told of the secrets of each endpoint of one level."""
    async with context.reading() as reading:
        return await service.fetch_secrets(reading, context.scope, keys, context.services.clock())


async def deliveries_by_endpoint(
    context: Context,
    keys: Sequence[OfEndpoint],
    request: PageRequest,
    conditions: tuple[Condition, ...],
    descending: bool,  # noqa: FBT001 - loaders are given a field's arguments by position
) -> Mapping[OfEndpoint, Page[model.Delivery]]:
    """A page of deliveries for each endpoint of one level."""
    institutions, ids = _apart(keys)
    async with context.reading() as reading:
        found = await service.page_deliveries_each(
            reading, context.scope, institutions, ids, request, conditions, descending=descending
        )
    return {key: found[key[1]] for key in keys}


async def delivery_count_by_endpoint(
    context: Context, keys: Sequence[OfEndpoint], conditions: tuple[Condition, ...]
) -> Mapping[OfEndpoint, int]:
    """How many deliveries each endpoint of one level has."""
    institutions, ids = _apart(keys)
    async with context.reading() as reading:
        found = await service.count_deliveries_each(reading, context.scope, institutions, ids, conditions)
    return {key: found[key[1]] for key in keys}


def _apart(keys: Sequence[OfEndpoint]) -> tuple[list[str], list[str]]:
    return sorted({institution_id for institution_id, _ in keys}), [endpoint_id for _, endpoint_id in keys]
