"""`escrowgrid mirror`: how the mirror stands, and moving the ledger there."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import TypeVar

import asyncpg
import click

from app.errors import ErrorCode, Invalid, Refused
from app.ledger import steering
from app.ledger.followers import Halt
from app.ledger.keeper import Keeper
from app.ledger.remembered import LastSigned
from app.ledger.signer import signing_keys_of
from app.ledger.steering import Standing
from app.mirror import service
from app.mirror.model import SEEDED, Comparison, NotACopy
from app.mirror.service import Promoted
from app.mirror.source import LOG_ID
from app.mirror.store import CONNECT_SECONDS_MAX, TROUBLES, Broken, Copy
from app.mirror.worker import NAME, Mirror
from app.personal.masters import masters_of
from app.personal.service import Holders
from app.positions.escrow import BUILT_IN
from app.settings import Settings
from app.storage.database import Address, Database, DatabaseRole, take_role
from app.storage.embedded import EmbeddedError
from app.storage.provide import NoDatabaseUrlError, provide
from app.verify.walk import verify

T = TypeVar("T")
FINDINGS_TOLD = 3
# A database that says such a thing is not lost: it is full, starts, or does not know this login.
ANSWERS = (
    asyncpg.TooManyConnectionsError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.CannotConnectNowError,
)


def status(settings: Settings, *, proved: bool = False) -> bool:
    """Print both sides; returns whether what the mirror has is what the ledger has.

    When it has to be `proved`, the mirror is verified, and every copied row compared where the two are level.
    """
    url = _url(settings)
    with provide(settings, attach=True) as address:
        found, seeded, standing = asyncio.run(_told(_compared(address, url)))
        wrong = asyncio.run(_told(_proved(settings, address, url, found.is_level))) if proved else ()
    click.echo(f"ledger: {found.ledger.global_sequence} events, heads {found.ledger.digest}")
    click.echo(
        f"mirror: {found.mirror.global_sequence} events, heads {found.mirror.digest}, {found.lag} behind"
    )
    if not found.is_seeded:
        click.echo(f"  first copying under way: {seeded} of {len(SEEDED)} tables beside the ledger are there")
    if found.waiting:
        click.echo(f"  {found.waiting} changes beside the ledger wait")
    if standing is None:
        click.echo("  no server has ever had this MIRROR_URL: nothing is copied")
    elif standing.failure:
        click.echo(f"  standing still: {standing.failure}")
    elif standing.leader is None:
        click.echo("  no server runs that brings it on")
    differs = [*([found.differs] if found.differs else []), *wrong]
    for one in differs:
        click.echo(f"DIFFERENT: {one}")
    if not differs:
        click.echo("Level and equal." if found.is_level else "Equal as far as it goes.")
    return not differs


def promote(settings: Settings, *, ledger_is_lost: bool) -> None:
    """Move the ledger to the mirror; or let the mirror take over what a lost ledger left it."""
    url = _url(settings)
    if ledger_is_lost:
        done = _taken_over_from_lost(settings, url)
    else:
        with provide(settings, attach=True) as address:
            done = asyncio.run(_told(_promoted(settings, address, url)))
    click.echo(
        f"The mirror is the ledger now: {done.heads.global_sequence} events, heads {done.heads.digest}."
    )
    click.echo(f"Epoch {done.epoch} begins there. Set DATABASE_URL to it, and take MIRROR_URL away.")
    if ledger_is_lost:
        click.echo(
            "On every other machine that served it run `escrowgrid restore-finished` with its DATA_DIR."
        )
    click.echo("Then start the servers.")


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
        mirror = Mirror(database, url, settings, BUILT_IN, Holders(masters_of(settings)))
        return await service.promote(database, mirror, lambda: _prove(settings, url))
    finally:
        await database.close()


def _taken_over_from_lost(settings: Settings, url: str) -> Promoted:
    try:
        with provide(settings, attach=True) as address:
            return asyncio.run(_told(_taken_over(settings, url, address)))
    except (EmbeddedError, NoDatabaseUrlError):
        return asyncio.run(_told(_taken_over(settings, url, None)))


async def _taken_over(settings: Settings, url: str, address: Address | None) -> Promoted:
    copy = await Copy.open(url)
    try:
        await copy.look()
        await _prove(settings, url)
        if address is not None:
            await _close_lost(address, copy.log_id)
        done = await service.take_over(copy)
        # What was signed here beyond it is lost with the ledger: nobody has to say so again.
        LastSigned(settings.data_dir).forget(copy.log_id)
        return done
    finally:
        await copy.close()


async def _close_lost(address: Address, log_id: str) -> None:
    """Whatever is left of the ledger is closed, so that nothing can go on in two places. `Refused` while it lives."""
    try:
        ledger = await asyncpg.connect(address.direct_url, timeout=CONNECT_SECONDS_MAX)
    except ANSWERS as error:
        raise Refused(
            ErrorCode.TRY_AGAIN,
            f"the database of the ledger answers, and lets nobody look whether servers run on it: {error}. Mend that, "
            "or stop that database; where nothing of the ledger is left there, take DATABASE_URL away",
        ) from None
    except TROUBLES:
        return
    try:
        if await service.close(ledger, log_id):
            click.echo("The database of the ledger answers still: it is closed.")
    except TROUBLES as error:
        click.echo(f"The database of the ledger answers, and could not be closed: {error}", err=True)
    finally:
        ledger.terminate()


async def _prove(settings: Settings, url: str) -> None:
    """Raise `Refused` unless the mirror is whole by itself."""
    findings = await _findings(settings, url)
    if findings:
        raise Refused(
            ErrorCode.TRY_AGAIN,
            f"the mirror does not prove itself, so that it is not promoted: {'; '.join(findings)}. Run `escrowgrid "
            "verify` on both sides; to go on with the ledger, give MIRROR_URL a new, empty database",
        )


async def _findings(settings: Settings, url: str) -> Sequence[str]:
    report = await verify(url, BUILT_IN, keys=signing_keys_of(settings))
    more = [f"{report.total - FINDINGS_TOLD} more"] if report.total > FINDINGS_TOLD else []
    return [*map(str, report.findings[:FINDINGS_TOLD]), *more]


async def _proved(settings: Settings, address: Address, url: str, is_level: bool) -> Sequence[str]:  # noqa: FBT001
    """What is wrong with the mirror; rows are compared only where nothing is under way."""
    wrong = list(await _findings(settings, url))
    if is_level:
        copy, ledger = await Copy.open(url), await asyncpg.connect(address.direct_url)
        try:
            wrong += await service.compare_contents(ledger, copy)
        finally:
            await ledger.close()
            await copy.close()
    return wrong


def abandon(settings: Settings, *, mirror_is_gone: bool) -> None:
    """Give a ledger that was closed for its mirror back to its servers."""
    with provide(settings, attach=True) as address:
        asyncio.run(_told(_abandoned(address, _url(settings), mirror_is_gone=mirror_is_gone)))
    click.echo(
        "The ledger is open again where it was. Start its servers; the mirror goes on, or take MIRROR_URL away."
    )


async def _abandoned(address: Address, url: str, *, mirror_is_gone: bool) -> None:
    ledger = await asyncpg.connect(address.direct_url)
    try:
        async with ledger.transaction():
            await take_role(ledger, DatabaseRole.FEED, ())
            log_id = await ledger.fetchval(LOG_ID)
        try:
            copy = await Copy.open(url)
        except Broken as error:
            if not mirror_is_gone:
                raise Refused(
                    ErrorCode.TRY_AGAIN,
                    f"{error}. Whether it took over cannot be known. If it is gone for good, and no server will ever "
                    "run on it, say so: --mirror-is-gone",
                ) from None
        else:
            try:
                await copy.look()
            finally:
                await copy.close()
            if copy.log_id == log_id and copy.keeper is Keeper.SERVERS:
                raise Refused(
                    ErrorCode.TRY_AGAIN,
                    "the mirror was promoted: it is the ledger now, set DATABASE_URL to it",
                )
            if (copy.log_id != log_id or copy.keeper is not Keeper.MIRROR) and not mirror_is_gone:
                raise Refused(
                    ErrorCode.TRY_AGAIN,
                    "MIRROR_URL names no mirror of this ledger. Whether the one that it was closed for took over "
                    "cannot be known. Set MIRROR_URL to that one; if it is gone for good, and no server will ever run "
                    "on it, say so: --mirror-is-gone",
                )
        await service.give_back(ledger)
    finally:
        await ledger.close()


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
