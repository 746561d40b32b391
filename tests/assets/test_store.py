"""The SQL of templates and assets: row-level security behind every filter, and an index behind every list."""

import json
from datetime import UTC, datetime, timedelta

import pytest
import pytest_asyncio
from sqlalchemy import event

from app.assets import service
from app.errors import BadRequest
from app.principal import ALL_INSTITUTIONS
from app.storage.conditions import Condition
from app.storage.paging import PageRequest

INSTITUTIONS, TEMPLATES, ASSETS = 20, 30, 40
START = datetime(2026, 1, 1, tzinfo=UTC)


def inst(n):
    return f"inst_{n:026d}"


def tmpl(i, n):
    return f"tmpl_{i:013d}{n:013d}"


@pytest_asyncio.fixture
async def filled(services, owner):
    """Enough rows that a plan without an index would show."""
    await owner.execute(
        """
        INSERT INTO institutions
          SELECT 'inst_' || lpad(i::text, 26, '0'), 'n', '{US}', '{CONSTRUCTION}', now(), now()
          FROM generate_series(1, $1) i
        """,
        INSTITUTIONS,
    )
    await owner.execute(
        """
        INSERT INTO asset_templates
          SELECT 'inst_' || lpad(i::text, 26, '0'), 'tmpl_' || lpad(i::text, 13, '0') || lpad(n::text, 13, '0'),
            't' || n, 1, 'CONSTR_ESCROW', 'CONSTRUCTION', 'US', 'escrow', 1, '{"currency": "USD"}', NULL,
            false, NULL, $3::timestamptz + make_interval(secs => n)
          FROM generate_series(1, $1) i, generate_series(1, $2) n
        """,
        INSTITUTIONS,
        TEMPLATES,
        START,
    )
    await owner.execute(
        """
        INSERT INTO assets
          SELECT institution_id, 'ast_' || substr(id, 13, 6) || lpad(substr(id, 19), 13, '0') || lpad(n::text, 7, '0'),
            id, 'label ' || lpad(n::text, 5, '0'), '{}', created_at + make_interval(mins => n), created_at
          FROM asset_templates, generate_series(1, $1) n
        """,
        ASSETS,
    )
    await owner.execute("VACUUM ANALYZE assets, asset_templates, institutions")
    return services.database


async def plan_of(database, scope, ask):
    """The plans, as the api role under row-level security, of what `ask` executes."""
    seen = []

    def before(_connection, _cursor, statement, parameters, _context, _many):
        seen.append((statement, parameters))

    async with database.reading(scope) as connection:
        event.listen(database.engine.sync_engine, "before_cursor_execute", before)
        try:
            await ask(connection)
        finally:
            event.remove(database.engine.sync_engine, "before_cursor_execute", before)
        plans = []
        for statement, parameters in seen:
            rows = await connection.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters)
            found = rows.scalar_one()
            plans.append(json.loads(found) if isinstance(found, str) else found)
    return plans


def nodes(plan):
    if isinstance(plan, list):
        for part in plan:
            yield from nodes(part)
    elif "Plan" in plan:
        yield from nodes(plan["Plan"])
    else:
        yield plan
        for part in plan.get("Plans", ()):
            yield from nodes(part)


