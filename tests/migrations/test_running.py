"""Migrations run forward, once, whoever else runs them at the same time."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from app.storage.migrate import LOCK_KEY, grant, migrate
from app.storage.provide import with_database, with_login

VERSIONS = sorted((Path(__file__).resolve().parents[2] / "migrations" / "versions").glob("*.py"))
SHAPE = """
SELECT md5(string_agg(line, E'\\n' ORDER BY line)) FROM (
  SELECT format('%s %s %s %s', attrelid::regclass, attname, format_type(atttypid, atttypmod), attnotnull) AS line
  FROM pg_attribute a JOIN pg_class c ON c.oid = attrelid WHERE c.relnamespace = 'public'::regnamespace AND attnum > 0
  UNION ALL SELECT format('%s %s', conrelid::regclass, pg_get_constraintdef(oid)) FROM pg_constraint
  WHERE connamespace = 'public'::regnamespace
  UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'
  UNION ALL SELECT p::text FROM pg_policies p
  UNION ALL SELECT format('%s %s', relname, relacl) FROM pg_class WHERE relnamespace = 'public'::regnamespace
  UNION ALL SELECT format('%s %s %s', tgrelid::regclass, tgname, tgenabled) FROM pg_trigger WHERE NOT tgisinternal
) lines
"""


@pytest.fixture
async def empty_url(admin_url: str, template: str) -> AsyncIterator[str]:
    """A database nobody has migrated. (The template only makes sure that the roles are there already.)"""
    name = f"test_{uuid4().hex[:16]}"
    server = await asyncpg.connect(admin_url)
    await server.execute(f'CREATE DATABASE "{name}"')
    yield with_database(admin_url, name)
    await server.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    await server.close()


async def ask(url: str, question: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(question)
    finally:
        await connection.close()


async def test_migrating_twice_changes_nothing(empty_url: str) -> None:
    await migrate(empty_url)
    shape = await ask(empty_url, SHAPE)
    log_id = await ask(empty_url, "SELECT log_id FROM ledger_head")
    await migrate(empty_url)
    assert await ask(empty_url, SHAPE) == shape
    assert await ask(empty_url, "SELECT log_id FROM ledger_head") == log_id
    assert (
        await ask(empty_url, "SELECT version_num FROM alembic_version") == VERSIONS[-1].name.partition("_")[0]
    )


async def test_three_migrations_at_once_are_one(empty_url: str) -> None:
    await asyncio.gather(*(migrate(empty_url) for _ in range(3)))
    assert await ask(empty_url, "SELECT count(*) FROM alembic_version") == 1
    assert await ask(empty_url, "SELECT count(*) FROM ledger_head") == 1
    assert await ask(empty_url, "SELECT count(*) FROM epochs") == 1


async def test_a_migration_waits_for_the_one_that_runs(empty_url: str) -> None:
    holder = await asyncpg.connect(empty_url)
    await holder.execute("SELECT pg_advisory_lock($1)", LOCK_KEY)
    waiting = asyncio.create_task(migrate(empty_url))
    await asyncio.sleep(0.3)
    assert not waiting.done()
    await holder.close()
    await waiting


async def test_step_by_step_ends_where_all_at_once_does(
    empty_url: str, catalogue: asyncpg.Connection
) -> None:
    for path in VERSIONS:
        await migrate(empty_url, path.name.partition("_")[0])
    assert await ask(empty_url, SHAPE) == await catalogue.fetchval(SHAPE)


async def test_one_that_fails_leaves_the_version_before(empty_url: str) -> None:
    await migrate(empty_url, "0001")
    # In the way of the second migration; made by hand, as nobody should.
    await ask(empty_url, "CREATE TABLE leases (n int)")
    with pytest.raises(Exception, match="leases"):
        await migrate(empty_url)
    assert await ask(empty_url, "SELECT version_num FROM alembic_version") == "0001"
    assert await ask(empty_url, "SELECT to_regclass('ledger_events')") is None
    await ask(empty_url, "DROP TABLE leases")
    await migrate(empty_url)
    assert await ask(empty_url, "SELECT count(*) FROM ledger_head") == 1


async def test_a_login_is_granted_twice_and_its_password_changed(empty_url: str) -> None:
    await migrate(empty_url)
    name = f'odd"{uuid4().hex[:8]}'
    try:
        await grant(empty_url, name, "one'of")
        await grant(empty_url, name, "another")
        await grant(empty_url, name)
        login = with_login(empty_url, name, "another")
        role = await ask(login, "SELECT set_config('role', 'escrowgrid_api', false)")
        assert role == "escrowgrid_api"
    finally:
        quoted = name.replace('"', '""')
        await ask(empty_url, f'DROP ROLE IF EXISTS "{quoted}"')


def test_versions_are_one_line() -> None:
    revisions = []
    for path in VERSIONS:
        text = path.read_text()
        found = re.search(r'^revision = "(\d{4})"$', text, re.MULTILINE)
        before = re.search(r'^down_revision = (?:"(\d{4})"|None)$', text, re.MULTILINE)
        assert found, path.name
        assert before, path.name
        assert path.name.startswith(f"{found[1]}_")
        assert before[1] == (revisions[-1] if revisions else None), path.name
        revisions.append(found[1])


@pytest.mark.parametrize("path", VERSIONS, ids=lambda path: path.stem)
def test_a_migration_gives_up_rather_than_block(path: Path) -> None:
    text = path.read_text()
    assert "SET LOCAL lock_timeout" in text
    assert "SET LOCAL statement_timeout" in text
    assert "def downgrade" not in text, "forward only"
