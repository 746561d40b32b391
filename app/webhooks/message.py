"""What a receiver is told of an event: the fields of `LedgerEvent` without the personal ones."""

from collections.abc import Mapping
from datetime import UTC, datetime

from app.kit.canonical import Json, canonical_json
from app.kit.money import CURRENCIES, spell
from app.ledger.model import Event, Kind

TYPES = {
    Kind.POSITION_CREATED: "position.created",
    Kind.POSITION_STATE_CHANGED: "position.state_changed",
}
TEST_TYPE = "webhook.test"


def of_event(event: Event, cursor: str) -> bytes:
    """The body that tells of `event`. holderReference, reason and metadata are no part of it."""
    exponent = CURRENCIES[event.currency].exponent
    balances = event.balances
    data: dict[str, Json] = {
        "id": event.id,
        "sequence": event.sequence,
        "cursor": cursor,
        "institutionId": event.institution_id,
        "positionId": event.position_id,
        "positionVersion": event.position_version,
        "kind": event.kind,
        "kindVersion": event.kind_version,
        "previousState": event.previous_state,
        "newState": event.new_state,
        "previousStage": event.previous_stage,
        "newStage": event.new_stage,
        "moneyEffect": event.effect,
        "amountMoved": spell(event.amount_moved, exponent),
        "currency": event.currency,
        "balancesAfter": {
            "funded": spell(balances.funded, exponent),
            "released": spell(balances.released, exponent),
            "refunded": spell(balances.refunded, exponent),
            "held": spell(balances.held, exponent),
        },
        "data": event.data,
        "actor": {"id": event.actor.id, "role": event.actor.role},
        "requestId": event.actor.request_id,
        "templateId": event.template_id,
        "policyId": event.policy_id,
        "lifecycleName": event.lifecycle_name,
        "lifecycleVersion": event.lifecycle_version,
        "occurredAt": _time(event.occurred_at),
        "recordedAt": _time(event.recorded_at),
        "hash": event.hash.hex(),
    }
    return _body(TYPES[event.kind], event.recorded_at, data)


def of_test(delivery_id: str, endpoint_id: str, asked_at: datetime) -> bytes:
    """The body of a test, which tells of nothing."""
    return _body(TEST_TYPE, asked_at, {"deliveryId": delivery_id, "endpointId": endpoint_id})


def _body(type_: str, moment: datetime, data: Mapping[str, Json]) -> bytes:
    return canonical_json({"type": type_, "timestamp": _time(moment), "data": data}).encode()


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
