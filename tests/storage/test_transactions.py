"""Transactions of the driver's: their settings are told literally, and they are done only when the database says so."""

import asyncio

import asyncpg
import pytest

from app.storage.transactions import beginning, commit, rollback, transaction

ODD = "it's \\' \"odd\"; ROLLBACK; -- é €"


@pytest.mark.parametrize("conforming", ["on", "off"])
async def test_whatever_a_setting_holds_it_is_told_literally(
    owner: asyncpg.Connection, conforming: str
) -> None:
    await owner.execute(f"SET standard_conforming_strings = {conforming}")
    try:
        begin = beginning("escrowgrid_api", (ODD, "b"), {"statement_timeout": "1234ms"})
        async with transaction(owner, begin):
            assert await owner.fetchval("SELECT current_setting('escrowgrid.scope')") == f"{ODD},b"
            assert await owner.fetchval("SELECT current_user") == "escrowgrid_api"
            assert await owner.fetchval("SHOW statement_timeout") == "1234ms"
    finally:
        await owner.execute("RESET standard_conforming_strings")
    assert await owner.fetchval("SELECT current_user") != "escrowgrid_api", "what was set ended with it"
    assert not owner.is_in_transaction()


def test_a_text_that_the_wire_would_cut_is_refused() -> None:
    with pytest.raises(ValueError, match="NUL"):
        beginning("escrowgrid_api", ("a\0; DROP TABLE positions",), {})


async def test_a_commit_after_a_failed_statement_is_no_commit(owner: asyncpg.Connection) -> None:
    await owner.execute("BEGIN; CREATE TEMP TABLE kept (n int) ON COMMIT PRESERVE ROWS")
    with pytest.raises(asyncpg.DivisionByZeroError):
        await owner.fetchval("SELECT 1 / 0")
    with pytest.raises(asyncpg.InFailedSQLTransactionError, match="nothing was kept"):
        await commit(owner)
    assert await owner.fetchval("SELECT to_regclass('kept')") is None


async def test_a_block_that_raises_leaves_nothing_and_no_transaction(owner: asyncpg.Connection) -> None:
    async def fails() -> None:
        async with transaction(owner, "BEGIN"):
            await owner.execute("CREATE TEMP TABLE kept (n int) ON COMMIT PRESERVE ROWS")
            raise LookupError

    with pytest.raises(LookupError):
        await fails()
    assert not owner.is_in_transaction()
    assert await owner.fetchval("SELECT to_regclass('kept')") is None


async def test_a_transaction_that_cannot_begin_leaves_none_behind(owner: asyncpg.Connection) -> None:
    with pytest.raises(asyncpg.PostgresError, match="no_such_role"):
        await transaction(owner, beginning("no_such_role", (), {})).__aenter__()
    assert not owner.is_in_transaction()


async def test_a_connection_whose_end_cannot_be_had_is_cut(owner_url: str) -> None:
    """Cancelled in the middle of a rollback: nobody may go on with what is neither one thing nor the other."""
    lone = await asyncpg.connect(owner_url)
    await lone.execute("BEGIN")
    ending = asyncio.create_task(rollback(lone))
    await asyncio.sleep(0)
    ending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ending
    assert lone.is_closed()
