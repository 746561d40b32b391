"""One database made by the migrations, for tests that only read its catalogue."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from app.storage.provide import with_database

CATALOGUE = "escrowgrid_catalogue"


@pytest.fixture(scope="session")
async def catalogue(admin_url: str, template: str) -> AsyncIterator[asyncpg.Connection]:
    """Its superuser's connection."""
    server = await asyncpg.connect(admin_url)
    await server.execute(f'DROP DATABASE IF EXISTS "{CATALOGUE}"')
    await server.execute(f'CREATE DATABASE "{CATALOGUE}" TEMPLATE "{template}"')
    connection = await asyncpg.connect(with_database(admin_url, CATALOGUE))
    yield connection
    await connection.close()
    await server.execute(f'DROP DATABASE "{CATALOGUE}"')
    await server.close()
