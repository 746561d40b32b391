"""Whether a moment is over for an institution: nothing that was recorded by then can still appear."""

import asyncio
from datetime import datetime

from app.errors import BadRequest, Unavailable
from app.storage.database import Database, DatabaseRole
from app.storage.losses import retrying

WAIT_SECONDS_MAX = 1.0
PAUSE_SECONDS = 0.02

# A writer reads the time under the head's lock: while nobody holds that, whatever comes is recorded later than now.
# Before the head's own time nothing comes any more; at it more may, as after a clock was set back.
# The clock is read first. `next_at` is when the first event behind those that were seen was recorded.
LOOK = """
WITH moment AS MATERIALIZED (SELECT clock_timestamp() AS now)
SELECT m.now < $3 AS ahead, h.recorded_at > $3 AS passed,
       EXISTS (SELECT FROM pg_locks l JOIN pg_database d ON d.oid = l.database AND d.datname = current_database()
               WHERE l.relation = 'ledger_head'::regclass AND l.granted
               AND l.mode IN ('RowShareLock', 'RowExclusiveLock')) AS writing,
       (SELECT recorded_at FROM ledger_events WHERE institution_id = $1 AND sequence = $2 + 1) AS next_at
FROM moment m CROSS JOIN ledger_head h
"""


async def require(database: Database, institution_id: str, seen: int, moment: datetime) -> None:
    """Return once a snapshot that has seen `seen` events of the institution holds all that was recorded by `moment`.

    Raises `BadRequest` for a moment to come, by the database's clock, and `Unavailable` where events of that moment
    appeared after the snapshot: the same question asked again has them.
    """
    pool = database.pool(DatabaseRole.FEED)
    deadline = asyncio.get_running_loop().time() + WAIT_SECONDS_MAX
    while True:
        row = await retrying(lambda: pool.fetchrow(LOOK, institution_id, seen, moment))
        assert row is not None, "a ledger has a head"
        if row["ahead"]:
            raise BadRequest("it is not known yet how things will be then")
        late = row["next_at"] is not None and row["next_at"] <= moment
        if not late and (row["next_at"] is not None or row["passed"] or not row["writing"]):
            return
        if late or asyncio.get_running_loop().time() > deadline:
            raise Unavailable("events of that moment are being written right now; ask again")
        await asyncio.sleep(PAUSE_SECONDS)
