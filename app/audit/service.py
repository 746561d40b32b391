"""Writes the audit row of a mutation inside its transaction, and reads the audit as one list."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from app.audit import store, timeline
from app.audit.model import Action, AuditEntry, AuditEvent, Outcome
from app.kit.canonical import Json
from app.kit.ids import Ids
from app.ledger import trail
from app.ledger.model import Event
from app.principal import Principal
from app.storage.conditions import Condition
from app.storage.paging import Page, PageRequest

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from app.storage.database import Driver


@dataclass(frozen=True, slots=True)
class Work:
    """One ordinary transaction of the writer, and on whose behalf it is done; committed by who opened it."""

    connection: "AsyncConnection"
    actor: Principal
    request_id: str
    client_address: str | None
    operation: str
    now: datetime
    ids: Ids


async def record(
    work: Work,
    *,
    action: Action,
    resource_type: str,
    resource_id: str | None,
    institution_id: str | None,
    payload: Mapping[str, Json],
) -> None:
    """Note a success in the transaction that makes it one: neither is ever there without the other."""
    entry = AuditEntry(
        institution_id=institution_id,
        actor_id=work.actor.id,
        actor_role=work.actor.role,
        operation=work.operation,
        action=action,
        resource_type=resource_type,
        resource_id=resource_id,
        outcome=Outcome.SUCCESS,
        code=None,
        request_id=work.request_id,
        client_address=work.client_address,
        payload=payload,
    )
    await store.add(work.connection, [AuditEvent.of(entry, work.ids.new("aud"), work.now)])


async def make_partitions(driver: "Driver", months: int) -> int:
    """Make the audit's partitions of this month and the `months` after it; returns how many were missing."""
    return await store.make_partitions_ahead(driver, months)


async def missing_partitions(driver: "Driver", months: int) -> int:
    """How many of them are still not there: their reasons are warnings in the database's log."""
    return await store.missing_ahead(driver, months)


async def default_rows(driver: "Driver") -> int:
    """How many rows came for months without a partition, and wait for it; counted up to 10,000."""
    return await store.default_rows(driver)


async def page(
    connection: "AsyncConnection",
    scope: str,
    request: PageRequest,
    conditions: Sequence[Condition] = (),
    *,
    newest_first: bool = True,
) -> Page[AuditEvent]:
    """One page of the audit rows and the ledger events of `scope`, as one list in the order of time.

    Raises BadCursor for a cursor that was not made for this list.
    """
    wanted = timeline.wanted(scope, conditions)
    part = wanted.part.within(timeline.part_of(wanted.scope, request, newest_first=newest_first))
    limit, downwards = request.size + 1, newest_first != request.backward
    rows = await store.page(
        connection, wanted.scope, wanted.row_tests, part.of_rows, newest_first=downwards, limit=limit
    )
    events: Sequence[Event] = ()
    if wanted.event_tests is not None:
        events = await trail.page(
            connection, wanted.scope, wanted.event_tests, part.of_events, newest_first=downwards, limit=limit
        )
    return timeline.joined(wanted.scope, request, rows, events, newest_first=newest_first)


async def count(connection: "AsyncConnection", scope: str, conditions: Sequence[Condition] = ()) -> int:
    """How many rows and events the whole list has."""
    wanted = timeline.wanted(scope, conditions)
    found = await store.count(connection, wanted.scope, wanted.row_tests, wanted.part.of_rows)
    if wanted.event_tests is None:
        return found
    return found + await trail.count(connection, wanted.scope, wanted.event_tests, wanted.part.of_events)
