"""The audit's partitions are there before their rows, however far time has come."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from app.audit import recorder
from app.audit.model import Action
from app.context import Context, Request
from app.main import assemble
from app.principal import root
from app.settings import Settings
from app.storage.database import Address
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
    import asyncio

    from pydantic import SecretStr

    from app import operate
    from app.settings import StoreBackend

    changed = settings.model_copy(
        update={"store_backend": StoreBackend.POSTGRES, "database_url": SecretStr(address.url)}
    )
    await asyncio.to_thread(operate.maintain, changed, 24)
    assert await owner.fetchval(LAST) == f"audit_events_{_month(datetime.now(UTC), 24):%Y%m}"


def _month(moment: datetime, ahead: int) -> datetime:
    months = moment.year * 12 + moment.month - 1 + ahead
    return datetime(months // 12, months % 12 + 1, 1, tzinfo=UTC)
