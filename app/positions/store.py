"""The positions table and what is read from it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Integer,
    LargeBinary,
    Row,
    Select,
    Table,
    Text,
    any_,
    cast,
    func,
    select,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.base import ReadOnlyColumnCollection

from app.kit import money
from app.personal.store import holders
from app.positions.model import DEADLINE_MAX
from app.positions.rows import COLUMNS
from app.principal import ALL_INSTITUTIONS
from app.storage.conditions import Condition, narrow, within
from app.storage.database import Named, driver_of
from app.storage.paging import Order, Page, PageRequest, count, count_each, fetch_page, fetch_page_each
from app.storage.statements import fetched
from app.storage.tables import Id, Moment, Money, Word, metadata

positions = Table(
    "positions",
    metadata,
    Column("institution_id", Id, primary_key=True),
    Column("id", Id, primary_key=True),
    Column("asset_id", Id, nullable=False),
    Column("holder_id", Id),
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
    Column("expires_key", Moment, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("updated_at", Moment, nullable=False),
    Column("closed_at", Moment),
)
t = positions.c
h = holders

# What a test on a holder's reference becomes: the pairs of (institution, blind index) that it stands for.
HOLDER_BLINDS = "holder_blinds"

ORDERS: Mapping[str, tuple[Any, ...]] = {
    "CREATED": (t.created_at, t.id),
    "AMOUNT": (t.amount_key, t.id),
    "EXPIRES": (t.expires_key, t.id),
}
# What every list begins with: to put twenty columns together costs more than to ask for them.
_ROWS = select(*(positions.c[name] for name in COLUMNS))
# With what the holder's reference is opened with.
_OPENABLE = _ROWS.add_columns(h.c.reference, h.c.data_key).select_from(
    positions.outerjoin(h, (h.c.institution_id == t.institution_id) & (h.c.id == t.holder_id))
)
# Straight through the driver: this is asked most. Holders one by one along the key, whatever is known of them.
BY_ID = f"""
SELECT {", ".join("p." + column for column in COLUMNS)}, h.reference, h.data_key FROM positions p
LEFT JOIN LATERAL (SELECT reference, data_key FROM holders WHERE institution_id = p.institution_id AND id = p.holder_id
                   LIMIT 1) h ON true
WHERE p.id = ANY($1::text[])
"""
OPEN_STATES = frozenset({"CREATED", "FUNDED", "PARTIALLY_RELEASED"})

Conditions = tuple[Condition, ...]
Columns = ReadOnlyColumnCollection[str, Any]


def fields(c: Columns) -> Mapping[str, ColumnElement[Any]]:
    """What a condition on a named field tests."""
    return {
        "id": c.id,
        "institution_id": c.institution_id,
        "asset_id": c.asset_id,
        "external_reference": c.external_reference,
        "currency": c.currency,
        "amount": c.amount_key,
        "state": c.state,
        "stage": c.stage,
        "created_at": c.created_at,
        "expires_at": c.expires_key,
    }


def order(name: str, *, descending: bool, alone: bool = True) -> Order:
    """A named order of positions; unless they are of one institution alone, that of their ids."""
    if alone:
        return Order(f"positions.{name}", ORDERS[name], descending=descending)
    # Every index starts with the institution but that of the ids, which sort in the order they were made.
    return Order("positions.id", (t.id,), descending=descending)


async def fetch_many(connection: AsyncConnection, scope: str, ids: Sequence[str]) -> Sequence[Named]:
    """Positions by id, with their holders; those of others are not there."""
    driver = await driver_of(connection)
    if scope == ALL_INSTITUTIONS:
        return await fetched(connection, driver, BY_ID, (ids,))
    return await fetched(connection, driver, f"{BY_ID} AND p.institution_id = $2", (ids, scope))


async def fetch_list(
    connection: AsyncConnection, scope: str, conditions: Conditions, order: Order, request: PageRequest
) -> Page[Named]:
    """One page of the positions that pass, with their holders."""
    statement = _narrowed(_OPENABLE, scope, conditions)
    return await fetch_page(connection, statement, order, request, _mapping)


async def count_list(connection: AsyncConnection, scope: str, conditions: Conditions) -> int:
    """How many positions pass."""
    return await count(connection, _narrowed(_ROWS, scope, conditions))


async def fetch_each(
    connection: AsyncConnection,
    scope: str,
    asset_ids: Sequence[str],
    conditions: Conditions,
    order: Order,
    request: PageRequest,
) -> Mapping[str, Page[Named]]:
    """One page of the positions of each asset, with their holders."""
    statement = _narrowed(_OPENABLE, scope, conditions)
    return await fetch_page_each(connection, asset_ids, t.asset_id, statement, order, request, _mapping)


async def count_of_each(
    connection: AsyncConnection, scope: str, asset_ids: Sequence[str], conditions: Conditions
) -> Mapping[str, int]:
    """How many positions each asset has."""
    return await count_each(connection, asset_ids, t.asset_id, _narrowed(_ROWS, scope, conditions))


def passing(statement: Select[Any], c: Columns, conditions: Conditions) -> Select[Any]:
    """`statement` with every condition; holders are found by their blind indexes."""
    plain = tuple(test for test in conditions if test.field != HOLDER_BLINDS)
    statement = narrow(statement, fields(c), spelled(plain))
    for test in conditions:
        if test.field == HOLDER_BLINDS:
            statement = statement.where(_held_for(c, test.value))
    return statement


def _held_for(c: Columns, pairs: Sequence[tuple[str, bytes]]) -> ColumnElement[bool]:
    wanted = (
        func.unnest(
            cast([institution_id for institution_id, _ in pairs], ARRAY(Text(collation="C"))),
            cast([blind for _, blind in pairs], ARRAY(LargeBinary)),
        )
        .table_valued("institution_id", "blind")
        .render_derived(name="wanted")
    )
    found = select(h.c.id).join(
        wanted, (h.c.institution_id == wanted.c.institution_id) & (h.c.blind == wanted.c.blind)
    )
    # As an array, so that it is asked for first and the index on positions serves.
    passes: ColumnElement[bool] = c.holder_id == any_(func.array(found.scalar_subquery()))
    return passes


def _narrowed(statement: Select[Any], scope: str, conditions: Conditions) -> Select[Any]:
    statement = passing(within(statement, t.institution_id, scope), t, conditions)
    states = [set(_values(c)) for c in conditions if c.field == "state"]
    if states and set.intersection(*states) <= OPEN_STATES:
        # Lets the partial index on open positions serve.
        statement = statement.where(t.closed_at.is_(None))
    return statement


def spelled(conditions: Conditions) -> Conditions:
    """Amounts and deadlines compared by their keys, which indexes serve under row-level security."""
    return tuple(test for condition in conditions for test in _spelled(condition))


def _spelled(test: Condition) -> Iterator[Condition]:
    yield Condition(test.field, test.operator, money.key(test.value)) if test.field == "amount" else test
    if test.field == "expires_at":
        # What never expires passes no test of an instant, not even of the last one that can be named.
        yield Condition(test.field, "lte", DEADLINE_MAX)


def _values(condition: Condition) -> Sequence[str]:
    return condition.value if condition.operator == "in" else [condition.value]


def _mapping(row: Row[Any]) -> Named:
    return row._mapping
