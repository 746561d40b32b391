"""Every page of the audit is read by indexes, as the api role and under row-level security."""

from typing import Any

import asyncpg
import pytest
from sqlalchemy import event

from app.audit import service
from app.context import Services
from app.principal import ALL_INSTITUTIONS
from app.storage.conditions import Condition
from app.storage.paging import PageRequest

from .conftest import START, Moved, Noted, Opened

MINE = "the institution"
PAGES: dict[str, tuple[str, tuple[Condition, ...]]] = {
    "a tenant's": (MINE, ()),
    "a tenant's, of a span of time": (MINE, (Condition("occurred_at", "gte", START),)),
    "a tenant's, of both outcomes": (MINE, (Condition("outcome", "in", ["SUCCESS", "FAILURE"]),)),
    "root's": (ALL_INSTITUTIONS, ()),
    "root's, of a span of time": (ALL_INSTITUTIONS, (Condition("occurred_at", "gte", START),)),
    "root's, of one institution": (ALL_INSTITUTIONS, (Condition("institution_id", "eq", MINE),)),
}


@pytest.mark.parametrize("newest_first", [True, False])
@pytest.mark.parametrize("name", PAGES)
async def test_no_page_reads_more_than_it_shows(
    services: Services,
    owner: asyncpg.Connection,
    opened: Opened,
    noted: Noted,
    moved: Moved,
    name: str,
    newest_first: bool,
) -> None:
    bank, other = await opened(), await opened()
    for institution_id in (bank, other):
        await noted(institution_id, [n / 10 for n in range(2000)])
    for _ in range(8):
        await moved(*[bank, other] * 128)
    await owner.execute("ANALYZE audit_events, ledger_events")
    scope, tests = PAGES[name]
    scope = bank if scope == MINE else scope
    tests = tuple(Condition(t.field, t.operator, bank if t.value == MINE else t.value) for t in tests)
    ran: list[tuple[str, Any]] = []

    def note(_c: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        ran.append((statement, parameters))

    engine = services.database.engine.sync_engine
    async with services.database.reading(scope) as connection:
        first = await service.page(connection, scope, PageRequest(1500), tests, newest_first=newest_first)
        event.listen(engine, "before_cursor_execute", note)
        deep = PageRequest(20, after=first.end)
        await service.page(connection, scope, deep, tests, newest_first=newest_first)
        event.remove(engine, "before_cursor_execute", note)
        for statement, parameters in ran:
            found = await connection.exec_driver_sql(
                f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters
            )
            (plan,) = found.scalar_one()
            read = list(scans(plan["Plan"]))
            assert sum(rows for _, rows in read) <= 400, (statement, read)
            # Empty partitions may be read whole: there is nothing in them.
            assert {kind for kind, rows in read if rows} <= {"Index Scan", "Index Only Scan"}, read


def scans(node: dict[str, Any]) -> Any:
    """The kind of each scan, and how many rows it has looked at."""
    if "Scan" in node["Node Type"] and node["Node Type"] not in ("WorkTable Scan", "CTE Scan"):
        rows = node["Actual Rows"] * node["Actual Loops"]
        yield node["Node Type"], rows + node.get("Rows Removed by Filter", 0) * node["Actual Loops"]
    for child in node.get("Plans", ()):
        yield from scans(child)
