"""A streaming replica serves the queries that say how old an answer may be, and no others."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import pytest
from pydantic import SecretStr

from app import schema
from app.http import routes
from app.http.operation import Asked
from app.http.wire import RefusedError
from app.main import Parts, assemble
from app.settings import Settings
from app.storage.database import Address
from tests.conftest import ROOT_KEY, eventually
from tests.factories import Place
from tests.restore.conftest import Ledger, Site, _login, base_backup, begun, ledger
from tests.restore.test_point_in_time import place_of, write

COUNT = "{ positions { totalCount } ledgerHead { cursor } }"
RENAME = """mutation { createInstitution(input: {name: "Later", regions: [US]}) { institution { name } } }"""


@dataclass
class Both:
    """A server with a primary and a replica, and a client of it."""

    standby: Ledger
    parts: Parts
    place: Place
    client: httpx.AsyncClient
    killed: bool = False

    async def ask(self, document: str, **extensions: object) -> dict[str, object]:
        body = {"query": document, "extensions": extensions}
        answer = await self.client.post(
            "/graphql", json=body, headers={"Authorization": f"Bearer {ROOT_KEY}"}
        )
        found: dict[str, object] = answer.json()
        return found

    async def count(self, **extensions: object) -> int:
        answer = await self.ask(COUNT, **extensions)
        return int(answer["data"]["positions"]["totalCount"])  # type: ignore[index]

    async def cursor(self) -> str:
        return str((await self.ask(COUNT))["data"]["ledgerHead"]["cursor"])  # type: ignore[index]

    async def pause(self) -> None:
        """The replica stands still from here on."""
        await self.standby.ask("SELECT pg_wal_replay_pause()")

        async def stands() -> bool:
            return await self.standby.ask("SELECT pg_get_wal_replay_pause_state()") == "paused"

        await eventually(stands)


@pytest.fixture(scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Both]:
    with TemporaryDirectory(prefix="escrowgrid-replica-") as name:
        folder = Path(name).resolve()
        folder.chmod(0o711)
        keys = tmp_path_factory.mktemp("keys")
        async with _both(Site(folder), Settings(data_dir=keys, tick_seconds=0.1)) as found:
            yield found


@pytest.fixture
async def both(shared: Both) -> AsyncIterator[Both]:
    """A replica that is level, and is let go on afterwards."""
    await eventually(lambda: _level(shared))
    yield shared
    if not shared.killed:
        await shared.standby.ask("SELECT pg_wal_replay_resume()")


@asynccontextmanager
async def _both(site: Site, settings: Settings) -> AsyncIterator[Both]:
    async with ledger(site) as first:
        backup = site.folder / "standby"
        await asyncio.to_thread(base_backup, first.running, backup, "--write-recovery-conf")
        with begun(backup, {}) as running:
            url = running.admin_url.rpartition("/")[0] + "/escrowgrid"
            standby = Ledger(running, Address.of(_login(url), owner_url=url))
            changed = settings.model_copy(
                update={"replica_url": SecretStr(_login(url)), "root_api_key": SecretStr(ROOT_KEY)}
            )
            parts = assemble(changed, first.address)
            async with parts.running():
                app = routes.build(parts.services, schema.build(changed), parts.authenticator, parts.ready)
                place = await place_of(parts.services)
                await write(parts.services, place, 2)
                transport = httpx.ASGITransport(app=app)
                async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                    found = Both(standby, parts, place, client)
                    await eventually(lambda: _level(found))
                    yield found


async def _level(both: Both) -> bool:
    head = both.parts.services.tail.position
    return bool(await both.standby.ask("SELECT global_sequence FROM ledger_head") == head)


async def test_a_query_that_may_be_old_is_answered_by_the_replica_and_no_other(both: Both) -> None:
    await both.pause()
    before = await both.count()
    await write(both.parts.services, both.place, 1)
    assert await both.count() == before + 1, "who says nothing asks for now"
    assert await both.count(atLeast=None) == before, "however old"


async def test_what_the_replica_does_not_have_yet_is_waited_for_or_read_from_the_primary(both: Both) -> None:
    before, old = await both.count(), await both.cursor()
    await both.pause()
    await write(both.parts.services, both.place, 1)
    new = await both.cursor()
    assert await both.count(atLeast=old) == before
    assert await both.count(atLeast=new) == before + 1, "the primary answers"
    asking = asyncio.create_task(both.count(atLeast=new))
    await both.standby.ask("SELECT pg_wal_replay_resume()")
    assert await asking == before + 1
    await eventually(lambda: _level(both))
    assert await both.count(atLeast=None) == before + 1


async def test_a_cursor_is_judged_against_the_primary(both: Both) -> None:
    answer = await both.ask(COUNT, atLeast="nonsense")
    assert {error["extensions"]["code"] for error in answer["errors"]} == {"CURSOR_INVALID"}  # type: ignore[attr-defined]


async def test_a_mutation_never_meets_the_replica(both: Both) -> None:
    answer = await both.ask(RENAME, atLeast=None)
    assert answer["data"] == {"createInstitution": {"institution": {"name": "Later"}}}


async def test_without_the_replica_the_primary_answers(both: Both) -> None:
    before = await both.count()
    both.killed = True
    both.standby.running.kill()
    assert await both.count(atLeast=None) == before


@pytest.mark.parametrize("cursor", [1, True, ["x"], {}, "x" * 2000])
def test_what_is_no_cursor_is_a_bad_request(cursor: object) -> None:
    with pytest.raises(RefusedError, match="atLeast"):
        Asked.of({"query": "{ positions { totalCount } }", "extensions": {"atLeast": cursor}})  # type: ignore[dict-item]
