"""`escrowgrid mirror`: how the mirror stands, and moving the ledger there."""

import asyncio
from collections.abc import Coroutine
from typing import TypeVar

import asyncpg
import click

from app.errors import ErrorCode, Invalid, Refused
from app.ledger import steering
from app.ledger.followers import Halt
from app.ledger.steering import Standing
from app.mirror import service
from app.mirror.model import TABLES, Comparison, NotACopy
from app.mirror.service import Promoted
from app.mirror.store import Broken, Copy
from app.mirror.worker import NAME, Mirror
from app.personal.masters import masters_of
from app.personal.service import Holders
from app.positions.escrow import BUILT_IN
from app.settings import Settings
from app.storage.database import Address, Database, DatabaseRole, take_role
from app.storage.provide import provide

T = TypeVar("T")


def status(settings: Settings) -> bool:
    """Print both sides; returns whether what the mirror has is what the ledger has."""
    url = _url(settings)
    with provide(settings, attach=True) as address:
        found, seeded, standing = asyncio.run(_told(_compared(address, url)))
    click.echo(f"ledger: {found.ledger.global_sequence} events, heads {found.ledger.digest}")
    click.echo(
        f"mirror: {found.mirror.global_sequence} events, heads {found.mirror.digest}, {found.lag} behind"
    )
    if seeded < len(TABLES):
        click.echo(f"  first copying under way: {seeded} of {len(TABLES)} tables beside the ledger are there")
    if found.waiting:
        click.echo(f"  {found.waiting} changes beside the ledger wait")
    if standing is None:
        click.echo("  no server has ever had this MIRROR_URL: nothing is copied")
    elif standing.failure:
        click.echo(f"  standing still: {standing.failure}")
    elif standing.leader is None:
        click.echo("  no server runs that brings it on")
    if found.differs is not None:
        click.echo(f"DIFFERENT: {found.differs}")
    else:
        click.echo("Level and equal." if found.is_level else "Equal as far as it goes.")
    return found.differs is None


def promote(settings: Settings, *, ledger_is_lost: bool) -> None:
    """Move the ledger to the mirror; or let the mirror take over what a lost ledger left it."""
    url = _url(settings)
    if ledger_is_lost:
        done = asyncio.run(_told(_taken_over(url)))
    else:
        with provide(settings, attach=True) as address:
            done = asyncio.run(_told(_promoted(settings, address, url)))
    click.echo(
        f"The mirror is the ledger now: {done.heads.global_sequence} events, heads {done.heads.digest}."
    )
    click.echo(
        f"Epoch {done.epoch} begins there. Set DATABASE_URL to it, take MIRROR_URL away, start the servers."
    )


async def _compared(address: Address, url: str) -> tuple[Comparison, int, Standing | None]:
    copy = await Copy.open(url)
    ledger = await asyncpg.connect(address.direct_url)
    try:
        await copy.look()
        found = await service.compare(ledger, copy)
        async with ledger.transaction():
            await take_role(ledger, DatabaseRole.FEED, ())
            standing = next((one for one in await steering.standings(ledger) if one.name == NAME), None)
        return found, len(copy.seeded), standing
    finally:
        await ledger.close()
        await copy.close()


async def _promoted(settings: Settings, address: Address, url: str) -> Promoted:
    database = Database(
        address,
        pool_size_max=2,
        pool_timeout=settings.pool_timeout_seconds,
        statement_timeout=settings.statement_timeout_seconds,
    )
    await database.open()
    try:
        return await service.promote(
            database, Mirror(database, url, settings, BUILT_IN, Holders(masters_of(settings)))
        )
    finally:
        await database.close()


async def _taken_over(url: str) -> Promoted:
    copy = await Copy.open(url)
    try:
        return await service.take_over(copy)
    finally:
        await copy.close()


async def _told(work: Coroutine[None, None, T]) -> T:
    """Expected failures of the mirror, as the command line tells them."""
    try:
        return await work
    except (Broken, Halt, NotACopy) as error:
        raise Refused(ErrorCode.TRY_AGAIN, str(error)) from None


def _url(settings: Settings) -> str:
    if settings.mirror_url is None:
        raise Invalid(
            "MIRROR_URL is not set: it names the database that the ledger is copied to", "MIRROR_URL"
        )
    return settings.mirror_url.get_secret_value()
