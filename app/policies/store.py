"""The rows of policies. A read is narrowed to the scope it is given: one institution, or * for root."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ARRAY, Column, ColumnElement, Integer, Row, Select, Table, Text, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.errors import BadRequest
from app.institutions.model import Region
from app.policies.model import Policy
from app.principal import ALL_INSTITUTIONS
from app.storage import paging
from app.storage.conditions import Condition, narrow, within
from app.storage.database import Driver, Named
from app.storage.paging import Order, Page, PageRequest
from app.storage.tables import Id, Moment, Money, Word, metadata

policies = Table(
    "policies",
    metadata,
    Column("institution_id", Id, primary_key=True),
    Column("id", Id, primary_key=True),
    Column("region", Word, nullable=False),
    Column("version", Integer, nullable=False),
    Column("min_amount", Money),
    Column("max_amount", Money),
    Column("allowed_currencies", ARRAY(Text)),
    Column("created_at", Moment, nullable=False),
)

FIELDS = tuple(column.name for column in policies.columns)
CREATED_AT, REGION = "created_at", "region"
ORDERS: Mapping[str, tuple[ColumnElement[Any], ...]] = {
    CREATED_AT: (policies.c.created_at, policies.c.id),
    REGION: (policies.c.region, policies.c.version),
}
# For the ledger's writer, which has one of asyncpg's connections: the newest version for each pair.
SELECT_CURRENT = f"""
SELECT {", ".join(f"found.{name}" for name in FIELDS)}
FROM unnest($1::text[], $2::text[]) AS wanted (institution_id, region)
CROSS JOIN LATERAL (
  SELECT * FROM policies
  WHERE policies.institution_id = wanted.institution_id AND policies.region = wanted.region
  ORDER BY policies.version DESC LIMIT 1
) AS found
"""


async def current(
    connection: Driver, institution_ids: Sequence[str], regions: Sequence[str]
) -> Mapping[tuple[str, str], Policy]:
    """The current policy for each institution and the region beside it; missing where there is none."""
    rows = await connection.fetch(SELECT_CURRENT, list(institution_ids), list(regions))
    return {(row["institution_id"], row["region"]): policy_of(row) for row in rows}


async def lock_region(connection: AsyncConnection, institution_id: str, region: str) -> None:
    """Until the transaction ends, nobody else makes a version of that policy."""
    key = func.hashtextextended(f"policy:{institution_id}:{region}", 0)
    await connection.execute(select(func.pg_advisory_xact_lock(key)))


async def newest_version(connection: AsyncConnection, scope: str, region: str) -> int | None:
    """The current version for a region, None when there is none."""
    statement = within(select(func.max(policies.c.version)), policies.c.institution_id, scope)
    newest: int | None = (await connection.execute(statement.where(policies.c.region == region))).scalar_one()
    return newest


async def add(connection: AsyncConnection, institution_id: str, policy: Policy) -> None:
    """Add one version of a policy."""
    values = {name: getattr(policy, name) for name in FIELDS}
    currencies = None if policy.allowed_currencies is None else list(policy.allowed_currencies)
    own = {"institution_id": institution_id, "allowed_currencies": currencies}
    await connection.execute(insert(policies).values(**values | own))


async def by_id(connection: AsyncConnection, scope: str, ids: Sequence[str]) -> Mapping[str, Policy]:
    """Those of the policies that `scope` may see."""
    statement = within(select(policies), policies.c.institution_id, scope)
    rows = await connection.execute(statement.where(policies.c.id.in_(ids)))
    return {row.id: _policy(row) for row in rows}


async def current_ids(connection: AsyncConnection, scope: str, ids: Sequence[str]) -> frozenset[str]:
    """Those of the policies that are the current version of their region."""
    statement = within(select(policies.c.id), policies.c.institution_id, scope)
    rows = await connection.execute(statement.where(policies.c.id.in_(ids), ~_superseded()))
    return frozenset(rows.scalars())


async def page(
    connection: AsyncConnection,
    scope: str,
    request: PageRequest,
    conditions: Sequence[Condition],
    *,
    current: bool | None,
    order_by: str,
    descending: bool,
) -> Page[Policy]:
    """One page of the policies that `scope` may see."""
    alone = scope != ALL_INSTITUTIONS or any(
        test.field == "institution_id" and test.operator == "eq" for test in conditions
    )
    statement = _matching(scope, conditions, current=current)
    return await paging.fetch_page(
        connection, statement, _order(order_by, descending=descending, alone=alone), request, _policy
    )


async def count(
    connection: AsyncConnection, scope: str, conditions: Sequence[Condition], *, current: bool | None
) -> int:
    """How many policies the list has."""
    return await paging.count(connection, _matching(scope, conditions, current=current))


async def history_each(
    connection: AsyncConnection, scope: str, ids: Sequence[str], request: PageRequest
) -> Mapping[str, Page[Policy]]:
    """One page of all versions of each policy's region, newest first."""
    this = policies.alias("this")
    statement = within(select(policies), policies.c.institution_id, scope).join(
        this, (this.c.institution_id == policies.c.institution_id) & (this.c.region == policies.c.region)
    )
    order = Order("policies.version", (policies.c.version,), descending=True)
    return await paging.fetch_page_each(connection, ids, this.c.id, statement, order, request, _policy)


async def history_counts(connection: AsyncConnection, scope: str, ids: Sequence[str]) -> Mapping[str, int]:
    """How many versions there are of each policy's region."""
    this = policies.alias("this")
    statement = within(select(policies), policies.c.institution_id, scope).join(
        this, (this.c.institution_id == policies.c.institution_id) & (this.c.region == policies.c.region)
    )
    return await paging.count_each(connection, ids, this.c.id, statement)


def policy_of(row: Named) -> Policy:
    """The policy a row spells."""
    currencies = row["allowed_currencies"]
    return Policy(
        id=row["id"],
        institution_id=row["institution_id"],
        region=Region(row["region"]),
        version=row["version"],
        min_amount=row["min_amount"],
        max_amount=row["max_amount"],
        allowed_currencies=None if currencies is None else tuple(currencies),
        created_at=row["created_at"],
    )


def _policy(row: Row[Any]) -> Policy:
    return policy_of(row._mapping)


def _matching(scope: str, conditions: Sequence[Condition], *, current: bool | None) -> Select[Any]:
    columns = {column.name: column for column in policies.columns}
    statement = narrow(within(select(policies), policies.c.institution_id, scope), columns, conditions)
    if current is None:
        return statement
    return statement.where(~_superseded() if current else _superseded())


def _superseded() -> ColumnElement[bool]:
    newer = policies.alias("newer")
    same = (newer.c.institution_id == policies.c.institution_id) & (newer.c.region == policies.c.region)
    return select(newer.c.id).where(same, newer.c.version > policies.c.version).correlate(policies).exists()


def _order(order_by: str, *, descending: bool, alone: bool) -> Order:
    if alone:
        return Order(f"policies.{order_by}", ORDERS[order_by], descending)
    if order_by != CREATED_AT:
        raise BadRequest("as root, this order needs one institution: where: {institutionId: {eq: …}}")
    # Every index starts with the institution but that of the ids, which sort in the order they were made.
    return Order("policies.id", (policies.c.id,), descending)
