"""A restore to a point in time: what is there is proved, what is lost is told, and nobody's cursor lies."""

import asyncio
from pathlib import Path

import pytest

from app import operate
from app.context import Services
from app.errors import CursorInvalid
from app.ledger.model import Event
from app.positions.model import State
from app.principal import ALL_INSTITUTIONS
from app.storage.database import DatabaseRole
from tests import factories
from tests.conftest import eventually
from tests.factories import FUND, Place, release
from tests.restore.conftest import Site, archived, base_backup, ledger, restored
from tests.serving import ROOT


async def write(services: Services, place: Place, positions: int) -> list[Event]:
    """Positions that are opened, funded and released: three events each."""

    async def one() -> list[Event]:
        made = await services.writer.submit(await factories.opening(services, place.asset))
        funded = await services.writer.submit(factories.move(services, made.row.position, FUND))
        paid = await services.writer.submit(factories.move(services, made.row.position, release()))
        return [answer.event for answer in (made, funded, paid)]

    return [event for events in await asyncio.gather(*(one() for _ in range(positions))) for event in events]


async def place_of(services: Services) -> Place:
    """Somewhere to open positions."""
    return await factories.place(services)


async def signed(services: Services, size: int) -> None:
    """Waits until a checkpoint covers that many events."""

    async def covered() -> bool:
        pool = services.database.pool(DatabaseRole.FEED)
        return (await pool.fetchval("SELECT max(size) FROM checkpoints") or 0) >= size

    await eventually(covered)


