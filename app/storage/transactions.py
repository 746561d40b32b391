"""Transactions in one role and scope: begun in one round trip, and done only when the database says so."""

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg

from app.storage.losses import CONNECTION_LOST

if TYPE_CHECKING:
    from app.storage.database import Driver

# Whoever does not hear the end of a transaction by then cuts the connection, which ends it too.
ROLLBACK_SECONDS_MAX = 3.0


def beginning(role: str, scope: Iterable[str], settings: Mapping[str, str], mode: str = "") -> str:
    """The statements that begin one as `role` within the institutions of `scope`; `settings` hold until its end.

    Sent without parameters they are one round trip; with them each would be one. Raises ValueError for a NUL, which
    no text of the database can hold.
    """
    local = {"role": role, "escrowgrid.scope": ",".join(scope), **settings}
    calls = ", ".join(f"set_config({_quoted(name)}, {_quoted(value)}, true)" for name, value in local.items())
    return f"BEGIN {mode}; SELECT {calls}"


def _quoted(value: str) -> str:
    """A literal that is read alike whatever standard_conforming_strings says."""
    if "\0" in value:
        raise ValueError("a text of the database holds no NUL")
    return "E'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


@asynccontextmanager
async def transaction(driver: "Driver", begin: str) -> AsyncIterator[None]:
    """One that `begin` begins: committed at the end of the block, rolled back when it raises."""
    try:
        await driver.execute(begin)
        yield
    except BaseException:
        await rollback(driver)
        raise
    await commit(driver)


async def commit(driver: "Driver") -> None:
    """Commit what was begun. Raises where the database rolled it back, as it does after a failed statement."""
    told = await driver.execute("COMMIT")
    if told != "COMMIT":
        raise asyncpg.InFailedSQLTransactionError(
            "a statement of the transaction had failed: nothing was kept"
        )


async def rollback(driver: "Driver") -> None:
    """End what may have been begun; a connection on which that cannot be had is cut."""
    if driver.is_closed() or not driver.is_in_transaction():
        return
    try:
        await driver.execute("ROLLBACK", timeout=ROLLBACK_SECONDS_MAX)
    except BaseException as error:
        # What was done is undone by the database when the connection is gone: nothing is lost with it.
        driver.terminate()
        if not isinstance(error, (*CONNECTION_LOST, asyncpg.PostgresError)):
            raise
