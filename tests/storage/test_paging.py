"""Keyset pages over real rows: every order, both directions, from both ends, with ties, in pages of any size."""

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from app.kit.cursor import BadCursor, seal
from app.personal.masters import GivenMasters
from app.personal.service import Holders
from app.positions import reads
from app.positions.model import Position
from app.storage.conditions import Condition
from app.storage.database import Address, Database
from app.storage.paging import Order, Page, PageRequest

OWNER, OTHER = f"inst_{1:026}", f"inst_{2:026}"
ROWS = 60
# The rows are held for nobody: nothing is opened.
HOLDERS = Holders(GivenMasters("00" * 32))
# Ties everywhere but in the ids: five times of creation, four amounts, three deadlines and none.
FILL = """
INSERT INTO institutions SELECT 'inst_' || lpad(g::text, 26, '0'), 'I', '{US}', '{CONSTRUCTION}', now(), now()
FROM generate_series(1, 2) g;
INSERT INTO asset_templates SELECT id, 'tmpl_' || right(id, 26), 'T', 1, 'CONSTR_ESCROW', 'CONSTRUCTION', 'US', 'escrow',
  1, '{}', NULL, false, NULL, now() FROM institutions;
INSERT INTO assets SELECT i.id, 'ast_' || lpad((a + 10 * right(i.id, 26)::int)::text, 26, '0'), 'tmpl_' || right(i.id, 26),
  'L', '{}', now(), now() FROM institutions i, generate_series(0, 3) a;
INSERT INTO positions (institution_id, id, asset_id, currency, amount, funded, released, refunded, held,
                       state, stage, version, lifecycle_name, lifecycle_version, expires_at, created_at, updated_at)
SELECT 'inst_' || lpad(i::text, 26, '0'), 'pos_' || lpad((g * 37 % 101 + 1000 * i)::text, 26, '0'),
  'ast_' || lpad((g % 3 + 10 * i)::text, 26, '0'), 'USD', (g % 4 + 1) * 0.01, 0, 0, 0, 0, 'CREATED', 'CREATED', 1,
  'escrow', 1, CASE g % 4 WHEN 0 THEN NULL ELSE timestamptz '2050-01-01' + g % 4 * interval '1 microsecond' END,
  timestamptz '2026-01-01' + g % 5 * interval '1 microsecond', now()
FROM generate_series(1, 60) g, generate_series(1, 2) i;
"""
FOR_EVER = datetime.max.replace(tzinfo=UTC)
KEYS: dict[str, Callable[[Position], Any]] = {
    "CREATED": lambda position: (position.created_at, position.id),
    "AMOUNT": lambda position: (position.amount, position.id),
    "EXPIRES": lambda position: (position.expires_at or FOR_EVER, position.id),
}
ORDERS = [reads.order(name, descending=descending) for name in KEYS for descending in (False, True)]


@pytest.fixture
async def reading(owner: asyncpg.Connection, address: Address) -> AsyncIterator[AsyncConnection]:
    await owner.execute(FILL)
    database = Database(address, pool_size_max=2, pool_timeout=5, statement_timeout=5)
    async with database.reading(OWNER) as connection:
        yield connection
    await database.close()


