"""What an audit event is: who asked for what, and what we answered."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import datetime
from enum import StrEnum

from app.kit.canonical import Json
from app.kit.money import CURRENCIES, spell
from app.ledger.model import Event, Kind

TEXT_LENGTH_MAX = 1000


class Action(StrEnum):
    """What was asked for, or at which door it was turned away."""

    INSTITUTION_CREATED = "INSTITUTION_CREATED"
    API_KEY_CREATED = "API_KEY_CREATED"
    API_KEY_REVOKED = "API_KEY_REVOKED"
    API_KEY_ROTATED = "API_KEY_ROTATED"
    ASSET_TEMPLATE_CREATED = "ASSET_TEMPLATE_CREATED"
    ASSET_CREATED = "ASSET_CREATED"
    POSITION_CREATED = "POSITION_CREATED"
    POSITION_TRANSITIONED = "POSITION_TRANSITIONED"
    POLICY_UPDATED = "POLICY_UPDATED"
    HOLDER_ERASED = "HOLDER_ERASED"
    WEBHOOK_ENDPOINT_CREATED = "WEBHOOK_ENDPOINT_CREATED"
    WEBHOOK_ENDPOINT_UPDATED = "WEBHOOK_ENDPOINT_UPDATED"
    WEBHOOK_ENDPOINT_DELETED = "WEBHOOK_ENDPOINT_DELETED"
    WEBHOOK_ENDPOINT_DISABLED = "WEBHOOK_ENDPOINT_DISABLED"
    WEBHOOK_SECRET_ROTATED = "WEBHOOK_SECRET_ROTATED"  # noqa: S105 - no secret
    WEBHOOK_TEST_SENT = "WEBHOOK_TEST_SENT"
    WEBHOOKS_REPLAYED = "WEBHOOKS_REPLAYED"
    AUTH_FAILED = "AUTH_FAILED"
    AUTH_FORBIDDEN = "AUTH_FORBIDDEN"
    VALIDATION_FAILED = "VALIDATION_FAILED"
    RATE_LIMITED = "RATE_LIMITED"
    CONCURRENCY_CONFLICT = "CONCURRENCY_CONFLICT"


# An accepted position command has no audit row: its ledger event says it all.
LEDGER_ACTIONS = frozenset({Action.POSITION_CREATED, Action.POSITION_TRANSITIONED})


class Outcome(StrEnum):
    """What we answered."""

    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """An audit event that has no id and time yet. `payload` holds no personal data and no secret.

    `operation` is the mutation's name, or the path of a request turned away; empty for a ledger event.
    """

    institution_id: str | None
    actor_id: str
    actor_role: str
    operation: str
    action: Action
    resource_type: str
    resource_id: str | None
    outcome: Outcome
    code: str | None
    request_id: str
    client_address: str | None
    payload: Mapping[str, Json]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEvent(AuditEntry):
    """One audit event; that of an accepted position command has the id and the time of its ledger event."""

    id: str
    occurred_at: datetime

    @classmethod
    def of(cls, entry: AuditEntry, event_id: str, occurred_at: datetime) -> "AuditEvent":
        """`entry` with an id and a time."""
        return cls(
            **{field.name: getattr(entry, field.name) for field in fields(AuditEntry)},
            id=event_id,
            occurred_at=occurred_at,
        )


def of_ledger(event: Event) -> AuditEvent:
    """The audit event that an accepted position command is. Nothing personal: no holder, reason, metadata."""
    return AuditEvent(
        id=event.id,
        occurred_at=event.recorded_at,
        institution_id=event.institution_id,
        actor_id=event.actor.id,
        actor_role=event.actor.role,
        operation="",
        action=Action.POSITION_CREATED
        if event.kind is Kind.POSITION_CREATED
        else Action.POSITION_TRANSITIONED,
        resource_type="position",
        resource_id=event.position_id,
        outcome=Outcome.SUCCESS,
        code=None,
        request_id=event.actor.request_id,
        client_address=None,
        payload=_ledger_payload(event),
    )


def storable(entry: AuditEntry) -> AuditEntry:
    """`entry` with what the database would refuse taken out of its texts, and the rest cut to a bound.

    An attempt must not stay out of the audit because of the very text that made it fail.
    """
    return replace(
        entry,
        actor_id=_clean(entry.actor_id),
        operation=_clean(entry.operation),
        resource_type=_clean(entry.resource_type),
        resource_id=entry.resource_id and _clean(entry.resource_id),
        request_id=_clean(entry.request_id),
        client_address=entry.client_address and _clean(entry.client_address),
    )


def _clean(text: str) -> str:
    whole = text.replace("\x00", "").encode("utf-8", "replace").decode()
    return whole[:TEXT_LENGTH_MAX]


def _ledger_payload(event: Event) -> Mapping[str, Json]:
    exponent = CURRENCIES[event.currency].exponent
    known: dict[str, Json] = {
        "from": event.previous_state,
        "to": event.new_state,
        "version": event.position_version,
        "currency": event.currency,
        "amountMoved": spell(event.amount_moved, exponent),
    }
    return known | {name: event.data[name] for name in ("assetId", "amount") if name in event.data}
