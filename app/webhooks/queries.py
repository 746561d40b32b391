"""The SQL behind the lists of endpoints and deliveries; nothing of a secret but its times."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, Table, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.principal import ALL_INSTITUTIONS
from app.storage import paging
from app.storage.conditions import Condition, narrow, within
from app.storage.paging import Order, Page, PageRequest
from app.webhooks.model import Delivery, DeliveryState, Endpoint, Secret
from app.webhooks.store import (
    DELIVERY_FIELDS,
    endpoint_of,
    webhook_deliveries,
    webhook_endpoints,
    webhook_secrets,
)

e, s, d = webhook_endpoints.c, webhook_secrets.c, webhook_deliveries.c
# The api role sees no column of a secret but these and the institution.
SECRET_COLUMNS = (s.id, s.endpoint_id, s.created_at, s.ends_at)


async def endpoints_by_id(
    connection: AsyncConnection, scope: str, ids: Sequence[str]
) -> Mapping[str, Endpoint]:
    """Those of the endpoints that `scope` may see; deleted ones are not there."""
    rows = await connection.execute(_endpoints(scope).where(e.id.in_(ids)))
    return {row.id: endpoint_of(row) for row in rows}


async def secrets_each(
    connection: AsyncConnection, scope: str, endpoint_ids: Sequence[str], now: datetime
) -> Mapping[str, tuple[Secret, ...]]:
    """What is told of the secrets in force of each endpoint, the newest first."""
    statement = within(select(*SECRET_COLUMNS), s.institution_id, scope).where(
        s.endpoint_id.in_(endpoint_ids), s.ends_at.is_(None) | (s.ends_at > now)
    )
    rows = (await connection.execute(statement.order_by(s.created_at.desc(), s.id.desc()))).all()
    found = [Secret(row.id, row.endpoint_id, row.created_at, row.ends_at) for row in rows]
    return {key: tuple(secret for secret in found if secret.endpoint_id == key) for key in endpoint_ids}


async def page_endpoints(
    connection: AsyncConnection,
    scope: str,
    request: PageRequest,
    conditions: Sequence[Condition],
    *,
    descending: bool,
) -> Page[Endpoint]:
    """One page of the endpoints that `scope` may see, in the order they were made."""
    order = _made(webhook_endpoints, scope, conditions, descending=descending)
    return await paging.fetch_page(connection, _endpoints(scope, conditions), order, request, endpoint_of)


async def count_endpoints(connection: AsyncConnection, scope: str, conditions: Sequence[Condition]) -> int:
    """How many endpoints there are."""
    return await paging.count(connection, _endpoints(scope, conditions))


async def deliveries_by_id(
    connection: AsyncConnection, scope: str, ids: Sequence[str]
) -> Mapping[str, Delivery]:
    """Those of the deliveries that `scope` may see."""
    rows = await connection.execute(_deliveries(scope).where(d.id.in_(ids)))
    return {row.id: _delivery(row) for row in rows}


async def page_deliveries(
    connection: AsyncConnection,
    scope: str,
    request: PageRequest,
    conditions: Sequence[Condition],
    *,
    descending: bool,
) -> Page[Delivery]:
    """One page of the deliveries that `scope` may see, in the order they were made."""
    order = _made(webhook_deliveries, scope, conditions, descending=descending)
    return await paging.fetch_page(connection, _deliveries(scope, conditions), order, request, _delivery)


async def page_deliveries_each(
    connection: AsyncConnection,
    scope: str,
    institution_ids: Sequence[str],
    endpoint_ids: Sequence[str],
    request: PageRequest,
    conditions: Sequence[Condition],
    *,
    descending: bool,
) -> Mapping[str, Page[Delivery]]:
    """One page of each endpoint's deliveries; `institution_ids` are those of the endpoints, for the index."""
    statement = _deliveries(scope, conditions).where(d.institution_id.in_(institution_ids))
    order = Order("webhook_deliveries.created_at", (d.created_at, d.id), descending)
    return await paging.fetch_page_each(
        connection, endpoint_ids, d.endpoint_id, statement, order, request, _delivery
    )


async def count_deliveries(connection: AsyncConnection, scope: str, conditions: Sequence[Condition]) -> int:
    """How many deliveries there are."""
    return await paging.count(connection, _deliveries(scope, conditions))


async def count_deliveries_each(
    connection: AsyncConnection,
    scope: str,
    institution_ids: Sequence[str],
    endpoint_ids: Sequence[str],
    conditions: Sequence[Condition],
) -> Mapping[str, int]:
    """How many deliveries each endpoint has."""
    statement = _deliveries(scope, conditions).where(d.institution_id.in_(institution_ids))
    return await paging.count_each(connection, endpoint_ids, d.endpoint_id, statement)


def _made(table: Table, scope: str, conditions: Sequence[Condition], *, descending: bool) -> Order:
    alone = scope != ALL_INSTITUTIONS or any(
        test.field == "institution_id" and test.operator == "eq" for test in conditions
    )
    # Across institutions only the index of the ids serves, which sort in the order they were made.
    columns: tuple[ColumnElement[Any], ...] = (table.c.created_at, table.c.id) if alone else (table.c.id,)
    return Order(f"{table.name}.{'created_at' if alone else 'id'}", columns, descending)


def _endpoints(scope: str, conditions: Sequence[Condition] = ()) -> Select[Any]:
    statement = within(select(webhook_endpoints), e.institution_id, scope).where(e.deleted_at.is_(None))
    return narrow(statement, {column.name: column for column in webhook_endpoints.columns}, conditions)


def _deliveries(scope: str, conditions: Sequence[Condition] = ()) -> Select[Any]:
    statement = within(select(*(d[name] for name in DELIVERY_FIELDS)), d.institution_id, scope)
    return narrow(statement, {column.name: column for column in webhook_deliveries.columns}, conditions)


def _delivery(row: Row[Any]) -> Delivery:
    found = {name: row._mapping[name] for name in DELIVERY_FIELDS}
    return Delivery(**found | {"state": DeliveryState(row.state)})
