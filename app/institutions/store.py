"""The tables of institutions and keys, and their SQL; of a secret only the hash is kept."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    LargeBinary,
    Row,
    Select,
    Table,
    Text,
    insert,
    literal,
    select,
    text,
    union_all,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from app.institutions.model import ApiKey, Held, Institution, Region, Use, Vertical
from app.principal import Role, Scope
from app.storage import paging
from app.storage.conditions import Condition, narrow, within
from app.storage.database import Named
from app.storage.paging import Order, Page, PageRequest
from app.storage.rows import fetch_by_id
from app.storage.tables import Id, Moment, Word, metadata

institutions = Table(
    "institutions",
    metadata,
    Column("id", Id, primary_key=True),
    Column("name", Text, nullable=False),
    Column("regions", ARRAY(Text), nullable=False),
    Column("verticals", ARRAY(Text), nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("updated_at", Moment, nullable=False),
)
api_keys = Table(
    "api_keys",
    metadata,
    Column("institution_id", Id, primary_key=True),
    Column("id", Id, primary_key=True),
    Column("label", Text, nullable=False),
    Column("role", Word, nullable=False),
    Column("scopes", ARRAY(Text), nullable=False),
    Column("prefix", Word, nullable=False),
    Column("secret_hash", LargeBinary, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("updated_at", Moment, nullable=False),
    Column("expires_at", Moment),
    Column("last_used_at", Moment),
    Column("revoked_at", Moment),
    Column("rotated_at", Moment),
    Column("previous_hash", LargeBinary),
    Column("previous_prefix", Word),
    Column("previous_ends_at", Moment),
    Column("previous_used_at", Moment),
)
PREVIOUS = ("previous_hash", "previous_prefix", "previous_ends_at", "previous_used_at")
# Ids go by the time they were made, and their index serves the order.
INSTITUTION_ORDERS: Mapping[str, tuple[ColumnElement[Any], ...]] = {
    "CREATED_AT": (institutions.c.id,),
    "NAME": (institutions.c.name, institutions.c.id),
}
SECRETS = ("secret_hash", "previous_hash")
KEY_COLUMNS = [column for column in api_keys.columns if column.name not in SECRETS]
# A row that somebody else is writing is left out: it is being used or revoked, and either will do.
TOUCH = text("""
WITH used (institution_id, id, used_at, previous_at) AS (
  SELECT institution_id, id, max(moment), max(moment) FILTER (WHERE previous)
  FROM unnest(CAST(:institutions AS text[]), CAST(:ids AS text[]), CAST(:previous AS boolean[]),
              CAST(:moments AS timestamptz[])) AS one (institution_id, id, previous, moment)
  GROUP BY institution_id, id
), stale AS (
  SELECT k.institution_id, k.id, u.used_at, u.previous_at FROM api_keys k JOIN used u USING (institution_id, id)
  WHERE k.last_used_at IS NULL OR k.last_used_at <= u.used_at - CAST(:every AS interval)
     OR u.previous_at IS NOT NULL AND k.previous_hash IS NOT NULL
        AND (k.previous_used_at IS NULL OR k.previous_used_at <= u.previous_at - CAST(:every AS interval))
  FOR UPDATE OF k SKIP LOCKED
)
UPDATE api_keys k
SET last_used_at = greatest(k.last_used_at, s.used_at),
    previous_used_at = CASE WHEN k.previous_hash IS NULL THEN NULL
                            ELSE greatest(k.previous_used_at, s.previous_at) END
FROM stale s WHERE k.institution_id = s.institution_id AND k.id = s.id
""")


async def insert_institution(connection: AsyncConnection, institution: Institution) -> None:
    """Insert an institution; the transaction's scope must name it."""
    values = {column.name: getattr(institution, column.name) for column in institutions.columns}
    lists = {"regions": list(institution.regions), "verticals": list(institution.verticals)}
    await connection.execute(insert(institutions).values(values | lists))


async def institutions_by_id(
    connection: AsyncConnection, scope: str, ids: Sequence[str]
) -> dict[str, Institution]:
    """Those of `ids` that `scope` sees."""
    rows = await fetch_by_id(connection, institutions, scope, ids, owner="id")
    return {row["id"]: _institution_of(row) for row in rows}


async def page_institutions(
    connection: AsyncConnection,
    scope: str,
    request: PageRequest,
    conditions: Sequence[Condition],
    *,
    order: str,
    descending: bool,
) -> Page[Institution]:
    """One page of the institutions that `scope` sees."""
    by = Order(f"institutions.{order}", INSTITUTION_ORDERS[order], descending)
    return await paging.fetch_page(connection, _institutions(scope, conditions), by, request, _institution)


async def count_institutions(connection: AsyncConnection, scope: str, conditions: Sequence[Condition]) -> int:
    """How many institutions `scope` sees."""
    return await paging.count(connection, _institutions(scope, conditions))


async def insert_key(connection: AsyncConnection, key: ApiKey, secret_hash: bytes) -> None:
    """Insert a key."""
    values = {column.name: getattr(key, column.name) for column in KEY_COLUMNS}
    hashed = {"scopes": list(key.scopes), "secret_hash": secret_hash}
    await connection.execute(insert(api_keys).values(values | hashed))


