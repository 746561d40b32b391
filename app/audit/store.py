"""The audit table. Its rows are only ever inserted and read; the database refuses everything else."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import Column, Integer, Row, Select, Table, Text, func, select, text, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from app.audit.model import Action, AuditEvent, Outcome
from app.ledger.trail import Between
from app.storage import paging
from app.storage.conditions import Condition, narrow, within
from app.storage.database import Driver
from app.storage.tables import Document, Id, Moment, Word, metadata

LOCK_TIMEOUT = text("SELECT set_config('lock_timeout', '2s', true)")

audit_events = Table(
    "audit_events",
    metadata,
    Column("id", Id, primary_key=True),
    Column("occurred_at", Moment, primary_key=True),
    Column("institution_id", Id),
    Column("actor_id", Word, nullable=False),
    Column("actor_role", Word, nullable=False),
    Column("operation", Text, nullable=False),
    Column("action", Word, nullable=False),
    Column("resource_type", Word, nullable=False),
    Column("resource_id", Id),
    Column("outcome", Word, nullable=False),
    Column("code", Word),
    Column("request_id", Word, nullable=False),
    Column("client_address", Text),
    Column("payload", Document, nullable=False),
)
ORDER = (audit_events.c.occurred_at, audit_events.c.id)


async def add(connection: AsyncConnection, events: Sequence[AuditEvent]) -> None:
    """Insert them all, or none; one that is there already, by an attempt whose answer was lost, stays."""
    statement = insert(audit_events).on_conflict_do_nothing()
    await connection.execute(statement, [asdict(event) for event in events])


async def page(
    connection: AsyncConnection,
    scope: str,
    conditions: Sequence[Condition],
    between: Between[str],
    *,
    newest_first: bool,
    limit: int,
) -> tuple[AuditEvent, ...]:
    """The first `limit` rows of that part, from its newest or its oldest end."""
    directed = (column.desc() if newest_first else column.asc() for column in ORDER)
    statement = _matching(scope, conditions, between).order_by(*directed).limit(limit)
    return tuple(map(_event, await connection.execute(statement)))


async def count(
    connection: AsyncConnection, scope: str, conditions: Sequence[Condition], between: Between[str]
) -> int:
    """How many rows that part has."""
    return await paging.count(connection, _matching(scope, conditions, between))


async def make_partitions(connection: AsyncConnection, start: datetime, *, months: int) -> int:
    """Make the partitions of that month and the following ones; returns how many were missing.

    Waits for no long reader: a partition that could not be made now is made at the next try.
    """
    await connection.execute(LOCK_TIMEOUT)
    made = func.escrowgrid_make_audit_partitions(start, months, type_=Integer)
    return (await connection.execute(select(made))).scalar_one()


def _matching(scope: str, conditions: Sequence[Condition], between: Between[str]) -> Select[Any]:
    columns = {column.name: column for column in audit_events.columns}
    statement = within(select(audit_events), audit_events.c.institution_id, scope)
    if between.newer_than is not None:
        statement = statement.where(tuple_(*ORDER) > tuple_(*between.newer_than))
    if between.older_than is not None:
        statement = statement.where(tuple_(*ORDER) < tuple_(*between.older_than))
    return narrow(statement, columns, conditions)


def _event(row: Row[Any]) -> AuditEvent:
    found = dict(row._mapping)
    return AuditEvent(**found | {"action": Action(row.action), "outcome": Outcome(row.outcome)})


async def make_partitions_ahead(driver: Driver, months: int) -> int:
    """Partitions of this month and the `months` after it; returns how many were missing."""
    made: int = await driver.fetchval("SELECT escrowgrid_make_audit_partitions(now(), $1)", months)
    return made
