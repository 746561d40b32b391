"""The writer's transactions: begun in one round trip, planned by keys, and cut when nothing is heard of them."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from app.storage.database import STATEMENT_SECONDS_MAX, Database, DatabaseRole, Driver
from app.storage.transactions import beginning, transaction

# How long a try in a side lane waits for the row: as long as that it holds the others of its list.
ROW_WAIT_SECONDS = 0.1
STATEMENT_SECONDS_MIN = 0.1
# The database ends a statement at the deadline. Who has not heard of that a second later hears nothing any more.
GRACE_SECONDS = 1.0
# A process that stops while it holds the head must not stop the others for long.
IDLE_MAX = "5s"
# Every statement of a batch goes by keys. While a ledger is young a plan that is kept may be one that reads it whole,
# and it is kept when the ledger has grown.
BY_KEYS = {"enable_seqscan": "off", "jit": "off"}


@asynccontextmanager
async def opened(
    database: Database, scope: Iterable[str], deadline: float, *, wait: bool
) -> AsyncIterator[Driver]:
    """A transaction within the institutions of `scope`, committed at the end; over by `deadline` (loop time) or cut.

    With `wait`, a row that others hold is waited for a moment. A connection that is cut raises what a lost one does.
    """
    async with database.pool(DatabaseRole.WRITER).acquire() as connection:
        loop = asyncio.get_running_loop()
        seconds = min(max(deadline - loop.time(), STATEMENT_SECONDS_MIN), STATEMENT_SECONDS_MAX)
        settings = {
            "statement_timeout": f"{int(seconds * 1000)}ms",
            "idle_in_transaction_session_timeout": IDLE_MAX,
            **BY_KEYS,
        }
        if wait:
            settings["lock_timeout"] = f"{int(ROW_WAIT_SECONDS * 1000)}ms"
        cut = loop.call_at(max(deadline, loop.time()) + GRACE_SECONDS, connection.terminate)
        try:
            async with transaction(connection, beginning(DatabaseRole.WRITER.value, scope, settings)):
                yield connection
        finally:
            cut.cancel()
