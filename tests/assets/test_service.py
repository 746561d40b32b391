"""Templates and assets against a real database: versions, refusals that write nothing, tenants apart, the cache."""

import asyncio
from decimal import Decimal

import pytest

from app.assets import service
from app.assets.cache import AssetCache
from app.assets.model import TemplateDraft
from app.errors import Conflict, ErrorCode, Invalid, NotFound, Refusal
from app.institutions.model import Region, Vertical
from app.principal import ALL_INSTITUTIONS

LIFECYCLES = frozenset({("escrow", 1)})
CONFIG = {"currency": "USD", "region": "US", "minAmount": "1000.00"}


def draft(name="Tower", **change):
    return TemplateDraft(
        **{"name": name, "code": "CONSTR_ESCROW", "region": Region.US, "config": CONFIG} | change
    )


async def make_template(office, institution, wanted=None):
    async with office.working(institution.id) as work:
        return await service.create_template(work, institution.id, wanted or draft(), lifecycles=LIFECYCLES)


async def make_asset(office, institution, template, label="Block A", metadata=None):
    async with office.working(institution.id) as work:
        return await service.create_asset(
            work, institution.id, template_id=template.id, label=label, metadata=metadata or {}
        )


async def test_a_template_is_read_back_as_it_was_made(office):
    here = await office.institution()
    schema = {"properties": {"floor": {"type": "integer", "multipleOf": Decimal("0.5")}}}
    wanted = draft(metadata_schema=schema, onchain_enabled=True, onchain_chain_id=11155111)
    made = await make_template(office, here, wanted)
    async with office.services.database.reading(here.id) as connection:
        assert (await service.templates_by_id(connection, here.id, [made.id]))[made.id] == made
    assert (made.version, made.vertical, made.onchain_chain_id) == (1, Vertical.CONSTRUCTION, 11155111)


async def test_the_same_name_makes_the_next_version_and_assets_keep_theirs(office):
    here = await office.institution()
    first = await make_template(office, here)
    asset = await make_asset(office, here, first)
    second = await make_template(office, here, draft(config=CONFIG | {"minAmount": "5"}))
    assert (second.name, second.version) == (first.name, 2)
    async with office.services.database.reading(here.id) as connection:
        kept = await service.fetch_terms_each(connection, here.id, [asset.id])
    assert kept == {asset.id: (asset, first)}


async def test_many_at_once_make_versions_one_to_n_once_each(office):
    here = await office.institution()
    made = await asyncio.gather(*(make_template(office, here) for _ in range(8)))
    assert sorted(template.version for template in made) == list(range(1, 9))


@pytest.mark.parametrize(
    ("change", "code", "field"),
    [
        ({"region": Region.SG, "config": CONFIG | {"region": "SG"}}, ErrorCode.TEMPLATE_REFUSED, "region"),
        ({"vertical": Vertical.TRADE_FINANCE, "config": {}}, ErrorCode.VALIDATION_FAILED, "config.currency"),
        ({"vertical": Vertical.TRADE_FINANCE}, ErrorCode.TEMPLATE_REFUSED, "vertical"),
        ({"code": "NOTHING"}, ErrorCode.VALIDATION_FAILED, "code"),
        ({"config": {}}, ErrorCode.VALIDATION_FAILED, "config.currency"),
        ({"config": CONFIG | {"colour": "red"}}, ErrorCode.VALIDATION_FAILED, "config.colour"),
        ({"config": CONFIG | {"minAmount": "1.005"}}, ErrorCode.VALIDATION_FAILED, "config.minAmount"),
        ({"name": ""}, ErrorCode.VALIDATION_FAILED, "name"),
        ({"name": "a\0"}, ErrorCode.VALIDATION_FAILED, "name"),
        ({"lifecycle": ("rental", 1)}, ErrorCode.VALIDATION_FAILED, "lifecycleName"),
        ({"onchain_enabled": True}, ErrorCode.VALIDATION_FAILED, "onchain.chainId"),
        ({"metadata_schema": {"$ref": "https://x"}}, ErrorCode.VALIDATION_FAILED, "metadataSchema"),
    ],
)
async def test_a_refused_template_writes_nothing(office, change, code, field):
    here = await office.institution(Region.US, Region.EU_UK)
    before = await office.counts()
    with pytest.raises(Refusal) as refusal:
        await make_template(office, here, draft(**change))
    assert (refusal.value.code, refusal.value.field) == (code, field)
    assert await office.counts() == before


async def test_a_code_of_a_vertical_that_is_not_the_institutions_is_refused(office):
    here = await office.institution(verticals=(Vertical.TRADE_FINANCE,))
    before = await office.counts()
    with pytest.raises(Refusal) as refusal:
        await make_template(office, here)
    assert refusal.value.code == ErrorCode.TEMPLATE_REFUSED
    assert await office.counts() == before


