"""A restored server answers queries for a while before it takes writes."""

import asyncio

from app.errors import Unavailable
from app.storage.database import Driver

STILL_SECONDS_MAX = 60.0
PAUSE_SECONDS = 0.1

STANDS = "SELECT pg_is_in_recovery() AS recovering, pg_last_wal_replay_lsn()::text AS place"


async def recovered(connection: Driver) -> None:
    """Wait until the server takes writes, for as long as its recovery comes on; raises `Unavailable`."""
    loop, place = asyncio.get_running_loop(), None
    since = loop.time()
    while (found := await connection.fetchrow(STANDS)) is not None and found["recovering"]:
        if found["place"] != place:
            place, since = found["place"], loop.time()
        elif loop.time() - since > STILL_SECONDS_MAX:
            raise Unavailable(
                f"the database is still recovering, and has stood at {place} for a minute: wait until it takes writes "
                "(one whose recovery_target_action is pause does after SELECT pg_wal_replay_resume()), then try again"
            )
        await asyncio.sleep(PAUSE_SECONDS)
