"""The audit as GraphQL: who asked for what, and what was answered."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated

import strawberry

from app.audit import service
from app.audit.model import Action, AuditEvent, Outcome
from app.context import Info, may
from app.engine.connection import After, Before, Connection, First, Last, OrderDirection, connection
from app.engine.enums import describe
from app.engine.filters import IDFilter, TimeFilter, conditions
from app.engine.roles import Role, Scope
from app.engine.scalars import JsonObject

describe(
    Action,
    "What was asked for, or at which door a request was turned away.",
    {
        Action.INSTITUTION_CREATED: "An institution was opened.",
        Action.API_KEY_CREATED: "A key was made.",
        Action.API_KEY_REVOKED: "A key was revoked.",
        Action.API_KEY_ROTATED: "A key got another secret.",
        Action.ASSET_TEMPLATE_CREATED: "A template, or a new version of one, was made.",
        Action.ASSET_CREATED: "An asset was registered.",
        Action.POSITION_CREATED: "A position was opened.",
        Action.POSITION_TRANSITIONED: "A position was moved through its lifecycle.",
        Action.POLICY_UPDATED: "A policy got a new version.",
        Action.WEBHOOK_ENDPOINT_CREATED: "A webhook endpoint was made.",
        Action.WEBHOOK_ENDPOINT_UPDATED: "A webhook endpoint was changed, enabled or disabled.",
        Action.WEBHOOK_ENDPOINT_DELETED: "A webhook endpoint was deleted.",
        Action.WEBHOOK_ENDPOINT_DISABLED: "The server disabled a webhook endpoint: its receiver said it is gone.",
        Action.WEBHOOK_SECRET_ROTATED: "A webhook endpoint got a new signing secret.",
        Action.WEBHOOK_TEST_SENT: "A test was sent to a webhook endpoint.",
        Action.WEBHOOKS_REPLAYED: "A range of the ledger was sent to a webhook endpoint again.",
        Action.AUTH_FAILED: "A request came without a valid key.",
        Action.AUTH_FORBIDDEN: "A key asked for something that its role or scopes do not allow.",
        Action.VALIDATION_FAILED: "A request was malformed before it named an action.",
        Action.RATE_LIMITED: "A key or an address asked too much at once.",
        Action.CONCURRENCY_CONFLICT: "A move expected a version of its position that another move had passed.",
    },
    name="AuditAction",
)
describe(
    Outcome,
    "What was answered.",
    {
        Outcome.SUCCESS: "It was done.",
        Outcome.FAILURE: "It was refused; `code` says why. Nothing was changed.",
    },
    name="AuditOutcome",
)


class AuditEventOrderField(StrEnum):
    """What the audit can be ordered by."""

    OCCURRED_AT = "OCCURRED_AT"


describe(
    AuditEventOrderField,
    "What the audit can be ordered by.",
    {AuditEventOrderField.OCCURRED_AT: "When it happened."},
)


@strawberry.type(
    name="AuditEvent",
    description="Who asked for what, and what was answered. An accepted position command is shown by its "
    "ledger event: the id and the time are the event's.",
)
class AuditEventType:
    """One audit event."""

    id: strawberry.ID = strawberry.field(
        description="Its id: aud_… for an audit row, evt_… for a ledger event, which `node` also finds."
    )
    occurred_at: datetime = strawberry.field(
        description="When it was asked for; for a ledger event, when the ledger recorded it."
    )
    institution_id: strawberry.ID | None = strawberry.field(
        description="The institution it was done for, or whose key asked; null when it concerns none."
    )
    actor_id: str = strawberry.field(
        description="Who asked: the id of a key, `root`, or `clerk` for what the server does by itself."
    )
    actor_role: Role | None = strawberry.field(
        description="The role in which it was asked; null when nobody known asked."
    )
    operation: str | None = strawberry.field(
        description="The mutation's name, or the path of a request turned away; null for a ledger event."
    )
    action: Action = strawberry.field(description="What was asked for.")
    resource_type: str = strawberry.field(description="What kind of thing it was about, such as asset.")
    resource_id: strawberry.ID | None = strawberry.field(
        description="The thing it was about; null when it did not come to be or was not named."
    )
    outcome: Outcome = strawberry.field(description="Whether it was done or refused.")
    code: str | None = strawberry.field(description="Why it was refused; null when it was done.")
    request_id: str = strawberry.field(description="The id of the request, as in the answer's X-Request-ID.")
    client_address: str | None = strawberry.field(
        description="The network address it came from; null for a ledger event."
    )
    payload: JsonObject = strawberry.field(
        description="What else is worth knowing, by action. Never personal data, never a secret."
    )

    @classmethod
    def of(cls, event: AuditEvent) -> "AuditEventType":
        """The type that shows `event`."""
        return cls(
            id=strawberry.ID(event.id),
            occurred_at=event.occurred_at,
            institution_id=strawberry.ID(event.institution_id) if event.institution_id else None,
            actor_id=event.actor_id,
            actor_role=Role.__members__.get(event.actor_role),
            operation=event.operation or None,
            action=event.action,
            resource_type=event.resource_type,
            resource_id=strawberry.ID(event.resource_id) if event.resource_id else None,
            outcome=event.outcome,
            code=event.code,
            request_id=event.request_id,
            client_address=event.client_address,
            payload=JsonObject(event.payload),
        )


@strawberry.input(description="A test on an audit action.")
class AuditActionFilter:
    """Exact actions."""

    eq: Action | None = strawberry.field(default=None, description="Equal to this.")
    in_: list[Action] | None = strawberry.field(
        default=None, name="in", description="Equal to one of these; at most 100."
    )


@strawberry.input(description="A test on an audit outcome.")
class AuditOutcomeFilter:
    """Exact outcomes."""

    eq: Outcome | None = strawberry.field(default=None, description="Equal to this.")


@strawberry.input(
    description="Which audit events to list; all tests must pass. An index serves `institutionId` and "
    "`occurredAt`. The others look at every event these two leave: in a long history, give a span of time."
)
class AuditEventWhere:
    """The filter of `auditEvents`."""

    institution_id: IDFilter | None = strawberry.field(default=None, description="The institution.")
    actor_id: IDFilter | None = strawberry.field(
        default=None, description="Who asked: a key's id, or `root`."
    )
    action: AuditActionFilter | None = strawberry.field(default=None, description="What was asked for.")
    outcome: AuditOutcomeFilter | None = strawberry.field(default=None, description="What was answered.")
    resource_id: IDFilter | None = strawberry.field(default=None, description="The thing it was about.")
    occurred_at: TimeFilter | None = strawberry.field(default=None, description="When it happened.")


@strawberry.input(description="How to order audit events.")
class AuditEventOrder:
    """The order of `auditEvents`."""

    field: AuditEventOrderField = strawberry.field(description="What to order by.")
    direction: OrderDirection = strawberry.field(
        default=OrderDirection.DESC, description="Which end comes first."
    )


@strawberry.type
class Query:
    """What can be asked of the audit."""

    @strawberry.field(
        permission_classes=[may(Scope.AUDIT_READ)],
        description="Who asked for what, and what was answered: refusals, ordinary mutations, and the "
        "ledger's events, as one list, newest first.",
    )
    async def audit_events(
        self,
        info: Info,
        where: Annotated[
            AuditEventWhere | None, strawberry.argument(description="Which events; all when absent.")
        ] = None,
        order_by: Annotated[
            AuditEventOrder | None, strawberry.argument(description="The order; newest first when absent.")
        ] = None,
        first: First = None,
        after: After = None,
        last: Last = None,
        before: Before = None,
    ) -> Connection[AuditEventType]:
        """One page of the audit."""
        context, tests = info.context, conditions(where)
        request = context.page(first, after, last, before)
        newest_first = order_by is None or order_by.direction is OrderDirection.DESC

        async def count() -> int:
            async with context.reading() as reading:
                return await service.count(reading, context.scope, tests)

        async with context.reading() as reading:
            page = await service.page(reading, context.scope, request, tests, newest_first=newest_first)
        return connection(page, AuditEventType.of, count)
