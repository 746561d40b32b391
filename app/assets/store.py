"""The rows of templates and assets. A read is narrowed to the scope it is given: one institution, or *."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Integer,
    Row,
    Select,
    Table,
    func,
    insert,
    select,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from app.assets.model import Asset, AssetTemplate
from app.errors import BadRequest
from app.institutions.model import Region, Vertical
from app.principal import ALL_INSTITUTIONS
from app.storage import paging
from app.storage.conditions import Condition, narrow, within
from app.storage.database import Named
from app.storage.paging import Order, Page, PageRequest
from app.storage.rows import fetch_by_id
from app.storage.tables import Document, Id, Moment, Word, metadata

asset_templates = Table(
    "asset_templates",
    metadata,
    Column("institution_id", Id, primary_key=True),
    Column("id", Id, primary_key=True),
    Column("name", Word, nullable=False),
    Column("version", Integer, nullable=False),
    Column("code", Word, nullable=False),
    Column("vertical", Word, nullable=False),
    Column("region", Word, nullable=False),
    Column("lifecycle_name", Word, nullable=False),
    Column("lifecycle_version", Integer, nullable=False),
    Column("config", Document, nullable=False),
    Column("metadata_schema", Document),
    Column("onchain_enabled", Boolean, nullable=False),
    Column("onchain_chain_id", BigInteger),
    Column("created_at", Moment, nullable=False),
)

assets = Table(
    "assets",
    metadata,
    Column("institution_id", Id, primary_key=True),
    Column("id", Id, primary_key=True),
    Column("template_id", Id, nullable=False),
    Column("label", Word, nullable=False),
    Column("metadata", Document, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("updated_at", Moment, nullable=False),
)

TEMPLATE_FIELDS = tuple(column.name for column in asset_templates.columns)
ASSET_FIELDS = tuple(column.name for column in assets.columns)
CREATED_AT, NAME, LABEL = "created_at", "name", "label"
TEMPLATE_ORDERS: Mapping[str, tuple[ColumnElement[Any], ...]] = {
    CREATED_AT: (asset_templates.c.created_at, asset_templates.c.id),
    NAME: (asset_templates.c.name, asset_templates.c.version),
}
ASSET_ORDERS: Mapping[str, tuple[ColumnElement[Any], ...]] = {
    CREATED_AT: (assets.c.created_at, assets.c.id),
    LABEL: (assets.c.label, assets.c.id),
}


async def lock_name(connection: AsyncConnection, institution_id: str, name: str) -> None:
    """Until the transaction ends, nobody else makes a version of that template."""
    key = func.hashtextextended(f"asset_template:{institution_id}:{name}", 0)
    await connection.execute(select(func.pg_advisory_xact_lock(key)))


async def newest_template(connection: AsyncConnection, scope: str, name: str) -> AssetTemplate | None:
    """The last version of the template of that name, None when there is none."""
    statement = within(select(asset_templates), asset_templates.c.institution_id, scope)
    newest = (
        statement.where(asset_templates.c.name == name).order_by(asset_templates.c.version.desc()).limit(1)
    )
    row = (await connection.execute(newest)).one_or_none()
    return None if row is None else _template(row)


async def insert_template(connection: AsyncConnection, institution_id: str, template: AssetTemplate) -> None:
    """Add one version of a template."""
    values = {name: getattr(template, name) for name in TEMPLATE_FIELDS}
    await connection.execute(insert(asset_templates).values(**values | {"institution_id": institution_id}))


async def insert_asset(connection: AsyncConnection, institution_id: str, asset: Asset) -> None:
    """Add an asset."""
    values = {name: getattr(asset, name) for name in ASSET_FIELDS}
    await connection.execute(insert(assets).values(**values | {"institution_id": institution_id}))


async def templates_by_id(
    connection: AsyncConnection, scope: str, ids: Sequence[str]
) -> Mapping[str, AssetTemplate]:
    """Those of the templates that `scope` may see."""
    rows = await fetch_by_id(connection, asset_templates, scope, ids)
    return {row["id"]: _template_of(row) for row in rows}


async def assets_by_id(connection: AsyncConnection, scope: str, ids: Sequence[str]) -> Mapping[str, Asset]:
    """Those of the assets that `scope` may see."""
    rows = await fetch_by_id(connection, assets, scope, ids)
    return {row["id"]: _asset_of(row) for row in rows}


async def page_templates(
    connection: AsyncConnection,
    scope: str,
    request: PageRequest,
    conditions: Sequence[Condition],
    *,
    order_by: str,
    descending: bool,
) -> Page[AssetTemplate]:
    """One page of the templates that `scope` may see."""
    order = _order(
        asset_templates, TEMPLATE_ORDERS, order_by, descending=descending, alone=_alone(scope, conditions)
    )
    statement = _matching(asset_templates, scope, conditions)
    return await paging.fetch_page(connection, statement, order, request, _template)


async def page_assets(
    connection: AsyncConnection,
    scope: str,
    request: PageRequest,
    conditions: Sequence[Condition],
    *,
    order_by: str,
    descending: bool,
) -> Page[Asset]:
    """One page of the assets that `scope` may see."""
    order = _order(assets, ASSET_ORDERS, order_by, descending=descending, alone=_alone(scope, conditions))
    return await paging.fetch_page(connection, _matching(assets, scope, conditions), order, request, _asset)


async def page_assets_each(
    connection: AsyncConnection,
    scope: str,
    institution_ids: Sequence[str],
    template_ids: Sequence[str],
    request: PageRequest,
    conditions: Sequence[Condition],
    *,
    order_by: str,
    descending: bool,
) -> Mapping[str, Page[Asset]]:
    """One page of each template's assets; `institution_ids` are those of the templates, for the index."""
    statement = _matching(assets, scope, conditions).where(assets.c.institution_id.in_(institution_ids))
    order = _order(assets, ASSET_ORDERS, order_by, descending=descending, alone=True)
    return await paging.fetch_page_each(
        connection, template_ids, assets.c.template_id, statement, order, request, _asset
    )


