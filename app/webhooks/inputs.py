"""What queries and mutations on webhooks take."""

from dataclasses import replace
from datetime import timedelta
from enum import StrEnum
from typing import TypeVar

import strawberry
from strawberry.types.unset import UnsetType

from app.engine import filters
from app.engine.connection import OrderDirection
from app.engine.enums import describe
from app.engine.filters import IDFilter, TimeFilter
from app.engine.scalars import Long
from app.ledger.model import Kind
from app.positions.model import State
from app.storage.conditions import Condition
from app.webhooks.model import (
    DESCRIPTION_LENGTH_MAX,
    OVERLAP_DEFAULT,
    OVERLAP_MAX,
    REPLAY_EVENTS_MAX,
    URL_LENGTH_MAX,
    DeliveryState,
    DisabledReason,
    EndpointDraft,
    Wanted,
)
from app.webhooks.replays import Range

T = TypeVar("T")
SECOND = timedelta(seconds=1)

_INSTITUTION = "The institution it is for. Root must name it; for everybody else it is their own."
_DIRECTION = "Which end comes first."
_WHICH = "The endpoint's id."
_URL = (
    f"Where events are sent by POST: https, port 443, 8443 or at least 1024, at most {URL_LENGTH_MAX} characters. "
    "Its name must lead to public addresses only. No user name, password or fragment; redirects are not followed."
)
_DESCRIPTION = f"What people call it: at most {DESCRIPTION_LENGTH_MAX} characters."
_KINDS = "Only events of these kinds"
_STATES = "Only events that leave a position in one of these states"

describe(
    DeliveryState,
    "Where a delivery is.",
    {
        DeliveryState.PENDING: "It is tried at `nextAttemptAt`; while that is null it waits behind an earlier event of "
        "its position.",
        DeliveryState.DELIVERED: "The receiver answered with a status of 200 to 299.",
        DeliveryState.FAILED: "No attempt of the whole schedule (75 hours) succeeded, or the receiver answered 410. "
        "It can be replayed.",
        DeliveryState.CANCELLED: "Its endpoint was disabled or deleted before it was delivered. It can be replayed "
        "while the endpoint is there.",
    },
    name="WebhookDeliveryState",
)
describe(
    DisabledReason,
    "Why an endpoint gets nothing.",
    {
        DisabledReason.ASKED: "Somebody disabled it.",
        DisabledReason.GONE: "Its receiver answered with the status 410: it wants nothing more.",
    },
    name="WebhookDisabledReason",
)


class WebhookOrderField(StrEnum):
    """What endpoints and deliveries are ordered by."""

    CREATED_AT = "CREATED_AT"


describe(
    WebhookOrderField,
    "What webhook endpoints and deliveries are ordered by.",
    {WebhookOrderField.CREATED_AT: "When it was made."},
)


@strawberry.input(
    description="The order of a list of endpoints or deliveries; without one, the newest come first."
)
class WebhookOrder:
    """An order."""

    field: WebhookOrderField = strawberry.field(description="What they are ordered by.")
    direction: OrderDirection = strawberry.field(default=OrderDirection.DESC, description=_DIRECTION)


@strawberry.input(description="Which endpoints a list has: those that pass every test.")
class WebhookEndpointWhere:
    """Tests on endpoints."""

    id: IDFilter | None = strawberry.field(default=None, description=_WHICH)
    institution_id: IDFilter | None = strawberry.field(default=None, description="The institution's id.")
    created_at: TimeFilter | None = strawberry.field(default=None, description="When the endpoint was made.")


@strawberry.input(description="A test on where a delivery is.")
class WebhookDeliveryStateFilter:
    """States of deliveries."""

    eq: DeliveryState | None = strawberry.field(default=None, description="Equal to this.")
    in_: list[DeliveryState] | None = strawberry.field(
        default=None, name="in", description="Equal to one of these."
    )


@strawberry.input(description="Which deliveries a list has: those that pass every test.")
class WebhookDeliveryWhere:
    """Tests on deliveries."""

    id: IDFilter | None = strawberry.field(default=None, description="The delivery's id.")
    institution_id: IDFilter | None = strawberry.field(default=None, description="The institution's id.")
    endpoint_id: IDFilter | None = strawberry.field(default=None, description=_WHICH)
    event_id: IDFilter | None = strawberry.field(default=None, description="The ledger event's id.")
    position_id: IDFilter | None = strawberry.field(
        default=None, description="The id of the position that the event is about."
    )
    state: WebhookDeliveryStateFilter | None = strawberry.field(default=None, description="Where it is.")
    created_at: TimeFilter | None = strawberry.field(default=None, description="When it was queued.")


