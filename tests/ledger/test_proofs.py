"""What verify looks at beside the chain, and what a server refuses to sign."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest
from pydantic import SecretStr

from app import operate
from app.ledger.checkpoints import Checkpoint, Checkpointer, read_all
from app.ledger.followers import Halt
from app.ledger.leases import Lease
from app.ledger.pages import SharedPages
from app.ledger.remembered import LastSigned
from app.ledger.signer import Signer, SigningKeys
from app.main import Parts, assemble
from app.positions.escrow import BUILT_IN
from app.positions.model import State
from app.principal import ALL_INSTITUTIONS
from app.settings import Settings, StoreBackend
from app.storage.database import Address
from app.verify import guards
from app.verify.findings import Report
from app.verify.walk import verify
from tests import factories
from tests.factories import Place
from tests.reliability import forging
from tests.reliability.tampering import apart_from_guards

LEASE = Lease("unused", 1)


@pytest.fixture
async def written(address: Address, settings: Settings) -> Place:
    """A ledger of six events that was signed when its server stopped."""
    parts = assemble(settings, address)
    async with parts.running():
        place = await factories.place(parts.services)
        await factories.policy(parts.services, place.institution.id)
        for _ in range(2):
            await factories.position(parts.services, place.asset, state=State.RELEASED)
    return place


@pytest.fixture
async def tamperer(owner: asyncpg.Connection) -> asyncpg.Connection:
    """Who can take every guard away."""
    await owner.execute("SET session_replication_role = replica")
    for table, _trigger in guards.TRIGGERS:
        await owner.execute(f"ALTER TABLE {table} DISABLE TRIGGER ALL")
    await owner.execute(
        "ALTER TABLE positions ALTER amount_key DROP EXPRESSION, ALTER amount_key DROP NOT NULL"
    )
    return owner


@pytest.fixture
def found(address: Address) -> Callable[[], Awaitable[Report]]:
    async def run() -> Report:
        return apart_from_guards(await verify(address.direct_url, BUILT_IN))

    return run


TAMPERED = {
    "all assets deleted": ("DELETE FROM assets", "assets"),
    "an asset of another template": (
        """INSERT INTO asset_templates
           SELECT (jsonb_populate_record(t, '{"id": "tmpl_other", "version": 2}')).* FROM asset_templates t;
           UPDATE assets SET template_id = 'tmpl_other'""",
        "assets",
    ),
    "the first epoch moved": ("UPDATE epochs SET starts_after = 5", "epochs"),
    "an epoch forged": ("INSERT INTO epochs VALUES (2, '*', 1, 'forged', now(), '0000aaaa')", "epochs"),
    "an epoch beyond the head": (
        "INSERT INTO epochs VALUES (2, '*', 7, 'forged', now(), '0000aaaa')",
        "epochs",
    ),
    "an epoch left out": ("INSERT INTO epochs VALUES (3, '*', 6, 'forged', now(), '0000aaaa')", "epochs"),
    "the first epoch deleted": ("DELETE FROM epochs", "epochs"),
}


@pytest.mark.parametrize("what", TAMPERED)
async def test_what_events_name_and_what_names_events_is_judged_too(
    written: Place, tamperer: asyncpg.Connection, found: Callable[[], Awaitable[Report]], what: str
) -> None:
    change, table = TAMPERED[what]
    assert (await found()).is_clean
    await tamperer.execute(change)
    report = await found()
    assert {finding.table for finding in report.findings} == {table}, report.findings


async def test_time_that_runs_backwards_is_found(
    written: Place, tamperer: asyncpg.Connection, found: Callable[[], Awaitable[Report]]
) -> None:
    """Forged with care: everything that follows from it was computed anew."""
    events = await forging.events(tamperer)
    events[3] = replace(events[3], recorded_at=events[2].recorded_at - timedelta(seconds=1))
    await tamperer.execute("DELETE FROM checkpoints")
    chained = await forging.rewrite(tamperer, events)
    report = await found()
    assert [(one.table, one.row) for one in report.findings] == [("ledger_events", chained[3].id)]
    assert "recorded before the event that precedes it" in report.findings[0].message


@pytest.mark.parametrize(("table", "trigger"), guards.TRIGGERS)
async def test_a_trigger_that_is_not_in_force_is_found(
    address: Address, owner: asyncpg.Connection, table: str, trigger: str
) -> None:
    assert (await verify(address.direct_url, BUILT_IN)).is_clean
    for change in (f"ALTER TABLE {table} ENABLE TRIGGER {trigger}", f"DROP TRIGGER {trigger} ON {table}"):
        await owner.execute(change)
        report = await verify(address.direct_url, BUILT_IN)
        # A partition's goes with that of the whole table.
        rows = [one.row for one in report.findings if not str(one.row).startswith("audit_events_")]
        assert rows == [f"{table}.{trigger}"]


OPEN = "CREATE TRIGGER append_only BEFORE {} ON ledger_events {} EXECUTE FUNCTION escrowgrid_refuse()"
HOLLOW = {
    "a function that lets everything pass": (
        (
            "CREATE OR REPLACE FUNCTION escrowgrid_refuse() RETURNS trigger LANGUAGE plpgsql "
            "AS $$ BEGIN RETURN coalesce(NEW, OLD); END $$"
        ),
        "ledger_events.append_only",
    ),
    "a condition that never holds": (
        OPEN.format("UPDATE OR DELETE", "WHEN (false)"),
        "ledger_events.append_only",
    ),
    "another column alone": (OPEN.format("UPDATE OF id OR DELETE", ""), "ledger_events.append_only"),
    "no changes, only deletions": (OPEN.format("DELETE", ""), "ledger_events.append_only"),
    "a partition without its guard": (
        "ALTER TABLE audit_events_default DISABLE TRIGGER append_only",
        "audit_events_default.append_only",
    ),
    "a partition that may be emptied": (
        "DROP TRIGGER never_truncated ON audit_events_default",
        "audit_events_default.never_truncated",
    ),
    "a partition that everybody may see": (
        "ALTER TABLE audit_events_default NO FORCE ROW LEVEL SECURITY",
        "audit_events_default",
    ),
}


@pytest.mark.parametrize("how", HOLLOW)
async def test_a_guard_that_is_there_by_name_alone_is_found(
    address: Address, owner: asyncpg.Connection, how: str
) -> None:
    assert (await verify(address.direct_url, BUILT_IN)).is_clean
    change, row = HOLLOW[how]
    if change.startswith("CREATE TRIGGER"):
        change = f"DROP TRIGGER append_only ON ledger_events; {change}; ALTER TABLE ledger_events ENABLE ALWAYS TRIGGER append_only"
    await owner.execute(change)
    report = await verify(address.direct_url, BUILT_IN)
    assert row in {one.row for one in report.findings if one.table == "guards"}


async def test_row_level_security_that_is_not_forced_is_found(
    address: Address, owner: asyncpg.Connection
) -> None:
    await owner.execute(
        "ALTER TABLE positions NO FORCE ROW LEVEL SECURITY; ALTER TABLE assets DISABLE ROW LEVEL SECURITY"
    )
    report = await verify(address.direct_url, BUILT_IN)
    assert {(one.table, one.row) for one in report.findings} == {
        ("guards", "positions"),
        ("guards", "assets"),
    }


async def test_verify_knows_every_guard_of_the_catalogue(owner: asyncpg.Connection) -> None:
    there = {tuple(row) for row in await owner.fetch(guards.IN_FORCE, guards.REFUSES)}
    partitions = {row[0] for row in await owner.fetch("SELECT relname FROM pg_class WHERE relispartition")}
    assert {pair for pair in there if pair[0] not in partitions} == set(guards.TRIGGERS)
    assert {row["relname"] for row in await owner.fetch(guards.FORCED)} - partitions == set(guards.SECURED)


async def test_the_report_counts_what_was_erased_and_what_nothing_covers_and_says_whose_key_judged(
    written: Place, address: Address, tamperer: asyncpg.Connection
) -> None:
    report = await verify(address.direct_url, BUILT_IN)
    assert (report.looked_at["personal values erased"], report.looked_at["events no checkpoint covers"]) == (
        0,
        0,
    )
    await tamperer.execute(
        "UPDATE personal_data SET holder = NULL, reason = NULL, metadata = NULL; "
        "UPDATE holders SET blind = NULL, reference = NULL, data_key = NULL, erased_at = now()"
    )
    await tamperer.execute("DELETE FROM checkpoints")
    report = apart_from_guards(await verify(address.direct_url, BUILT_IN, keys=SigningKeys(b"k" * 32)))
    assert report.is_clean, "an erasure is allowed"
    assert report.looked_at["personal values erased"] == 2
    assert "no checkpoint covers the last 6 events" in report.notes
    assert any((b"k" * 32).hex() in note for note in report.notes)
    assert any("each names itself" in note for note in (await verify(address.direct_url, BUILT_IN)).notes)


async def _forge(tamperer: asyncpg.Connection) -> None:
    events = await forging.events(tamperer)
    events[2] = replace(events[2], actor=replace(events[2].actor, id="key_somebody_else"))
    await forging.rewrite(tamperer, events)


async def _cut_off(tamperer: asyncpg.Connection) -> None:
    await forging.rewrite(tamperer, (await forging.events(tamperer))[:-2])


@pytest.mark.parametrize(("change", "told"), [(_forge, "has other ones"), (_cut_off, "the ledger has 4")])
async def test_a_ledger_that_does_not_go_on_from_what_was_signed_here_is_not_signed_and_verify_says_so(
    written: Place, address: Address, settings: Settings, tamperer: asyncpg.Connection,
    change: Callable[[asyncpg.Connection], Awaitable[None]], told: str, caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str], tmp_path: Path,
) -> None:  # fmt: skip
    await change(tamperer)
    await tamperer.execute("DELETE FROM checkpoints")
    caplog.set_level(logging.CRITICAL, "escrowgrid.checkpoints")
    parts = assemble(settings, address)
    async with parts.running():
        pass
    assert f"{told}. If it was restored on purpose" in caplog.text
    assert await tamperer.fetchval("SELECT count(*) FROM checkpoints") == 0
    operators = settings.model_copy(
        update={"store_backend": StoreBackend.POSTGRES, "database_url": SecretStr(address.url)}
    )
    assert not await asyncio.to_thread(operate.verify, operators, as_json=False, checkpoint_file=None)
    assert "checkpoints 6: was kept elsewhere and is no longer here" in capsys.readouterr().out
    # Restored on purpose, and said so: it is signed again; said in another folder, it is not heard here.
    elsewhere = operators.model_copy(update={"data_dir": tmp_path / "elsewhere"})
    await asyncio.to_thread(operate.restore_finished, elsewhere, "on purpose")
    assert f"No server signed this ledger with DATA_DIR={tmp_path / 'elsewhere'}" in capsys.readouterr().out
    await asyncio.to_thread(operate.restore_finished, operators, "on purpose")
    assert "DATA_DIR" not in capsys.readouterr().out
    async with assemble(settings, address).running():
        pass
    assert await tamperer.fetchval("SELECT count(*) FROM checkpoints") == 1


async def test_a_frontier_that_was_made_up_is_not_signed_on(
    written: Place, parts: Parts, tamperer: asyncpg.Connection, tmp_path: Path
) -> None:
    """The checkpoints say one thing, the events another: what is signed is hashed from the first event on."""
    signer, services = Signer(bytes(32)), parts.services
    kept = (await read_all(tamperer))[-1]
    folder = tmp_path / "another"
    folder.mkdir()
    last = LastSigned(folder)
    last.keep(kept.log_id, kept.to_json())
    await tamperer.execute("UPDATE checkpoints SET frontier = ARRAY[sha256('a'), sha256('b')]")
    await factories.position(services, written.asset)
    checkpointer = Checkpointer(services.database, signer, services.clock, 0, last)
    await checkpointer._tree(7)
    with pytest.raises(Halt, match="not over the events that are there"):
        await checkpointer.sign()
    assert Checkpoint.from_json(last.read(kept.log_id) or "") == kept


async def test_a_tree_beyond_a_restored_head_is_not_signed(
    written: Place, parts: Parts, tamperer: asyncpg.Connection
) -> None:
    services = parts.services
    checkpointer = Checkpointer(services.database, Signer(bytes(32)), services.clock, 0)
    await checkpointer._tree(6)
    await tamperer.execute("DELETE FROM checkpoints; UPDATE ledger_head SET global_sequence = 4")
    checkpointer._signed_size = 0
    await checkpointer.idle(LEASE)
    # The running server signs with another key.
    mine = "SELECT array_agg(size) FROM checkpoints WHERE public_key = $1"
    assert await tamperer.fetchval(mine, Signer(bytes(32)).public_key) == [4]


async def test_a_page_that_was_kept_is_not_told_after_a_restore(
    written: Place, parts: Parts, tamperer: asyncpg.Connection
) -> None:
    async def confirm() -> None: ...

    pages = SharedPages(parts.services.database, size=6, connections_max=1, confirm=confirm)
    before = await pages.after(ALL_INSTITUTIONS, 0)
    await _forge(tamperer)
    assert await pages.after(ALL_INSTITUTIONS, 0) == before, "kept: it is full"
    pages.forget()
    after = await pages.after(ALL_INSTITUTIONS, 0)
    assert after[2].hash != before[2].hash
    await pages.close()


async def test_a_page_read_while_the_ledger_was_restored_is_not_kept(
    written: Place, parts: Parts, tamperer: asyncpg.Connection
) -> None:
    restored = False

    async def confirm() -> None:
        nonlocal restored
        if not restored:
            restored = True
            await _forge(tamperer)
            pages.forget()

    pages = SharedPages(parts.services.database, size=6, connections_max=1, confirm=confirm)
    before = await pages.after(ALL_INSTITUTIONS, 0)
    after = await pages.after(ALL_INSTITUTIONS, 0)
    assert after[2].hash != before[2].hash
    await pages.close()
