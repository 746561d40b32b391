"""Policies against a real database: versions, the current one inside the writer's transaction, tenants apart."""

import asyncio
from decimal import Decimal

import pytest

from app.errors import BadRequest, ErrorCode, NotFound, Refusal
from app.institutions.model import Region
from app.policies import service
from app.policies.model import Limits
from app.policies.store import SELECT_CURRENT
from app.principal import ALL_INSTITUTIONS
from app.storage.conditions import Condition
from app.storage.database import DatabaseRole, take_role
from app.storage.paging import PageRequest

LIMITS = Limits(Decimal("10.50"), Decimal(5000), ("USD", "EUR"))


async def set_policy(office, institution, limits=LIMITS, region=Region.US):
    async with office.working(institution.id) as work:
        return await service.set_policy(work, institution.id, region, limits)


async def current(office, pairs, scope=None):
    """Asked as the ledger's writer asks: its driver, its role, its list of institutions."""
    async with (
        office.services.database.pool(DatabaseRole.WRITER).acquire() as connection,
        connection.transaction(),
    ):
        await take_role(connection, DatabaseRole.WRITER, scope or sorted({pair[0] for pair in pairs}))
        return await service.current(connection, pairs)


async def test_the_writer_reads_what_was_set(office):
    here = await office.institution()
    made = await set_policy(office, here)
    found = await current(office, [(here.id, "US")])
    assert found == {(here.id, "US"): made}
    assert found[here.id, "US"].min_amount == Decimal("10.50")


async def test_the_newest_version_of_each_pair_is_current(office):
    here, there = await office.institution(Region.US, Region.SG), await office.institution()
    await set_policy(office, here)
    second = await set_policy(office, here, Limits())
    asia = await set_policy(office, here, region=Region.SG)
    other = await set_policy(office, there)
    pairs = [(here.id, "US"), (here.id, "SG"), (there.id, "US"), (there.id, "UAE")]
    assert await current(office, pairs) == {
        (here.id, "US"): second,
        (here.id, "SG"): asia,
        (there.id, "US"): other,
    }
    assert (second.version, second.allowed_currencies) == (2, None)
    assert await current(office, []) == {}


async def test_the_writer_sees_only_the_institutions_of_its_batch(office):
    here, there = await office.institution(), await office.institution()
    await set_policy(office, there)
    assert await current(office, [(there.id, "US")], scope=[here.id]) == {}


async def test_many_at_once_make_versions_one_to_n_once_each(office):
    here = await office.institution()
    made = await asyncio.gather(*(set_policy(office, here) for _ in range(8)))
    assert sorted(policy.version for policy in made) == list(range(1, 9))


async def test_the_audit_knows_both_versions(office):
    here = await office.institution()
    first, second = await set_policy(office, here), await set_policy(office, here)
    async with office.services.database.reading(here.id) as connection:
        rows = await connection.exec_driver_sql(
            "SELECT resource_id, payload FROM audit_events WHERE action = 'POLICY_UPDATED' ORDER BY id"
        )
    assert [tuple(row) for row in rows] == [
        (first.id, {"region": "US", "previousVersion": None, "version": 1}),
        (second.id, {"region": "US", "previousVersion": 1, "version": 2}),
    ]


@pytest.mark.parametrize(
    ("limits", "region", "code"),
    [
        (Limits(allowed_currencies=()), Region.US, ErrorCode.VALIDATION_FAILED),
        (Limits(allowed_currencies=("XXX",)), Region.US, ErrorCode.VALIDATION_FAILED),
        (Limits(Decimal(2), Decimal(1)), Region.US, ErrorCode.VALIDATION_FAILED),
        (LIMITS, Region.SG, ErrorCode.POLICY_REFUSED),
    ],
)
async def test_a_refused_policy_writes_nothing(office, limits, region, code):
    here = await office.institution()
    before = await office.counts()
    with pytest.raises(Refusal) as refusal:
        await set_policy(office, here, limits, region)
    assert refusal.value.code == code
    assert await office.counts() == before


async def test_an_institution_that_is_not_there_gets_nothing(office):
    nobody = "inst_" + "0" * 26
    async with office.working(nobody) as work:
        with pytest.raises(NotFound):
            await service.set_policy(work, nobody, Region.US, LIMITS)
    assert (await office.counts())["policies"] == 0