def touched(plans):
    """How many rows were read, kept or thrown away, and which kinds of step there are."""
    rows, steps = 0, set()
    for node in nodes(plans):
        steps.add(node["Node Type"])
        if "Scan" in node["Node Type"] and "Relation Name" in node:
            rows += (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
    return rows, steps


TEN = PageRequest(10)
ME = inst(7)
MINE = Condition("institution_id", "eq", ME)


@pytest.mark.parametrize(
    ("scope", "conditions", "order_by"),
    [
        (ME, (), "created_at"),
        (ME, (), "label"),
        (ME, (Condition("template_id", "eq", tmpl(7, 3)),), "created_at"),
        (ME, (Condition("label", "eq", "label 00007"),), "label"),
        (ME, (Condition("created_at", "gte", START + timedelta(minutes=20)),), "created_at"),
        (ME, (Condition("created_at", "lte", START + timedelta(minutes=20)),), "created_at"),
        (ALL_INSTITUTIONS, (), "created_at"),
        (ALL_INSTITUTIONS, (MINE,), "created_at"),
        (ALL_INSTITUTIONS, (MINE,), "label"),
    ],
)
@pytest.mark.parametrize("descending", [True, False])
async def test_a_page_of_assets_reads_little_more_than_the_page(
    filled, scope, conditions, order_by, descending
):
    plans = await plan_of(
        filled,
        scope,
        lambda reading: service.page_assets(
            reading, scope, TEN, conditions, order_by=order_by, descending=descending
        ),
    )
    rows, steps = touched(plans)
    assert "Seq Scan" not in steps
    assert 0 < rows <= 60


@pytest.mark.parametrize(
    ("scope", "conditions", "order_by"),
    [
        (ME, (), "created_at"),
        (ME, (), "name"),
        (ME, (Condition("name", "eq", "t7"),), "name"),
        (ME, (Condition("code", "eq", "CONSTR_ESCROW"),), "created_at"),
        (ALL_INSTITUTIONS, (), "created_at"),
        (ALL_INSTITUTIONS, (MINE,), "name"),
    ],
)
async def test_a_page_of_templates_reads_little_more_than_the_page(filled, scope, conditions, order_by):
    plans = await plan_of(
        filled,
        scope,
        lambda reading: service.page_templates(reading, scope, TEN, conditions, order_by=order_by),
    )
    rows, steps = touched(plans)
    assert "Seq Scan" not in steps
    assert 0 < rows <= TEMPLATES


@pytest.mark.parametrize("scope", [ME, ALL_INSTITUTIONS])
async def test_nested_assets_are_one_statement_that_reads_their_pages(filled, scope):
    wanted = [(ME, tmpl(7, n)) for n in range(1, 11)]
    found = {}

    async def ask(reading):
        found.update(await service.page_assets_each(reading, scope, wanted, PageRequest(3)))

    plans = await plan_of(filled, scope, ask)
    assert len(plans) == 1
    assert [len(page.rows) for page in found.values()] == [3] * 10
    assert all(page.has_next for page in found.values())
    rows, _ = touched(plans)
    assert 0 < rows <= 10 * (3 + 1 + ASSETS)


async def test_nested_counts_are_one_statement(filled):
    wanted = [(inst(i), tmpl(i, 1)) for i in (1, 2, 3)]
    async with filled.reading(ALL_INSTITUTIONS) as reading:
        assert await service.count_assets_each(reading, ALL_INSTITUTIONS, wanted) == dict.fromkeys(
            wanted, ASSETS
        )


async def test_as_root_other_orders_need_one_institution(filled):
    async with filled.reading(ALL_INSTITUTIONS) as reading:
        with pytest.raises(BadRequest, match="institutionId"):
            await service.page_assets(reading, ALL_INSTITUTIONS, TEN, order_by="label")
        with pytest.raises(BadRequest, match="institutionId"):
            await service.page_templates(reading, ALL_INSTITUTIONS, TEN, order_by="name")


@pytest.mark.parametrize("order_by", ["created_at", "label"])
@pytest.mark.parametrize("descending", [True, False])
@pytest.mark.parametrize("scope", [ME, ALL_INSTITUTIONS])
async def test_pages_follow_each_other_without_gap_or_repeat(filled, scope, order_by, descending):
    conditions = (MINE,)
    async with filled.reading(scope) as reading:
        total = await service.count_assets(reading, scope, conditions)
        seen, after = [], None
        while True:
            page = await service.page_assets(
                reading,
                scope,
                PageRequest(97, after=after),
                conditions,
                order_by=order_by,
                descending=descending,
            )
            seen += [asset.id for _, asset in page.rows]
            if not page.has_next:
                break
            after = page.end
    assert len(seen) == len(set(seen)) == total == TEMPLATES * ASSETS


async def test_without_the_filter_row_level_security_still_shows_no_foreign_row(filled):
    # The scope of the statement says everything, that of the transaction says one institution.
    async with filled.reading(ME) as reading:
        assets = await service.page_assets(reading, ALL_INSTITUTIONS, PageRequest(500))
        templates = await service.page_templates(reading, ALL_INSTITUTIONS, PageRequest(500))
        assert await service.templates_by_id(reading, ALL_INSTITUTIONS, [tmpl(8, 1)]) == {}
    assert {asset.institution_id for _, asset in assets.rows} == {ME}
    assert {template.institution_id for _, template in templates.rows} == {ME}
