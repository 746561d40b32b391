"""Reads of positions for queries: what their holders are called is opened on the way."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from app.kit.ids import is_id
from app.ledger import past
from app.ledger.past import Place
from app.personal.service import Holders
from app.positions import store, summary
from app.positions.lifecycle import Lifecycle
from app.positions.model import Position, stamped
from app.positions.rows import envelope_of, position_of
from app.positions.store import HOLDER_BLINDS, Conditions, order
from app.positions.summary import SummaryRow
from app.principal import ALL_INSTITUTIONS
from app.storage.conditions import Condition
from app.storage.database import Named, driver_of
from app.storage.paging import Order, Page, PageRequest

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

__all__ = ["Conditions", "SummaryRow", "order"]

Lifecycles = Mapping[tuple[str, int], Lifecycle]


async def fetch_many(
    connection: "AsyncConnection", scope: str, holders: Holders, ids: Sequence[str]
) -> Mapping[str, Position]:
    """Positions by id; those of others, and what is not spelled like one, are not there."""
    rows = await store.fetch_many(connection, scope, [key for key in ids if is_id(key, "pos")])
    await _ready(connection, holders, rows)
    return {row["id"]: _opened(holders, row) for row in rows}


async def fetch_list(
    connection: "AsyncConnection",
    scope: str,
    holders: Holders,
    conditions: Conditions,
    order: Order,
    request: PageRequest,
) -> Page[Position]:
    """One page of the positions that pass."""
    tests = await _blind(connection, scope, holders, conditions)
    page = await store.fetch_list(connection, scope, tests, order, request)
    await _ready(connection, holders, (row for _cursor, row in page.rows))
    return _opened_page(holders, page)


async def count_list(
    connection: "AsyncConnection", scope: str, holders: Holders, conditions: Conditions
) -> int:
    """How many positions pass."""
    return await store.count_list(connection, scope, await _blind(connection, scope, holders, conditions))


async def fetch_each(
    connection: "AsyncConnection",
    scope: str,
    holders: Holders,
    asset_ids: Sequence[str],
    conditions: Conditions,
    order: Order,
    request: PageRequest,
) -> Mapping[str, Page[Position]]:
    """One page of the positions of each asset."""
    tests = await _blind(connection, scope, holders, conditions)
    pages = await store.fetch_each(connection, scope, asset_ids, tests, order, request)
    await _ready(connection, holders, (row for page in pages.values() for _cursor, row in page.rows))
    return {asset_id: _opened_page(holders, page) for asset_id, page in pages.items()}


async def count_of_each(
    connection: "AsyncConnection",
    scope: str,
    holders: Holders,
    asset_ids: Sequence[str],
    conditions: Conditions,
) -> Mapping[str, int]:
    """How many positions each asset has."""
    tests = await _blind(connection, scope, holders, conditions)
    return await store.count_of_each(connection, scope, asset_ids, tests)


async def summarise(
    connection: "AsyncConnection",
    scope: str,
    holders: Holders,
    conditions: Conditions,
    groups: Sequence[str],
    zone: str,
    limit: int,
    place: Place | None = None,
) -> list[SummaryRow]:
    """Counts and sums by group and currency, as now or as of `place`; days and months are those of `zone`."""
    tests = await _blind(connection, scope, holders, conditions)
    rows = await summary.summarise(connection, scope, tests, groups, zone, limit, place)
    if "HOLDER" not in groups or len(rows) >= limit:
        return rows
    pairs = {(str(row.institution_id), row.keys["HOLDER"]) for row in rows if row.keys["HOLDER"] is not None}
    names = await holders.references(await driver_of(connection), sorted(pairs))
    return summary.by_name(rows, {holder_id: name for (_owner, holder_id), name in names.items()})


async def fetch_as_of(
    connection: "AsyncConnection",
    scope: str,
    holders: Holders,
    position_id: str,
    place: Place,
    lifecycles: Lifecycles,
) -> Position | None:
    """A position as it was then; None when it had not been opened (or is not there at all)."""
    now = (await fetch_many(connection, scope, holders, [position_id])).get(position_id)
    event = None if now is None else await past.last_of(connection, position_id, place)
    if now is None or event is None:
        return None
    lifecycle = lifecycles[event.lifecycle_name, event.lifecycle_version]
    return stamped(now, event, closed=lifecycle.is_terminal(event.new_stage))


async def _blind(
    connection: "AsyncConnection", scope: str, holders: Holders, conditions: Conditions
) -> Conditions:
    """The same conditions, with holders named by their blind indexes: nothing else of them can be searched."""
    tests = []
    for test in conditions:
        if test.field != "holder_reference":
            tests.append(test)
            continue
        wanted = [test.value] if test.operator == "eq" else list(test.value)
        owner = next((t.value for t in conditions if (t.field, t.operator) == ("institution_id", "eq")), None)
        whose = str(owner) if scope == ALL_INSTITUTIONS and owner is not None else scope
        found = await holders.blinds(await driver_of(connection), whose, wanted)
        tests.append(Condition(HOLDER_BLINDS, "in", tuple(found)))
    return tuple(tests)


async def _ready(connection: "AsyncConnection", holders: Holders, rows: Iterable[Named]) -> None:
    owners = {row["institution_id"] for row in rows}
    if owners:
        await holders.ready(await driver_of(connection), owners)


def _opened(holders: Holders, row: Named) -> Position:
    return position_of(row, holders.reference(envelope_of(row)))


def _opened_page(holders: Holders, page: Page[Named]) -> Page[Position]:
    rows = tuple((spelling, _opened(holders, row)) for spelling, row in page.rows)
    return Page(rows, page.has_next, page.has_previous)