@strawberry.input(description="A new webhook endpoint. It gets the events that are recorded from now on.")
class CreateWebhookEndpointInput:
    """An endpoint to make."""

    url: str = strawberry.field(description=_URL)
    description: str = strawberry.field(default="", description=_DESCRIPTION)
    kinds: list[Kind] | None = strawberry.field(default=None, description=f"{_KINDS}; all when absent.")
    states: list[State] | None = strawberry.field(default=None, description=f"{_STATES}; all when absent.")
    enabled: bool = strawberry.field(default=True, description="Whether it gets events already.")
    institution_id: strawberry.ID | None = strawberry.field(default=None, description=_INSTITUTION)

    def draft(self) -> EndpointDraft:
        """The same as a model."""
        wanted = Wanted(distinct(self.kinds), distinct(self.states))
        return EndpointDraft(self.url, self.description, wanted, self.enabled)


@strawberry.input(description="What to change of a webhook endpoint; what is absent stays as it is.")
class UpdateWebhookEndpointInput:
    """Changes of an endpoint."""

    id: strawberry.ID = strawberry.field(description=_WHICH)
    url: str | None = strawberry.field(default=None, description=_URL)
    description: str | None = strawberry.field(default=None, description=_DESCRIPTION)
    kinds: list[Kind] | None = strawberry.field(
        default=strawberry.UNSET, description=f"{_KINDS}; null for all."
    )
    states: list[State] | None = strawberry.field(
        default=strawberry.UNSET, description=f"{_STATES}; null for all."
    )
    enabled: bool | None = strawberry.field(
        default=None,
        description="False: what is pending is cancelled and nothing is sent. True: it gets the events recorded "
        "from now on; send earlier ones with replayWebhooks.",
    )

    def changed(self, draft: EndpointDraft) -> EndpointDraft:
        """`draft` with these changes."""
        wanted = draft.wanted
        if not isinstance(self.kinds, UnsetType):
            wanted = replace(wanted, kinds=distinct(self.kinds))
        if not isinstance(self.states, UnsetType):
            wanted = replace(wanted, states=distinct(self.states))
        return EndpointDraft(
            url=draft.url if self.url is None else self.url,
            description=draft.description if self.description is None else self.description,
            wanted=wanted,
            enabled=draft.enabled if self.enabled is None else self.enabled,
        )


@strawberry.input(description="Which webhook endpoint to delete.")
class DeleteWebhookEndpointInput:
    """An endpoint to delete."""

    id: strawberry.ID = strawberry.field(description=_WHICH)


@strawberry.input(description="Whose secret to turn over.")
class RotateWebhookSecretInput:
    """A rotation."""

    endpoint_id: strawberry.ID = strawberry.field(description=_WHICH)
    overlap_seconds: int = strawberry.field(
        default=OVERLAP_DEFAULT // SECOND,
        description="How long the secrets until now still sign beside the new one: 0 (a secret became known) "
        f"to {OVERLAP_MAX // SECOND}.",
    )


@strawberry.input(description="Where to send a test.")
class SendTestWebhookInput:
    """A test."""

    endpoint_id: strawberry.ID = strawberry.field(description=_WHICH)


@strawberry.input(
    description="Which part of the ledger to send again: by sequences of the institution or by ledger cursors, "
    "both ends exclusive, an absent end open. "
    f"At most {REPLAY_EVENTS_MAX} events that the endpoint wants at once."
)
class ReplayWebhooksInput:
    """A range to replay."""

    endpoint_id: strawberry.ID = strawberry.field(description=_WHICH)
    after_sequence: Long | None = strawberry.field(
        default=None, description="Only events behind this number of the institution's ledger."
    )
    before_sequence: Long | None = strawberry.field(
        default=None, description="Only events ahead of this number of the institution's ledger."
    )
    after: str | None = strawberry.field(default=None, description="Only events behind this ledger cursor.")
    before: str | None = strawberry.field(
        default=None, description="Only events ahead of this ledger cursor."
    )
    undelivered_only: bool = strawberry.field(
        default=False, description="Leave out what the endpoint has received already."
    )

    def range(self) -> Range:
        """The same as a model."""
        return Range(self.after_sequence, self.before_sequence, self.after, self.before)


def distinct(values: list[T] | None) -> tuple[T, ...] | None:
    """A filter without repeats, in the order given; None for all."""
    return None if values is None else tuple(dict.fromkeys(values))


def tests(where: object | None) -> tuple[Condition, ...]:
    """The tests of a `where`, hashable, so that equal nested lists are read together."""
    return tuple(
        replace(test, value=tuple(test.value)) if isinstance(test.value, list) else test
        for test in filters.conditions(where)
    )


def newest_first(order_by: WebhookOrder | None) -> bool:
    """Whether the newest come first."""
    return order_by is None or order_by.direction is OrderDirection.DESC
