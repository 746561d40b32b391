"""One query, one truth: what its levels read is of one instant, in one transaction, in a fixed number of statements."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.context import Context, Request, Services
from app.engine.masking import Schema
from app.errors import Overloaded
from app.principal import Principal, root
from app.storage.snapshot import OverError, Snapshot
from tests import factories
from tests.conftest import Run

from .conftest import listening

READS = 400
WRITERS = 4
POSITIONS = 8
TWO_LEVELS = """
{ ledgerHead { sequence }
  positions { edges { node { id version held events(last: 1) { edges { node {
    sequence positionVersion balancesAfter { held } } } } } } }
  positionSummary { held } }
"""


@pytest.fixture
async def busy(services: Services) -> AsyncIterator[factories.Place]:
    """Four writers that move positions for as long as the test runs."""
    place = await factories.place(services)
    positions = [
        await factories.position(services, place.asset, "1000000.00", state=factories.State.FUNDED)
        for _ in range(POSITIONS)
    ]

    async def write(number: int) -> None:
        turn = number
        while True:
            turn += WRITERS
            command = factories.move(services, positions[turn % POSITIONS], factories.release("0.01"))
            await services.writer.submit(command)

    writers = [asyncio.create_task(write(number)) for number in range(WRITERS)]
    yield place
    for writer in writers:
        assert not writer.done(), "the writers wrote to the end"
        writer.cancel()
    await asyncio.gather(*writers, return_exceptions=True)


def torn(data: Any) -> bool:
    """Whether an answer mixes instants: levels that do not fit, a head that is not the last event's, another sum."""
    nodes = [edge["node"] for edge in data["positions"]["edges"]]
    last = {node["id"]: node["events"]["edges"][0]["node"] for node in nodes}
    return (
        any(node["version"] != last[node["id"]]["positionVersion"] for node in nodes)
        or any(node["held"] != last[node["id"]]["balancesAfter"]["held"] for node in nodes)
        or max(found["sequence"] for found in last.values()) != data["ledgerHead"]["sequence"]
        or sum(_cents(node["held"]) for node in nodes) != _cents(data["positionSummary"][0]["held"])
    )


def _cents(amount: str) -> int:
    return int(amount.replace(".", ""))