async def count_templates(connection: AsyncConnection, scope: str, conditions: Sequence[Condition]) -> int:
    """How many templates the list has."""
    return await paging.count(connection, _matching(asset_templates, scope, conditions))


async def count_assets(connection: AsyncConnection, scope: str, conditions: Sequence[Condition]) -> int:
    """How many assets the list has."""
    return await paging.count(connection, _matching(assets, scope, conditions))


async def count_assets_each(
    connection: AsyncConnection,
    scope: str,
    institution_ids: Sequence[str],
    template_ids: Sequence[str],
    conditions: Sequence[Condition],
) -> Mapping[str, int]:
    """How many assets each template has."""
    statement = _matching(assets, scope, conditions).where(assets.c.institution_id.in_(institution_ids))
    return await paging.count_each(connection, template_ids, assets.c.template_id, statement)


def _matching(table: Table, scope: str, conditions: Sequence[Condition]) -> Select[Any]:
    columns = {column.name: column for column in table.columns}
    return narrow(within(select(table), table.c.institution_id, scope), columns, conditions)


def _alone(scope: str, conditions: Sequence[Condition]) -> bool:
    """Whether the list is of one institution only."""
    return scope != ALL_INSTITUTIONS or any(
        test.field == "institution_id" and test.operator == "eq" for test in conditions
    )


def _order(
    table: Table,
    orders: Mapping[str, tuple[ColumnElement[Any], ...]],
    order_by: str,
    *,
    descending: bool,
    alone: bool,
) -> Order:
    if alone:
        return Order(f"{table.name}.{order_by}", orders[order_by], descending)
    if order_by != CREATED_AT:
        raise BadRequest("as root, this order needs one institution: where: {institutionId: {eq: …}}")
    # Every index starts with the institution but that of the ids, which sort in the order they were made.
    return Order(f"{table.name}.id", (table.c.id,), descending)


def _template(row: Row[Any]) -> AssetTemplate:
    return _template_of(row._mapping)


def _template_of(row: Named) -> AssetTemplate:
    values = {name: row[name] for name in TEMPLATE_FIELDS}
    return AssetTemplate(**values | {"vertical": Vertical(row["vertical"]), "region": Region(row["region"])})


def _asset(row: Row[Any]) -> Asset:
    return _asset_of(row._mapping)


def _asset_of(row: Named) -> Asset:
    return Asset(**{name: row[name] for name in ASSET_FIELDS})
