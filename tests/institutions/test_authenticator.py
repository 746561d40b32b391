"""Who asks: keys are found, shared, forgotten in time, and their use is noted."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
from pydantic import SecretStr
from sqlalchemy import event

from app.context import Services
from app.errors import Unavailable
from app.institutions import authenticator as module
from app.institutions import service
from app.institutions.authenticator import Authenticator
from app.kit.clock import system_clock
from app.principal import Role
from app.storage.database import Address, Database

from .conftest import Counted, Keyed, Opened, Working

ROOT_KEY = "root-key-of-at-least-16"


@pytest_asyncio.fixture
async def authenticator(database: Database) -> AsyncIterator[Authenticator]:
    made = Authenticator(database, system_clock, SecretStr(ROOT_KEY))
    yield made
    await made.close()


class Statements:
    """Counts the look-ups that reach the database."""

    def __init__(self, database: Database) -> None:
        self.n = 0
        event.listen(database.engine.sync_engine, "before_cursor_execute", self._note)

    def _note(self, _c: object, _cursor: object, statement: str, *_: object) -> None:
        self.n += "secret_hash IN" in statement


async def test_the_root_key_needs_no_database(database: Database, authenticator: Authenticator) -> None:
    asked = Statements(database)
    principal = await authenticator.authenticate(ROOT_KEY)
    assert principal is not None
    assert principal.role is Role.ROOT
    assert asked.n == 0


async def test_without_a_root_key_nobody_is_root(database: Database) -> None:
    authenticator = Authenticator(database, system_clock, None)
    assert await authenticator.authenticate("") is None
    assert await authenticator.authenticate(ROOT_KEY) is None


@pytest.mark.parametrize(
    "secret", ["", "x", "eg_", "eg_" + "ä" * 43, "eg_" + "x" * 44, "\x00", "\ud800", "e" * 2_000_000]
)
async def test_what_is_no_secret_is_refused_without_asking_the_database(
    database: Database, authenticator: Authenticator, secret: str
) -> None:
    asked = Statements(database)
    assert await authenticator.authenticate(secret) is None
    assert asked.n == 0


async def test_a_key_is_known_and_a_made_up_one_is_not(
    authenticator: Authenticator, opened: Opened, keyed: Keyed
) -> None:
    bank = await opened()
    made = await keyed(bank.id, Role.AUDITOR)
    assert await authenticator.authenticate(made.secret) == made.key.principal
    assert await authenticator.authenticate("eg_" + "x" * 43) is None


async def test_a_new_key_is_known_at_once(authenticator: Authenticator, opened: Opened, keyed: Keyed) -> None:
    bank = await opened()
    for _ in range(3):
        made = await keyed(bank.id)
        assert await authenticator.authenticate(made.secret) is not None


async def test_those_who_ask_at_once_are_answered_by_one_statement(
    database: Database, authenticator: Authenticator, opened: Opened, keyed: Keyed
) -> None:
    bank = await opened()
    made = [await keyed(bank.id) for _ in range(4)]
    asked = Statements(database)
    found = await asyncio.gather(*(authenticator.authenticate(key.secret) for key in made * 25))
    assert found == [key.key.principal for key in made * 25]
    assert asked.n == 1


async def test_a_revocation_is_seen_by_every_process_within_a_second(
    database: Database, working: Working, opened: Opened, keyed: Keyed
) -> None:
    bank = await opened()
    made = await keyed(bank.id)
    processes = [Authenticator(database, system_clock, None) for _ in range(3)]
    stop = False

    async def use(process: Authenticator) -> float:
        """Until when the key still opened something."""
        last = 0.0
        while not stop:
            if await process.authenticate(made.secret) is not None:
                last = time.monotonic()
            await asyncio.sleep(0.01)
        return last

    users = [asyncio.create_task(use(process)) for process in processes]
    await asyncio.sleep(0.7)
    async with working(bank.id) as work:
        await service.revoke_api_key(work, bank.id, made.key.id)
    revoked = time.monotonic()
    await asyncio.sleep(1.2)
    stop = True
    for last in await asyncio.gather(*users):
        assert 0 < last < revoked + 1
    for process in processes:
        await process.close()


async def test_who_asks_while_keys_change_is_answered_as_well(
    authenticator: Authenticator, opened: Opened, keyed: Keyed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several ask for one key, which is forgotten in between, while another is looked up: nobody waits for ever."""
    bank = await opened()
    busy, asked = (await keyed(bank.id)).secret, (await keyed(bank.id)).secret
    look_up, held = service.find_keys, asyncio.Event()

    async def held_up(*given: Any) -> Any:
        await held.wait()
        return await look_up(*given)

    monkeypatch.setattr(service, "find_keys", held_up)
    authenticator = Authenticator(authenticator._database, system_clock, None)
    waiting = [asyncio.create_task(authenticator.authenticate(busy))]
    for _ in range(3):
        await asyncio.sleep(0.01)
        waiting.append(asyncio.create_task(authenticator.authenticate(asked)))
        await asyncio.sleep(0.01)
        authenticator.forget()
    held.set()
    assert all(await asyncio.wait_for(asyncio.gather(*waiting), 5))
    await authenticator.close()