async def test_lists_tell_what_holds_and_what_held(office):
    here = await office.institution(Region.US, Region.SG)
    first, second = await set_policy(office, here), await set_policy(office, here)
    asia = await set_policy(office, here, region=Region.SG)
    async with office.services.database.reading(here.id) as reading:

        async def ids(*conditions, holds=None, **order):
            page = await service.page(reading, here.id, PageRequest(10), conditions, current=holds, **order)
            assert len(page.rows) == await service.count(reading, here.id, conditions, current=holds)
            return [policy.id for _, policy in page.rows]

        assert await ids() == [asia.id, second.id, first.id]
        assert await ids(holds=True) == [asia.id, second.id]
        assert await ids(holds=False) == [first.id]
        assert await ids(Condition("region", "eq", "US"), holds=True) == [second.id]
        assert await ids(order_by="region", descending=False) == [asia.id, first.id, second.id]
        assert await service.current_ids(reading, here.id, [first.id, second.id]) == {second.id}


async def test_a_history_has_every_version_newest_first(office):
    here = await office.institution(Region.US, Region.SG)
    versions = [await set_policy(office, here) for _ in range(3)]
    asia = await set_policy(office, here, region=Region.SG)
    async with office.services.database.reading(ALL_INSTITUTIONS) as reading:
        wanted = [versions[0].id, asia.id]
        found = await service.history_each(reading, ALL_INSTITUTIONS, wanted, PageRequest(2))
        counts = await service.history_counts(reading, ALL_INSTITUTIONS, wanted)
        page = found[versions[0].id]
        rest = await service.history_each(
            reading, ALL_INSTITUTIONS, wanted[:1], PageRequest(2, after=page.end)
        )
    assert [policy.version for _, policy in page.rows] == [3, 2]
    assert page.has_next
    assert [policy for _, policy in rest[versions[0].id].rows] == [versions[0]]
    assert [policy for _, policy in found[asia.id].rows] == [asia]
    assert counts == {versions[0].id: 3, asia.id: 1}


async def test_without_the_filter_row_level_security_still_shows_no_foreign_row(office):
    here, there = await office.institution(), await office.institution()
    mine, theirs = await set_policy(office, here), await set_policy(office, there)
    async with office.services.database.reading(here.id) as reading:
        page = await service.page(reading, ALL_INSTITUTIONS, PageRequest(10))
        assert await service.fetch_each(reading, ALL_INSTITUTIONS, [theirs.id, "a\0b"]) == {}
        histories = await service.history_each(reading, ALL_INSTITUTIONS, [theirs.id], PageRequest(10))
    assert [policy for _, policy in page.rows] == [mine]
    assert histories[theirs.id].rows == ()


async def test_as_root_other_orders_need_one_institution(office):
    async with office.services.database.reading(ALL_INSTITUTIONS) as reading:
        with pytest.raises(BadRequest, match="institutionId"):
            await service.page(reading, ALL_INSTITUTIONS, PageRequest(10), order_by="region")


async def test_the_current_policies_are_found_by_their_index(office, owner):
    here = await office.institution()
    await owner.execute(
        """
        INSERT INTO institutions SELECT 'inst_' || n, 'n', '{US}', '{CONSTRUCTION}', now(), now()
          FROM generate_series(1, 200) n;
        INSERT INTO policies SELECT 'inst_' || n, 'pol_' || n || '_' || v, 'US', v, NULL, NULL, NULL, now()
          FROM generate_series(1, 200) n, generate_series(1, 50) v;
        ANALYZE policies;
        """
    )
    await set_policy(office, here)
    async with (
        office.services.database.pool(DatabaseRole.WRITER).acquire() as connection,
        connection.transaction(),
    ):
        await take_role(connection, DatabaseRole.WRITER, [here.id, "inst_7", "inst_8"])
        rows = await connection.fetch(
            f"EXPLAIN (ANALYZE) {SELECT_CURRENT}", [here.id, "inst_7", "inst_8"], ["US", "US", "US"]
        )
    plan = "\n".join(row[0] for row in rows)
    assert "Index Scan" in plan
    assert "Seq Scan" not in plan