async def everything(reading: AsyncConnection, order: Order) -> list[Position]:
    """The list as Python would sort it."""
    page = await reads.fetch_list(
        reading, OWNER, HOLDERS, (), reads.order("CREATED", descending=False), PageRequest(500)
    )
    key = KEYS[order.name.removeprefix("positions.")]
    return sorted((row for _cursor, row in page.rows), key=key, reverse=order.descending)


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: order.label)
async def test_pages_make_up_the_list(reading: AsyncConnection, order: Order) -> None:
    whole = await everything(reading, order)
    assert len(whole) == ROWS
    for size in (1, 7, 30, 59, 60, 61):
        for backward in (False, True):
            found: list[Position] = []
            place: str | None = None
            while True:
                request = PageRequest(
                    size,
                    backward,
                    **({"before": place} if backward else {"after": place}),  # type: ignore[arg-type]
                )
                page = await reads.fetch_list(reading, OWNER, HOLDERS, (), order, request)
                rows = [row for _cursor, row in page.rows]
                found = rows + found if backward else found + rows
                assert (page.has_next if backward else page.has_previous) == (place is not None)
                more = page.has_previous if backward else page.has_next
                assert more == (len(found) < ROWS)
                if not more:
                    break
                place = page.rows[0 if backward else -1][0]()
            assert found == whole, (size, backward)


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: order.label)
async def test_between_two_cursors(reading: AsyncConnection, order: Order) -> None:
    page = await reads.fetch_list(reading, OWNER, HOLDERS, (), order, PageRequest(60))
    cursors = [spelling() for spelling, _row in page.rows]
    whole = [row for _cursor, row in page.rows]
    for after, before, size in ((4, 20, 50), (4, 20, 3), (0, 59, 60), (30, 31, 5), (40, 10, 5)):
        for backward in (False, True):
            request = PageRequest(size, backward, after=cursors[after], before=cursors[before])
            page = await reads.fetch_list(reading, OWNER, HOLDERS, (), order, request)
            inside = whole[after + 1 : before] if after < before else []
            wanted = inside[-size:] if backward else inside[:size]
            assert [row for _cursor, row in page.rows] == wanted
            # On the side of a cursor there is a row at least: the cursor's own.
            assert page.has_next == (backward or len(inside) > size)
            assert page.has_previous == (not backward or len(inside) > size)


async def test_a_page_of_nothing(reading: AsyncConnection) -> None:
    order = reads.order("CREATED", descending=True)
    page = await reads.fetch_list(reading, OWNER, HOLDERS, (), order, PageRequest(0))
    assert (page.rows, page.has_next, page.has_previous) == ((), True, False)
    nobody = (Condition("external_reference", "eq", "nobody"),)
    assert await reads.fetch_list(reading, OWNER, HOLDERS, nobody, order, PageRequest(5)) == Page(
        (), False, False
    )
    assert await reads.count_list(reading, OWNER, HOLDERS, nobody) == 0


async def test_a_cursor_serves_its_own_order_alone(reading: AsyncConnection) -> None:
    for mine in ORDERS:
        page = await reads.fetch_list(reading, OWNER, HOLDERS, (), mine, PageRequest(1))
        cursor = page.end
        for other in ORDERS:
            if other.label == mine.label:
                continue
            with pytest.raises(BadCursor, match="another order"):
                await reads.fetch_list(reading, OWNER, HOLDERS, (), other, PageRequest(1, after=cursor))


@pytest.mark.parametrize("cursor", ["", "x", "=", "ÿ", "AAAA", "A" * 700, "eyJhIjoxfQ", "\x00"])
async def test_what_is_no_cursor_is_refused(reading: AsyncConnection, cursor: str) -> None:
    for request in (PageRequest(1, after=cursor), PageRequest(1, backward=True, before=cursor)):
        with pytest.raises(BadCursor):
            await reads.fetch_list(reading, OWNER, HOLDERS, (), ORDERS[0], request)


