"""A database from before personal values were sealed: migrating seals what is there, and nothing is lost."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from app.context import Context, Request
from app.engine.masking import Schema
from app.kit.chain import commit
from app.main import assemble
from app.personal.masters import masters_of
from app.principal import root
from app.settings import Settings
from app.storage.database import Address
from app.storage.migrate import grant, migrate
from app.storage.provide import with_database, with_login
from tests import factories

INSTITUTION, ASSET, TEMPLATE = f"inst_{1:026}", f"ast_{1:026}", f"tmpl_{1:026}"
PLAIN = """
INSERT INTO institutions VALUES ($1, 'Old', '{US}', '{CONSTRUCTION}', now(), now())
"""
SHOW = "{ positions { edges { node { holderReference events { edges { node { reason metadata } } } } } } }"


@pytest.fixture
async def old(admin_url: str, template: str, tmp_path: Path) -> AsyncIterator[str]:
    """A database at the revision before, with two positions of one holder and one of another."""
    name = f"test_{uuid4().hex[:16]}"
    server = await asyncpg.connect(admin_url)
    await server.execute(f'CREATE DATABASE "{name}"')
    url = with_database(admin_url, name)
    await migrate(url, "0008")
    await grant(url, factories.LOGIN)
    owner = await asyncpg.connect(url)
    await owner.execute(PLAIN, INSTITUTION)
    await owner.execute("INSERT INTO institution_heads VALUES ($1, 0, sha256(''))", INSTITUTION)
    await owner.execute(
        "INSERT INTO asset_templates VALUES ($1, $2, 'T', 1, 'CONSTR_ESCROW', 'CONSTRUCTION', 'US', 'escrow', 1, "
        "'{}', NULL, false, NULL, now())",
        INSTITUTION,
        TEMPLATE,
    )
    await owner.execute(
        "INSERT INTO assets VALUES ($1, $2, $3, 'A', '{}', now(), now())", INSTITUTION, ASSET, TEMPLATE
    )
    for number, holder in enumerate(("Jane", "Jane", "John"), start=1):
        await _position(owner, number, holder)
    await owner.close()
    yield url
    await server.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    await server.close()


async def _position(owner: asyncpg.Connection, number: int, holder: str) -> None:
    position, event, salt = f"pos_{number:026}", f"evt_{number:026}", bytes([number]) * 16
    await owner.execute(
        "INSERT INTO positions (institution_id, id, asset_id, holder_reference, currency, amount, funded, released, "
        "refunded, held, state, stage, version, lifecycle_name, lifecycle_version, created_at, updated_at) "
        "VALUES ($1, $2, $3, $4, 'USD', 5, 0, 0, 0, 0, 'CREATED', 'CREATED', 1, 'escrow', 1, now(), now())",
        INSTITUTION,
        position,
        ASSET,
        holder,
    )
    await owner.execute(
        "INSERT INTO ledger_events SELECT $1, $2, $1, $3, $4, 1, 'POSITION_CREATED', 1, NULL, 'CREATED', NULL, 'CREATED', "
        "'NONE', 'USD', 0, '[]', 0, 0, 0, 0, '{}', '{}', 'key', 'ADMIN', 'req', $2, $3, sha256(''), $5, NULL, 'escrow', "
        "1, now(), now(), $6, NULL, NULL, sha256(''), sha256(''), 1",
        number,
        INSTITUTION,
        event,
        position,
        TEMPLATE,
        commit(salt, holder.encode()),
    )
    await owner.execute(
        "INSERT INTO personal_data VALUES ($1, $2, $3, $4, $5, 'why', $5, $6, $5)",
        INSTITUTION,
        event,
        position,
        holder,
        salt,
        json.dumps({"a": 1.5, "of": holder}),
    )


async def test_what_was_plain_is_sealed_and_read_as_before(
    old: str, settings: Settings, built_schema: Schema, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATA_DIR", str(settings.data_dir))
    await migrate(old)
    owner = await asyncpg.connect(old)
    for secret in ("Jane", "John", "why"):
        assert await factories.tables_with(owner, secret) == []
    assert await owner.fetchval("SELECT count(*) FROM holders") == 2
    assert len(masters_of(settings).all()) == 1
    await owner.close()
    address = Address.of(with_login(old, factories.LOGIN, factories.PASSWORD), owner_url=old)
    async with assemble(settings, address).running() as _, assemble(settings, address).running():
        pass
    parts = assemble(settings, address)
    async with parts.running():
        context = Context(parts.services, root(), Request("req_1"))
        result = await built_schema.execute(SHOW, context_value=context)
        await context.close()
    assert not result.errors, result.errors
    assert result.data is not None
    nodes = [edge["node"] for edge in result.data["positions"]["edges"]]
    assert [node["holderReference"] for node in nodes] == ["John", "Jane", "Jane"]
    for node in nodes:
        (event,) = [edge["node"] for edge in node["events"]["edges"]]
        assert event["reason"] == "why"
        assert event["metadata"]["of"] == node["holderReference"]


async def test_an_empty_database_needs_no_key(
    admin_url: str, template: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The template of all tests was made without one."""
    monkeypatch.setenv("DATA_DIR", str(settings.data_dir))
    connection = await asyncpg.connect(with_database(admin_url, template))
    assert await connection.fetchval("SELECT count(*) FROM master_keys") == 0
    await connection.close()
    assert masters_of(settings).all() == ()