@pytest.mark.parametrize(
    "change",
    [
        {"code": "CONSTR_RETAINAGE", "config": {"currency": "USD", "retainagePercentage": 5}},
        {"region": Region.SG, "config": CONFIG | {"region": "SG"}},
    ],
)
async def test_a_name_that_is_taken_by_another_kind_is_refused(office, change):
    here = await office.institution(Region.US, Region.SG)
    await make_template(office, here)
    before = await office.counts()
    with pytest.raises(Refusal) as refusal:
        await make_template(office, here, draft(**change))
    assert refusal.value.code == ErrorCode.DUPLICATE_NAME
    assert not isinstance(refusal.value, Conflict)
    assert await office.counts() == before


async def test_an_institution_that_is_not_there_gets_nothing(office):
    nobody = await office.institution()
    async with office.working("inst_" + "0" * 26) as work:
        with pytest.raises(NotFound):
            await service.create_template(work, "inst_" + "0" * 26, draft(), lifecycles=LIFECYCLES)
    assert (await office.counts())["asset_templates"] == 0
    assert nobody


async def test_each_success_has_its_audit_row_without_the_metadata(office):
    here = await office.institution()
    template = await make_template(office, here)
    await make_asset(office, here, template, metadata={"owner": "Jane"})
    async with office.services.database.reading(here.id) as connection:
        rows = (
            await connection.exec_driver_sql(
                "SELECT action, payload FROM audit_events WHERE resource_type <> 'institution' ORDER BY id"
            )
        ).all()
    assert [tuple(row) for row in rows] == [
        ("ASSET_TEMPLATE_CREATED", {"code": "CONSTR_ESCROW", "version": 1}),
        ("ASSET_CREATED", {"templateId": template.id, "label": "Block A"}),
    ]


@pytest.mark.parametrize("template_id", ["tmpl_" + "0" * 26, "nonsense", "a\0b", "\ud800"])
async def test_an_asset_of_no_template_is_refused(office, template_id):
    here = await office.institution()
    before = await office.counts()
    async with office.working(here.id) as work:
        with pytest.raises(NotFound) as refusal:
            await service.create_asset(work, here.id, template_id=template_id, label="x", metadata={})
    assert refusal.value.field == "templateId"
    assert await office.counts() == before


async def test_another_institutions_template_is_not_there(office):
    here, there = await office.institution(), await office.institution()
    template = await make_template(office, there)
    before = await office.counts()
    with pytest.raises(NotFound):
        await make_asset(office, here, template)
    assert await office.counts() == before


@pytest.mark.parametrize(
    ("label", "metadata", "field"),
    [("", {}, "label"), ("x" * 256, {}, "label"), ("x", {"floor": "up"}, "metadata")],
)
async def test_a_refused_asset_writes_nothing(office, label, metadata, field):
    here = await office.institution()
    schema = {"properties": {"floor": {"type": "integer"}}}
    template = await make_template(office, here, draft(metadata_schema=schema))
    before = await office.counts()
    with pytest.raises(Invalid) as refusal:
        await make_asset(office, here, template, label, metadata)
    assert refusal.value.field == field
    assert await office.counts() == before


async def test_exact_numbers_survive_the_database(office):
    here = await office.institution()
    template = await make_template(office, here)
    metadata = {"area": Decimal("12345678901234567890.123456789"), "floors": 12, "text": "漢"}
    asset = await make_asset(office, here, template, metadata=metadata)
    async with office.services.database.reading(here.id) as connection:
        found = (await service.assets_by_id(connection, here.id, [asset.id]))[asset.id]
    assert found.metadata == metadata


class Opened:
    """A database that counts its read transactions."""

    def __init__(self, database):
        self.database, self.times = database, 0

    def reading(self, scope):
        self.times += 1
        return self.database.reading(scope)


async def test_the_cache_asks_once_and_keeps_tenants_apart(office):
    here, there = await office.institution(), await office.institution()
    template = await make_template(office, here)
    asset, other = await make_asset(office, here, template), await make_asset(office, here, template, "B")
    cache, database = AssetCache(), Opened(office.services.database)
    assert await cache.get(database, here.id, asset.id) == (asset, template)
    assert await cache.get(database, here.id, asset.id) == (asset, template)
    assert await cache.get(database, ALL_INSTITUTIONS, asset.id) == (asset, template)
    assert database.times == 1
    # Asked again, so that the time it takes does not tell that it exists.
    assert await cache.get(database, there.id, asset.id) is None
    assert database.times == 2
    found = await cache.get_each(database, here.id, [asset.id, other.id, "ast_" + "0" * 26, "a\0"])
    assert found.keys() == {asset.id, other.id}
    assert found[asset.id][1] is found[other.id][1]


async def test_the_cache_is_bounded(office):
    here = await office.institution()
    template = await make_template(office, here)
    assets = [await make_asset(office, here, template, str(n), {"note": "x" * 100}) for n in range(4)]
    database = office.services.database
    few = AssetCache(assets_max=2)
    for asset in assets:
        assert (await few.get(database, here.id, asset.id))[0] == asset
    assert len(few) == 2
    light = AssetCache(metadata_max=250)
    await light.get_each(database, here.id, [asset.id for asset in assets])
    assert len(light) == 2
