"""What is the database's fault, and that one which fails at the end keeps no other part from ending."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

import asyncpg
import pytest

from app.main import assemble
from app.settings import Settings
from app.storage import database as database_module
from app.storage.database import Address, Database, DatabaseRole
from app.storage.losses import database_to_blame


async def raised(work: Callable[[], Awaitable[object]]) -> Exception:
    with pytest.raises(OSError) as found:  # noqa: PT011 - of which kind is what is judged
        await work()
    return found.value


async def test_a_database_that_cannot_be_reached_or_answers_too_late_is_to_blame(database: Database) -> None:
    pool = database.pool(DatabaseRole.FEED)

    async def late() -> None:
        async with asyncio.timeout(0.1):
            await pool.fetchval("SELECT pg_sleep(5)")

    for work in (
        lambda: asyncpg.connect("postgresql://nobody@127.0.0.1:1/none"),
        lambda: asyncpg.connect("postgresql://nobody@/none?host=/nowhere"),
        lambda: pool.fetchval("SELECT pg_sleep(5)", timeout=0.1),
        late,
    ):
        error = await raised(work)
        assert database_to_blame(error), error


async def test_a_file_or_somebody_else_on_the_network_is_not_the_database(tmp_path: Path) -> None:
    async def other_host() -> None:
        await asyncio.open_connection("127.0.0.1", 1)

    async def file() -> None:
        (tmp_path / "none").read_text()

    async def slow() -> None:
        async with asyncio.timeout(0.01):
            await asyncio.sleep(1)

    for work in (other_host, file, slow):
        error = await raised(work)
        assert not database_to_blame(error), error


async def test_a_database_that_refuses_at_the_end_keeps_no_part_from_ending(
    settings: Settings,
    address: Address,
    owner: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    parts, closed = assemble(settings, address), []
    for runner in parts.followers:
        follower = runner._follower

        async def close(name: str = follower.name) -> None:
            closed.append(name)

        monkeypatch.setattr(follower, "close", close)
    async with parts.running():
        await asyncio.sleep(0.3)
        # Neither lost nor broken: it does not take this, as one that only reads just now.
        await owner.execute("REVOKE UPDATE ON leases FROM escrowgrid_writer")
    assert sorted(closed) == sorted(runner._follower.name for runner in parts.followers)
    told = {record.args[0] for record in caplog.records if record.name == "escrowgrid.leases" and record.args}  # type: ignore[index]
    assert {"expiry", "audit-seals", "follower:checkpoints"} <= told, told
    assert not [record for record in caplog.records if record.levelno >= logging.CRITICAL]


async def test_connections_that_cannot_be_closed_are_cut_off_and_the_others_closed(
    settings: Settings, address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = assemble(settings, address)
    database = parts.services.database
    await database.open()
    writer, feed = database.pool(DatabaseRole.WRITER), database.pool(DatabaseRole.FEED)

    # Somebody holds one and does not let go: closing waits for that, and gives up.
    await writer.acquire()
    monkeypatch.setattr(database_module, "CLOSE_SECONDS_MAX", 0.2)
    await database.close()
    assert writer.is_closing()
    assert feed.is_closing()
