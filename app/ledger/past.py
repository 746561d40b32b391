"""The ledger as it was: which event was the last one then. What is not known yet is an error, never an empty answer."""

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import ColumnElement, select
from sqlalchemy.sql.selectable import LateralFromClause

from app.errors import BadRequest
from app.ledger import settled
from app.ledger.model import Event
from app.ledger.queries import fetch_head
from app.ledger.store import event_of, ledger_events
from app.principal import ALL_INSTITUTIONS
from app.storage.database import Database

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

t = ledger_events.c


@dataclass(frozen=True, slots=True)
class Place:
    """A point in the ledger: all events up to `sequence`, in the order of `scope` (an institution, or * for all)."""

    scope: str
    sequence: int

    def covers(self) -> ColumnElement[bool]:
        """The events up to it."""
        number = t.global_sequence if self.scope == ALL_INSTITUTIONS else t.sequence
        return number <= self.sequence


async def at_sequence(connection: "AsyncConnection", scope: str, sequence: int) -> Place:
    """The point behind event `sequence`; raises `BadRequest` when the ledger does not reach so far."""
    head, _hash = await fetch_head(connection, scope)
    if not 0 <= sequence <= head:
        raise BadRequest(f"the ledger has the sequences 1 to {head}; it is not known what comes after")
    return Place(scope, sequence)


async def at_time(
    connection: "AsyncConnection", database: Database, institution_id: str, moment: datetime
) -> Place:
    """The point of the last event recorded at `moment` or before: the same one whenever it is asked for.

    Raises `BadRequest` for what is yet to come, `Unavailable` for what is being written at this moment.
    """
    seen, _hash = await fetch_head(connection, institution_id)
    await settled.require(database, institution_id, seen, moment)
    last = (
        select(t.sequence)
        .where(t.institution_id == institution_id, t.recorded_at <= moment)
        .order_by(t.recorded_at.desc(), t.sequence.desc())
        .limit(1)
    )
    return Place(institution_id, (await connection.execute(last)).scalar_one_or_none() or 0)


async def last_of(connection: "AsyncConnection", position_id: str, place: Place) -> Event | None:
    """The position's last event up to `place`; None when it had not been opened."""
    statement = (
        select(ledger_events)
        .where(t.position_id == position_id, place.covers())
        .order_by(t.position_version.desc())
        .limit(1)
    )
    row = (await connection.execute(statement)).one_or_none()
    return None if row is None else event_of(row._mapping)


def last_event(position_id: ColumnElement[str], place: Place) -> LateralFromClause:
    """For each position its last event up to `place`, to be joined: its states and balances were those then."""
    names = ("funded", "released", "refunded", "held", "new_state", "new_stage")
    return (
        select(*(t[name] for name in names))
        .where(t.position_id == position_id, place.covers())
        .order_by(t.position_version.desc())
        .limit(1)
        .lateral("last_event")
    )