async def test_a_list_goes_on_whatever_came_and_went_meanwhile(
    owner: asyncpg.Connection, address: Address
) -> None:
    """New rows behind the cursor are met, those ahead are not; none is met twice."""
    await owner.execute(FILL)
    database = Database(address, pool_size_max=1, pool_timeout=5, statement_timeout=5)
    order, seen = reads.order("CREATED", descending=True), []
    place: str | None = None
    insert = (
        "INSERT INTO positions (institution_id, id, asset_id, currency, amount, funded, released, refunded, held, state, "
        "stage, version, lifecycle_name, lifecycle_version, created_at, updated_at) SELECT institution_id, $1, asset_id, "
        "currency, amount, 0, 0, 0, 0, state, stage, 1, 'escrow', 1, $2, updated_at FROM positions LIMIT 1"
    )
    for turn in range(100):
        async with database.reading(OWNER) as connection:
            page = await reads.fetch_list(connection, OWNER, HOLDERS, (), order, PageRequest(7, after=place))
        seen += [row.id for _cursor, row in page.rows]
        if not page.has_next:
            break
        place = page.end
        if turn < 5:
            await owner.execute(insert, f"pos_new{turn}", datetime(2026, 2, 1, tzinfo=UTC))
            await owner.execute(insert, f"pos_old{turn}", datetime(2025, 1, 1, tzinfo=UTC))
    await database.close()
    assert len(seen) == len(set(seen)) == ROWS + 5
    assert not [found for found in seen if found.startswith("pos_new")]


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: order.label)
async def test_a_page_for_each_is_the_page_of_each(reading: AsyncConnection, order: Order) -> None:
    """One lateral statement for all parents gives what a statement for each would, also to those without rows."""
    parents = [f"ast_{number:026}" for number in (12, 10, 13, 99, 11, 20)]
    for request in (PageRequest(4), PageRequest(4, backward=True), PageRequest(500), PageRequest(0)):
        together = await reads.fetch_each(reading, OWNER, HOLDERS, parents, (), order, request)
        assert list(together) == parents
        for parent in parents:
            mine = (Condition("asset_id", "eq", parent),)
            alone = await reads.fetch_list(reading, OWNER, HOLDERS, mine, order, request)
            assert told(together[parent]) == told(alone)
    assert len(together[parents[0]].rows) == 0
    some = await reads.fetch_each(reading, OWNER, HOLDERS, parents, (), order, PageRequest(3))
    cursor = some[parents[0]].end
    rest: Page[Position] = (
        await reads.fetch_each(
            reading, OWNER, HOLDERS, parents[:1], (), order, PageRequest(500, after=cursor)
        )
    )[parents[0]]
    assert len(rest.rows) == 20 - 3
    assert rest.has_previous


def told(page: Page[Position]) -> tuple[object, ...]:
    """A page with its cursors spelled."""
    return [(spelling(), row) for spelling, row in page.rows], page.has_next, page.has_previous


async def test_counts_are_those_of_the_lists(reading: AsyncConnection) -> None:
    parents = [f"ast_{number:026}" for number in (10, 11, 12, 13, 20, 99)]
    assert await reads.count_list(reading, OWNER, HOLDERS, ()) == ROWS
    assert await reads.count_list(reading, OTHER, HOLDERS, ()) == 0, (
        "the transaction is the owner's, whatever the filter says"
    )
    counts = await reads.count_of_each(reading, OWNER, HOLDERS, parents, ())
    assert counts == dict(zip(parents, (20, 20, 20, 0, 0, 0), strict=True))
    cheap = (Condition("amount", "lte", Decimal("0.02")),)
    assert sum((await reads.count_of_each(reading, OWNER, HOLDERS, parents, cheap)).values()) == 30


async def test_what_never_expires_is_neither_early_nor_late(reading: AsyncConnection) -> None:
    """No deadline sorts last, and passes no test on the deadline."""
    order = reads.order("EXPIRES", descending=False)
    page = await reads.fetch_list(reading, OWNER, HOLDERS, (), order, PageRequest(60))
    assert [row.expires_at is None for _cursor, row in page.rows] == [False] * 45 + [True] * 15
    for operator, moment, count in (
        ("gte", datetime(2000, 1, 1, tzinfo=UTC), 45),
        ("lte", datetime(9000, 1, 1, tzinfo=UTC), 45),
        ("gte", datetime(9000, 1, 1, tzinfo=UTC), 0),
        ("eq", datetime(2050, 1, 1, 0, 0, 0, 2, tzinfo=UTC), 15),
    ):
        assert (
            await reads.count_list(reading, OWNER, HOLDERS, (Condition("expires_at", operator, moment),))
            == count
        )  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("CREATED", ["x", "pos_1"]),
        ("CREATED", [10**18, "pos_1"]),
        ("CREATED", [1, 2]),
        ("AMOUNT", [5, "pos_1"]),
        ("AMOUNT", ["\0", "pos_1"]),
        ("EXPIRES", ["never", "pos_1"]),
        ("EXPIRES", [1, "\0"]),
    ],
)
async def test_a_cursor_that_somebody_made_by_hand_is_a_bad_cursor(
    reading: AsyncConnection, name: str, parts: list[str | int]
) -> None:
    order = reads.order(name, descending=False)
    for request in (
        PageRequest(5, after=seal(order.label, *parts)),
        PageRequest(5, before=seal(order.label, *parts)),
    ):
        with pytest.raises(BadCursor):
            await reads.fetch_list(reading, OWNER, HOLDERS, (), order, request)