async def test_a_key_expires_on_time_though_it_is_cached(
    services: Services, opened: Opened, keyed: Keyed
) -> None:
    bank = await opened()
    expires_at = datetime.now(UTC) + timedelta(hours=1)
    made = await keyed(bank.id, expires_at=expires_at)
    now = expires_at - timedelta(microseconds=1)
    authenticator = Authenticator(services.database, lambda: now, None)
    assert await authenticator.authenticate(made.secret) is not None
    now = expires_at
    assert await authenticator.authenticate(made.secret) is None
    await authenticator.close()


async def test_one_who_goes_away_does_not_take_the_answer_from_the_others(
    authenticator: Authenticator, opened: Opened, keyed: Keyed
) -> None:
    bank = await opened()
    made = await keyed(bank.id)
    first = asyncio.create_task(authenticator.authenticate(made.secret))
    second = asyncio.create_task(authenticator.authenticate(made.secret))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == made.key.principal


async def test_the_cache_is_bounded(authenticator: Authenticator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CACHE_MAX", 10)
    secrets = ["eg_" + str(n).rjust(43, "0") for n in range(50)]
    await asyncio.gather(*(authenticator.authenticate(secret) for secret in secrets))
    assert len(authenticator._cache) == 10


async def test_an_unreachable_database_is_told_and_not_remembered(
    services: Services, database: Database, opened: Opened, keyed: Keyed
) -> None:
    bank = await opened()
    made = await keyed(bank.id)
    nowhere = Database(
        Address.of("postgresql://nobody@127.0.0.1:1/none"),
        pool_size_max=2,
        pool_timeout=1,
        statement_timeout=1,
    )
    authenticator = Authenticator(nowhere, system_clock, None)
    with pytest.raises(Unavailable):
        await authenticator.authenticate(made.secret)
    authenticator._database = database
    assert await authenticator.authenticate(made.secret) == made.key.principal
    await authenticator.close()
    await nowhere.close()


async def test_the_last_use_is_noted_at_most_once_a_minute(
    services: Services, opened: Opened, keyed: Keyed, rows: Counted
) -> None:
    bank, other = await opened(), await opened("Other")
    made = [await keyed(bank.id), await keyed(other.id)]
    unused = await keyed(bank.id)
    start = datetime(2026, 3, 1, tzinfo=UTC)
    for moment in (start, start + timedelta(seconds=59), start + timedelta(seconds=60)):
        # A new one each time: what is noted counts for all processes.
        authenticator = Authenticator(services.database, lambda now=moment: now, None)
        for key in made * 3:
            assert await authenticator.authenticate(key.secret) is not None
        await authenticator.close()
        expected = start if moment < start + timedelta(seconds=60) else moment
        assert await rows(f"api_keys WHERE last_used_at = '{expected.isoformat()}'") == 2
    assert await rows(f"api_keys WHERE last_used_at IS NULL AND id = '{unused.key.id}'") == 1


async def test_noting_a_use_waits_for_nobody(
    services: Services, working: Working, opened: Opened, keyed: Keyed, rows: Counted
) -> None:
    bank = await opened()
    made = await keyed(bank.id)
    authenticator = Authenticator(services.database, system_clock, None)
    async with working(bank.id) as work:
        await service.revoke_api_key(work, bank.id, made.key.id)
        assert await authenticator.authenticate(made.secret) is not None
        await asyncio.wait_for(authenticator.close(), timeout=5)
    assert await rows("api_keys WHERE last_used_at IS NULL") == 1


async def test_neither_the_authenticator_nor_its_log_tells_a_secret(
    authenticator: Authenticator, opened: Opened, keyed: Keyed, caplog: pytest.LogCaptureFixture
) -> None:
    bank = await opened()
    made = await keyed(bank.id)
    with caplog.at_level("DEBUG"):
        await authenticator.authenticate(made.secret)
    kept = f"{vars(authenticator)} {caplog.text}"
    assert made.secret not in kept
    assert ROOT_KEY not in kept
