"""Refusals reach the audit soon, in bulk, and never in anyone's way."""

import asyncio
from typing import Any

import asyncpg
import pytest
from sqlalchemy import event

from app.audit import recorder as module
from app.audit.recorder import Recorder
from app.context import Services
from app.errors import Unavailable
from app.kit.clock import system_clock
from app.kit.ids import Ids
from app.storage.database import Address, Database

from .conftest import Counted, entry

FAILED = "audit_events WHERE outcome = 'FAILURE'"


@pytest.fixture
async def recorder(database: Database) -> Any:
    """One that nobody else uses."""
    made = Recorder(database, Ids(), system_clock)
    await made.start()
    yield made
    await made.close()


async def written(rows: Counted, n: int) -> bool:
    """Whether that many refusals are there within two seconds."""
    for _ in range(100):
        if await rows(FAILED) == n:
            return True
        await asyncio.sleep(0.02)
    return False


async def test_what_is_offered_is_written_within_moments(recorder: Recorder, rows: Counted) -> None:
    recorder.offer(entry(institution_id="inst_1", payload={"field": "label"}))
    assert await written(rows, 1)
    assert await rows(f"{FAILED} AND institution_id = 'inst_1' AND payload = '{{\"field\": \"label\"}}'") == 1


async def test_many_are_written_together(recorder: Recorder, database: Database, rows: Counted) -> None:
    commits = 0

    def note(_connection: object) -> None:
        nonlocal commits
        commits += 1

    event.listen(database.engine.sync_engine, "commit", note)
    for _ in range(500):
        recorder.offer(entry())
    assert await written(rows, 500)
    event.remove(database.engine.sync_engine, "commit", note)
    assert commits < 20


async def test_flush_waits_until_all_is_written(recorder: Recorder, rows: Counted) -> None:
    for _ in range(2500):
        recorder.offer(entry())
    await recorder.flush()
    assert await rows(FAILED) == 2500


async def test_close_writes_what_waits(database: Database, rows: Counted) -> None:
    made = Recorder(database, Ids(), system_clock)
    await made.start()
    made.offer(entry())
    await made.close()
    assert await rows(FAILED) == 1


async def test_too_many_are_counted_lost_and_told_once(
    database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, rows: Counted
) -> None:
    monkeypatch.setattr(module, "QUEUE_MAX", 10)
    made = Recorder(database, Ids(), system_clock)
    for _ in range(25):
        made.offer(entry())
    assert made.dropped == 15
    assert caplog.text.count("is lost") == 1
    await made.flush()
    assert await rows(FAILED) == 10
    made.offer(entry())
    await made.flush()
    assert await rows(FAILED) == 11


async def test_texts_that_the_database_refuses_are_cleaned(recorder: Recorder, rows: Counted) -> None:
    recorder.offer(
        entry(operation="a\x00b", client_address="\ud800", request_id="x" * 5000, resource_id="\x00")
    )
    await recorder.flush()
    assert await rows(f"{FAILED} AND operation = 'ab' AND length(request_id) = 1000") == 1


async def test_one_row_that_can_never_be_written_keeps_no_other_out(
    recorder: Recorder, rows: Counted
) -> None:
    for payload in ({"a": 1}, {"nul": "\x00"}, {"half": "\ud800"}, {"float": 0.5}, {"b": 2}):
        recorder.offer(entry(payload=payload))
    await recorder.flush()
    assert await rows(FAILED) == 2
    assert recorder.dropped == 3


async def test_while_the_database_is_away_they_wait(
    database: Database, monkeypatch: pytest.MonkeyPatch, rows: Counted
) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS_MIN", 0.05)
    nowhere = Database(
        Address.of("postgresql://nobody@127.0.0.1:1/none"),
        pool_size_max=2,
        pool_timeout=1,
        statement_timeout=1,
    )
    made = Recorder(nowhere, Ids(), system_clock)
    await made.start()
    made.offer(entry())
    with pytest.raises(Unavailable):
        await made.flush()
    made._database = database
    assert await written(rows, 1)
    assert made.dropped == 0
    await made.close()
    await nowhere.close()


async def test_a_connection_killed_in_between_loses_and_repeats_nothing(
    recorder: Recorder, owner: asyncpg.Connection, rows: Counted
) -> None:
    for _ in range(40):
        for _ in range(10):
            recorder.offer(entry())
        await owner.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid() AND query ILIKE '%audit_events%'"
        )
        await asyncio.sleep(0.02)
    assert await written(rows, 400)
    assert recorder.dropped == 0


async def test_partitions_are_made_ahead_at_start(services: Services, rows: Counted) -> None:
    assert await rows("pg_inherits WHERE inhparent = 'audit_events'::regclass") >= module.MONTHS_AHEAD + 2
    assert services.recorder.dropped == 0
