"""The audit's partitions are there before their rows, however far time has come."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from click import ClickException
from pydantic import SecretStr

from app import operate
from app.audit import recorder, service
from app.audit.model import Action
from app.context import Context, Request, Services
from app.main import assemble
from app.principal import root
from app.settings import Settings, StoreBackend
from app.storage.database import Address, DatabaseRole
from tests import factories
from tests.conftest import eventually

LAST = """
SELECT max(relid::regclass::text) FROM pg_partition_tree('audit_events')
WHERE relid::regclass::text ~ '^audit_events_[0-9]+$'
"""
WHERE = "SELECT tableoid::regclass::text AS part, action FROM audit_events ORDER BY occurred_at, id"


@pytest.fixture
def travelling() -> Callable[[], datetime]:
    """A clock that tests set forward: `clock.now += …`."""

    class Clock:
        now = datetime.now(UTC)

        def __call__(self) -> datetime:
            return self.now

    return Clock()


async def test_a_server_that_starts_years_later_finds_a_partition_for_its_first_row(
    settings: Settings, address: Address, owner: asyncpg.Connection, travelling
) -> None:
    last = await owner.fetchval(LAST)
    travelling.now += timedelta(days=800)
    assert f"audit_events_{travelling.now:%Y%m}" > last, "past the last one"
    parts = assemble(settings, address, clock=travelling)
    async with parts.running():
        await factories.institution(parts.services)
        context = Context(parts.services, root(), Request("req_1"))
        context.note_refusal(Action.ASSET_CREATED, "asset", "NOT_FOUND")
        await context.close()
    rows = await owner.fetch(WHERE)
    assert [row["action"] for row in rows] == ["INSTITUTION_CREATED", "ASSET_CREATED"]
    assert {row["part"] for row in rows} == {f"audit_events_{travelling.now:%Y%m}"}
    assert await owner.fetchval("SELECT count(*) FROM audit_events_default") == 0
    assert await owner.fetchval(LAST) == f"audit_events_{_month(travelling.now, 3):%Y%m}"


async def test_a_server_that_runs_for_years_keeps_ahead(
    settings: Settings,
    address: Address,
    owner: asyncpg.Connection,
    travelling,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recorder, "PARTITIONS_EVERY_SECONDS", 0.02)
    parts = assemble(settings, address, clock=travelling)

    async def is_ahead() -> bool:
        return bool(await owner.fetchval(LAST) >= f"audit_events_{_month(travelling.now, 3):%Y%m}")

    async with parts.running():
        for _ in range(30):
            await factories.institution(parts.services)
            travelling.now += timedelta(days=31)
            await eventually(is_ahead)
    rows = await owner.fetch(WHERE)
    assert len({row["part"] for row in rows}) >= 29
    assert await owner.fetchval("SELECT count(*) FROM audit_events_default") == 0


async def test_the_operators_command_makes_them_without_a_server(
    settings: Settings, address: Address, owner: asyncpg.Connection
) -> None:
    """`escrowgrid maintain --months 24`."""
    changed = settings.model_copy(
        update={"store_backend": StoreBackend.POSTGRES, "database_url": SecretStr(address.url)}
    )
    await asyncio.to_thread(operate.maintain, changed, 24)
    assert await owner.fetchval(LAST) == f"audit_events_{_month(datetime.now(UTC), 24):%Y%m}"


CONTENT = (
    "SELECT id, occurred_at, action, payload::text, arrived_at FROM audit_events ORDER BY occurred_at, id"
)


async def test_rows_that_came_before_their_partition_move_there_and_partitions_go_on(
    settings: Settings,
    address: Address,
    owner: asyncpg.Connection,
    travelling,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A server whose clock is months ahead for a moment, and the same months five months later."""
    parts = assemble(settings, address, clock=travelling)
    async with parts.running():
        for ahead in (200, 201, 400):
            travelling.now += timedelta(days=ahead)
            await factories.institution(parts.services)
            travelling.now -= timedelta(days=ahead)
        async with parts.services.database.pool(DatabaseRole.FEED).acquire() as driver:
            assert await service.default_rows(driver) == 3
    before = await owner.fetch(CONTENT)
    month = travelling.now + timedelta(days=200)
    travelling.now += timedelta(days=150)
    parts = assemble(settings, address, clock=travelling)
    async with parts.running():
        async with parts.services.database.pool(DatabaseRole.FEED).acquire() as driver:
            assert await service.default_rows(driver) == 1, "the one of a month that is still far"
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
    assert await owner.fetch(CONTENT) == before
    assert (await owner.fetch(WHERE))[0]["part"] == f"audit_events_{month:%Y%m}"
    assert await owner.fetchval(LAST) == f"audit_events_{_month(travelling.now, 3):%Y%m}"
    for part in (f"audit_events_{month:%Y%m}", "audit_events_default"):
        for statement in (f"UPDATE {part} SET code = 'X'", f"DELETE FROM {part}", f"TRUNCATE {part}"):
            with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="append-only"):
                await owner.execute(statement)


