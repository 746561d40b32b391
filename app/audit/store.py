"""The audit table. Its rows are only ever inserted and read; the database refuses everything else."""

from collections.abc import Collection, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import Column, Integer, Row, Select, Table, Text, cast, func, select, text, tuple_
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from app.audit.model import Action, AuditEvent, Outcome
from app.ledger.trail import Between
from app.storage import paging
from app.storage.conditions import Condition, narrow, within
from app.storage.database import Driver
from app.storage.tables import Document, Id, Moment, Word, metadata

MISSING = """
SELECT count(*) FROM generate_series(0, {months}) AS ahead
WHERE NOT EXISTS (SELECT FROM pg_inherits WHERE inhparent = 'audit_events'::regclass AND inhrelid = to_regclass(
  'audit_events_' || to_char(
    date_trunc('month', {start} AT TIME ZONE 'UTC') + make_interval(months => ahead), 'YYYYMM')))
"""
MAKE_ONE_AHEAD = """
SELECT escrowgrid_make_audit_partitions((now() AT TIME ZONE 'UTC' + make_interval(months => $1)) AT TIME ZONE 'UTC', 0)
"""
DEFAULT_ROWS = "SELECT escrowgrid_audit_default_rows()"
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
    # By the database itself.
    Column("arrived_at", Moment),
)
COLUMNS = [column for column in audit_events.columns if column.name != "arrived_at"]
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


async def arrived(
    connection: AsyncConnection, scope: str, since: datetime, known: Collection[str], *, limit: int
) -> list[tuple[datetime, AuditEvent]]:
    """Rows that arrived after `since`, in that order, each with when; not those whose ids are `known`."""
    came = audit_events.c.arrived_at
    given = select(func.unnest(cast(list(known), ARRAY(Id))))
    statement = (
        within(select(*COLUMNS, came), audit_events.c.institution_id, scope)
        .where(came > since, audit_events.c.id.not_in(given))
        .order_by(came, audit_events.c.id)
        .limit(limit)
    )
    return [(row.arrived_at, _event(row)) for row in await connection.execute(statement)]


async def now(connection: AsyncConnection) -> datetime:
    """The time by the clock that says when rows arrive."""
    found: datetime = (await connection.execute(select(func.clock_timestamp()))).scalar_one()
    return found


async def make_partitions(connection: AsyncConnection, start: datetime, *, months: int) -> int:
    """Make the partitions of that month and the following ones; returns how many were missing.

    Waits for no long reader: a partition that could not be made now (`missing`) is made at the next try.
    """
    await connection.execute(LOCK_TIMEOUT)
    made = func.escrowgrid_make_audit_partitions(start, months, type_=Integer)
    return (await connection.execute(select(made))).scalar_one()


async def missing(connection: AsyncConnection, start: datetime, *, months: int) -> int:
    """How many of those partitions are not there."""
    counted = text(MISSING.format(months="CAST(:months AS int)", start="CAST(:start AS timestamptz)"))
    found: int = (await connection.execute(counted, {"months": months, "start": start})).scalar_one()
    return found


def _matching(scope: str, conditions: Sequence[Condition], between: Between[str]) -> Select[Any]:
    columns = {column.name: column for column in audit_events.columns}
    statement = within(select(*COLUMNS), audit_events.c.institution_id, scope)
    if between.newer_than is not None:
        statement = statement.where(tuple_(*ORDER) > tuple_(*between.newer_than))
    if between.older_than is not None:
        statement = statement.where(tuple_(*ORDER) < tuple_(*between.older_than))
    return narrow(statement, columns, conditions)


def _event(row: Row[Any]) -> AuditEvent:
    found = {column.name: row._mapping[column.name] for column in COLUMNS}
    return AuditEvent(**found | {"action": Action(row.action), "outcome": Outcome(row.outcome)})


async def default_rows(connection: Driver) -> int:
    """How many rows the default partition caught, counted up to 10,000; as the feed role."""
    found: int = await connection.fetchval(DEFAULT_ROWS)
    return found


async def missing_ahead(connection: Driver, months: int) -> int:
    """How many partitions of this month and the `months` after it are not there."""
    found: int = await connection.fetchval(MISSING.format(months="$1::int", start="now()"), months)
    return found


async def make_partitions_ahead(connection: Driver, months: int) -> int:
    """Partitions of this month and the `months` after it; returns how many were missing."""
    # Who waits for a reader has every writer wait behind: once for a second, from then on hardly.
    await connection.execute("SET LOCAL lock_timeout = '1s'")
    made = 0
    for ahead in range(months + 1):
        made += await connection.fetchval(MAKE_ONE_AHEAD, ahead)
        if await missing_ahead(connection, ahead):
            await connection.execute("SET LOCAL lock_timeout = '20ms'")
    return made
