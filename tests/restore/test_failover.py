"""A standby takes over under running servers: whoever had read more than it has is told, nobody skips an event."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from app.errors import CursorInvalid
from app.ledger.cursors import Epochs
from app.ledger.tail import Tail
from app.main import Parts
from app.positions.escrow import BUILT_IN
from app.principal import ALL_INSTITUTIONS
from app.storage.database import Address
from app.verify.walk import verify
from tests.conftest import eventually
from tests.factories import Place
from tests.ledger.proxy import Wire, wired
from tests.restore.conftest import Ledger, Site, _login, base_backup, begun, ledger
from tests.restore.test_point_in_time import place_of, write

KEPT, LOST = 6, 6
EPOCH = "SELECT starts_after FROM epochs WHERE epoch = 2 AND scope = '*'"


@dataclass
class Failover:
    """A server whose way to its database can be led elsewhere, and the standby that lacks the newest events."""

    wire: Wire
    parts: Parts
    place: Place
    standby: Ledger

    def happens(self) -> None:
        """The standby is the database from now on, wherever the server was."""
        self.wire._port = self.standby.running.port
        self.wire.down = False
        self.wire.break_all()


@asynccontextmanager
async def failing(site: Site, serve) -> AsyncIterator[Failover]:
    """Six events are on both, six more only on the primary, which is gone when the block begins."""
    async with ledger(site) as first:
        backup = site.folder / "standby"
        await asyncio.to_thread(base_backup, first.running, backup, "--write-recovery-conf")
        with begun(backup, {}) as running:
            url = running.admin_url.rpartition("/")[0] + "/escrowgrid"
            standby = Ledger(running, Address.of(_login(url), owner_url=url))
            async with wired(first.address.url) as (wire, near), serve(Address.of(near)) as parts:
                place = await place_of(parts.services)
                await write(parts.services, place, KEPT // 3)

                async def caught_up() -> bool:
                    return bool(await standby.ask("SELECT count(*) FROM ledger_events") == KEPT)

                await eventually(caught_up)
                await standby.ask("ALTER SYSTEM SET primary_conninfo = ''")
                await standby.ask("SELECT pg_reload_conf()")
                await eventually(lambda: _alone(standby))
                await write(parts.services, place, LOST // 3)

                async def read() -> bool:
                    return parts.services.tail.position == KEPT + LOST

                await eventually(read)
                first.running.kill()
                wire.down = True
                wire.break_all()
                await standby.ask("SELECT pg_promote()")
                assert await standby.ask("SELECT count(*) FROM ledger_events") == KEPT
                yield Failover(wire, parts, place, standby)


async def _alone(standby: Ledger) -> bool:
    return bool(await standby.ask("SELECT count(*) FROM pg_stat_wal_receiver") == 0)


async def refused(task: "asyncio.Task[object]") -> None:
    with pytest.raises(CursorInvalid, match="restored to an earlier point"):
        await asyncio.wait_for(task, 20)


async def test_who_had_read_what_is_lost_is_told_and_who_had_not_goes_on(site: Site, serve) -> None:
    async with failing(site, serve) as failover:
        services, place = failover.parts.services, failover.place
        tail, read = services.tail, services.tail.epochs
        scopes = (ALL_INSTITUTIONS, place.institution.id)
        waiting = [asyncio.ensure_future(anext(tail.stream(scope, KEPT + LOST))) for scope in scopes]
        slow = tail.stream(ALL_INSTITUTIONS, 0)
        await asyncio.sleep(0.05)
        failover.happens()
        # The very first writer on the new timeline begins the epoch, before its first event.
        made = await write(services, place, 2)
        assert min(event.global_sequence for event in made) == KEPT + 1
        assert await failover.standby.ask(EPOCH) == KEPT
        for task in waiting:
            await refused(task)
        for scope in scopes:
            assert await tail.place(scope, read.cursor(scope, KEPT)) == KEPT
            with pytest.raises(CursorInvalid):
                await tail.place(scope, read.cursor(scope, KEPT + 1))
        seen: list[int] = []
        while len(seen) < KEPT + len(made):
            seen += [event.global_sequence for event in await asyncio.wait_for(anext(slow), 20)]
        assert seen == list(range(1, KEPT + len(made) + 1))
        assert tail.failure is None
    # The server has stopped: its followers signed nothing that is not there.


async def test_a_history_that_outgrew_the_lost_one_is_not_taken_for_it(site: Site, serve) -> None:
    """Another server has written on by the time this one is back: the numbers go on, the events are others."""
    async with failing(site, serve) as failover:
        tail = failover.parts.services.tail
        waiting = asyncio.ensure_future(anext(tail.stream(ALL_INSTITUTIONS, KEPT + LOST)))
        await asyncio.sleep(0.05)
        async with serve(failover.standby.address) as other:
            made = await write(other.services, failover.place, 4)
            assert made[-1].global_sequence > 0
            assert await other.services.tail.head(ALL_INSTITUTIONS) == KEPT + 12 > KEPT + LOST
            assert await failover.standby.ask(EPOCH) == KEPT
            failover.happens()
            await refused(waiting)

            async def level() -> bool:
                return tail.position == KEPT + 12 and tail.epochs.current == 2

            await eventually(level)
            await checked(tail, failover.parts.services.tail.epochs)

            # Followers stand where the new history has come to, not beyond it, and every checkpoint is true. Where the
            # lost events had been signed here, the signer waits for its operator.
            async def followed() -> bool:
                query = (
                    "SELECT bool_and(cursor = (SELECT global_sequence FROM ledger_head)) FROM followers "
                    "WHERE name <> 'checkpoints' OR failure IS NULL"
                )
                return bool(await failover.standby.ask(query))

            await eventually(followed)
        report = await verify(failover.standby.address.owner_url, BUILT_IN)
        assert report.is_clean, report.findings


async def checked(tail: Tail, epochs: Epochs) -> None:
    """Everything of the new history, once."""
    assert epochs.current == 2
    stream = tail.stream(ALL_INSTITUTIONS, 0)
    seen: list[int] = []
    while len(seen) < KEPT + 12:
        seen += [event.global_sequence for event in await asyncio.wait_for(anext(stream), 10)]
    await stream.aclose()
    assert seen == list(range(1, KEPT + 13))


async def test_a_failover_without_loss_ends_no_stream(site: Site, serve) -> None:
    """The database restarts on another timeline with everything in it: cursors and streams go on."""
    async with ledger(site) as first:
        backup = site.folder / "standby"
        await asyncio.to_thread(base_backup, first.running, backup, "--write-recovery-conf")
        with begun(backup, {}) as running:
            url = running.admin_url.rpartition("/")[0] + "/escrowgrid"
            standby = Ledger(running, Address.of(_login(url), owner_url=url))
            async with wired(first.address.url) as (wire, near), serve(Address.of(near)) as parts:
                place = await place_of(parts.services)
                await write(parts.services, place, 2)
                stream = parts.services.tail.stream(ALL_INSTITUTIONS, 0)
                assert len(await anext(stream)) > 0

                async def caught_up() -> bool:
                    return bool(await standby.ask("SELECT count(*) FROM ledger_events") == 6)

                await eventually(caught_up)
                first.running.kill()
                await standby.ask("SELECT pg_promote()")
                wire._port = running.port
                wire.break_all()
                made = await write(parts.services, place, 1)
                seen: list[int] = []
                while len(seen) < 3 or seen[-1] < made[-1].global_sequence:
                    seen += [event.global_sequence for event in await asyncio.wait_for(anext(stream), 20)]
                assert seen[-3:] == [7, 8, 9]
                assert await standby.ask(EPOCH) == 6

                async def heard() -> bool:
                    return parts.services.tail.epochs.current == 2

                await eventually(heard)
                cursor = parts.services.tail.epochs.cursor(ALL_INSTITUTIONS, 9)
                assert await parts.services.tail.place(ALL_INSTITUTIONS, cursor) == 9
