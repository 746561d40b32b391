"""Institutions and keys in a real database, and who sees them."""

import logging

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from app.audit.service import Work
from app.context import Services
from app.errors import NotFound, Refusal
from app.institutions import service, store
from app.institutions.model import KeyDraft, Region, Vertical, secret_hash
from app.principal import ALL_INSTITUTIONS, Role, Scope
from app.storage.conditions import Condition
from app.storage.database import Database
from app.storage.paging import PageRequest

from .conftest import Counted, Keyed, Opened, Working


async def test_an_institution_comes_with_its_chain_and_its_audit_row(
    services: Services, opened: Opened, rows: Counted
) -> None:
    made = await opened()
    assert await rows(f"institution_heads WHERE institution_id = '{made.id}' AND sequence = 0") == 1
    assert await rows("institution_heads WHERE hash = decode(repeat('00', 32), 'hex')") == 1
    audited = f"audit_events WHERE action = 'INSTITUTION_CREATED' AND resource_id = '{made.id}'"
    assert await rows(f"{audited} AND institution_id = '{made.id}' AND outcome = 'SUCCESS'") == 1
    async with services.database.reading(made.id) as connection:
        assert await service.fetch(connection, made.id, made.id) == made
    assert made.regions == (Region.EU_UK,)
    assert made.verticals == tuple(Vertical)


async def test_a_refused_institution_leaves_nothing(
    services: Services, working: Working, rows: Counted
) -> None:
    institution_id = services.ids.new("inst")
    with pytest.raises(Refusal):
        async with working(institution_id) as work:
            await service.create_institution(work, institution_id, name="", regions=[Region.US])
    assert await rows("institutions") == await rows("institution_heads") == await rows("audit_events") == 0


async def test_the_audit_row_and_the_institution_stand_or_fall_together(
    services: Services, working: Working, rows: Counted
) -> None:
    institution_id = services.ids.new("inst")

    async def broken_off() -> None:
        async with working(institution_id) as work:
            await service.create_institution(work, institution_id, name="Bank", regions=[Region.US])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await broken_off()
    assert await rows("institutions") == await rows("institution_heads") == await rows("audit_events") == 0


async def test_an_institution_is_only_made_within_its_own_scope(services: Services, working: Working) -> None:
    with pytest.raises(DBAPIError, match="row-level security"):
        async with working(services.ids.new("inst")) as work:
            await service.create_institution(work, services.ids.new("inst"), name="Bank", regions=[Region.US])


