"""The positions table and what is read from it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from sqlalchemy import Column, Integer, Row, Select, Table, func, literal_column, select
from sqlalchemy.dialects.postgresql import TIMESTAMP
from sqlalchemy.ext.asyncio import AsyncConnection

from app.kit import money
from app.positions.model import Position
from app.positions.rows import COLUMNS, position_of
from app.storage.conditions import Condition, narrow, within
from app.storage.paging import Order, Page, PageRequest, count, count_each, fetch_page, fetch_page_each
from app.storage.tables import Id, Moment, Money, Word, metadata

positions = Table(
    "positions",
    metadata,
    Column("institution_id", Id, primary_key=True),
    Column("id", Id, primary_key=True),
    Column("asset_id", Id, nullable=False),
    Column("holder_reference", Word),
    Column("external_reference", Word),
    Column("currency", Word, nullable=False),
    Column("amount", Money, nullable=False),
    Column("amount_key", Word, nullable=False),
    Column("funded", Money, nullable=False),
    Column("released", Money, nullable=False),
    Column("refunded", Money, nullable=False),
    Column("held", Money, nullable=False),
    Column("state", Word, nullable=False),
    Column("stage", Word, nullable=False),
    Column("version", Integer, nullable=False),
    Column("lifecycle_name", Word, nullable=False),
    Column("lifecycle_version", Integer, nullable=False),
    Column("expires_at", Moment),
    Column("created_at", Moment, nullable=False),
    Column("updated_at", Moment, nullable=False),
    Column("closed_at", Moment),
)
t = positions.c

EXPIRES = func.coalesce(
    t.expires_at, literal_column("'infinity'::timestamptz"), type_=TIMESTAMP(timezone=True)
)
ORDERS: Mapping[str, tuple[Any, ...]] = {
    "CREATED": (t.created_at, t.id),
    "AMOUNT": (t.amount_key, t.id),
    "EXPIRES": (EXPIRES, t.id),
}
FIELDS = {
    "id": t.id,
    "institution_id": t.institution_id,
    "asset_id": t.asset_id,
    "holder_reference": t.holder_reference,
    "external_reference": t.external_reference,
    "currency": t.currency,
    "amount": t.amount_key,
    "state": t.state,
    "stage": t.stage,
    "created_at": t.created_at,
    "expires_at": t.expires_at,
}
OPEN_STATES = frozenset({"CREATED", "FUNDED", "PARTIALLY_RELEASED"})

Conditions = tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class SummaryRow:
    """One group of positions in one currency."""

    keys: Mapping[str, Any]
    currency: str
    count: int
    amount: Decimal
    funded: Decimal
    released: Decimal
    refunded: Decimal
    held: Decimal


def order(name: str, *, descending: bool) -> Order:
    """A named order of positions."""
    return Order(f"positions.{name}", ORDERS[name], descending=descending)


async def fetch_many(connection: AsyncConnection, scope: str, ids: Sequence[str]) -> Mapping[str, Position]:
    """Positions by id; those of others are not there."""
    rows = await connection.execute(_select(scope).where(t.id.in_(ids)))
    return {row.id: _model(row) for row in rows}


async def fetch_list(
    connection: AsyncConnection, scope: str, conditions: Conditions, order: Order, request: PageRequest
) -> Page[Position]:
    """One page of the positions that pass."""
    return await fetch_page(connection, _narrowed(scope, conditions), order, request, _model)


async def count_list(connection: AsyncConnection, scope: str, conditions: Conditions) -> int:
    """How many positions pass."""
    return await count(connection, _narrowed(scope, conditions))


async def fetch_each(
    connection: AsyncConnection,
    scope: str,
    asset_ids: Sequence[str],
    conditions: Conditions,
    order: Order,
    request: PageRequest,
) -> Mapping[str, Page[Position]]:
    """One page of the positions of each asset."""
    statement = _narrowed(scope, conditions)
    return await fetch_page_each(connection, asset_ids, t.asset_id, statement, order, request, _model)


async def count_of_each(
    connection: AsyncConnection, scope: str, asset_ids: Sequence[str], conditions: Conditions
) -> Mapping[str, int]:
    """How many positions each asset has."""
    return await count_each(connection, asset_ids, t.asset_id, _narrowed(scope, conditions))


async def summarise(
    connection: AsyncConnection, scope: str, conditions: Conditions, groups: Mapping[str, Any], limit: int
) -> list[SummaryRow]:
    """Counts and sums by group, always split by currency as well; the first `limit` groups in order."""
    keys = [column.label(f"key_{name}") for name, column in groups.items()]
    sums = [func.sum(t[name]).label(name) for name in ("amount", "funded", "released", "refunded", "held")]
    statement = within(select(*keys, t.currency, func.count().label("n"), *sums), t.institution_id, scope)
    statement = narrow(statement, FIELDS, _spelled(conditions))
    statement = statement.group_by(*keys, t.currency).order_by(*keys, t.currency).limit(limit)
    rows = (await connection.execute(statement)).all()
    return [
        SummaryRow(
            {name: row._mapping[f"key_{name}"] for name in groups},
            row.currency,
            row.n,
            row.amount,
            row.funded,
            row.released,
            row.refunded,
            row.held,
        )
        for row in rows
    ]


def grouping(name: str, zone: str) -> Any:
    """The column that a named group of a summary is made of; days are days of `zone`."""
    local = func.timezone(zone, t.created_at)
    return {
        "STATE": t.state,
        "STAGE": t.stage,
        "ASSET": t.asset_id,
        "HOLDER": t.holder_reference,
        "INSTITUTION": t.institution_id,
        "CREATED_DAY": func.to_char(local, "YYYY-MM-DD"),
        "CREATED_MONTH": func.to_char(local, "YYYY-MM"),
    }[name]


def _select(scope: str) -> Select[Any]:
    return within(select(*(positions.c[name] for name in COLUMNS)), t.institution_id, scope)


def _narrowed(scope: str, conditions: Conditions) -> Select[Any]:
    statement = narrow(_select(scope), FIELDS, _spelled(conditions))
    states = [set(_values(c)) for c in conditions if c.field == "state"]
    if states and set.intersection(*states) <= OPEN_STATES:
        # Lets the partial index on open positions serve.
        statement = statement.where(t.closed_at.is_(None))
    return statement


def _spelled(conditions: Conditions) -> Conditions:
    """Amounts are compared by their key, the only spelling an index serves under row-level security."""
    return tuple(
        Condition(c.field, c.operator, money.key(c.value)) if c.field == "amount" else c for c in conditions
    )


def _values(condition: Condition) -> Sequence[str]:
    return condition.value if condition.operator == "in" else [condition.value]


def _model(row: Row[Any]) -> Position:
    return position_of(row._mapping)