async def test_a_restore_to_a_named_point(
    site: Site, serve, operators, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "checkpoints.jsonl"
    async with ledger(site) as first:
        async with serve(first.address) as parts:
            place = await factories.place(parts.services)
            await write(parts.services, place, 5)
            # The backup is taken while writers run.
            writing = asyncio.create_task(write(parts.services, place, 20))
            await asyncio.to_thread(base_backup, first.running, site.folder / "second")
            await writing
            before = await write(parts.services, place, 3)
            await first.ask("SELECT pg_create_restore_point('before_the_mistake')")
            lost = await write(parts.services, place, 4)
            await signed(parts.services, lost[-1].global_sequence)
            read = parts.services.tail.epochs
        await asyncio.to_thread(operate.export_checkpoints, operators(first.address), kept)
        await archived(first, site)
        first.running.kill()

    here, beyond = max(event.global_sequence for event in before), len(lost) + 28 * 3
    assert (here, beyond) == (84, 96)
    async with restored(site, "second", name="before_the_mistake") as second:
        operator = operators(second.address)
        capsys.readouterr()
        await asyncio.to_thread(operate.restore_finished, operator, "a mistake was made")
        assert "Epoch 2 begins" in capsys.readouterr().out
        assert await asyncio.to_thread(lambda: operate.verify(operator, as_json=False, checkpoint_file=None))
        # Checkpoints kept elsewhere tell what is lost, and that it was a restore.
        assert not await asyncio.to_thread(
            lambda: operate.verify(operator, as_json=False, checkpoint_file=kept)
        )
        told = capsys.readouterr().out
        assert "covers 96 events, the ledger has 84: epoch 2 began behind event 84 at 20" in told
        assert "(a mistake was made); what was signed beyond is lost" in told
        assert "its end was cut off" not in told

        async with serve(second.address) as parts:
            services = parts.services
            assert services.tail.epochs.current == 2, "begun once"
            for scope, end in ((ALL_INSTITUTIONS, here), (place.institution.id, here)):
                for known in (0, 1, end - 1, end):
                    assert await services.tail.place(scope, read.cursor(scope, known)) == known
                for gone in (end + 1, beyond):
                    with pytest.raises(
                        CursorInvalid, match="restored to an earlier point; read the state again"
                    ):
                        await services.tail.place(scope, read.cursor(scope, gone))
            # A subscriber from before goes on where it was, and what comes is new.
            stream = services.tail.stream(
                ALL_INSTITUTIONS,
                await services.tail.place(ALL_INSTITUTIONS, read.cursor(ALL_INSTITUTIONS, here - 2)),
            )
            again = await anext(stream)
            assert [event.global_sequence for event in again] == [here - 1, here]
            made = await write(services, place, 5)
            seen: list[Event] = []
            while len(seen) < len(made):
                seen += await asyncio.wait_for(anext(stream), 10)
            await stream.aclose()
            assert [event.global_sequence for event in seen] == list(range(here + 1, here + 16))
            assert not {event.hash for event in seen} & {event.hash for event in lost}
            # The ledger has grown beyond what was lost: a cursor from there is still one of another history.
            with pytest.raises(CursorInvalid):
                await services.tail.place(ALL_INSTITUTIONS, read.cursor(ALL_INSTITUTIONS, beyond))
            position = await factories.position(services, place.asset, state=State.PARTIALLY_RELEASED)
            assert position.version == 3
        capsys.readouterr()
        assert await asyncio.to_thread(lambda: operate.verify(operator, as_json=False, checkpoint_file=None))
        assert not await asyncio.to_thread(
            lambda: operate.verify(operator, as_json=False, checkpoint_file=kept)
        )
        assert "not those it was signed over: epoch 2 began behind event 84" in capsys.readouterr().out


@pytest.mark.parametrize("target", ["lsn", "time"])
async def test_a_server_that_starts_on_a_restored_ledger_notices_by_itself(
    target: str, site: Site, serve
) -> None:
    """Nobody said `escrowgrid restore-finished`: the timeline is another one."""
    async with ledger(site) as first:
        await asyncio.to_thread(base_backup, first.running, site.folder / "second")
        async with serve(first.address) as parts:
            place = await factories.place(parts.services)
            await write(parts.services, place, 2)
            question = {"lsn": "SELECT pg_current_wal_lsn()::text", "time": "SELECT clock_timestamp()::text"}[
                target
            ]
            point = str(await first.ask(question))
            await asyncio.sleep(0.05)
            await write(parts.services, place, 2)
            read = parts.services.tail.epochs
        await archived(first, site)
        first.running.kill()
    async with restored(site, "second", **{target: point}) as second:
        async with serve(second.address) as parts:
            tail = parts.services.tail
            assert tail.epochs.current == 2
            end = await tail.head(ALL_INSTITUTIONS)
            assert 6 <= end < 12
            assert await tail.place(ALL_INSTITUTIONS, read.cursor(ALL_INSTITUTIONS, end)) == end
            with pytest.raises(CursorInvalid, match="restored"):
                await tail.place(ALL_INSTITUTIONS, read.cursor(ALL_INSTITUTIONS, end + 1))
        async with serve(second.address) as parts:
            assert parts.services.tail.epochs.current == 2, "once is enough"


async def test_a_ledger_that_was_only_cut_off_is_not_taken_for_a_restored_one(
    site: Site, serve, operators, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "checkpoints.jsonl"
    async with ledger(site) as first:
        async with serve(first.address) as parts:
            place = await factories.place(parts.services)
            await write(parts.services, place, 2)
        operator = operators(first.address)
        await asyncio.to_thread(operate.export_checkpoints, operator, kept)
        await first.ask(
            "DO $$ BEGIN SET LOCAL session_replication_role = origin; "
            "ALTER TABLE ledger_events DISABLE TRIGGER append_only; ALTER TABLE checkpoints DISABLE TRIGGER append_only; "
            "DELETE FROM ledger_events WHERE global_sequence > 4; DELETE FROM checkpoints; "
            "UPDATE ledger_head SET global_sequence = 4; END $$"
        )
        await asyncio.to_thread(lambda: operate.verify(operator, as_json=False, checkpoint_file=kept))
    told = capsys.readouterr().out
    assert "covers 6 events, the ledger has 4: its end was cut off" in told
    assert "began behind" not in told, "no epoch explains it"


def test_the_runbook_archives_as_it_is_tried_here(site: Site) -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    tried = site.archiving()["archive_command"].replace(str(site.archive), "/archive")
    assert f"'{tried}'" in page
    for name in ("recovery_target_name", "recovery_target_time", "recovery_target_lsn", "recovery.signal"):
        assert name in page
