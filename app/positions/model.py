"""A position: money of one currency held for a holder on an asset, and what became of it."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from app.ledger.model import Balances, Effect, Event, State

__all__ = [
    "DEADLINE_MAX",
    "KEY_LENGTH_MAX",
    "REASON_LENGTH_MAX",
    "REFERENCE_LENGTH_MAX",
    "Held",
    "Position",
    "State",
    "opened",
    "stamped",
]


REFERENCE_LENGTH_MAX = 255
REASON_LENGTH_MAX = 1_000
KEY_LENGTH_MAX = 255
# The driver takes the last instant that Python knows for infinity, which is what no deadline is to the database.
DEADLINE_MAX = datetime.max.replace(tzinfo=UTC) - timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Position:
    """One position as of its `version`."""

    id: str
    institution_id: str
    asset_id: str
    holder_reference: str | None
    external_reference: str | None
    currency: str
    amount: Decimal
    balances: Balances
    state: State
    stage: str
    version: int
    lifecycle_name: str
    lifecycle_version: int
    expires_at: datetime | None
    created_at: datetime
    updated_at: datetime
    closed_at: datetime | None


@dataclass(frozen=True, slots=True)
class Held:
    """A position under the writer's lock, with what its asset's template says of it."""

    position: Position
    template_id: str
    region: str


def stamped(position: Position, event: Event, *, closed: bool) -> Position:
    """The position as `event` left it: its version, states and balances, and when."""
    return replace(
        position,
        version=event.position_version,
        state=State(event.new_state),
        stage=event.new_stage,
        balances=event.balances,
        created_at=event.recorded_at if event.position_version == 1 else position.created_at,
        updated_at=event.recorded_at,
        closed_at=event.recorded_at if closed else None,
    )


def opened(event: Event, holder_reference: str | None = None) -> Position:
    """The position that a creation opened; raises `KeyError` or `ValueError` for other data than a creation's."""
    data = event.data
    expires, reference = data["expiresAt"], data["externalReference"]
    return Position(
        id=event.position_id,
        institution_id=event.institution_id,
        asset_id=str(data["assetId"]),
        holder_reference=holder_reference,
        external_reference=None if reference is None else str(reference),
        currency=event.currency,
        amount=Decimal(str(data["amount"])),
        balances=event.balances if event.effect is Effect.NONE else Balances(),
        state=State.CREATED,
        stage=event.new_stage,
        version=1,
        lifecycle_name=event.lifecycle_name,
        lifecycle_version=event.lifecycle_version,
        expires_at=None if expires is None else datetime.fromisoformat(str(expires)),
        created_at=event.recorded_at,
        updated_at=event.recorded_at,
        closed_at=None,
    )
