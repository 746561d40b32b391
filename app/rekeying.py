"""`escrowgrid personal`: bring what is known of persons under another master key, while servers run."""

import asyncio

import asyncpg
import click

from app.personal.masters import masters_of
from app.personal.service import Holders
from app.settings import Settings
from app.storage.database import DatabaseRole, take_role
from app.storage.provide import provide

PAGE_SIZE = 200
NEXT = """
SELECT institution_id FROM institution_keys WHERE institution_id > $1 AND master_id <> $2
ORDER BY institution_id LIMIT $3
"""


def rotate(settings: Settings, *, make_key: bool) -> None:
    """Seal every institution's secret anew under the first master key; with `make_key` that is a new one."""
    masters = masters_of(settings)
    if make_key:
        masters.renew()
    first = masters.current()
    with provide(settings, attach=True) as address:
        done = asyncio.run(_reseal(address.direct_url, Holders(masters), first.id))
    click.echo(f"{done} institutions' keys are sealed under the master key {first.id} now.")
    others = [master.id for master in masters.all() if master.id != first.id]
    if others:
        click.echo(f"Nothing needs {', '.join(others)} any more but backups from before.")


async def _reseal(url: str, holders: Holders, first: str) -> int:
    connection = await asyncpg.connect(url)
    done, last = 0, ""
    try:
        while True:
            async with connection.transaction():
                await take_role(connection, DatabaseRole.FEED, ())
                ids = [row[0] for row in await connection.fetch(NEXT, last, first, PAGE_SIZE)]
            if not ids:
                return done
            async with connection.transaction():
                await take_role(connection, DatabaseRole.WRITER, ids)
                done += await holders.reseal(connection, ids)
            last = ids[-1]
    finally:
        await connection.close()
