"""Brings a database to the newest schema, one process at a time."""

import asyncio
from importlib import resources
from pathlib import Path

import asyncpg
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine

LOCK_KEY = 6_078_201_147
CONNECT_TIMEOUT_SECONDS = 10


async def migrate(owner_url: str, revision: str = "head") -> None:
    """Run every migration up to `revision`; other processes that try at once wait their turn."""
    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=lambda: asyncpg.connect(owner_url, timeout=CONNECT_TIMEOUT_SECONDS),
    )
    guard = await asyncpg.connect(owner_url, timeout=CONNECT_TIMEOUT_SECONDS)
    try:
        await guard.execute("SELECT pg_advisory_lock($1)", LOCK_KEY)
        await guard.execute((migrations_folder() / "roles.sql").read_text())
        async with engine.connect() as connection:
            await connection.run_sync(_upgrade, revision)
    finally:
        await asyncio.shield(guard.close())
        await engine.dispose()


async def grant(owner_url: str, login: str, password: str | None = None) -> None:
    """Let `login` take the roles of a server (not the owner's); with a password the login is made or changed."""
    connection = await asyncpg.connect(owner_url, timeout=CONNECT_TIMEOUT_SECONDS)
    try:
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1)", LOCK_KEY)
            name = await connection.fetchval("SELECT quote_ident($1)", login)
            if password is not None:
                known = await connection.fetchval("SELECT true FROM pg_roles WHERE rolname = $1", login)
                secret = await connection.fetchval("SELECT quote_literal($1)", password)
                verb = "ALTER" if known else "CREATE"
                await connection.execute(f"{verb} ROLE {name} LOGIN NOINHERIT PASSWORD {secret}")
            await connection.execute(f"GRANT escrowgrid_api, escrowgrid_writer, escrowgrid_feed TO {name}")
    finally:
        await connection.close()


def _upgrade(connection: Connection, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def migrations_folder() -> Path:
    """Where the migrations are: beside the package in a checkout, inside it when installed from a wheel."""
    package = Path(str(resources.files("app")))
    inside = package / "migrations"
    return inside if inside.is_dir() else package.parent / "migrations"
