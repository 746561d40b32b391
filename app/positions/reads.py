"""Reads of positions for queries."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from app.positions import store
from app.positions.model import Position
from app.positions.store import Conditions, SummaryRow, order
from app.storage.paging import Order, Page, PageRequest

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

__all__ = ["Conditions", "SummaryRow", "order"]


async def fetch_many(connection: "AsyncConnection", scope: str, ids: Sequence[str]) -> Mapping[str, Position]:
    """Positions by id; those of others are not there."""
    return await store.fetch_many(connection, scope, ids)


async def fetch_list(
    connection: "AsyncConnection", scope: str, conditions: Conditions, order: Order, request: PageRequest
) -> Page[Position]:
    """One page of the positions that pass."""
    return await store.fetch_list(connection, scope, conditions, order, request)


async def count_list(connection: "AsyncConnection", scope: str, conditions: Conditions) -> int:
    """How many positions pass."""
    return await store.count_list(connection, scope, conditions)


async def fetch_each(
    connection: "AsyncConnection",
    scope: str,
    asset_ids: Sequence[str],
    conditions: Conditions,
    order: Order,
    request: PageRequest,
) -> Mapping[str, Page[Position]]:
    """One page of the positions of each asset."""
    return await store.fetch_each(connection, scope, asset_ids, conditions, order, request)


async def count_of_each(
    connection: "AsyncConnection", scope: str, asset_ids: Sequence[str], conditions: Conditions
) -> Mapping[str, int]:
    """How many positions each asset has."""
    return await store.count_of_each(connection, scope, asset_ids, conditions)


async def summarise(
    connection: "AsyncConnection",
    scope: str,
    conditions: Conditions,
    groups: Sequence[str],
    zone: str,
    limit: int,
) -> list[SummaryRow]:
    """Counts and sums by group and currency; days and months are those of `zone`."""
    columns = {name: store.grouping(name, zone) for name in groups}
    return await store.summarise(connection, scope, conditions, columns, limit)