async def test_no_read_is_torn_while_four_write(busy: factories.Place, run: Run) -> None:
    seen: set[int] = set()

    async def read() -> None:
        for _ in range(READS // 4):
            answered = await run(TWO_LEVELS, principal=busy.admin)
            assert not answered.errors
            assert not torn(answered.data)
            seen.add(answered.data["ledgerHead"]["sequence"])

    await asyncio.gather(*(read() for _ in range(4)))
    assert len(seen) > READS / 10, "the writers did write meanwhile"


async def test_a_snapshot_for_each_level_would_tear(
    busy: factories.Place, services: Services, built_schema: Schema, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the test above looks for does happen when every level has an instant of its own."""
    connection = Snapshot.connection

    def another(self: Snapshot) -> Any:
        opened.append(Snapshot(self._begin))
        return connection(opened[-1])

    opened: list[Snapshot] = []
    monkeypatch.setattr(Snapshot, "connection", another)
    found = 0
    for _ in range(READS):
        context = Context(services, busy.admin, Request("req_test"))
        result = await built_schema.execute(TWO_LEVELS, context_value=context)
        for one in opened:
            await one.close()
        opened.clear()
        assert result.data is not None, result.errors
        found += torn(result.data)
        if found > 3:
            return
    raise AssertionError("no read was torn")


DASHBOARD = """
query ($positions: Int!, $events: Int!) {
  positions(first: $positions) { edges { cursor node {
    id amount held state
    asset { id label metadata template { id code version institution { id name } } institution { id } }
    institution { id name regions }
    events(first: $events) { edges { cursor node { id kind amountMoved balancesAfter { held } } } }
  } } pageInfo { hasNextPage endCursor } }
}
"""
# Positions; their institutions and events. The transaction's role and scope come with its BEGIN.
DASHBOARD_STATEMENTS = 3
# What a process does not know yet: assets, and their templates.
UNKNOWN_STATEMENTS = 2


@pytest.fixture
async def filled(services: Services) -> factories.Place:
    """Fifty positions of two institutions' worth of assets, each with ten events."""
    place = await factories.place(services)
    more = [await factories.asset(services, place.template) for _ in range(4)]
    other = await factories.asset(services, await factories.template(services, place.institution.id))
    for number in range(50):
        asset = [place.asset, *more, other][number % 6]
        position = await factories.position(services, asset, "1000.00", state=factories.State.FUNDED)
        for _ in range(8):
            await services.writer.submit(factories.move(services, position, factories.release("1.00")))
    return place


@pytest.mark.parametrize("asker", ["tenant", "root"])
async def test_a_nested_query_takes_a_fixed_number_of_statements(
    filled: factories.Place, services: Services, run: Run, asker: str
) -> None:
    """50 positions × 10 events with asset, template and institution cost what 5 × 1 cost: one transaction."""
    principal: Principal = filled.admin if asker == "tenant" else root()
    # The driver asks for the types it does not know yet, once for each connection.
    await run(DASHBOARD, {"positions": 1, "events": 1}, principal=principal)
    for positions, events in ((50, 10), (5, 1), (1, 1), (50, 1)):
        with listening(services.database) as traffic:
            answered = await run(DASHBOARD, {"positions": positions, "events": events}, principal=principal)
        assert not answered.errors
        found = [edge["node"] for edge in answered.data["positions"]["edges"]]
        assert len(found) == positions
        assert {len(node["events"]["edges"]) for node in found} == {events}
        assert len(traffic.statements) == DASHBOARD_STATEMENTS, "\n\n".join(traffic.statements)
        assert traffic.transactions == ["BEGIN", "ROLLBACK"], "a query has nothing to commit"
        assert len(traffic.connections) == 1
    # As in a new process.
    services.assets._pairs.clear()
    with listening(services.database) as traffic:
        await run(DASHBOARD, {"positions": 50, "events": 10}, principal=principal)
    assert len(traffic.statements) == DASHBOARD_STATEMENTS + UNKNOWN_STATEMENTS


async def test_several_root_fields_share_one_transaction(
    filled: factories.Place, services: Services, run: Run
) -> None:
    document = "{ a: positions { totalCount } b: ledgerHead { sequence } c: assets { totalCount } d: viewer { role } }"
    with listening(services.database) as traffic:
        answered = await run(document, principal=filled.admin)
    assert not answered.errors
    assert (traffic.transactions, len(traffic.connections)) == (["BEGIN", "ROLLBACK"], 1)


async def test_a_query_that_asks_nothing_of_the_database_opens_nothing(services: Services, run: Run) -> None:
    with listening(services.database) as traffic:
        answered = await run("{ viewer { role } currencies { code } __typename }")
    assert not answered.errors
    assert (traffic.sent, traffic.connections) == ([], set())


async def test_a_refused_query_gives_its_connection_back(services: Services, run: Run) -> None:
    """More errors, one after the other, than there are connections."""
    for _ in range(12):
        answered = await run('{ positions(after: "nonsense") { edges { cursor } } }')
        assert answered.codes == ["CURSOR_INVALID"]
    assert services.database.engine.pool.checkedout() == 0  # type: ignore[attr-defined]


async def test_a_cancelled_query_gives_its_connection_back(services: Services, run: Run) -> None:
    for _ in range(12):
        task = asyncio.create_task(run(TWO_LEVELS))
        await asyncio.sleep(0.002)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    async with services.database.reading("*") as connection:
        assert (await connection.execute(text("SELECT 1"))).scalar_one() == 1
    assert services.database.engine.pool.checkedout() == 0  # type: ignore[attr-defined]


class TestTheEnd:
    """Whoever asked may be gone while a level is still being read, or has yet to begin."""

    async def test_what_comes_after_it_takes_no_connection(self, services: Services) -> None:
        began = 0

        @asynccontextmanager
        async def begin() -> AsyncIterator[AsyncConnection]:
            nonlocal began
            async with services.database.reading("*") as connection:
                began += 1
                yield connection
                began -= 1

        snapshot = Snapshot(begin)
        async with snapshot.connection() as connection:
            await connection.execute(text("SELECT 1"))
            ending = asyncio.create_task(snapshot.end())
            late = asyncio.create_task(anext(_read(snapshot)))
            await asyncio.sleep(0.05)
            # A second time of being told: the end goes on all the same.
            ending.cancel()
        with pytest.raises(OverError):
            await late
        with pytest.raises(asyncio.CancelledError):
            await ending
        await snapshot.end()
        assert began == 0

    async def test_operations_that_are_broken_off_leave_no_connection_behind(
        self, services: Services, built_schema: Schema
    ) -> None:
        place = await factories.place(services)
        for _ in range(3):
            await factories.position(services, place.asset)
        for moment in range(60):
            context = Context(services, place.admin, Request("req_test"))
            asked = asyncio.create_task(built_schema.execute(TWO_LEVELS, context_value=context))
            await asyncio.sleep(moment / 5000)
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)
            await context.close()
        await asyncio.sleep(0.2)
        assert services.database.engine.pool.checkedout() == 0  # type: ignore[attr-defined]


async def _read(snapshot: Snapshot) -> AsyncIterator[None]:
    async with snapshot.connection() as connection:
        await connection.execute(text("SELECT 1"))
        yield


SLOW = "SELECT pg_sleep(5)"


@pytest.mark.parametrize("kind", ["reading", "writing"])
async def test_a_transaction_whose_statement_takes_too_long_says_so(services: Services, kind: str) -> None:

    async def slow() -> None:
        async with getattr(services.database, kind)("inst_1") as connection:
            await connection.execute(text("SET LOCAL statement_timeout = 50"))
            await connection.execute(text(SLOW))

    with pytest.raises(Overloaded, match="statement_timeout_seconds"):
        await slow()


async def test_fields_beside_one_that_takes_too_long_say_so_too(services: Services) -> None:
    snapshot = Snapshot(lambda: services.database.reading("inst_1"))
    async with snapshot.connection() as connection:
        await connection.execute(text("SET LOCAL statement_timeout = 50"))
    for statement in (SLOW, "SELECT 1"):
        with pytest.raises(Overloaded):
            async with snapshot.connection() as connection:
                await connection.execute(text(statement))
    await snapshot.end()