async def keys_by_id(connection: AsyncConnection, scope: str, ids: Sequence[str]) -> dict[str, ApiKey]:
    """Those of `ids` that `scope` sees."""
    rows = await connection.execute(_keys(scope).where(api_keys.c.id.in_(ids)))
    return {row.id: _key(row) for row in rows}


async def keys_by_hash(connection: AsyncConnection, scope: str, hashes: Sequence[bytes]) -> dict[bytes, Held]:
    """The keys whose secrets have those hashes, each as its secret holds it."""
    # Two statements in one, each with an index of its own.
    current, previous = (
        _keys(scope)
        .add_columns(column.label("hashed"), literal(kept).label("previous"))
        .where(column.in_(hashes))
        for column, kept in ((api_keys.c.secret_hash, False), (api_keys.c.previous_hash, True))
    )
    rows = await connection.execute(union_all(current, previous))
    return {row.hashed: Held(_key(row), previous=row.previous) for row in rows}


async def rotate_key(
    connection: AsyncConnection,
    institution_id: str,
    key_id: str,
    secret: tuple[bytes, str],
    *,
    now: datetime,
    previous_ends_at: datetime | None,
) -> ApiKey | None:
    """Give a key that is not revoked another secret (its hash and prefix); None when there is no such key."""
    mine = (api_keys.c.institution_id == institution_id, api_keys.c.id == key_id)
    kept: dict[str, Any] = dict.fromkeys(PREVIOUS)
    if previous_ends_at is not None:
        kept = {
            "previous_hash": api_keys.c.secret_hash,
            "previous_prefix": api_keys.c.prefix,
            "previous_ends_at": previous_ends_at,
            "previous_used_at": api_keys.c.last_used_at,
        }
    changed = (
        update(api_keys)
        .where(*mine, api_keys.c.revoked_at.is_(None))
        .values(secret_hash=secret[0], prefix=secret[1], rotated_at=now, updated_at=now, **kept)
        .returning(*KEY_COLUMNS)
    )
    row = (await connection.execute(changed)).one_or_none()
    return None if row is None else _key(row)


async def revoke_key(
    connection: AsyncConnection, institution_id: str, key_id: str, now: datetime
) -> ApiKey | None:
    """Revoke a key that is not revoked yet; None when there is no such key."""
    mine = (api_keys.c.institution_id == institution_id, api_keys.c.id == key_id)
    changed = (
        update(api_keys)
        .where(*mine, api_keys.c.revoked_at.is_(None))
        .values(revoked_at=now, updated_at=now)
        .returning(*KEY_COLUMNS)
    )
    row = (await connection.execute(changed)).one_or_none()
    return None if row is None else _key(row)


async def touch_keys(connection: AsyncConnection, uses: Mapping[Use, datetime], *, every: timedelta) -> None:
    """Note when the secrets of keys were used, unless a use was noted less than `every` before."""
    values = {
        "institutions": [use.institution_id for use in uses],
        "ids": [use.key_id for use in uses],
        "previous": [use.previous for use in uses],
        "moments": list(uses.values()),
        "every": every,
    }
    await connection.execute(TOUCH, values)


async def page_keys(
    connection: AsyncConnection,
    scope: str,
    request: PageRequest,
    conditions: Sequence[Condition],
    *,
    descending: bool,
) -> Page[ApiKey]:
    """One page of keys in the order they were made."""
    return await paging.fetch_page(
        connection, _keys(scope, conditions), _made(descending=descending), request, _key
    )


async def page_keys_each(
    connection: AsyncConnection, scope: str, institution_ids: Sequence[str], request: PageRequest
) -> Mapping[str, Page[ApiKey]]:
    """One page of keys for each institution, the newest first."""
    parent = api_keys.c.institution_id
    return await paging.fetch_page_each(
        connection, institution_ids, parent, _keys(scope), _made(descending=True), request, _key
    )


async def count_keys(connection: AsyncConnection, scope: str, conditions: Sequence[Condition]) -> int:
    """How many keys there are."""
    return await paging.count(connection, _keys(scope, conditions))


async def count_keys_each(
    connection: AsyncConnection, scope: str, institution_ids: Sequence[str]
) -> Mapping[str, int]:
    """How many keys each institution has."""
    return await paging.count_each(connection, institution_ids, api_keys.c.institution_id, _keys(scope))


def _made(*, descending: bool) -> Order:
    return Order("apiKeys", (api_keys.c.id,), descending)


def _institutions(scope: str, conditions: Sequence[Condition] = ()) -> Select[Any]:
    columns = {column.name: column for column in institutions.columns}
    return narrow(within(select(institutions), institutions.c.id, scope), columns, conditions)


def _keys(scope: str, conditions: Sequence[Condition] = ()) -> Select[Any]:
    columns = {column.name: column for column in KEY_COLUMNS}
    return narrow(within(select(*KEY_COLUMNS), api_keys.c.institution_id, scope), columns, conditions)


def _institution(row: Row[Any]) -> Institution:
    return _institution_of(row._mapping)


def _institution_of(row: Named) -> Institution:
    return Institution(
        id=row["id"],
        name=row["name"],
        regions=tuple(map(Region, row["regions"])),
        verticals=tuple(map(Vertical, row["verticals"])),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )


def _key(row: Row[Any]) -> ApiKey:
    found = {column.name: row._mapping[column.name] for column in KEY_COLUMNS}
    return ApiKey(**found | {"role": Role(row.role), "scopes": tuple(map(Scope, row.scopes))})
