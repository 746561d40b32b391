"""Reads of positions for queries."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from app.kit.ids import is_id
from app.ledger import past
from app.ledger.past import Place
from app.positions import store, summary
from app.positions.lifecycle import Lifecycle
from app.positions.model import Position, stamped
from app.positions.store import Conditions, order
from app.positions.summary import SummaryRow
from app.storage.paging import Order, Page, PageRequest

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

__all__ = ["Conditions", "SummaryRow", "order"]

Lifecycles = Mapping[tuple[str, int], Lifecycle]


async def fetch_many(connection: "AsyncConnection", scope: str, ids: Sequence[str]) -> Mapping[str, Position]:
    """Positions by id; those of others, and what is not spelled like one, are not there."""
    return await store.fetch_many(connection, scope, [key for key in ids if is_id(key, "pos")])


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
    place: Place | None = None,
) -> list[SummaryRow]:
    """Counts and sums by group and currency, as now or as of `place`; days and months are those of `zone`."""
    return await summary.summarise(connection, scope, conditions, groups, zone, limit, place)


async def fetch_as_of(
    connection: "AsyncConnection", scope: str, position_id: str, place: Place, lifecycles: Lifecycles
) -> Position | None:
    """A position as it was then; None when it had not been opened (or is not there at all)."""
    now = (await store.fetch_many(connection, scope, [position_id])).get(position_id)
    event = None if now is None else await past.last_of(connection, position_id, place)
    if now is None or event is None:
        return None
    lifecycle = lifecycles[event.lifecycle_name, event.lifecycle_version]
    return stamped(now, event, closed=lifecycle.is_terminal(event.new_stage))