async def test_a_key_opens_its_institution_and_only_its_hash_is_kept(
    services: Services, database_url: str, opened: Opened, keyed: Keyed, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    bank = await opened()
    made = await keyed(bank.id, Role.OPERATOR)
    assert made.secret.startswith("eg_")
    assert len(made.secret) == 46
    principal = await service.authenticate(services.database, services.clock, made.secret)
    assert principal == made.key.principal
    assert principal.institution_id == bank.id
    assert principal.scopes == {Scope.READ, Scope.POSITIONS_MOVE, Scope.ASSETS_WRITE}
    connection = await asyncpg.connect(database_url)
    try:
        kept = await connection.fetchrow("SELECT * FROM api_keys")
        told = await connection.fetchval("SELECT string_agg(a::text, ' ') FROM audit_events a")
    finally:
        await connection.close()
    assert kept["secret_hash"] == secret_hash(made.secret)
    assert kept["prefix"] == made.secret[:10]
    assert made.secret[10:] not in f"{dict(kept)} {told} {caplog.text} {made!r}"


async def test_every_secret_is_another(opened: Opened, keyed: Keyed) -> None:
    bank = await opened()
    assert len({(await keyed(bank.id)).secret for _ in range(20)}) == 20


async def test_a_revoked_key_opens_nothing_and_stays_revoked(
    services: Services, working: Working, opened: Opened, keyed: Keyed, rows: Counted
) -> None:
    bank = await opened()
    made = await keyed(bank.id)
    async with working(bank.id) as work:
        revoked = await service.revoke_api_key(work, bank.id, made.key.id)
    assert revoked.revoked_at is not None
    assert await service.authenticate(services.database, services.clock, made.secret) is None
    async with working(bank.id) as work:
        assert await service.revoke_api_key(work, bank.id, made.key.id) == revoked
    assert await rows("audit_events WHERE action = 'API_KEY_REVOKED'") == 1


async def test_a_key_of_no_institution_and_a_key_that_is_not_there_are_not_found(
    services: Services, working: Working, opened: Opened, rows: Counted
) -> None:
    nowhere = services.ids.new("inst")
    with pytest.raises(NotFound):
        async with working(nowhere) as work:
            await service.create_api_key(work, nowhere, KeyDraft("ci", Role.ADMIN))
    bank = await opened()
    with pytest.raises(NotFound):
        async with working(bank.id) as work:
            await service.revoke_api_key(work, bank.id, services.ids.new("key"))
    assert await rows("api_keys") == 0
    assert await rows("audit_events") == 1


async def test_another_tenants_key_cannot_be_revoked(
    services: Services, working: Working, opened: Opened, keyed: Keyed
) -> None:
    bank, other = await opened(), await opened("Other")
    made = await keyed(bank.id)
    for institution_id in (other.id, bank.id):
        with pytest.raises(NotFound):
            async with working(other.id) as work:
                await service.revoke_api_key(work, institution_id, made.key.id)
    assert await service.authenticate(services.database, services.clock, made.secret) is not None


@pytest.mark.parametrize("table", ["institutions", "api_keys", "audit_events"])
async def test_without_any_filter_a_tenant_still_sees_no_foreign_row(
    database: Database, opened: Opened, keyed: Keyed, table: str
) -> None:
    bank, other = await opened(), await opened("Other")
    for made in (bank, other):
        await keyed(made.id)
    column = "id" if table == "institutions" else "institution_id"
    async with database.reading(bank.id) as connection:
        seen = set((await connection.execute(text(f"SELECT {column} FROM {table}"))).scalars())
    assert seen == {bank.id}
    async with database.reading("") as connection:
        assert (await connection.execute(text(f"SELECT {column} FROM {table}"))).first() is None


async def test_services_filter_by_themselves_too(database: Database, opened: Opened, keyed: Keyed) -> None:
    bank, other = await opened(), await opened("Other")
    foreign = await keyed(other.id)
    # The database shows everything here: only the WHERE of the store stands between.
    async with database.reading(ALL_INSTITUTIONS) as connection:
        assert await service.fetch(connection, bank.id, other.id) is None
        assert await service.fetch_key(connection, bank.id, foreign.key.id) is None
        page = await service.page(connection, bank.id, PageRequest(10))
        assert [row.id for _, row in page.rows] == [bank.id]
        assert (await service.page_keys(connection, bank.id, PageRequest(10))).rows == ()
        assert await service.count(connection, bank.id) == 1
        assert await service.count_keys(connection, bank.id) == 0
        assert (await service.page_keys_each(connection, bank.id, [other.id], PageRequest(5)))[
            other.id
        ].rows == ()
        assert await service.count_keys_each(connection, bank.id, [other.id]) == {other.id: 0}


async def test_a_writer_of_one_institution_writes_no_other(working: Working, opened: Opened) -> None:
    bank, other = await opened(), await opened("Other")
    with pytest.raises((DBAPIError, NotFound)):
        async with working(bank.id) as work:
            await service.create_api_key(work, other.id, KeyDraft("ci", Role.ADMIN))


@pytest.mark.parametrize("statement", ["UPDATE api_keys SET role = 'ADMIN'", "DELETE FROM api_keys"])
async def test_the_writer_can_neither_lift_nor_remove_a_key(
    working: Working, opened: Opened, keyed: Keyed, statement: str
) -> None:
    bank = await opened()
    await keyed(bank.id, Role.READ_ONLY)
    work: Work
    with pytest.raises(DBAPIError, match="permission denied"):
        async with working(bank.id) as work:
            await work.connection.execute(text(statement))


async def test_pages_go_on_and_back_in_every_order(database: Database, opened: Opened) -> None:
    made = [await opened(f"Bank {i % 3}") for i in range(7)]
    newest = [bank.id for bank in reversed(made)]
    named = [bank.id for bank in sorted(made, key=lambda bank: (bank.name, bank.id))]
    async with database.reading(ALL_INSTITUTIONS) as connection:
        for order, descending, expected in (
            ("CREATED_AT", True, newest),
            ("CREATED_AT", False, newest[::-1]),
            ("NAME", False, named),
            ("NAME", True, named[::-1]),
        ):
            seen: list[str] = []
            after = None
            while True:
                request = PageRequest(2, after=after)
                page = await service.page(
                    connection, ALL_INSTITUTIONS, request, order=order, descending=descending
                )
                seen += [row.id for _, row in page.rows]
                if not page.has_next:
                    break
                after = page.end
            assert seen == expected
            back = await service.page(
                connection,
                ALL_INSTITUTIONS,
                PageRequest(3, backward=True),
                order=order,
                descending=descending,
            )
            assert [row.id for _, row in back.rows] == expected[-3:]
            assert back.has_previous


async def test_lists_are_filtered(database: Database, opened: Opened, keyed: Keyed) -> None:
    bank, other = await opened("Bank"), await opened("Baumeister")
    admin, reader = await keyed(bank.id), await keyed(bank.id, Role.READ_ONLY)
    async with database.reading(ALL_INSTITUTIONS) as connection:
        for test, expected in (
            (Condition("name", "eq", "Bank"), {bank.id}),
            (Condition("name", "contains", "au"), {other.id}),
            (Condition("id", "in", [bank.id, "inst_x"]), {bank.id}),
            (Condition("created_at", "gte", other.created_at), {other.id}),
        ):
            page = await service.page(connection, ALL_INSTITUTIONS, PageRequest(9), [test])
            assert {row.id for _, row in page.rows} == expected
            assert await service.count(connection, ALL_INSTITUTIONS, [test]) == len(expected)
        for test, expected in (
            (Condition("role", "eq", Role.READ_ONLY), {reader.key.id}),
            (Condition("role", "in", [Role.READ_ONLY, Role.ADMIN]), {reader.key.id, admin.key.id}),
            (Condition("institution_id", "eq", other.id), set()),
            (Condition("label", "eq", "a key"), {reader.key.id, admin.key.id}),
            (Condition("expires_at", "lte", other.created_at), set()),
        ):
            keys = await service.page_keys(connection, ALL_INSTITUTIONS, PageRequest(9), [test])
            assert {row.id for _, row in keys.rows} == expected
            assert await service.count_keys(connection, ALL_INSTITUTIONS, [test]) == len(expected)


async def test_a_secret_is_looked_up_by_its_index_as_the_api_role(database: Database) -> None:
    async with database.reading(ALL_INSTITUTIONS) as connection:
        await connection.execute(text("SET LOCAL enable_seqscan = off"))
        found = await connection.execute(
            text("EXPLAIN SELECT id FROM api_keys WHERE secret_hash = :hash"), {"hash": secret_hash("x")}
        )
        assert "api_keys_secret_hash_key" in "\n".join(found.scalars())


def test_what_reads_keys_never_reads_their_hashes() -> None:
    assert "secret_hash" not in {column.name for column in store.KEY_COLUMNS}