async def test_a_month_that_cannot_be_made_takes_no_other_down_and_is_told(
    settings: Settings, address: Address, owner: asyncpg.Connection
) -> None:
    changed = settings.model_copy(
        update={"store_backend": StoreBackend.POSTGRES, "database_url": SecretStr(address.url)}
    )
    now = datetime.now(UTC)
    in_the_way = f"audit_events_{_month(now, 6):%Y%m}"
    # Half of that month is taken already, by a partition of another name.
    start, end = _month(now, 6), _month(now, 6) + timedelta(days=10)
    await owner.execute(
        f"CREATE TABLE in_the_way PARTITION OF audit_events FOR VALUES FROM ('{start}') TO ('{end}')"
    )
    with pytest.raises(ClickException, match="are not there"):
        await asyncio.to_thread(operate.maintain, changed, 8)
    assert await owner.fetchval(LAST) == f"audit_events_{_month(now, 8):%Y%m}"
    assert await owner.fetchval("SELECT to_regclass($1)", in_the_way) is None
    await owner.execute("DROP TABLE in_the_way")
    await asyncio.to_thread(operate.maintain, changed, 8)
    assert await owner.fetchval("SELECT to_regclass($1)", in_the_way) is not None


async def test_the_command_keeps_nobody_waiting_behind_a_long_reader(
    settings: Settings, services: Services, address: Address, owner: asyncpg.Connection, owner_url: str
) -> None:
    changed = settings.model_copy(
        update={"store_backend": StoreBackend.POSTGRES, "database_url": SecretStr(address.url)}
    )
    reader = await asyncpg.connect(owner_url)
    async with reader.transaction():
        await reader.fetch("SELECT count(*) FROM audit_events")
        making = asyncio.create_task(asyncio.to_thread(operate.maintain, changed, 12))
        await asyncio.sleep(0.5)
        async with asyncio.timeout(4):
            await factories.institution(services)
        with pytest.raises(ClickException, match="are not there"):
            await making
    await reader.close()
    await asyncio.to_thread(operate.maintain, changed, 12)
    assert await owner.fetchval(LAST) == f"audit_events_{_month(datetime.now(UTC), 12):%Y%m}"


async def test_a_month_whose_table_was_detached_is_not_ready(
    settings: Settings, address: Address, owner: asyncpg.Connection
) -> None:
    changed = settings.model_copy(
        update={"store_backend": StoreBackend.POSTGRES, "database_url": SecretStr(address.url)}
    )
    await owner.execute(f"ALTER TABLE audit_events DETACH PARTITION audit_events_{datetime.now(UTC):%Y%m}")
    with pytest.raises(ClickException, match="1 are not there"):
        await asyncio.to_thread(operate.maintain, changed, 0)


def _month(moment: datetime, ahead: int) -> datetime:
    months = moment.year * 12 + moment.month - 1 + ahead
    return datetime(months // 12, months % 12 + 1, 1, tzinfo=UTC)
