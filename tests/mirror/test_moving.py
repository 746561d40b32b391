"""The ledger moves to its mirror in four phases; a subscriber that goes along misses nothing and is told nothing twice."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import aclosing

import asyncpg
import pytest
from pydantic import SecretStr

from app import mirroring
from app.context import Context, Request, Services
from app.engine.masking import Schema
from app.errors import CursorInvalid, Invalid, Refused, Unavailable
from app.ledger import epochs
from app.ledger.model import Event
from app.main import Parts, assemble
from app.mirror import service
from app.mirror.model import Comparison
from app.mirror.store import Copy
from app.positions.escrow import BUILT_IN
from app.positions.model import State
from app.principal import ALL_INSTITUTIONS, Principal, root
from app.settings import Settings, StoreBackend
from app.storage.database import Address
from app.verify.walk import verify
from tests import factories
from tests.conftest import eventually
from tests.factories import FUND, Place, release
from tests.mirror.conftest import Start, promote
from tests.serving import ROOT, plain_environment

Level = Callable[[], Awaitable[Comparison]]
Compare = Callable[[], Awaitable[Comparison]]

QUERY = """
query ($id: ID!) {
  position(id: $id) { id state holderReference asset { label } events { edges { cursor node { newState } } } }
  ledgerHead { cursor }
}
"""
CREATE = """
mutation { createInstitution(input: {name: "Somewhere", regions: [US]}) { institution { id } userErrors { code } } }
"""
OPEN = """
mutation ($asset: ID!) {
  createPosition(input: {assetId: $asset, holderReference: "H", currency: "USD", amount: "1.00"}) {
    position { id } userErrors { code message }
  }
}
"""


class Writers:
    """Clients that write until they are told to stop; they remember what they were answered."""

    def __init__(self, services: Services, place: Place) -> None:
        self._services = services
        self._place = place
        self._stopping = False
        self.answered: list[Event] = []

    def start(self, count: int) -> None:
        self._tasks = [asyncio.create_task(self._write()) for _ in range(count)]

    async def stop(self) -> None:
        self._stopping = True
        await asyncio.gather(*self._tasks)

    async def _write(self) -> None:
        while not self._stopping:
            made = await self._services.writer.submit(
                await factories.opening(self._services, self._place.asset)
            )
            self.answered.append(made.event)
            for intent in (FUND, release("1.00")):
                moved = await self._services.writer.submit(
                    factories.move(self._services, made.row.position, intent)
                )
                self.answered.append(moved.event)
            await asyncio.sleep(0.01)


class Subscriber:
    """A front-end: it keeps its last cursor, and goes on from there wherever the ledger is."""

    def __init__(self, scope: str) -> None:
        self._scope = scope
        self.cursor: str | None = None
        self.seen: list[tuple[int, bytes]] = []

    async def follow(self, services: Services) -> None:
        after = await services.tail.place(self._scope, self.cursor)
        async with aclosing(services.tail.stream(self._scope, after)) as pages:
            async for page in pages:
                for event in page:
                    number = event.global_sequence if self._scope == ALL_INSTITUTIONS else event.sequence
                    self.seen.append((number, event.hash))
                    self.cursor = services.tail.epochs.cursor(self._scope, number)

    async def followed(self, services: Services, count: int) -> None:
        """Follows until it has seen so many."""
        task = asyncio.create_task(self.follow(services))

        async def enough() -> bool:
            return task.done() or len(self.seen) >= count

        await eventually(enough)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert len(self.seen) >= count


async def asked(
    parts: Parts,
    built_schema: Schema,
    document: str,
    variables: dict[str, object],
    by: Principal | None = None,
) -> tuple[dict[str, object], list[str]]:
    """What a document is answered there, and the codes of errors."""
    services = parts.services
    context = Context(services, by or root(), Request(services.ids.new("req")))
    try:
        result = await built_schema.execute(document, variable_values=variables, context_value=context)
    finally:
        await context.close()
    return result.data or {}, [(error.extensions or {}).get("code") for error in result.errors or []]


def command(
    settings: Settings, address: Address, there: Address, *arguments: str
) -> subprocess.CompletedProcess[str]:
    """`escrowgrid …` where DATABASE_URL and MIRROR_URL are set."""
    environment = plain_environment() | {
        "STORE_BACKEND": "postgres",
        "DATABASE_URL": address.url,
        "MIRROR_URL": there.url,
        "DATA_DIR": str(settings.data_dir),
        "PATH": os.environ["PATH"],
    }
    return subprocess.run(
        [sys.executable, "-m", "app.cli", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.slow
async def test_the_four_phases(
    start: Start,
    settings: Settings,
    address: Address,
    there: Address,
    level: Level,
    built_schema: Schema,
    owner: asyncpg.Connection,
) -> None:
    newcomer, tenant = Subscriber(ALL_INSTITUTIONS), None
    # 1. Write both: writers run, the mirror follows.
    async with start() as old:
        place = await factories.place(old.services)
        tenant = Subscriber(place.institution.id)
        newcomer.cursor = old.services.tail.epochs.cursor(ALL_INSTITUTIONS, 0)
        tenant.cursor = old.services.tail.epochs.cursor(place.institution.id, 0)
        writers = Writers(old.services, place)
        writers.start(3)
        await newcomer.followed(old.services, 10)
        told = await asyncio.to_thread(command, settings, address, there, "mirror", "status")
        assert told.returncode == 0, told.stdout + told.stderr
        assert "Equal as far as it goes." in told.stdout or "Level and equal." in told.stdout

        # 2. Read new, write both: readers move while writers still write where the ledger is.
        async with start(there, mirror_url=None) as reading:
            await tenant.followed(reading.services, 30)
            await newcomer.followed(reading.services, 60)
            position = writers.answered[0].position_id

            async def arrived() -> bool:
                data, codes = await asked(reading, built_schema, QUERY, {"id": position})
                return not codes and data["position"] is not None

            await eventually(arrived)
            here, _ = await asked(old, built_schema, QUERY, {"id": position})
            away, _ = await asked(reading, built_schema, QUERY, {"id": position})
            assert away["position"] == here["position"], "the same to the cursor"
            for refused in (CREATE, OPEN):
                _, codes = await asked(reading, built_schema, refused, {"asset": place.asset.id})
                assert codes == ["UNAVAILABLE"], "who writes here is told to write there"
            assert await owner.fetchval("SELECT count(*) FROM audit_events WHERE outcome = 'FAILURE'") == 0
            early = await asyncio.to_thread(command, settings, address, there, "mirror", "promote")
            assert early.returncode == 1
            assert "still runs where the ledger is" in early.stderr
        await writers.stop()
        last = writers.answered[-1].global_sequence

    # 3. Only new. The old servers are stopped; what they wrote last is copied before they end.
    assert (await level()).mirror.global_sequence == len(writers.answered) >= last
    moved = await asyncio.to_thread(command, settings, address, there, "mirror", "promote")
    assert moved.returncode == 0, moved.stderr
    assert "Epoch 2 begins" in moved.stdout
    async with start(there, mirror_url=None) as new:
        further = Writers(new.services, place)
        following = asyncio.create_task(tenant.follow(new.services))
        further.start(2)
        await newcomer.followed(new.services, len(writers.answered) + 12)
        await further.stop()
        everything = len(writers.answered) + len(further.answered)

        async def all_seen() -> bool:
            return len(tenant.seen) == everything

        await eventually(all_seen)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await newcomer.followed(new.services, everything)

    # 4. The old one is retired: nobody writes to it by accident.
    with pytest.raises(Unavailable, match="has moved"):
        async with assemble(settings, address).running():
            pytest.fail("it serves")
    assert await owner.fetchval("SELECT written_by FROM ledger_head") == "NOBODY"

    acknowledged = sorted(
        (event.global_sequence, event.hash) for event in writers.answered + further.answered
    )
    assert newcomer.seen == acknowledged, "each once, in order, across three servers and two databases"
    assert tenant.seen == sorted(
        (event.sequence, event.hash) for event in writers.answered + further.answered
    )
    report = await verify(there.url, BUILT_IN)
    assert report.is_clean, report.findings
    assert report.looked_at["ledger_events"] == everything


async def test_promoting_copies_what_is_left_and_may_be_cut_off_and_repeated(
    lagging: tuple[Place, int, int],
    settings: Settings,
    address: Address,
    there: Address,
    owner: asyncpg.Connection,
    mirror: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def cut_off(*_arguments: object) -> None:
        raise ConnectionResetError

    with monkeypatch.context() as patch:
        patch.setattr(service, "take_over", cut_off)
        with pytest.raises(ConnectionResetError):
            await promote(settings, address, there)
    # Between the two databases: the old one is closed, the new one not yet open. Nobody can write anywhere.
    assert await owner.fetchval("SELECT written_by FROM ledger_head") == "NOBODY"
    assert await mirror.fetchval("SELECT written_by FROM ledger_head") == "MIRROR"
    done = await promote(settings, address, there)
    assert done.heads.global_sequence == 6
    assert await mirror.fetchval("SELECT written_by FROM ledger_head") == "SERVERS"
    copy = await Copy.open(there.url)
    with pytest.raises(Refused, match="promoted already"):
        await service.take_over(copy)
    await copy.close()


async def test_a_mirror_that_is_not_equal_is_not_promoted_and_the_ledger_stays_open(
    lagging: tuple[Place, int, int],
    start: Start,
    settings: Settings,
    address: Address,
    there: Address,
    owner: asyncpg.Connection,
    mirror: asyncpg.Connection,
) -> None:
    # Somebody changed the copy: the chain of an institution ends in another link.
    await mirror.execute("UPDATE institution_heads SET hash = sha256('x'), sequence = 2")
    with pytest.raises(Exception, match=r"does not follow|is not equal|is another one|previous hash"):
        await promote(settings, address, there)
    assert await mirror.fetchval("SELECT written_by FROM ledger_head") == "MIRROR"
    async with start(mirror_url=None) as parts:
        await factories.position(parts.services, lagging[0].asset)


async def test_when_the_ledger_is_lost_the_mirror_takes_over_and_cursors_beyond_it_are_refused(
    lagging: tuple[Place, int, int],
    start: Start,
    settings: Settings,
    there: Address,
    mirror: asyncpg.Connection,
) -> None:
    place, behind, ahead = lagging
    async with start(mirror_url=None) as parts:
        read = parts.services.tail.epochs
    nowhere = Address.of("postgresql://nobody@127.0.0.1:1/nothing")
    done = await asyncio.to_thread(command, settings, nowhere, there, "mirror", "promote", "--ledger-is-lost")
    assert done.returncode == 0, done.stderr
    async with start(there, mirror_url=None) as parts:
        tail = parts.services.tail
        for scope in (ALL_INSTITUTIONS, place.institution.id):
            assert await tail.place(scope, read.cursor(scope, behind)) == behind
            for lost in range(behind + 1, ahead + 1):
                with pytest.raises(CursorInvalid, match="restored to an earlier point"):
                    await tail.place(scope, read.cursor(scope, lost))
        # Also when its own history has come that far.
        for _ in range(5):
            await factories.position(parts.services, place.asset)
        with pytest.raises(CursorInvalid, match="subscribe from its ledgerHead cursor"):
            await tail.place(ALL_INSTITUTIONS, read.cursor(ALL_INSTITUTIONS, ahead))
    # This machine signed what is lost, and knows that it is: it signs on.
    assert await mirror.fetchval("SELECT max(size) FROM checkpoints") == behind + 5
    report = await verify(there.url, BUILT_IN)
    assert report.is_clean, report.findings


async def test_what_a_follower_parked_in_the_lost_history_keeps_it_from_nothing_in_the_new_one(
    lagging: tuple[Place, int, int],
    start: Start,
    settings: Settings,
    there: Address,
    mirror: asyncpg.Connection,
) -> None:
    place, behind, ahead = lagging
    # As a server before this one copied it: parked where the ledger was, ahead of the copy.
    await mirror.execute("INSERT INTO parked_events VALUES ('webhooks', $1, 'Poison: lost', 5, now())", ahead)
    nowhere = Address.of("postgresql://nobody@127.0.0.1:1/nothing")
    done = await asyncio.to_thread(command, settings, nowhere, there, "mirror", "promote", "--ledger-is-lost")
    assert done.returncode == 0, done.stderr
    async with start(there, mirror_url=None) as parts:
        for _ in range(ahead - behind + 1):
            await factories.position(parts.services, place.asset)

        async def taken() -> bool:
            cursor = await mirror.fetchval("SELECT cursor FROM followers WHERE name = 'webhooks'")
            return bool(cursor == ahead + 1)

        await eventually(taken)
        assert await mirror.fetchval("SELECT count(*) FROM parked_events") == 0


async def test_a_mirror_takes_no_writes_but_the_mirrors_whatever_a_server_believes(
    start: Start, there: Address, level: Level, mirror: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with start() as parts:
        place = await factories.place(parts.services)
        held = await factories.position(parts.services, place.asset, state=State.FUNDED)
        await level()
        # A server that has not understood where it is.
        async with start(there, mirror_url=None) as stray:
            monkeypatch.setattr(stray.services.writer, "_refusal", None)
            await stray.services.writer.start()
            with pytest.raises(Unavailable, match="does not keep the ledger"):
                await stray.services.writer.submit(factories.move(stray.services, held, release()))
            await stray.services.writer.close()
        with pytest.raises(Unavailable, match="is a mirror"):
            await epochs.begin(there.url, "by mistake")
    assert await mirror.fetchval("SELECT max(global_sequence) FROM ledger_events") == 2


async def test_status_tells_how_the_mirror_stands(
    start: Start,
    settings: Settings,
    address: Address,
    there: Address,
    level: Level,
    mirror: asyncpg.Connection,
    capsys: pytest.CaptureFixture[str],
) -> None:
    changes = {"store_backend": StoreBackend.POSTGRES, "database_url": SecretStr(address.url)}
    operators = settings.model_copy(update=changes)

    async def status() -> tuple[bool, list[str]]:
        capsys.readouterr()
        equal = await asyncio.to_thread(mirroring.status, operators)
        return equal, capsys.readouterr().out.splitlines()

    equal, told = await status()
    assert not equal
    assert told[-2:] == [
        "  no server has ever had this MIRROR_URL: nothing is copied",
        "DIFFERENT: it is a copy of another ledger",
    ]
    async with start() as parts:
        place = await factories.place(parts.services)
        await factories.position(parts.services, place.asset, state=State.RELEASED)
        found = await level()
    equal, told = await status()
    assert equal
    assert told == [
        f"ledger: 3 events, heads {found.ledger.digest}",
        f"mirror: 3 events, heads {found.ledger.digest}, 0 behind",
        "  no server runs that brings it on",
        "Level and equal.",
    ]
    async with start(mirror_url=None) as parts:
        await factories.place(parts.services)
        await factories.position(parts.services, place.asset)
    equal, told = await status()
    assert equal
    assert told[1].endswith(", 1 behind")
    assert "changes beside the ledger wait" in told[2]
    assert told[-1] == "Equal as far as it goes."
    await mirror.execute("UPDATE institution_heads SET hash = sha256('x')")
    equal, told = await status()
    assert not equal
    assert told[-1].startswith("DIFFERENT: event 3 of inst_")
    with pytest.raises(Invalid, match="MIRROR_URL is not set"):
        mirroring.status(operators.model_copy(update={"mirror_url": None}))
