"""`escrowgrid keys`: make, list and revoke keys beside a running server or without one."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import click

from app.audit.service import Work
from app.errors import NotFound
from app.institutions import service
from app.institutions.model import KeyDraft
from app.kit.clock import system_clock
from app.kit.ids import Ids
from app.principal import ALL_INSTITUTIONS, Role, root
from app.settings import Settings
from app.storage.database import Address, Database
from app.storage.paging import PageRequest
from app.storage.provide import provide

LISTED_MAX = 500


def create(settings: Settings, institution_id: str, label: str, role: str) -> None:
    """Make a key and print its secret."""

    async def work(database: Database) -> None:
        async with _working(database, institution_id, "keys create") as work:
            made = await service.create_api_key(work, institution_id, KeyDraft(label, Role(role)))
        click.echo(
            f"{made.key.id}  {made.key.role}  {made.key.label}\n{made.secret}\nThe secret is not shown again."
        )

    _on_database(settings, work)


def listing(settings: Settings, institution_id: str | None) -> None:
    """Print keys, newest first."""

    async def work(database: Database) -> None:
        scope = institution_id or ALL_INSTITUTIONS
        async with database.reading(scope) as connection:
            page = await service.page_keys(connection, scope, PageRequest(LISTED_MAX))
        for _cursor, key in page.rows:
            state = "revoked" if key.revoked_at else "expired" if not key.usable(system_clock()) else "usable"
            click.echo(f"{key.id}  {key.institution_id}  {key.role:9}  {state:8}  {key.prefix}…  {key.label}")
        if page.has_next:
            click.echo(f"… and more than {LISTED_MAX}: name one --institution")

    _on_database(settings, work)


def revoke(settings: Settings, key_id: str) -> None:
    """Revoke a key."""

    async def work(database: Database) -> None:
        async with database.reading(ALL_INSTITUTIONS) as connection:
            key = await service.fetch_key(connection, ALL_INSTITUTIONS, key_id)
        if key is None:
            raise NotFound("key")
        async with _working(database, key.institution_id, "keys revoke") as work:
            await service.revoke_api_key(work, key.institution_id, key_id)
        click.echo(f"{key_id} is revoked.")

    _on_database(settings, work)


def _on_database(settings: Settings, work: Callable[[Database], Awaitable[None]]) -> None:
    with provide(settings, attach=True) as address:
        asyncio.run(_with_database(settings, address, work))


async def _with_database(
    settings: Settings, address: Address, work: Callable[[Database], Awaitable[None]]
) -> None:
    database = Database(
        address,
        pool_size_max=2,
        pool_timeout=settings.pool_timeout_seconds,
        statement_timeout=settings.statement_timeout_seconds,
    )
    try:
        await work(database)
    finally:
        await database.close()


@asynccontextmanager
async def _working(database: Database, institution_id: str, operation: str) -> AsyncIterator[Work]:
    ids = Ids()
    async with database.writing(institution_id) as connection:
        yield Work(connection, root("command line"), ids.new("req"), None, operation, system_clock(), ids)
